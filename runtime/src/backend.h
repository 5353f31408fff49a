// What an engine does for the rest of the library: open one tower, run it on a batch.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "bundle.h"

namespace clip_edge::core {

class Tower {
 public:
  virtual ~Tower() = default;
  // `count` rows of input -> count * dim floats. Any number of threads may run at the same time. Throws Error.
  virtual void run(const void *input, size_t count, float *out) const = 0;
};

struct TowerShape {
  size_t row_bytes;            // of one input row
  std::vector<int64_t> shape;  // of one input row, such as {3, 224, 224}
  int dim;
};

struct EngineOptions {
  std::string library;  // path of the engine's library; empty: search
  int threads = 0;      // 0: the engine decides
};

// ONNX Runtime, opened at run time. `graph` is the bytes of the artefact.
std::unique_ptr<Tower> open_onnxruntime(const EngineOptions &options, const Artifact &artifact,
                                        const std::string &graph, const TowerShape &shape);

// Sends a line to the log callback, if one is set. Levels as clip_edge_log_level.
void log_line(clip_edge_log_level level, const char *text) noexcept;

}  // namespace clip_edge::core
