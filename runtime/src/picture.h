// JPEG and PNG pictures to pixels, equal to clip_edge/images.py (Pillow) where every pixel is decoded.
#pragma once

#include <memory>

#include "preprocess.h"

namespace clip_edge::core {

// Bytes that are not set to anything: a large picture is written once, by its decoder.
struct Buffer {
  explicit Buffer(size_t count) : size(count), bytes(new uint8_t[count]) {}
  size_t size;
  std::unique_ptr<uint8_t[]> bytes;
};

// What the bytes of a picture say before it is decoded.
struct PictureHeader {
  enum Kind { kJpeg, kPng } kind;
  int width, height;     // as stored
  int components = 3;    // of JPEG
  size_t scan_start = 0; // of JPEG: where the compressed data begins
  int orientation = 1;   // EXIF, else XMP; what makes no sense there is 1
};

// Throws Error, as all here: what is wrong with a picture is CLIP_EDGE_ERROR_PICTURE.
PictureHeader read_header(const uint8_t *bytes, size_t size);

struct Picture {
  Buffer pixels{0};
  clip_edge_image image;  // of `pixels`, with the orientation
  Reduction reduction;
};

Picture decode_jpeg(const uint8_t *bytes, size_t size, const PictureHeader &header, int eighths);
Picture decode_png(const uint8_t *bytes, size_t size, const PictureHeader &header);

bool is_encoded(const clip_edge_image &image);
// An encoded image for a model that reads squares of `side` pixels.
Picture decode(const clip_edge_image &image, int side);

}  // namespace clip_edge::core
