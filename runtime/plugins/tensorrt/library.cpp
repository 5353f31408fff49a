#include "library.h"

#include <dlfcn.h>

#include <cstring>

namespace clip_edge::plugin {
namespace {

template <class Function>
Function find(void *handle, const char *name) {
  void *symbol = dlsym(handle, name);
  if (symbol == nullptr) fail(std::string("not a library of ") + kTitle + ": it has no function " + name);
  Function function;
  std::memcpy(&function, &symbol, sizeof(function));
  return function;
}

using Number = int32_t (*)();

}  // namespace

void Log::log(Severity severity, const char *text) noexcept {
  if (severity > Severity::kWARNING) return;
  try {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (severity != Severity::kWARNING) error_ = text;
    forward_(severity == Severity::kWARNING ? CLIP_EDGE_LOG_WARNING : CLIP_EDGE_LOG_ERROR, text);
  } catch (...) {  // no memory for a message: the call that failed still says so
  }
}

std::string Log::last_error() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string text = error_.empty() ? "no reason given" : error_.substr(0, 400);
  for (char &letter : text)
    if (letter == '\n') letter = ' ';
  error_.clear();
  return text;
}

Library::Library(const char *libraries, int device, clip_edge_plugin_log log)
    : folder_(libraries == nullptr ? "" : libraries), log_(log), handle_(open(kLibrary, NV_TENSORRT_MAJOR)) {
  const char *const parts[] = {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion",
                               "getInferLibBuildVersion"};
  for (const char *part : parts)
    version_ += (version_.empty() ? "" : ".") + std::to_string(find<Number>(handle_, part)());
  if (find<Number>(handle_, parts[0])() != NV_TENSORRT_MAJOR)
    fail(std::string(kTitle) + " " + std::to_string(NV_TENSORRT_MAJOR) + " expected; found " + version_,
         CLIP_EDGE_ERROR_VERSION);
  if (device >= 0) cuda_ = std::make_unique<Cuda>(device);
}

void *Library::open(const char *name, int version) const {
  const std::string file = std::string(name) + "." + std::to_string(version);
  const std::string path = folder_.empty() ? file : folder_ + "/" + file;
  void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);  // the parser finds its symbols there
  if (handle == nullptr)
    fail(std::string(kTitle) + " cannot be opened: " + dlerror() + "; name the folder of its libraries in `libraries`");
  return handle;
}

std::string Library::failure(const std::string &what) {
  return std::string(kTitle) + " " + version_ + " cannot " + what + ": " + log_.last_error();
}

std::unique_ptr<nvinfer1::IRuntime> Library::runtime() {
  const auto create = find<void *(*)(void *, int32_t)>(handle_, "createInferRuntime_INTERNAL");
  auto *made = static_cast<nvinfer1::IRuntime *>(create(&log_, NV_TENSORRT_VERSION));
  if (made == nullptr) fail(failure("start"));
  return std::unique_ptr<nvinfer1::IRuntime>(made);
}

std::unique_ptr<nvinfer1::IBuilder> Library::builder() {
  const auto create = find<void *(*)(void *, int32_t)>(handle_, "createInferBuilder_INTERNAL");
  auto *made = static_cast<nvinfer1::IBuilder *>(create(&log_, NV_TENSORRT_VERSION));
  if (made == nullptr) fail(failure("start its builder"));
  return std::unique_ptr<nvinfer1::IBuilder>(made);
}

std::unique_ptr<nvonnxparser::IParser> Library::parser(nvinfer1::INetworkDefinition &network) {
  const auto create =
      find<void *(*)(void *, void *, int)>(open(kParser, NV_TENSORRT_MAJOR), "createNvOnnxParser_INTERNAL");
  auto *made = static_cast<nvonnxparser::IParser *>(create(&network, &log_, NV_ONNX_PARSER_VERSION));
  if (made == nullptr) fail(failure("start its parser"));
  return std::unique_ptr<nvonnxparser::IParser>(made);
}

nvinfer1::Dims shape_of(const clip_edge_plugin_graph &graph, int64_t count) {
  nvinfer1::Dims shape{};
  shape.nbDims = graph.rank + 1;
  shape.d[0] = count;
  for (int32_t i = 0; i < graph.rank; i++) shape.d[i + 1] = graph.row_shape[i];
  return shape;
}

}  // namespace clip_edge::plugin
