#include "resample.h"

#include <algorithm>
#include <cmath>

#include "status.h"

namespace clip_edge::core {
namespace {

constexpr int kBits = 32 - 8 - 2;  // fraction bits: 8 bits of pixel and 2 of overshoot fit beside them in 32
constexpr size_t kMostWeights = size_t{1} << 26;  // 256 MB: pictures far outside of what is useful

double triangle(double x) { return x > -1.0 && x < 1.0 ? 1.0 - std::fabs(x) : 0.0; }

// Keys' cubic with a = -1/2, in the order of operations that Pillow has.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

int32_t to_fixed(double weight) {
  const double scaled = weight * (1 << kBits);
  return static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

inline uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

void horizontal_scalar(const uint8_t *row, const Taps &taps, uint8_t *out) {
  for (size_t i = 0; i < taps.first.size(); i++, out += 3) {
    const uint8_t *pixel = row + 3 * static_cast<size_t>(taps.first[i]);
    const int32_t *weights = taps.at(static_cast<int>(i));
    int32_t red = 1 << (kBits - 1), green = red, blue = red;
    for (int k = 0; k < taps.length[i]; k++, pixel += 3) {
      red += pixel[0] * weights[k];
      green += pixel[1] * weights[k];
      blue += pixel[2] * weights[k];
    }
    out[0] = to_byte(red), out[1] = to_byte(green), out[2] = to_byte(blue);
  }
}

void vertical_scalar(const uint8_t *rows, int length, const int32_t *weights, int bytes, uint8_t *out) {
  for (int x = 0; x < bytes; x++) {
    int32_t sum = 1 << (kBits - 1);
    for (int k = 0; k < length; k++) sum += rows[static_cast<size_t>(k) * bytes + x] * weights[k];
    out[x] = to_byte(sum);
  }
}

}  // namespace

Taps make_taps(int in_size, Extent span, int out_size, int from, int count, clip_edge_interpolation interpolation) {
  const bool bicubic = interpolation == CLIP_EDGE_BICUBIC;
  const double scale = span.length / out_size;
  const double stretch = std::max(scale, 1.0);  // the filter grows when the picture shrinks: antialiasing
  const double support = (bicubic ? 2.0 : 1.0) * stretch;
  Taps taps;
  taps.longest = (static_cast<int>(std::ceil(support)) * 2 + 1 + 3) / 4 * 4;
  const size_t total = static_cast<size_t>(taps.longest) * count;
  if (total > kMostWeights)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "resizing %d to %d pixels is too extreme", in_size, out_size);
  taps.first.resize(count), taps.length.resize(count);
  taps.weights.resize(total), taps.high.resize(total), taps.low.resize(total);
  std::vector<double> exact(taps.longest);
  for (int i = 0; i < count; i++) {
    const double centre = span.start + (from + i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int length = std::min(static_cast<int>(centre + support + 0.5), in_size) - first;
    double sum = 0.0;
    for (int k = 0; k < length; k++) {
      const double x = (k + first - centre + 0.5) * (1.0 / stretch);
      sum += exact[k] = bicubic ? cubic(x) : triangle(x);
    }
    taps.first[i] = first, taps.length[i] = length;
    for (int k = 0; k < length; k++) {
      const int32_t weight = to_fixed(sum != 0.0 ? exact[k] / sum : exact[k]);
      const size_t at = static_cast<size_t>(i) * taps.longest + k;
      taps.weights[at] = weight;
      taps.high[at] = static_cast<int16_t>(weight >> 12), taps.low[at] = static_cast<int16_t>(weight & 4095);
    }
  }
  return taps;
}

const Kernels &scalar_kernels() {
  static constexpr Kernels kernels{"scalar", horizontal_scalar, vertical_scalar};
  return kernels;
}

}  // namespace clip_edge::core
