// TensorRT and TensorRT-RTX: engines that are built on the device, kept, and run by a plug-in.
#pragma once

#include <string>

#include "backend.h"

namespace clip_edge::core {

// How an engine is to be built, and who is told of it.
struct EngineBuild {
  std::string capability;  // empty: of the GPU that is here
  int64_t workspace_bytes = 0;  // 0: what the bundle says
  clip_edge_engine_function show = nullptr;
  void *user = nullptr;
};

std::unique_ptr<Tower> open_tensorrt(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                     const TowerShape &shape);
std::unique_ptr<Tower> open_tensorrt_rtx(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                         const TowerShape &shape);
void build_tensorrt(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                    const EngineBuild &how);
void build_tensorrt_rtx(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                        const EngineBuild &how);

}  // namespace clip_edge::core
