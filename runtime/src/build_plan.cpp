#include "build_plan.h"

#include "status.h"

namespace clip_edge::core {
namespace {

constexpr size_t kMostPlanBytes = size_t{4} << 20;
constexpr int64_t kMostBatch = 1024;

std::string text_of(const Json &table, std::string_view key) { return std::string(table[key].string()); }

clip_edge_plugin_profile read_profile(const Json &table, const std::string &where) {
  table.only({"min", "opt", "max"});
  const auto batch = [&](const char *key) { return static_cast<int32_t>(table[key].integer(1, kMostBatch)); };
  const clip_edge_plugin_profile profile{batch("min"), batch("opt"), batch("max")};
  if (profile.least > profile.best || profile.best > profile.most)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: a profile whose batches are not in order", where.c_str());
  return profile;
}

EngineGraph read_one(const Json &table, const std::string &where) {
  table.only({"path", "sha256", "tower", "precision", "opset", "input", "input_dtype", "row_shape", "output", "dim",
              "profiles", "workspace_bytes", "optimization_level", "tf32", "layers", "trtexec", "engines"});
  EngineGraph graph;
  graph.path = text_of(table, "path"), graph.sha256 = text_of(table, "sha256");
  graph.precision = text_of(table, "precision");
  graph.input = text_of(table, "input"), graph.output = text_of(table, "output");
  graph.ids = text_of(table, "input_dtype") == "int32";
  if (!graph.ids && text_of(table, "input_dtype") != "float32")
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `input_dtype` must be float32 or int32", where.c_str());
  table["row_shape"].each([&](const Json &side) { graph.row_shape.push_back(side.integer(1, 1 << 20)); });
  graph.dim = static_cast<int32_t>(table["dim"].integer(1, 65536));
  table["profiles"].each([&](const Json &profile) { graph.profiles.push_back(read_profile(profile, where)); });
  graph.workspace_bytes = table["workspace_bytes"].integer(1, int64_t{1} << 40);
  graph.optimization_level = static_cast<int32_t>(table["optimization_level"].integer(0, 5));
  graph.tf32 = table["tf32"].boolean();
  table["layers"].members([&](std::string_view name, const Json &count) {
    graph.layers.emplace_back(std::string(name), count.integer(0, 1 << 30));
  });
  table["engines"].each([&](const Json &engine) {
    engine.only({"capability", "path", "library", "bytes"});
    graph.engines.push_back({text_of(engine, "capability"), text_of(engine, "path"), text_of(engine, "library")});
  });
  if (graph.row_shape.empty() || graph.row_shape.size() > 3 || graph.profiles.empty() || graph.profiles.size() > 16)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `row_shape` needs 1 to 3 sides and `profiles` 1 to 16 entries", where.c_str());
  return graph;
}

void check_graph(const EngineGraph &graph, const Artifact &artifact, const Bundle &bundle, const std::string &where) {
  const Manifest &manifest = bundle.manifest();
  const int64_t size = manifest.preprocess.size;
  const bool image = artifact.tower == "image";
  const std::vector<int64_t> row =
      image ? std::vector<int64_t>{3, size, size} : std::vector<int64_t>{manifest.text.context_length};
  const auto file = manifest.files.find(graph.path);
  const auto check = [&](bool fits, const char *key) {
    if (!fits)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s contradicts the manifest: `%s` of %s", where.c_str(), key, graph.path.c_str());
  };
  check(file != manifest.files.end() && graph.sha256 == file->second.sha256, "sha256");
  check(graph.precision == artifact.precision, "precision");
  check(graph.input == artifact.input, "input");
  check(graph.output == artifact.output, "output");
  check(graph.ids == !image && !artifact.wide_ids, "input_dtype");
  check(graph.dim == manifest.dim, "dim");
  check(graph.row_shape == row, "row_shape");
}

}  // namespace

clip_edge_plugin_graph EngineGraph::view() const {
  clip_edge_plugin_graph result{path.c_str(), input.c_str(), output.c_str(), ids ? 1 : 0, 0, {}, dim, 0, nullptr,
                                workspace_bytes, optimization_level, tf32 ? 1 : 0};
  for (const int64_t side : row_shape) result.row_shape[result.rank++] = side;
  result.profile_count = static_cast<int32_t>(profiles.size()), result.profiles = profiles.data();
  return result;
}

EngineGraph parse_engine_graph(std::string text, const std::string &path, const std::string &where) {
  const JsonDocument document(std::move(text), where);
  const Json root = document.root();
  root.only({"schema", "target", "library", "oldest", "below", "timing_cache", "command", "graphs"});
  if (root["schema"].integer(0, 1 << 30) != 1)
    fail(CLIP_EDGE_ERROR_VERSION, "%s: schema 1 expected", where.c_str());
  for (const Json &item : root["graphs"].items())
    if (item["path"].string() == path) return read_one(item, where);
  fail(CLIP_EDGE_ERROR_FORMAT, "%s does not hold %s", where.c_str(), path.c_str());
}

EngineGraph read_engine_graph(const Bundle &bundle, const Artifact &artifact) {
  const size_t slash = artifact.path.rfind('/');
  const std::string name = (slash == std::string::npos ? "" : artifact.path.substr(0, slash + 1)) + "build.json";
  EngineGraph graph = parse_engine_graph(bundle.read(name, kMostPlanBytes), artifact.path, bundle.path(name));
  check_graph(graph, artifact, bundle, bundle.path(name));
  return graph;
}

}  // namespace clip_edge::core
