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

// Empty texts: search, or the usual place.
struct EngineOptions {
  std::string onnxruntime;  // path of its library
  std::string plugin;       // path of the plug-in of another engine
  std::string libraries;    // folder of that engine's own libraries
  std::string engines;      // folder of the engines that were built here
  int threads = 0;          // 0: the engine decides
  int device = 0;           // number of the GPU
};

struct EngineBuild;

// A graph for segmentation; null in a backend that runs none.
using OpenGraph = std::unique_ptr<Graph> (*)(const EngineOptions &options, const Bundle &bundle,
                                             const GraphEntry &entry);

// An engine: its name for the app, what it reads of a bundle, and how a tower is opened in it.
struct Backend {
  const char *name, *target;
  std::unique_ptr<Tower> (*open)(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                 const TowerShape &shape);
  // The tower's engine, made on this machine; null where none is needed.
  void (*build)(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact, const EngineBuild &how);
  OpenGraph open_graph;
};

const Backend &find_backend(const char *name);  // NULL: ONNX Runtime. Throws Error.
const char *backend_names();                    // separated by commas

// The towers of each engine; all of them open their library at run time.
std::unique_ptr<Tower> open_onnxruntime(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                        const TowerShape &shape);
std::unique_ptr<Graph> open_onnxruntime_graph(const EngineOptions &options, const Bundle &bundle,
                                              const GraphEntry &entry);
std::unique_ptr<Tower> open_coreml(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                   const TowerShape &shape);

constexpr size_t kMostGraphBytes = size_t{4} << 30;

// Sends a line to the log callback, if one is set. Levels as clip_edge_log_level.
void log_line(clip_edge_log_level level, const char *text) noexcept;

}  // namespace clip_edge::core
