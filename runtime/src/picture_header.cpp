// Size and orientation of JPEG and PNG, read from their bytes before any decoder sees them.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "picture.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr int64_t kMostPixels = 100000000;  // three times a large phone camera, as clip_edge/images.py
constexpr uint32_t kMostSide = 65535;

using Bytes = std::basic_string_view<uint8_t>;

Bytes literal(const char *text, size_t size) { return {reinterpret_cast<const uint8_t *>(text), size}; }

bool starts_with(Bytes bytes, Bytes start) { return bytes.substr(0, start.size()) == start; }

// An unsigned number of `count` bytes; 0 where they are not there.
uint32_t number(Bytes bytes, size_t at, size_t count, bool little = false) {
  if (at > bytes.size() || bytes.size() - at < count) return 0;
  uint32_t value = 0;
  for (size_t i = 0; i < count; i++) value = value << 8 | bytes[at + (little ? count - 1 - i : i)];
  return value;
}

// The orientation tag in the first directory of a TIFF structure; 0 where there is none. Damage is no reason to refuse
// a picture: its pixels are elsewhere.
int exif_orientation(Bytes tiff) {
  constexpr uint32_t kOrientation = 0x0112, kShort = 3, kLong = 4;
  const bool little = starts_with(tiff, literal("II*\0", 4));
  if (!little && !starts_with(tiff, literal("MM\0*", 4))) return 0;
  const size_t directory = number(tiff, 4, 4, little);
  const size_t entries = number(tiff, directory, 2, little);
  for (size_t i = 0; i < entries && directory + 2 + 12 * i < tiff.size(); i++) {
    const size_t entry = directory + 2 + 12 * i;
    if (number(tiff, entry, 2, little) != kOrientation || number(tiff, entry + 4, 4, little) != 1) continue;
    const uint32_t type = number(tiff, entry + 2, 2, little);
    if (type == kShort || type == kLong) return static_cast<int>(number(tiff, entry + 8, type == kShort ? 2 : 4, little));
  }
  return 0;
}

// The digit behind `tiff:Orientation="` or `tiff:Orientation>`.
int xmp_orientation(Bytes xmp) {
  constexpr char kName[] = "tiff:Orientation";
  const Bytes name = literal(kName, sizeof(kName) - 1);
  for (size_t at = xmp.find(name); at != Bytes::npos; at = xmp.find(name, at + 1)) {
    const Bytes rest = xmp.substr(at + name.size());
    const size_t digit = starts_with(rest, literal("=\"", 2)) ? 2 : starts_with(rest, literal(">", 1)) ? 1 : rest.size();
    if (digit < rest.size() && rest[digit] >= '0' && rest[digit] <= '9') return rest[digit] - '0';
  }
  return 0;
}

struct Orientations {
  int exif = 0, xmp = 0;
  int chosen() const {
    const int value = exif != 0 ? exif : xmp;
    return value >= 1 && value <= 8 ? value : 1;
  }
};

void check_size(uint32_t width, uint32_t height) {
  if (width < 1 || height < 1 || width > kMostSide || height > kMostSide ||
      static_cast<int64_t>(width) * height > kMostPixels)
    fail(CLIP_EDGE_ERROR_PICTURE, "the picture's size is %u x %u: sides of 1..%u pixels and at most %lld in all are read",
         width, height, kMostSide, static_cast<long long>(kMostPixels));
}

