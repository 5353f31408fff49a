#include "bundle.h"

#include "preprocess.h"
#include "sha256.h"
#include "status.h"
#include "tokenizer.h"

namespace clip_edge::core {
namespace {

constexpr size_t kMostManifestBytes = size_t{4} << 20;
constexpr size_t kMostFileBytes = size_t{4} << 30;

std::string text_of(const Json &table, std::string_view key) { return std::string(table[key].string()); }

// The index of the table's word among `choices`.
int choice(const Json &table, std::string_view key, std::initializer_list<std::string_view> choices,
           const std::string &where) {
  const std::string_view found = table[key].string();
  int index = 0;
  for (std::string_view name : choices) {
    if (name == found) return index;
    index++;
  }
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `%s` is `%.40s`, which this library does not know", where.c_str(),
       std::string(key).c_str(), std::string(found).c_str());
}

void read_image(const Json &image, Manifest &manifest, const std::string &where) {
  image.only({"preprocess", "crop", "channel_order", "layout", "pixel_scale", "antialias"});
  choice(image, "channel_order", {"RGB"}, where);
  choice(image, "layout", {"NCHW"}, where);
  const double scale = image["pixel_scale"].number();
  const Json table = image["preprocess"];
  table.only({"size", "resize", "interpolation", "mean", "std"});
  clip_edge_preprocess_spec &spec = manifest.preprocess;
  clip_edge_preprocess_spec_init(&spec, sizeof(spec));
  spec.size = static_cast<int32_t>(table["size"].integer(1, 4096));
  spec.resize = static_cast<clip_edge_resize>(choice(table, "resize", {"shortest", "squash", "shortest_floor"}, where));
  spec.interpolation =
      static_cast<clip_edge_interpolation>(choice(table, "interpolation", {"bilinear", "bicubic"}, where));
  const int crop = choice(image, "crop", {"center", "none"}, where);
  const bool crop_fits = crop == (spec.resize == CLIP_EDGE_RESIZE_SQUASH ? 1 : 0);
  if (!image["antialias"].boolean() || scale < 0.99999 / 255 || scale > 1.00001 / 255 || !crop_fits)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: this kind of preprocessing is not supported", where.c_str());
  for (const char *key : {"mean", "std"}) {
    const std::vector<Json> values = table[key].items();
    if (values.size() != 3) fail(CLIP_EDGE_ERROR_FORMAT, "%s: `%s` must have three values", where.c_str(), key);
    for (size_t i = 0; i < 3; i++) (*key == 'm' ? spec.mean : spec.std)[i] = static_cast<float>(values[i].number());
  }
  check_spec(spec);
}

void read_text(const Json &text, Manifest &manifest, const std::string &where) {
  text.only({"tokenizer", "causal", "pad_mask", "pooling", "activation"});
  const Json table = text["tokenizer"];
  table.only({"context_length", "vocab_size", "pad_id", "bos_id", "eos_id", "clean"});
  clip_edge_text_spec spec;
  clip_edge_text_spec_init(&spec, sizeof(spec));
  const auto number = [&](const char *key) { return static_cast<int32_t>(table[key].integer(0, 1 << 20)); };
  spec.context_length = number("context_length");
  spec.vocab_size = number("vocab_size");
  spec.pad_id = number("pad_id"), spec.eos_id = number("eos_id");
  spec.bos_id = table["bos_id"].is_null() ? CLIP_EDGE_NO_TOKEN : number("bos_id");
  const int clean = choice(table, "clean", {"none", "clip", "canonicalize", "whitespace"}, where);
  spec.clean = static_cast<clip_edge_text_cleaning>(clean);
  manifest.text = read_text_spec(&spec);
}

// A listed file, or a folder with listed files.
bool is_listed(const std::string &path, const Manifest &manifest) {
  const std::string folder = path + "/";
  const auto below = manifest.files.lower_bound(folder);
  return manifest.files.count(path) > 0 ||
         (below != manifest.files.end() && below->first.compare(0, folder.size(), folder) == 0);
}

// The path of the report on each layer's precision; empty where there is none.
std::string quantization_report(const Json &table) {
  Json report = table;
  return table.find("quantization", &report) && !report.is_null() ? std::string(report.string()) : "";
}

void check_listed(const Manifest &manifest, const char *key, const std::string &path, const std::string &report,
                  const std::string &where) {
  for (const std::string &name : {path, report.empty() ? path : report})
    if (!is_listed(name, manifest))
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: `%s` names a file that is not listed: `%.200s`", where.c_str(), key,
           name.c_str());
}

