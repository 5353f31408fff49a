#include "preprocess.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "clock.h"
#include "frame.h"
#include "picture.h"
#include "status.h"

namespace clip_edge::core {
namespace {

// The resized picture would be `wide` x `high`; only the square at (left, top) is ever computed.
struct Geometry {
  int wide, high, left, top;
};

// A picture before it was reduced, upright, and where its sides lie in the pixels that are left.
struct Full {
  int width, height;
  Extent across, down;
};

// Reducing rounds up: the last column and row may stand for less than a whole pixel, at the other end once mirrored.
Extent reduced_extent(int full, int eighths, int left_over, bool mirrored) {
  const double length = full * eighths / 8.0;
  return {mirrored ? left_over - length : 0.0, length};
}

Full full_size(const RowReader &reader, const Reduction &reduction) {
  const int wide = reader.width(), high = reader.height();
  const bool whole = reduction.eighths == 8;
  const int width = whole ? wide : reader.turned() ? reduction.height : reduction.width;
  const int height = whole ? high : reader.turned() ? reduction.width : reduction.height;
  return {width, height, reduced_extent(width, reduction.eighths, wide, reader.mirrored_x()),
          reduced_extent(height, reduction.eighths, high, reader.mirrored_y())};
}

// Half of `n`, halves rounded to even: Python's round(n / 2).
int rounded_half(int n) { return n / 2 + (n % 2 != 0 && n / 2 % 2 != 0 ? 1 : 0); }

Geometry geometry_of(int width, int height, const clip_edge_preprocess_spec &spec) {
  const int size = spec.size;
  if (spec.resize == CLIP_EDGE_RESIZE_SQUASH) return {size, size, 0, 0};
  const int shorter = std::min(width, height);
  const auto scaled = [&](int side) {  // at most 4096 * 65535, so the product is exact and the result fits
    return side == shorter ? size : static_cast<int>(static_cast<double>(size) * side / shorter);
  };
  const int wide = scaled(width), high = scaled(height);
  const auto margin = [&](int n) { return spec.resize == CLIP_EDGE_RESIZE_SHORTEST_FLOOR ? n / 2 : rounded_half(n); };
  return {wide, high, margin(wide - size), margin(high - size)};
}

// Pillow's rule since version 13, where the height shrinks much more than the width. The order shows in the bytes,
// because the picture between the two passes is rounded to bytes.
bool vertical_goes_first(int width, int height, const Geometry &to) {
  return height > to.high && height - to.high > 2 * static_cast<int64_t>(std::max(width - to.wide, 0));
}

// The rows that the vertical pass is looking at, made in order and once each: memory stays small for any height.
class RowWindow {
 public:
  using Make = std::function<void(int y, uint8_t *out)>;

  RowWindow(int row_bytes, int capacity, Make make)
      : row_bytes_(row_bytes),
        capacity_(capacity),
        make_(std::move(make)),
        bytes_(static_cast<size_t>(row_bytes) * capacity_) {}

  // Rows first .. first + count - 1, one after the other; `first` never decreases from call to call.
  const uint8_t *rows(int first, int count) {
    if (first + count - start_ > capacity_) {
      const int kept = std::max(end_ - first, 0);
      std::memmove(bytes_.data(), at(end_ - kept), static_cast<size_t>(kept) * row_bytes_);
      start_ = first;
      end_ = first + kept;
    }
    for (; end_ < first + count; end_++) make_(end_, at(end_));
    return at(first);
  }

 private:
  uint8_t *at(int y) { return bytes_.data() + static_cast<size_t>(y - start_) * row_bytes_; }

  int row_bytes_, capacity_;
  Make make_;
  std::vector<uint8_t> bytes_;
  int start_ = 0, end_ = 0;
};

clip_edge_image default_image() {
  clip_edge_image image{};
  image.struct_size = sizeof(image);
  image.orientation = 1;
  return image;
}

clip_edge_preprocess_spec default_spec() {
  return {sizeof(clip_edge_preprocess_spec), 224, CLIP_EDGE_RESIZE_SHORTEST, CLIP_EDGE_BICUBIC, {0, 0, 0}, {1, 1, 1}};
}

}  // namespace

void check_spec(const clip_edge_preprocess_spec &spec) {
  if (spec.size < 1 || spec.size > 4096)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`size` must lie in 1..4096; found %d", static_cast<int>(spec.size));
  if (static_cast<unsigned>(spec.resize) > CLIP_EDGE_RESIZE_SHORTEST_FLOOR)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown resize rule %d", static_cast<int>(spec.resize));
  if (spec.interpolation != CLIP_EDGE_BILINEAR && spec.interpolation != CLIP_EDGE_BICUBIC)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "unknown interpolation %d", static_cast<int>(spec.interpolation));
  for (float value : spec.std)
    if (!(value > 0)) fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`std` must be positive; found %g", value);
}

