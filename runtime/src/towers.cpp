// Opens what a model needs, when it is first needed.
#include "model.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

constexpr size_t kMostTokenizerBytes = size_t{64} << 20;

std::string list_precisions(const Manifest &manifest, const std::string &target) {
  std::string found;
  for (const Artifact &artifact : manifest.artifacts) {
    const bool known = ("," + found + ",").find("," + artifact.precision + ",") != std::string::npos;
    if (artifact.target == target && !known) found += (found.empty() ? "" : ",") + artifact.precision;
  }
  return found;
}

}  // namespace

clip_edge_model::clip_edge_model(std::unique_ptr<const Source> source, const Backend &chosen)
    : bundle(std::move(source)), backend(chosen), precisions(list_precisions(bundle.manifest(), chosen.target)) {}

const Artifact &clip_edge_model::artifact(const char *tower) const {
  return bundle.artifact(tower, backend.target, precision);
}

const Tower &clip_edge_model::image_tower() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t size = bundle.manifest().preprocess.size;
  if (image_ == nullptr) image_ = open_tower("image", {static_cast<size_t>(12 * size * size), {3, size, size}, 0});
  return *image_;
}

const Tower &clip_edge_model::text_tower() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t length = bundle.manifest().text.context_length;
  const size_t id_bytes = artifact("text").wide_ids ? 8 : 4;
  if (text_ == nullptr) text_ = open_tower("text", {id_bytes * static_cast<size_t>(length), {length}, 0});
  return *text_;
}

const Tokenizer &clip_edge_model::tokenizer() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (tokenizer_ == nullptr)
    tokenizer_ = std::make_unique<Tokenizer>(bundle.read("tokenizer.json", kMostTokenizerBytes),
                                             bundle.path("tokenizer.json"), bundle.manifest().text);
  return *tokenizer_;
}

const GraphEntry &clip_edge_model::graph_entry(const char *name) const {
  if (backend.open_graph == nullptr)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "backend `%s` runs no graphs for segmentation: use onnxruntime", backend.name);
  return bundle.graph(name, backend.target, precision);
}

const Graph &clip_edge_model::graph(const char *name) {
  const GraphEntry &entry = graph_entry(name);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<Graph> &found = graphs_[name];
  if (found == nullptr) found = backend.open_graph(engine, bundle, entry);
  return *found;
}

std::unique_ptr<Tower> clip_edge_model::open_tower(const char *tower, TowerShape shape) const {
  shape.dim = bundle.manifest().dim;
  return backend.open(engine, bundle, artifact(tower), shape);
}
