// Dot products of stored rows with one query: float32, float16 or int8 rows, always summed as float32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clip_edge::core {

// `count` packed rows of `dim` values, at any address, times query (dim) -> out (count).
using Dots = void (*)(const uint8_t *rows, size_t count, size_t dim, const float *query, float *out);

struct DotKernels {
  const char *name;
  Dots float32, float16, int8;
};

const DotKernels &scalar_dots();
const DotKernels &best_dots();  // AVX2 or NEON where the processor has it

}  // namespace clip_edge::core
