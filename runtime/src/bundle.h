// A bundle and its manifest.json, schema 1. Nothing in it is trusted: keys, types, paths, sizes and hashes are
// checked before anything is used.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "clip_edge/clip_edge.h"
#include "graph.h"
#include "json.h"
#include "source.h"

namespace clip_edge::core {

struct Artifact {
  std::string tower, target, precision, path, input, output;  // path: of a file, or of a folder with several
  bool wide_ids = false;  // token ids are int64 (else int32)
  int64_t batch = 0;      // 0: any
};

struct Manifest {
  std::string name, created_by, space;
  int dim = 0;
  bool normalized = false, research_only = false;
  double logit_scale = 1;
  clip_edge_preprocess_spec preprocess;
  clip_edge_text_spec text;
  std::vector<Artifact> artifacts;
  std::vector<GraphEntry> graphs;
  struct File {
    std::string sha256;
    int64_t bytes;
  };
  std::map<std::string, File> files;
};

class Bundle {
 public:
  explicit Bundle(std::unique_ptr<const Source> source);  // reads the manifest and compares names and sizes

  const Manifest &manifest() const { return manifest_; }
  std::string path(const std::string &name) const { return source_->path(name); }  // for messages

  // The first artefact of a tower ("image", "text") for a target, of that precision unless it is empty. Throws Error.
  const Artifact &artifact(const char *tower, const char *target, const std::string &precision) const;

  // The graph for segmentation of that name, in that precision or the first one listed. Throws Error.
  const GraphEntry &graph(const char *name, const char *target, const std::string &precision) const;

  // The bytes of a listed file whose size and hash were checked: what was hashed is what is used.
  std::string read(const std::string &name, size_t max_bytes) const;

  // Hashes every listed file.
  void check_all() const;

 private:
  void check_names() const;

  std::unique_ptr<const Source> source_;
  Manifest manifest_;
};

Manifest parse_manifest(const std::string &text, const std::string &where);

}  // namespace clip_edge::core
