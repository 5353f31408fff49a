// The graphs of a bundle that segmentation runs one by one: named inputs and outputs, batch first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace clip_edge::core {

struct GraphTensor {
  std::string name;
  std::vector<int64_t> shape;  // 0: free, such as the batch
};

struct GraphEntry {
  std::string graph, target, precision, path;
  std::vector<GraphTensor> inputs, outputs;
};

struct GraphInput {
  const char *name;
  const void *data;
  std::vector<int64_t> shape;
  bool whole;  // int64 (else float)
};

class Graph {
 public:
  virtual ~Graph() = default;
  // One picture or prompt -> its outputs by name, all of the shapes in the manifest. Any thread may call. Throws Error.
  virtual std::map<std::string, std::vector<float>> run(const std::vector<GraphInput> &inputs) const = 0;
};

}  // namespace clip_edge::core
