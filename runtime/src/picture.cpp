#include "picture.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "status.h"

#include <sys/stat.h>

namespace clip_edge::core {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 30;

// How small a JPEG may be decoded: the shorter side must stay so many times the model's. Measured by
// benchmarks/jpeg_margin.py on 42 pictures: the smallest margins whose embeddings had a mean cosine of 0.999 to that of
// the full decoding.
constexpr struct {
  int eighths;
  double margin;
} kScales[] = {{1, 3.5}, {2, 2.9}, {4, 2.9}};  // what libjpeg-turbo has vector code for, too

Buffer read_picture_file(const char *path) {
  need(path, "path");
  const std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen(path, "rb"), std::fclose);
  struct stat facts {};
  if (file == nullptr || fstat(fileno(file.get()), &facts) != 0)
    fail(CLIP_EDGE_ERROR_PICTURE, "cannot read the picture: %s", std::strerror(errno));
  if (!S_ISREG(facts.st_mode)) fail(CLIP_EDGE_ERROR_PICTURE, "not a regular file");
  if (facts.st_size > kMostBytes)
    fail(CLIP_EDGE_ERROR_PICTURE, "%lld bytes, at most %lld are read", static_cast<long long>(facts.st_size),
         static_cast<long long>(kMostBytes));
  Buffer buffer(static_cast<size_t>(facts.st_size));
  std::setvbuf(file.get(), nullptr, _IONBF, 0);  // straight into our memory
  buffer.size = std::fread(buffer.bytes.get(), 1, buffer.size, file.get());
  return buffer;
}

int choose_eighths(const PictureHeader &header, int side) {
  const double shorter = header.width < header.height ? header.width : header.height;
  for (const auto &scale : kScales)
    if (shorter * scale.eighths >= 8 * scale.margin * side) return scale.eighths;
  return 8;
}

Picture decode_bytes(const uint8_t *bytes, size_t size, const clip_edge_image &image, int side) {
  if (image.decoding != CLIP_EDGE_DECODE_FAST && image.decoding != CLIP_EDGE_DECODE_EXACT)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown decoding %d", static_cast<int>(image.decoding));
  const PictureHeader header = read_header(bytes, size);
  if (header.kind == PictureHeader::kPng) return decode_png(bytes, size, header);
  return decode_jpeg(bytes, size, header, image.decoding == CLIP_EDGE_DECODE_EXACT ? 8 : choose_eighths(header, side));
}

}  // namespace

bool is_encoded(const clip_edge_image &image) {
  return image.format == CLIP_EDGE_PIXELS_ENCODED || image.format == CLIP_EDGE_PIXELS_FILE;
}

Picture decode(const clip_edge_image &image, int side) {
  if (image.format == CLIP_EDGE_PIXELS_ENCODED) {
    need(image.plane[0], "plane[0]");
    return decode_bytes(image.plane[0], image.encoded_bytes, image, side);
  }
  try {
    const Buffer file = read_picture_file(image.path);
    return decode_bytes(file.bytes.get(), file.size, image, side);
  } catch (Error &error) {
    if (error.status == CLIP_EDGE_ERROR_PICTURE) error.text = std::string(image.path) + ": " + error.text;
    throw;
  }
}

}  // namespace clip_edge::core
