// ONNX Runtime through its C table of functions. The table only ever grows at its end, so a handful of fixed positions
// is all that is needed to build: no header, no library. tests/test_onnxruntime_layout.cpp checks the positions
// against the real header where one is installed.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "backend.h"
#include "onnxruntime_slots.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr uint32_t kApiVersion = 11;  // the oldest that has everything used here: ONNX Runtime 1.11 and later

// Opaque types of ONNX Runtime.
struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtMemoryInfo;
struct OrtValue;
struct OrtShapeInfo;

using OrtLog = void (*)(void *, int severity, const char *category, const char *id, const char *where,
                        const char *text);

enum ElementType { kFloat = 1, kInt32 = 6, kInt64 = 7 };

struct ApiBase {
  const void *const *(*get_api)(uint32_t version);
  const char *(*get_version)();
};

// Calls the function in slot `slot`, whose type is Function.
template <class Function>
Function at(const void *const *table, OrtSlot slot) {
  Function function;
  std::memcpy(&function, &table[slot], sizeof(function));
  return function;
}

class Runtime {
 public:
  static Runtime &open(const std::string &library);

  // Runs slot `slot` with `arguments`; a failure becomes an Error with the engine's own text.
  template <class... Arguments>
  void call(OrtSlot slot, Arguments... arguments) const {
    OrtStatus *status = at<OrtStatus *(*)(Arguments...)>(table_, slot)(arguments...);
    if (status == nullptr) return;
    const std::string text = at<const char *(*)(const OrtStatus *)>(table_, kGetErrorMessage)(status);
    release(kReleaseStatus, status);
    const bool memory = text.find("bad_alloc") != std::string::npos;  // its statuses do not tell it apart
    fail(memory ? CLIP_EDGE_ERROR_OUT_OF_MEMORY : CLIP_EDGE_ERROR_BACKEND, "ONNX Runtime %s: %s", version_.c_str(),
         text.c_str());
  }

  template <class Object>
  void release(OrtSlot slot, Object *object) const {
    at<void (*)(Object *)>(table_, slot)(object);
  }

  OrtEnv *environment() const { return environment_; }
  const OrtMemoryInfo *memory() const { return memory_; }

 private:
  explicit Runtime(const std::string &library);

  const void *const *table_ = nullptr;
  std::string version_;
  OrtEnv *environment_ = nullptr;
  OrtMemoryInfo *memory_ = nullptr;
};

// An object of the engine that goes when its owner goes.
template <class Object>
class Owned {
 public:
  Owned(const Runtime &runtime, OrtSlot release) : runtime_(runtime), release_(release) {}
  ~Owned() {
    if (object_ != nullptr) runtime_.release(release_, object_);
  }
  Owned(const Owned &) = delete;
  Owned &operator=(const Owned &) = delete;
  Object **out() { return &object_; }
  Object *get() const { return object_; }

 private:
  const Runtime &runtime_;
  OrtSlot release_;
  Object *object_ = nullptr;
};

void forward_log(void *, int severity, const char *, const char *, const char *, const char *text) {
  log_line(severity >= 3 ? CLIP_EDGE_LOG_ERROR : severity == 2 ? CLIP_EDGE_LOG_WARNING : CLIP_EDGE_LOG_INFO, text);
}

