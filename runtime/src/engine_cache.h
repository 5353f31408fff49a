// Engines that were built on this machine, in the folder and under the names of clip_edge/runtime/tensorrt/cache.py:
// found again by what they depend on, trusted only by their hash.
#pragma once

#include <string>

#include "build_plan.h"

namespace clip_edge::core {

// Everything that an engine depends on. Another value of anything is another engine.
struct EngineKey {
  std::string library, version, device, capability;
};

// Engines hold machine code: whoever may write into this folder runs code as this user, so a folder that others may
// write is refused. Everything throws Error.
class EngineCache {
 public:
  explicit EngineCache(const std::string &folder);  // empty: $CLIP_EDGE_ENGINES, or the user's cache

  // The bytes of the engine, or nothing and the reason.
  std::string find(const EngineGraph &graph, const EngineKey &key, std::string &reason) const;
  // Whether it is there, and was built with the same limit of memory.
  bool has(const EngineGraph &graph, const EngineKey &key, std::string &reason) const;
  void store(const EngineGraph &graph, const EngineKey &key, const std::string &engine, uint64_t build_ns) const;
  std::string file(const EngineGraph &graph, const EngineKey &key) const;

 private:
  std::string folder_;
};

}  // namespace clip_edge::core
