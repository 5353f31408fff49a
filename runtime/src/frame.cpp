#include "frame.h"

#include <algorithm>
#include <cstring>

#include "status.h"

namespace clip_edge::core {
namespace {

constexpr int kStrip = 16;  // columns turned together: 48 bytes of a row, less than a cache line wasted

uint8_t clamp_byte(int value) { return static_cast<uint8_t>(std::clamp(value, 0, 255)); }

// Chroma weights in 1/65536, from Kr and Kb of BT.601 (0.299, 0.114) and BT.709 (0.2126, 0.0722).
struct Matrix {
  int luma_offset, luma, red_v, green_u, green_v, blue_u;
};
constexpr Matrix kMatrices[] = {
    {0, 65536, 91881, -22553, -46802, 116130},    // 1.402, -0.344136, -0.714136, 1.772
    {16, 76309, 104597, -25675, -53279, 132201},  // the same times 255/224, luma times 255/219
    {16, 76309, 117489, -13975, -34925, 138438},
};

void yuv_pixel(const Matrix &m, int y, int u, int v, uint8_t *rgb) {
  const int luma = (y - m.luma_offset) * m.luma + 32768;
  u -= 128, v -= 128;
  rgb[0] = clamp_byte((luma + m.red_v * v) >> 16);
  rgb[1] = clamp_byte((luma + m.green_u * u + m.green_v * v) >> 16);
  rgb[2] = clamp_byte((luma + m.blue_u * u) >> 16);
}

// `value` with `alpha` over white, rounded as Pillow's alpha_composite does.
uint8_t over_white(int value, int alpha) {
  const unsigned sum = static_cast<unsigned>(128 * (value * alpha + 255 * (255 - alpha)) + (128 << 7));
  return static_cast<uint8_t>((((sum >> 8) + sum) >> 8) >> 7);
}

void yuv_span(const clip_edge_image &image, int y, int x, int count, uint8_t *rgb) {
  const Matrix &matrix = kMatrices[image.yuv];
  const uint8_t *luma = image.plane[0] + static_cast<ptrdiff_t>(y) * image.stride[0];
  const uint8_t *u = image.plane[1] + static_cast<ptrdiff_t>(y / 2) * image.stride[1];
  const bool planar = image.format == CLIP_EDGE_PIXELS_I420;
  const uint8_t *v = planar ? image.plane[2] + static_cast<ptrdiff_t>(y / 2) * image.stride[2] : u + 1;
  if (image.format == CLIP_EDGE_PIXELS_NV21) std::swap(u, v);
  const int step = planar ? 1 : 2;
  for (int end = x + count; x < end; x++, rgb += 3) yuv_pixel(matrix, luma[x], u[x / 2 * step], v[x / 2 * step], rgb);
}

// `count` pixels of stored row `y` from column `x` on, as RGB.
void read_span(const clip_edge_image &image, int y, int x, int count, uint8_t *rgb) {
  const uint8_t *row = image.plane[0] + static_cast<ptrdiff_t>(y) * image.stride[0];
  switch (image.format) {
    case CLIP_EDGE_PIXELS_RGB: std::memcpy(rgb, row + 3 * x, 3 * static_cast<size_t>(count)); return;
    case CLIP_EDGE_PIXELS_BGR:
      for (const uint8_t *in = row + 3 * x; count-- > 0; in += 3, rgb += 3)
        rgb[0] = in[2], rgb[1] = in[1], rgb[2] = in[0];
      return;
    case CLIP_EDGE_PIXELS_RGBA:
    case CLIP_EDGE_PIXELS_BGRA: {
      const int red = image.format == CLIP_EDGE_PIXELS_RGBA ? 0 : 2;
      for (const uint8_t *in = row + 4 * x; count-- > 0; in += 4, rgb += 3) {
        rgb[0] = over_white(in[red], in[3]);
        rgb[1] = over_white(in[1], in[3]);
        rgb[2] = over_white(in[2 - red], in[3]);
      }
      return;
    }
    case CLIP_EDGE_PIXELS_GREY:
      for (const uint8_t *in = row + x; count-- > 0; in++, rgb += 3) rgb[0] = rgb[1] = rgb[2] = *in;
      return;
    case CLIP_EDGE_PIXELS_NV12:
    case CLIP_EDGE_PIXELS_NV21:
    case CLIP_EDGE_PIXELS_I420: yuv_span(image, y, x, count, rgb); return;
    case CLIP_EDGE_PIXELS_ENCODED:
    case CLIP_EDGE_PIXELS_FILE: return;  // layout_of refused them
  }
}

struct Layout {
  int planes;
  int bytes_per_pixel[3];
  bool halved;  // planes after the first have half the columns
};

Layout layout_of(clip_edge_pixel_format format) {
  switch (format) {
    case CLIP_EDGE_PIXELS_RGB:
    case CLIP_EDGE_PIXELS_BGR: return {1, {3, 0, 0}, false};
    case CLIP_EDGE_PIXELS_RGBA:
    case CLIP_EDGE_PIXELS_BGRA: return {1, {4, 0, 0}, false};
    case CLIP_EDGE_PIXELS_GREY: return {1, {1, 0, 0}, false};
    case CLIP_EDGE_PIXELS_NV12:
    case CLIP_EDGE_PIXELS_NV21: return {2, {1, 2, 0}, true};
    case CLIP_EDGE_PIXELS_I420: return {3, {1, 1, 1}, true};
    case CLIP_EDGE_PIXELS_ENCODED:
    case CLIP_EDGE_PIXELS_FILE: break;  // pixels that are decoded have another format
  }
  fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown pixel format %d", static_cast<int>(format));
}

void check_planes(clip_edge_image &image) {
  const Layout layout = layout_of(image.format);
  for (int p = 0; p < layout.planes; p++) {
    const int columns = p > 0 && layout.halved ? (image.width + 1) / 2 : image.width;
    const int row_bytes = columns * layout.bytes_per_pixel[p];
    if (image.plane[p] == nullptr) fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the picture's plane[%d] is NULL", p);
    if (image.stride[p] == 0) image.stride[p] = row_bytes;
    if (image.stride[p] < row_bytes)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the picture's stride[%d] is %d bytes, a row has %d", p,
           static_cast<int>(image.stride[p]), row_bytes);
  }
}

void reverse_pixels(uint8_t *rgb, int count) {
  for (uint8_t *left = rgb, *right = rgb + 3 * (count - 1); left < right; left += 3, right -= 3)
    std::swap_ranges(left, left + 3, right);
}

}  // namespace