std::vector<uint8_t> resize_and_crop(const clip_edge_image &image, const clip_edge_preprocess_spec &spec,
                                     const Kernels &kernels, const Reduction &reduction) {
  RowReader reader(image);
  const int size = spec.size, width = reader.width(), height = reader.height();
  const Full full = full_size(reader, reduction);
  const Geometry to = geometry_of(full.width, full.height, spec);
  const bool same_width = to.wide == full.across.length && to.wide == width;
  const bool same_height = to.high == full.down.length && to.high == height;
  const Taps across = make_taps(width, full.across, to.wide, to.left, same_width ? 0 : size, spec.interpolation);
  const Taps down = make_taps(height, full.down, to.high, to.top, same_height ? 0 : size, spec.interpolation);

  // Columns of a row of the picture -> the `size` pixels that are wanted.
  const auto narrow = [&](const uint8_t *row, uint8_t *out) {
    if (same_width)
      std::memcpy(out, row + 3 * to.left, 3 * static_cast<size_t>(size));
    else
      kernels.horizontal(row, across, out);
  };
  const int capacity = std::min(2 * down.longest, height);  // twice what one row looks at: few moves
  std::vector<uint8_t> square(3 * static_cast<size_t>(size) * size);
  const auto out_row = [&](int y) { return &square[3 * static_cast<size_t>(size) * y]; };
  if (same_height) {
    for (int y = 0; y < size; y++) narrow(reader.row(to.top + y), out_row(y));
  } else if (!same_width && vertical_goes_first(width, height, to)) {
    RowWindow window(3 * width, capacity,
                     [&](int y, uint8_t *out) { std::memcpy(out, reader.row(y), 3 * static_cast<size_t>(width)); });
    std::vector<uint8_t> row(3 * static_cast<size_t>(width) + kRowPadding);
    for (int y = 0; y < size; y++) {
      const uint8_t *rows = window.rows(down.first[y], down.length[y]);
      kernels.vertical(rows, down.length[y], down.at(y), 3 * width, row.data());
      narrow(row.data(), out_row(y));
    }
  } else {
    RowWindow window(3 * size, capacity, [&](int y, uint8_t *out) { narrow(reader.row(y), out); });
    for (int y = 0; y < size; y++) {
      const uint8_t *rows = window.rows(down.first[y], down.length[y]);
      kernels.vertical(rows, down.length[y], down.at(y), 3 * size, out_row(y));
    }
  }
  return square;
}

std::vector<uint8_t> make_square(const clip_edge_image &image, const clip_edge_preprocess_spec &spec,
                                 uint64_t &decode_ns, Sides *size) {
  const auto tell = [&](const clip_edge_image &shown, const Reduction &reduction) {
    if (size == nullptr) return;
    const Full full = full_size(RowReader(shown), reduction);
    *size = {full.width, full.height};
  };
  if (!is_encoded(image)) {
    tell(image, {});
    return resize_and_crop(image, spec);
  }
  const uint64_t start = now_ns();
  const Picture picture = decode(image, spec.size);
  decode_ns += now_ns() - start;
  tell(picture.image, picture.reduction);
  return resize_and_crop(picture.image, spec, best_kernels(), picture.reduction);
}

void normalize(const uint8_t *rgb, const clip_edge_preprocess_spec &spec, float *chw) {
  const size_t pixels = static_cast<size_t>(spec.size) * spec.size;
  for (int c = 0; c < 3; c++) {
    float table[256];
    for (int value = 0; value < 256; value++)
      table[value] = (static_cast<float>(value) / 255.0F - spec.mean[c]) / spec.std[c];
    for (size_t i = 0; i < pixels; i++) chw[c * pixels + i] = table[rgb[3 * i + c]];
  }
}

clip_edge_preprocess_spec read_spec(const clip_edge_preprocess_spec *spec) {
  clip_edge_preprocess_spec result = read_options(spec, default_spec(), "spec");
  check_spec(result);
  return result;
}

clip_edge_image read_image(const clip_edge_image *image) { return read_options(image, default_image(), "image"); }

}  // namespace clip_edge::core

using namespace clip_edge::core;

extern "C" {

void clip_edge_image_init(clip_edge_image *image, size_t struct_size) {
  write_options(image, struct_size, default_image());
}

void clip_edge_preprocess_spec_init(clip_edge_preprocess_spec *spec, size_t struct_size) {
  write_options(spec, struct_size, default_spec());
}

clip_edge_status clip_edge_resize_image(const clip_edge_preprocess_spec *spec, const clip_edge_image *image,
                                        uint8_t *rgb, size_t rgb_bytes) {
  return guard([&] {
    const clip_edge_preprocess_spec checked = read_spec(spec);
    need(rgb, "rgb");
    const size_t needed = static_cast<size_t>(checked.size) * checked.size * 3;
    if (rgb_bytes < needed)
      fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`rgb` needs %zu bytes, it has %zu", needed, rgb_bytes);
    uint64_t decode_ns = 0;
    const std::vector<uint8_t> square = make_square(read_image(image), checked, decode_ns);
    std::memcpy(rgb, square.data(), needed);
  });
}

clip_edge_status clip_edge_preprocess_image(const clip_edge_preprocess_spec *spec, const clip_edge_image *image,
                                            float *chw, size_t floats) {
  return guard([&] {
    const clip_edge_preprocess_spec checked = read_spec(spec);
    need(chw, "chw");
    const size_t needed = static_cast<size_t>(checked.size) * checked.size * 3;
    if (floats < needed)
      fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`chw` needs %zu floats, it has room for %zu", needed, floats);
    uint64_t decode_ns = 0;
    normalize(make_square(read_image(image), checked, decode_ns).data(), checked, chw);
  });
}

}  // extern "C"
