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

// With the settings of the Python runtime (runtime/backends/onnxruntime.py says why).
void open_session(const Runtime &runtime, int threads, const std::string &precision, const std::string &graph,
                  Owned<OrtSession> &session) {
  Owned<OrtSessionOptions> options(runtime, kReleaseSessionOptions);
  runtime.call(kCreateSessionOptions, options.out());
  if (threads > 0) runtime.call(kSetIntraOpNumThreads, options.get(), threads);
  runtime.call(kSetInterOpNumThreads, options.get(), 1);
  runtime.call(kDisableCpuMemArena, options.get());
  runtime.call(kAddSessionConfigEntry, options.get(), "session.intra_op.allow_spinning", "0");
  if (precision == "int4")  // widen the weights once, while loading, and not again with every call
    runtime.call(kAddSessionConfigEntry, options.get(), "session.disable_quant_qdq", "1");
  runtime.call(kCreateSessionFromArray, static_cast<const OrtEnv *>(runtime.environment()),
               static_cast<const void *>(graph.data()), graph.size(),
               static_cast<const OrtSessionOptions *>(options.get()), session.out());
}

// What a graph gave, which must be `expected` floats.
const float *floats_of(const Runtime &runtime, OrtValue *result, size_t expected, const std::string &path) {
  Owned<OrtShapeInfo> info(runtime, kReleaseTensorTypeAndShapeInfo);
  runtime.call(kGetTensorTypeAndShape, static_cast<const OrtValue *>(result), info.out());
  int type = 0;
  size_t elements = 0;
  runtime.call(kGetTensorElementType, static_cast<const OrtShapeInfo *>(info.get()), &type);
  runtime.call(kGetTensorShapeElementCount, static_cast<const OrtShapeInfo *>(info.get()), &elements);
  if (type != kFloat || elements != expected)
    fail(CLIP_EDGE_ERROR_BACKEND, "%s: %zu floats expected from the graph; found %zu values of type %d", path.c_str(),
         expected, elements, type);
  void *data = nullptr;
  runtime.call(kGetTensorMutableData, result, &data);
  return static_cast<const float *>(data);
}

class OnnxTower : public Tower {
 public:
  OnnxTower(Runtime &runtime, int threads, const Artifact &artifact, const std::string &graph, const TowerShape &shape)
      : runtime_(runtime), session_(runtime, kReleaseSession), artifact_(artifact), shape_(shape) {
    open_session(runtime, threads, artifact.precision, graph, session_);
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
    const size_t expected = count * static_cast<size_t>(shape_.dim);
    std::copy_n(floats_of(runtime_, result.get(), expected, artifact_.path), expected, out);
  }

 private:
  Runtime &runtime_;
  Owned<OrtSession> session_;
  Artifact artifact_;
  TowerShape shape_;
};

class OnnxGraph : public Graph {
 public:
  OnnxGraph(Runtime &runtime, int threads, const GraphEntry &entry, const std::string &graph)
      : runtime_(runtime), session_(runtime, kReleaseSession), entry_(entry) {
    open_session(runtime, threads, entry.precision, graph, session_);
  }

  std::map<std::string, std::vector<float>> run(const std::vector<GraphInput> &inputs) const override {
    std::vector<std::unique_ptr<Owned<OrtValue>>> given, made;
    std::vector<const char *> names, results;
    std::vector<const OrtValue *> values;
    for (const GraphInput &input : inputs) {
      size_t bytes = input.whole ? sizeof(int64_t) : sizeof(float);
      for (const int64_t side : input.shape) bytes *= static_cast<size_t>(side);
      given.push_back(std::make_unique<Owned<OrtValue>>(runtime_, kReleaseValue));
      runtime_.call(kCreateTensorWithDataAsOrtValue, runtime_.memory(), const_cast<void *>(input.data), bytes,
                    input.shape.data(), input.shape.size(), static_cast<int>(input.whole ? kInt64 : kFloat),
                    given.back()->out());
      names.push_back(input.name), values.push_back(given.back()->get());
    }
    std::vector<OrtValue *> found(entry_.outputs.size());
    for (const GraphTensor &output : entry_.outputs) results.push_back(output.name.c_str());
    runtime_.call(kRun, session_.get(), static_cast<const void *>(nullptr),
                  static_cast<const char *const *>(names.data()), static_cast<const OrtValue *const *>(values.data()),
                  names.size(), static_cast<const char *const *>(results.data()), results.size(), found.data());
    for (OrtValue *value : found) {
      made.push_back(std::make_unique<Owned<OrtValue>>(runtime_, kReleaseValue));
      *made.back()->out() = value;
    }
    std::map<std::string, std::vector<float>> outputs;
    for (size_t i = 0; i < found.size(); i++) {
      size_t expected = 1;  // of a batch of one
      for (const int64_t side : entry_.outputs[i].shape) expected *= static_cast<size_t>(std::max<int64_t>(side, 1));
      const float *made_floats = floats_of(runtime_, found[i], expected, entry_.path);
      outputs[entry_.outputs[i].name].assign(made_floats, made_floats + expected);
    }
    return outputs;
  }

 private:
  Runtime &runtime_;
  Owned<OrtSession> session_;
  GraphEntry entry_;
};

}  // namespace

std::unique_ptr<Graph> open_onnxruntime_graph(const EngineOptions &options, const Bundle &bundle,
                                              const GraphEntry &entry) {
  const std::string graph = bundle.read(entry.path, kMostGraphBytes);
  return std::make_unique<OnnxGraph>(Runtime::open(options.onnxruntime), options.threads, entry, graph);
}

std::unique_ptr<Tower> open_onnxruntime(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                        const TowerShape &shape) {
  const std::string graph = bundle.read(artifact.path, kMostGraphBytes);
  return std::make_unique<OnnxTower>(Runtime::open(options.onnxruntime), options.threads, artifact, graph, shape);
}

}  // namespace clip_edge::core
