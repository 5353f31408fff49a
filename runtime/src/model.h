// What stands behind a clip_edge_model: a bundle, and its towers once they are open.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "backend.h"
#include "bundle.h"
#include "tokenizer.h"

// Immutable but for the towers, which are opened when first needed.
struct clip_edge_model {
  clip_edge_model(std::unique_ptr<const clip_edge::core::Source> source,
                  const clip_edge::core::Backend &backend);  // throws Error

  const clip_edge::core::Bundle bundle;
  const clip_edge::core::Backend &backend;
  const std::string precisions;  // that the engine can run, separated by commas
  std::string precision;         // empty: the first that the bundle lists
  clip_edge::core::EngineOptions engine;

  const clip_edge::core::Artifact &artifact(const char *tower) const;
  // All may be called from any thread; what they give lives as long as the model.
  const clip_edge::core::Tower &image_tower();
  const clip_edge::core::Tower &text_tower();
  const clip_edge::core::Tokenizer &tokenizer();
  // A graph for segmentation: what the manifest says, and the same in the engine, opened when first needed.
  const clip_edge::core::GraphEntry &graph_entry(const char *name) const;
  const clip_edge::core::Graph &graph(const char *name);

 private:
  std::unique_ptr<clip_edge::core::Tower> open_tower(const char *tower, clip_edge::core::TowerShape shape) const;

  std::mutex mutex_;
  std::unique_ptr<clip_edge::core::Tower> image_, text_;
  std::map<std::string, std::unique_ptr<clip_edge::core::Graph>> graphs_;
  std::unique_ptr<clip_edge::core::Tokenizer> tokenizer_;
};
