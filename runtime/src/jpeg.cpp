// JPEG through libjpeg-turbo's TurboJPEG interface, whose functions keep their names and meaning between versions, and
// which returns errors where plain libjpeg would end the process.
#include <memory>
#include <new>

#include "picture.h"
#include "shared_library.h"
#include "small_jpeg.h"

namespace clip_edge::core {
namespace {

// Of turbojpeg.h.
constexpr int kRgb = 0, kCmyk = 11, kFatal = 1;
constexpr int kAccurateTransform = 4096, kLimitScans = 32768;

struct TurboJpeg {
  void *(*create)();
  int (*destroy)(void *handle);
  int (*read_header)(void *handle, const uint8_t *bytes, unsigned long size, int *width, int *height, int *sampling,
                     int *colours);
  int (*decompress)(void *handle, const uint8_t *bytes, unsigned long size, uint8_t *out, int width, int row_bytes,
                    int height, int format, int flags);
  const char *(*error_text)(void *handle);
  int (*error_code)(void *handle);

  TurboJpeg() {
    constexpr const char *kAdvice =
        "JPEG needs libjpeg-turbo 2.0 or later (Debian libturbojpeg0, Ubuntu libturbojpeg, Fedora turbojpeg, Alpine and "
        "Arch libjpeg-turbo, Homebrew jpeg-turbo)";
#if defined(__APPLE__)
    const SharedLibrary library({"libturbojpeg.0.dylib", "/opt/homebrew/opt/jpeg-turbo/lib/libturbojpeg.0.dylib"},
                                kAdvice);
#else
    const SharedLibrary library({"libturbojpeg.so.0", "libturbojpeg.so"}, kAdvice);
#endif
    library.load(create, "tjInitDecompress");
    library.load(destroy, "tjDestroy");
    library.load(read_header, "tjDecompressHeader3");
    library.load(decompress, "tjDecompress2");
    library.load(error_text, "tjGetErrorStr2");
    library.load(error_code, "tjGetErrorCode");
  }

  static const TurboJpeg &get() {
    static const TurboJpeg library;  // tried again at the next picture where it throws
    return library;
  }
};

// A cut file is silently filled with grey by the decoder; what was not cut ends with a marker that pixels cannot hold.
bool has_end(const uint8_t *bytes, size_t size, size_t scan_start) {
  for (size_t at = size; at >= scan_start + 2; at--)
    if (bytes[at - 2] == 0xFF && bytes[at - 1] == 0xD9) return true;
  return false;
}

// Inks as Adobe stores them (inverted) -> RGB, in place: row by row each pixel shrinks from 4 bytes to 3.
void cmyk_to_rgb(uint8_t *pixels, size_t count) {
  const uint8_t *in = pixels;
  for (uint8_t *out = pixels; count-- > 0; in += 4, out += 3) {
    const int white = in[3];  // 255 less black
    for (int c = 0; c < 3; c++) {
      const int product = (255 - in[c]) * white + 128;
      out[c] = static_cast<uint8_t>(white - (((product >> 8) + product) >> 8));  // a rounded division by 255
    }
  }
}

}  // namespace

namespace {

// The pixels at eighths / 8 of the sides, rounded up, by libjpeg-turbo.
Buffer decompress(const uint8_t *bytes, size_t size, const PictureHeader &header, int eighths) {
  const TurboJpeg &turbo = TurboJpeg::get();
  const std::unique_ptr<void, int (*)(void *)> handle(turbo.create(), turbo.destroy);
  if (handle == nullptr) throw std::bad_alloc();
  int seen_width = 0, seen_height = 0, ignored = 0;  // set even where it dislikes the sampling, which decodes all the same
  turbo.read_header(handle.get(), bytes, static_cast<unsigned long>(size), &seen_width, &seen_height, &ignored, &ignored);
  if (seen_width != header.width || seen_height != header.height)
    fail(CLIP_EDGE_ERROR_PICTURE, "the JPEG is damaged: %s", turbo.error_text(handle.get()));
  const auto part = [&](int side) { return (side * eighths + 7) / 8; };
  const int width = part(header.width), height = part(header.height);
  const bool inks = header.components == 4;
  const int pixel_bytes = inks ? 4 : 3;
  Buffer pixels(static_cast<size_t>(width) * height * pixel_bytes);
  const int failed =
      turbo.decompress(handle.get(), bytes, static_cast<unsigned long>(size), pixels.bytes.get(), width,
                       width * pixel_bytes, height, inks ? kCmyk : kRgb, kAccurateTransform | kLimitScans);
  if (failed != 0 && turbo.error_code(handle.get()) == kFatal)  // anything less is a flaw that every viewer shows
    fail(CLIP_EDGE_ERROR_PICTURE, "the JPEG cannot be decoded: %s", turbo.error_text(handle.get()));
  if (inks) cmyk_to_rgb(pixels.bytes.get(), static_cast<size_t>(width) * height);
  return pixels;
}

}  // namespace

Picture decode_jpeg(const uint8_t *bytes, size_t size, const PictureHeader &header, int eighths) {
  if (!has_end(bytes, size, header.scan_start))
    fail(CLIP_EDGE_ERROR_PICTURE, "the JPEG is cut off: it has no end");
  Picture picture;
  if (!decode_small_jpeg(bytes, size, header, eighths, picture))
    picture.pixels = decompress(bytes, size, header, eighths);
  clip_edge_image_init(&picture.image, sizeof(picture.image));
  picture.image.plane[0] = picture.pixels.bytes.get();
  picture.image.width = (header.width * eighths + 7) / 8, picture.image.height = (header.height * eighths + 7) / 8;
  picture.image.orientation = header.orientation;
  picture.reduction = {header.width, header.height, eighths};
  return picture;
}

}  // namespace clip_edge::core
