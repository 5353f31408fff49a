// build.json: everything that turns a graph beside it into an engine, as clip_edge/runtime/tensorrt/plan.py writes it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "engine_plugin.h"

namespace clip_edge::core {

struct EngineGraph {
  std::string path, sha256, precision, input, output;
  bool ids = false;
  std::vector<int64_t> row_shape;
  int32_t dim = 0;
  std::vector<clip_edge_plugin_profile> profiles;
  int64_t workspace_bytes = 0;
  int32_t optimization_level = 0;
  bool tf32 = false;
  std::vector<std::pair<std::string, int64_t>> layers;  // products in each precision
  struct Engine {
    std::string capability, path, library;
  };
  std::vector<Engine> engines;  // built ahead of time, in the bundle

  clip_edge_plugin_graph view() const;  // lives as long as this
};

// The graph of that path in the text of a build.json; `where` stands in messages. Throws Error.
EngineGraph parse_engine_graph(std::string text, const std::string &path, const std::string &where);
// What the bundle says about building `artifact`, checked against the manifest. Throws Error.
EngineGraph read_engine_graph(const Bundle &bundle, const Artifact &artifact);

}  // namespace clip_edge::core