void *open_library(const std::string &library) {
#if defined(__APPLE__)
  const char *const kNames[] = {"libonnxruntime.1.dylib", "libonnxruntime.dylib",
                                "@rpath/onnxruntime.framework/onnxruntime"};
#else
  const char *const kNames[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif
  if (!library.empty()) {
    if (void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
    fail(CLIP_EDGE_ERROR_BACKEND, "ONNX Runtime cannot be opened: %s", dlerror());
  }
  for (const char *name : kNames)
    if (void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return handle;
  if (dlsym(RTLD_DEFAULT, "OrtGetApiBase") != nullptr) return RTLD_DEFAULT;  // linked into the app, as on iOS
  fail(CLIP_EDGE_ERROR_BACKEND, "ONNX Runtime is not installed: no %s; name its path in `onnxruntime`", kNames[0]);
}

Runtime::Runtime(const std::string &library) {
  void *handle = open_library(library);  // stays open: the engine's threads may outlive any model
  using GetBase = const ApiBase *(*)();
  void *symbol = dlsym(handle, "OrtGetApiBase");
  if (symbol == nullptr) fail(CLIP_EDGE_ERROR_BACKEND, "%s: not a library of ONNX Runtime", library.c_str());
  GetBase get_base;
  std::memcpy(&get_base, &symbol, sizeof(get_base));
  const ApiBase *base = get_base();
  version_ = base->get_version();
  table_ = base->get_api(kApiVersion);
  if (table_ == nullptr)
    fail(CLIP_EDGE_ERROR_VERSION, "ONNX Runtime 1.%u or later is needed; found %s", static_cast<unsigned>(kApiVersion),
         version_.c_str());
  call(kCreateEnvWithCustomLogger, OrtLog(forward_log), static_cast<void *>(nullptr), 2, "clip_edge", &environment_);
  call(kCreateCpuMemoryInfo, 0, 0, &memory_);
}

Runtime &Runtime::open(const std::string &library) {
  static std::mutex mutex;
  static Runtime *runtime = nullptr;  // one for the process, never destroyed: threads may still run at exit
  const std::lock_guard<std::mutex> lock(mutex);
  if (runtime == nullptr) runtime = new Runtime(library);
  return *runtime;
}

class OnnxTower : public Tower {
 public:
  OnnxTower(Runtime &runtime, int threads, const Artifact &artifact, const std::string &graph, const TowerShape &shape)
      : runtime_(runtime), session_(runtime, kReleaseSession), artifact_(artifact), shape_(shape) {
    Owned<OrtSessionOptions> options(runtime, kReleaseSessionOptions);
    runtime.call(kCreateSessionOptions, options.out());
    if (threads > 0) runtime.call(kSetIntraOpNumThreads, options.get(), threads);
    runtime.call(kSetInterOpNumThreads, options.get(), 1);
    runtime.call(kCreateSessionFromArray, static_cast<const OrtEnv *>(runtime.environment()),
                 static_cast<const void *>(graph.data()), graph.size(),
                 static_cast<const OrtSessionOptions *>(options.get()), session_.out());
  }

  void run(const void *input, size_t count, float *out) const override {
    std::vector<int64_t> shape = {static_cast<int64_t>(count)};
    shape.insert(shape.end(), shape_.shape.begin(), shape_.shape.end());
    const int type = artifact_.tower == "image" ? kFloat : artifact_.wide_ids ? kInt64 : kInt32;
    Owned<OrtValue> value(runtime_, kReleaseValue), result(runtime_, kReleaseValue);
    runtime_.call(kCreateTensorWithDataAsOrtValue, runtime_.memory(), const_cast<void *>(input),
                  count * shape_.row_bytes, static_cast<const int64_t *>(shape.data()), shape.size(), type,
                  value.out());
    const char *const inputs[] = {artifact_.input.c_str()}, *const outputs[] = {artifact_.output.c_str()};
    const OrtValue *const values[] = {value.get()};
    runtime_.call(kRun, session_.get(), static_cast<const void *>(nullptr), &inputs[0], &values[0], size_t{1},
                  &outputs[0], size_t{1}, result.out());
    copy_result(result.get(), count, out);
  }

 private:
  void copy_result(OrtValue *result, size_t count, float *out) const {
    Owned<OrtShapeInfo> info(runtime_, kReleaseTensorTypeAndShapeInfo);
    runtime_.call(kGetTensorTypeAndShape, static_cast<const OrtValue *>(result), info.out());
    int type = 0;
    size_t elements = 0;
    runtime_.call(kGetTensorElementType, static_cast<const OrtShapeInfo *>(info.get()), &type);
    runtime_.call(kGetTensorShapeElementCount, static_cast<const OrtShapeInfo *>(info.get()), &elements);
    const size_t expected = count * static_cast<size_t>(shape_.dim);
    if (type != kFloat || elements != expected)
      fail(CLIP_EDGE_ERROR_BACKEND, "%s: %zu floats expected from the graph; found %zu values of type %d",
           artifact_.path.c_str(), expected, elements, type);
    void *data = nullptr;
    runtime_.call(kGetTensorMutableData, result, &data);
    std::memcpy(out, data, expected * sizeof(float));
  }

  Runtime &runtime_;
  Owned<OrtSession> session_;
  Artifact artifact_;
  TowerShape shape_;
};

}  // namespace

std::unique_ptr<Tower> open_onnxruntime(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                        const TowerShape &shape) {
  const std::string graph = bundle.read(artifact.path, kMostGraphBytes);
  return std::make_unique<OnnxTower>(Runtime::open(options.onnxruntime), options.threads, artifact, graph, shape);
}

}  // namespace clip_edge::core