bool is_frame(uint8_t marker) {
  return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

bool stands_alone(uint8_t marker) { return (marker >= 0xD0 && marker <= 0xD8) || marker == 0x01; }

void read_jpeg_frame(Bytes body, PictureHeader &found) {
  if (body.size() < 6) fail(CLIP_EDGE_ERROR_PICTURE, "the JPEG is damaged: its frame header is cut off");
  if (body[0] != 8) fail(CLIP_EDGE_ERROR_PICTURE, "a JPEG of %d bits a channel is not read, only 8", body[0]);
  check_size(number(body, 3, 2), number(body, 1, 2));
  found.width = static_cast<int>(number(body, 3, 2)), found.height = static_cast<int>(number(body, 1, 2));
  found.components = body[5];
  if (found.components != 1 && found.components != 3 && found.components != 4)
    fail(CLIP_EDGE_ERROR_PICTURE, "a JPEG of %d channels is not read, only 1, 3 or 4", found.components);
}

void read_jpeg_notes(Bytes body, Orientations &orientations) {
  const Bytes exif = literal("Exif\0\0", 6), xmp = literal("http://ns.adobe.com/xap/1.0/\0", 29);
  if (orientations.exif == 0 && starts_with(body, exif)) orientations.exif = exif_orientation(body.substr(6));
  if (starts_with(body, xmp)) orientations.xmp = xmp_orientation(body.substr(xmp.size()));
}

// The segments up to the compressed data.
PictureHeader jpeg_header(Bytes bytes) {
  PictureHeader found{PictureHeader::kJpeg, 0, 0};
  Orientations orientations;
  for (size_t at = 2; at + 1 < bytes.size();) {
    if (bytes[at] != 0xFF || bytes[at + 1] == 0xFF || bytes[at + 1] == 0x00) {
      at++;  // filling, or garbage that decoders skip too
      continue;
    }
    const uint8_t marker = bytes[at + 1];
    at += 2;
    if (stands_alone(marker)) continue;
    if (marker == 0xD9) break;
    const size_t length = number(bytes, at, 2);
    if (length < 2 || bytes.size() - at < length) break;
    const Bytes body = bytes.substr(at + 2, length - 2);
    if (is_frame(marker) && found.width == 0) read_jpeg_frame(body, found);
    if (marker == 0xE1) read_jpeg_notes(body, orientations);
    at += length;
    if (marker != 0xDA) continue;
    if (found.width == 0) fail(CLIP_EDGE_ERROR_PICTURE, "the JPEG is damaged: no frame header before its data");
    found.scan_start = at;
    found.orientation = orientations.chosen();
    return found;
  }
  fail(CLIP_EDGE_ERROR_PICTURE, "the JPEG is damaged or cut off: it ends before its pixels");
}

// The first chunk says the size, EXIF may stand anywhere before the end.
PictureHeader png_header(Bytes bytes) {
  constexpr size_t kSignature = 8, kFrame = 12;  // bytes around the body of a chunk: length, name and checksum
  PictureHeader found{PictureHeader::kPng, 0, 0};
  Orientations orientations;
  for (size_t at = kSignature; at < bytes.size() && bytes.size() - at >= kFrame;) {
    const size_t length = number(bytes, at, 4);
    if (bytes.size() - at - kFrame < length) break;
    const Bytes name = bytes.substr(at + 4, 4), body = bytes.substr(at + 8, length);
    if (at == kSignature) {
      if (name != literal("IHDR", 4) || length != 13) break;
      check_size(number(body, 0, 4), number(body, 4, 4));
      found.width = static_cast<int>(number(body, 0, 4)), found.height = static_cast<int>(number(body, 4, 4));
    }
    if (name == literal("eXIf", 4)) orientations.exif = exif_orientation(body);
    const Bytes xmp = literal("XML:com.adobe.xmp\0\0", 19);  // and not compressed
    if (name == literal("iTXt", 4) && starts_with(body, xmp)) orientations.xmp = xmp_orientation(body);
    if (name == literal("IEND", 4)) break;
    at += kFrame + length;
  }
  if (found.width == 0) fail(CLIP_EDGE_ERROR_PICTURE, "the PNG is damaged or cut off: no header");
  found.orientation = orientations.chosen();
  return found;
}

}  // namespace

PictureHeader read_header(const uint8_t *data, size_t size) {
  const Bytes bytes(data, size);
  if (size == 0) fail(CLIP_EDGE_ERROR_PICTURE, "the picture is empty (0 bytes)");
  if (starts_with(bytes, literal("\xFF\xD8\xFF", 3))) return jpeg_header(bytes);
  if (starts_with(bytes, literal("\x89PNG\r\n\x1A\n", 8))) return png_header(bytes);
  fail(CLIP_EDGE_ERROR_PICTURE, "neither JPEG nor PNG");
}

}  // namespace clip_edge::core
