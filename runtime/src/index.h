// Stored embeddings in a memory-mapped safetensors file, and exact search in them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "clip_edge/clip_edge.h"
#include "dot.h"

namespace clip_edge::core {

// A whole file, readable as memory. Throws Error.
class Mapping {
 public:
  explicit Mapping(const std::string &path);
  ~Mapping();
  Mapping(const Mapping &) = delete;
  Mapping &operator=(const Mapping &) = delete;
  std::string_view bytes() const { return {data_, size_}; }

 private:
  const char *data_ = nullptr;
  size_t size_ = 0;
};

// What a file of embeddings holds, all of it checked. `bytes` must outlive it.
struct Rows {
  size_t count = 0, dim = 0;
  std::string space, type;           // type: "float32", "float16" or "int8"
  const uint8_t *values = nullptr;   // (count, dim)
  const uint8_t *scales = nullptr;   // (count) float32, of int8 rows only
  const uint8_t *ends = nullptr;     // (count) int64: where each label ends in `labels`
  std::string_view labels;

  std::string_view label(size_t row) const;
};

Rows parse_rows(std::string_view bytes, const std::string &where);

// The `k` best rows of each query by dot product, equal ones in row order: (Q, D) -> (Q, k). Rows that are not numbers
// come last. `threads` share the rows.
std::vector<clip_edge_hit> search(const Rows &rows, const DotKernels &kernels, const float *queries,
                                  size_t query_count, size_t k, size_t threads);

}  // namespace clip_edge::core
