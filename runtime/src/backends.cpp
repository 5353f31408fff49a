#include "backend.h"

#include "engine_build.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr Backend kBackends[] = {
    {"onnxruntime", "onnx", open_onnxruntime, nullptr, open_onnxruntime_graph},
    {"tensorrt", "trt", open_tensorrt, build_tensorrt, nullptr},
    {"tensorrt-rtx", "trt-rtx", open_tensorrt_rtx, build_tensorrt_rtx, nullptr},
#if defined(__APPLE__)
    {"coreml", "coreml", open_coreml, nullptr, nullptr},
#endif
};

}  // namespace

const Backend &find_backend(const char *name) {
  if (name == nullptr) return kBackends[0];
  for (const Backend &backend : kBackends)
    if (std::string(name) == backend.name) return backend;
  fail(std::string(name) == "coreml" ? CLIP_EDGE_ERROR_UNSUPPORTED : CLIP_EDGE_ERROR_INVALID_ARGUMENT,
       "backend `%.40s` is not in this build of the library%s: one of %s expected", name,
       std::string(name) == "coreml" ? ", because Core ML is on Apple's systems only" : "", backend_names());
}

const char *backend_names() {
  static const std::string names = [] {
    std::string all;
    for (const Backend &backend : kBackends) all += std::string(all.empty() ? "" : ",") + backend.name;
    return all;
  }();
  return names.c_str();
}

}  // namespace clip_edge::core