std::vector<GraphTensor> read_tensors(const Json &list, const std::string &where) {
  std::vector<GraphTensor> tensors;
  list.each([&](const Json &item) {
    item.only({"name", "dtype", "shape"});
    choice(item, "dtype", {"float32", "int32", "int64", "uint8"}, where);
    GraphTensor tensor{text_of(item, "name"), {}};
    item["shape"].each([&](const Json &side) { tensor.shape.push_back(side.is_null() ? 0 : side.integer(1, 16384)); });
    if (tensor.shape.empty() || tensor.shape.size() > 4)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: a tensor of a graph must have 1 to 4 sides", where.c_str());
    tensors.push_back(tensor);
  });
  return tensors;
}

GraphEntry read_graph(const Json &table, const Manifest &manifest, const std::string &where) {
  table.only({"graph", "target", "precision", "path", "inputs", "outputs", "opset", "verification", "quantization"});
  GraphEntry entry{text_of(table, "graph"), text_of(table, "target"), text_of(table, "precision"),
                   text_of(table, "path"),  read_tensors(table["inputs"], where),
                   read_tensors(table["outputs"], where)};
  check_listed(manifest, "graphs", entry.path, quantization_report(table), where);
  return entry;
}

Artifact read_artifact(const Json &table, const Manifest &manifest, const std::string &where) {
  table.only({"tower", "target", "precision", "path", "input", "input_dtype", "output", "batch", "opset", "parameters",
              "verification", "quantization"});
  Artifact artifact{text_of(table, "tower"), text_of(table, "target"), text_of(table, "precision"),
                    text_of(table, "path"),  text_of(table, "input"),  text_of(table, "output")};
  check_listed(manifest, "artifacts", artifact.path, quantization_report(table), where);
  artifact.wide_ids = choice(table, "input_dtype", {"float32", "int32", "int64", "uint8"}, where) == 2;
  if (!table["batch"].is_null()) artifact.batch = table["batch"].integer(1, 4096);
  return artifact;
}

void read_files(const Json &files, Manifest &manifest, const std::string &where) {
  files.members([&](std::string_view key, const Json &entry) {
    const std::string name(key);
    if (!stays_inside(name))
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: a path leaves the bundle: `%.200s`", where.c_str(), name.c_str());
    entry.only({"sha256", "bytes"});
    const Manifest::File file{text_of(entry, "sha256"), entry["bytes"].integer(0, int64_t{1} << 40)};
    if (!manifest.files.emplace(name, file).second || manifest.files.size() > kMostFiles)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: too many files, or one listed twice", where.c_str());
  });
}

// The manifest holds the hash of itself, written while those 64 digits were zeros.
void check_own_hash(std::string text, const std::string &stated, const std::string &where) {
  const std::string zeros(64, '0');
  if (stated.size() == 64)
    for (size_t at = text.find(stated); at != std::string::npos; at = text.find(stated, at + 64))
      text.replace(at, 64, zeros);
  if (sha256_hex(text) != stated)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: changed: its hash differs from the one it states", where.c_str());
}

}  // namespace

