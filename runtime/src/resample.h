// Antialiased resampling of bytes, equal to Pillow's to the last bit: the same filters, the same 22-bit fixed-point
// weights, the horizontal pass first and rounded to bytes, then the vertical pass.
#pragma once

#include <cstdint>
#include <vector>

#include "clip_edge/clip_edge.h"

namespace clip_edge::core {

// Weights of the input positions that make output positions from .. from + count - 1 of `out_size`.
struct Taps {
  int longest = 0;                 // weights per output position, a multiple of 4; the unused ones are 0
  std::vector<int> first, length;  // of the input positions that count
  std::vector<int32_t> weights;    // longest * count, sum about 1 << 22
  std::vector<int16_t> high, low;  // weights = high * 4096 + low, for 16-bit multiplications

  const int32_t *at(int i) const { return weights.data() + static_cast<size_t>(i) * longest; }
};

// What `out_size` positions stand for, in input positions: all of them, or a fraction less at one end.
struct Extent {
  double start, length;
};

Taps make_taps(int in_size, Extent span, int out_size, int from, int count, clip_edge_interpolation interpolation);

// One row of RGB pixels -> taps.first.size() RGB pixels. `row` is readable for kRowPadding bytes after its end.
using HorizontalPass = void (*)(const uint8_t *row, const Taps &taps, uint8_t *out);
// `rows` of `bytes` bytes each -> one row: the weighted sum of rows[0 .. length-1].
using VerticalPass = void (*)(const uint8_t *rows, int length, const int32_t *weights, int bytes, uint8_t *out);

struct Kernels {
  const char *name;
  HorizontalPass horizontal;
  VerticalPass vertical;
};

const Kernels &scalar_kernels();
const Kernels &best_kernels();  // AVX2 or NEON where the processor has it

}  // namespace clip_edge::core