RowReader::RowReader(const clip_edge_image &image) : image_(image) {
  if (image_.width < 1 || image_.height < 1 || image_.width > 65535 || image_.height > 65535)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the picture's sides must lie in 1..65535; found %d x %d",
         static_cast<int>(image_.width), static_cast<int>(image_.height));
  const int orientation = image_.orientation == 0 ? 1 : image_.orientation;
  if (orientation < 1 || orientation > 8)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the orientation must be an EXIF value 1..8; found %d", orientation);
  if (image_.yuv < CLIP_EDGE_YUV_BT601_FULL || image_.yuv > CLIP_EDGE_YUV_BT709_LIMITED)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown YUV matrix %d", static_cast<int>(image_.yuv));
  check_planes(image_);
  transposed_ = orientation >= 5;
  reverse_x_ = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  reverse_y_ = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const size_t row_bytes = 3 * static_cast<size_t>(width()) + kRowPadding;
  (transposed_ ? strip_ : row_).resize(transposed_ ? kStrip * row_bytes : row_bytes);
}

const uint8_t *RowReader::row(int y) {
  if (reverse_y_) y = height() - 1 - y;
  if (transposed_) return column_of_stored(y);
  read_span(image_, y, 0, image_.width, row_.data());
  if (reverse_x_) reverse_pixels(row_.data(), image_.width);
  return row_.data();
}

const uint8_t *RowReader::column_of_stored(int x) {
  const size_t row_bytes = 3 * static_cast<size_t>(width()) + kRowPadding;
  const int start = x / kStrip * kStrip;
  if (start != strip_start_) {
    const int columns = std::min(kStrip, image_.width - start);
    uint8_t pixels[3 * kStrip];
    for (int y = 0; y < image_.height; y++) {
      read_span(image_, y, start, columns, pixels);
      const int at = reverse_x_ ? image_.height - 1 - y : y;
      for (int c = 0; c < columns; c++) std::memcpy(&strip_[c * row_bytes + 3 * at], pixels + 3 * c, 3);
    }
    strip_start_ = start;
  }
  return &strip_[static_cast<size_t>(x - start) * row_bytes];
}

}  // namespace clip_edge::core