Manifest parse_manifest(const std::string &text, const std::string &where) {
  const JsonDocument document(text, where);
  const Json root = document.root();
  if (root["schema"].integer(0, 1 << 30) != 1)
    fail(CLIP_EDGE_ERROR_VERSION, "%s: manifest schema 1 expected; found %lld", where.c_str(),
         static_cast<long long>(root["schema"].integer(0, 1 << 30)));
  root.only({"schema", "name", "created_by", "embedding", "image", "text", "artifacts", "licences", "research_only",
             "source", "versions", "files", "manifest_sha256", "graphs"});
  check_own_hash(text, text_of(root, "manifest_sha256"), where);
  Manifest manifest;
  manifest.name = text_of(root, "name"), manifest.created_by = text_of(root, "created_by");
  manifest.research_only = root["research_only"].boolean();
  const Json embedding = root["embedding"];
  embedding.only({"space", "dim", "normalized", "logit_scale", "logit_bias"});
  manifest.space = text_of(embedding, "space");
  manifest.dim = static_cast<int>(embedding["dim"].integer(1, 65536));
  manifest.normalized = embedding["normalized"].boolean();
  manifest.logit_scale = embedding["logit_scale"].number();
  read_image(root["image"], manifest, where);
  read_text(root["text"], manifest, where);
  read_files(root["files"], manifest, where);
  root["artifacts"].each([&](const Json &item) { manifest.artifacts.push_back(read_artifact(item, manifest, where)); });
  Json graphs = root;
  if (root.find("graphs", &graphs))
    graphs.each([&](const Json &item) { manifest.graphs.push_back(read_graph(item, manifest, where)); });
  return manifest;
}

Bundle::Bundle(std::unique_ptr<const Source> source) : source_(std::move(source)) {
  manifest_ = parse_manifest(source_->read(kManifestName, kMostManifestBytes), path(kManifestName));
  check_names();
}

// Files that nobody listed are as wrong as missing ones: something was added, or the manifest is another bundle's.
void Bundle::check_names() const {
  std::map<std::string, int64_t> found = source_->list();
  found.erase(kManifestName);
  for (const auto &[name, file] : manifest_.files) {
    const auto entry = found.find(name);
    if (entry == found.end()) {
      if (!source_->may_be_partial()) fail(CLIP_EDGE_ERROR_FORMAT, "%s: missing file", path(name).c_str());
      continue;
    }
    if (entry->second != file.bytes)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: changed: %lld bytes expected, %lld found", path(name).c_str(),
           static_cast<long long>(file.bytes), static_cast<long long>(entry->second));
    found.erase(entry);
  }
  if (!found.empty())
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: a file that the manifest does not list", path(found.begin()->first).c_str());
}

const Artifact &Bundle::artifact(const char *tower, const char *target, const std::string &precision) const {
  for (const Artifact &item : manifest_.artifacts)
    if (item.tower == tower && item.target == target && (precision.empty() || item.precision == precision)) return item;
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the bundle has no %s tower for target `%s`%s%s", source_->where().c_str(), tower,
       target, precision.empty() ? "" : " in precision ", precision.c_str());
}

const GraphEntry &Bundle::graph(const char *name, const char *target, const std::string &precision) const {
  const GraphEntry *first = nullptr;
  for (const GraphEntry &item : manifest_.graphs) {
    if (item.graph != name || item.target != target) continue;
    if (item.precision == precision) return item;
    if (first == nullptr) first = &item;
  }
  if (first == nullptr)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the bundle has no graph `%s` for target `%s`", source_->where().c_str(), name,
         target);
  return *first;
}

std::string Bundle::read(const std::string &name, size_t max_bytes) const {
  const auto entry = manifest_.files.find(name);
  if (entry == manifest_.files.end()) fail(CLIP_EDGE_ERROR_FORMAT, "%s: missing file", path(name).c_str());
  std::string bytes = source_->read(name, max_bytes);
  if (static_cast<int64_t>(bytes.size()) != entry->second.bytes || sha256_hex(bytes) != entry->second.sha256)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: changed: its size or hash is not what the manifest says", path(name).c_str());
  return bytes;
}

void Bundle::check_all() const {
  for (const auto &[name, file] : manifest_.files) read(name, kMostFileBytes);
}

}  // namespace clip_edge::core
