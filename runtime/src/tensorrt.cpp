// TensorRT and TensorRT-RTX through a plug-in: finding it, finding or building the engine, and running it.
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>

#include "clock.h"
#include "engine_build.h"
#include "engine_cache.h"
#include "status.h"

namespace clip_edge::core {
namespace {

struct Flavour {
  const char *backend, *library, *variable;  // variable: the CMake setting that builds the plug-in
};

constexpr Flavour kTensorRt = {"tensorrt", "libclip_edge_tensorrt.so", "CLIP_EDGE_TENSORRT_INCLUDE"};
constexpr Flavour kTensorRtRtx = {"tensorrt-rtx", "libclip_edge_tensorrt_rtx.so", "CLIP_EDGE_TENSORRT_RTX_INCLUDE"};
constexpr int kNoDevice = -1;

[[noreturn]] void fail_as(const clip_edge_plugin_error &error) {
  const bool known = error.status > CLIP_EDGE_OK && error.status <= CLIP_EDGE_ERROR_DECODER;
  fail(known ? static_cast<clip_edge_status>(error.status) : CLIP_EDGE_ERROR_INTERNAL, "%.999s", error.text);
}

void forward_log(int32_t level, const char *text) {
  log_line(level >= CLIP_EDGE_LOG_ERROR ? CLIP_EDGE_LOG_ERROR
                                        : level == CLIP_EDGE_LOG_WARNING ? CLIP_EDGE_LOG_WARNING : CLIP_EDGE_LOG_INFO,
           text);
}

// The folder of the file that this code is in, with a slash at its end; empty where that cannot be told.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void *>(&forward_log), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

const clip_edge_plugin &open_plugin(const Flavour &flavour, const std::string &path) {
  const std::string beside = own_folder() + flavour.library;
  void *handle = dlopen(path.empty() ? beside.c_str() : path.c_str(), RTLD_NOW | RTLD_LOCAL);
  std::string reason = handle == nullptr ? dlerror() : "";
  if (handle == nullptr && path.empty()) handle = dlopen(flavour.library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    fail(CLIP_EDGE_ERROR_BACKEND,
         "backend `%s` needs its plug-in %s: %.300s; build it with -D%s=FOLDER of NvInfer.h, and name it in `plugin` "
         "where it does not lie beside libclip_edge",
         flavour.backend, flavour.library, reason.c_str(), flavour.variable);
  void *symbol = dlsym(handle, CLIP_EDGE_PLUGIN_FUNCTION);
  if (symbol == nullptr) fail(CLIP_EDGE_ERROR_BACKEND, "%s: not a plug-in of libclip_edge", path.c_str());
  clip_edge_plugin_get_function get;
  std::memcpy(&get, &symbol, sizeof(get));
  const clip_edge_plugin *plugin = get();
  if (plugin == nullptr || plugin->abi != CLIP_EDGE_PLUGIN_ABI)
    fail(CLIP_EDGE_ERROR_VERSION, "plug-in %s: ABI %d expected; found %u", flavour.library, CLIP_EDGE_PLUGIN_ABI,
         plugin == nullptr ? 0U : static_cast<unsigned>(plugin->abi));
  return *plugin;
}

// An engine's library on one GPU, or on none.
struct Engine {
  const clip_edge_plugin *plugin;
  void *handle;
  clip_edge_plugin_facts facts;
};

// One for the process, the backend and the GPU, never closed: threads of the library may still run at exit.
const Engine &open_engine(const Flavour &flavour, const EngineOptions &options, int device) {
  static std::mutex mutex;
  static auto *engines = new std::map<std::pair<std::string, int>, Engine>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_pair(std::string(flavour.backend), device);
  const auto found = engines->find(key);
  if (found != engines->end()) return found->second;
  Engine engine{&open_plugin(flavour, options.plugin), nullptr, {}};
  clip_edge_plugin_error error{};
  const char *libraries = options.libraries.empty() ? nullptr : options.libraries.c_str();
  engine.handle = engine.plugin->open(libraries, device, forward_log, &engine.facts, &error);
  if (engine.handle == nullptr) fail_as(error);
  return engines->emplace(key, engine).first->second;
}

EngineKey key_of(const Flavour &flavour, const Engine &engine, const std::string &version,
                 const std::string &capability) {
  const bool fits_every_device = flavour.backend == kTensorRtRtx.backend;
  return {flavour.backend, version, fits_every_device ? "" : engine.facts.device, capability};
}

// The library's version in full, and as it stands in packages that leave the number of the build out.
std::vector<std::string> versions_of(const Engine &engine) {
  const std::string full = engine.facts.version;
  return {full, full.substr(0, full.rfind('.'))};
}

// From the bundle's own list, or from the folder of built ones.
std::string find_engine(const Flavour &flavour, const Engine &engine, const EngineOptions &options,
                        const Bundle &bundle, const EngineGraph &graph) {
  const std::string capability = engine.facts.capability;
  constexpr size_t kMostEngineBytes = size_t{4} << 30;
  std::string reason;
  for (const std::string &version : versions_of(engine)) {
    for (const EngineGraph::Engine &item : graph.engines)
      if (item.capability == capability && item.library == version) return bundle.read(item.path, kMostEngineBytes);
    std::string why, found = EngineCache(options.engines).find(graph, key_of(flavour, engine, version, capability), why);
    if (!found.empty()) return found;
    if (reason.empty()) reason = why;
  }
  fail(CLIP_EDGE_ERROR_BACKEND, "no engine of %s for %s (%s) and %s %s: %s; `clip-edge-cli build` makes it",
       graph.path.c_str(), engine.facts.device, capability.c_str(), engine.plugin->title, engine.facts.version,
       reason.c_str());
}

class EngineTower : public Tower {
 public:
  EngineTower(const Engine &engine, const EngineGraph &graph, const std::string &bytes) : plugin_(*engine.plugin) {
    clip_edge_plugin_error error{};
    const clip_edge_plugin_graph view = graph.view();
    tower_ = plugin_.open_tower(engine.handle, &view, bytes.data(), bytes.size(), &error);
    if (tower_ == nullptr) fail_as(error);
  }
  ~EngineTower() override { plugin_.close_tower(tower_); }
  EngineTower(const EngineTower &) = delete;
  EngineTower &operator=(const EngineTower &) = delete;

  void run(const void *input, size_t count, float *out) const override {
    clip_edge_plugin_error error{};
    if (plugin_.run(tower_, input, count, out, &error) != 0) fail_as(error);
  }

 private:
  const clip_edge_plugin &plugin_;
  void *tower_;
};

std::unique_ptr<Tower> open_with(const Flavour &flavour, const EngineOptions &options, const Bundle &bundle,
                                 const Artifact &artifact) {
  const Engine &engine = open_engine(flavour, options, options.device);
  const EngineGraph graph = read_engine_graph(bundle, artifact);
  return std::make_unique<EngineTower>(engine, graph, find_engine(flavour, engine, options, bundle, graph));
}

void build_with(const Flavour &flavour, const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                const EngineBuild &how) {
  const Engine &engine = open_engine(flavour, options, how.capability.empty() ? options.device : kNoDevice);
  EngineGraph graph = read_engine_graph(bundle, artifact);
  if (how.workspace_bytes > 0) graph.workspace_bytes = how.workspace_bytes;
  const std::string capability = how.capability.empty() ? engine.facts.capability : how.capability;
  const EngineKey key = key_of(flavour, engine, engine.facts.version, capability);
  const EngineCache cache(options.engines);
  std::string reason, bytes;
  const bool built = !cache.has(graph, key, reason);
  const uint64_t start = now_ns();
  if (built) {
    const std::string onnx = bundle.read(artifact.path, kMostGraphBytes);
    const clip_edge_plugin_graph view = graph.view();
    clip_edge_plugin_error error{};
    const auto keep = [](void *user, const void *data, size_t size) {
      static_cast<std::string *>(user)->assign(static_cast<const char *>(data), size);
    };
    if (engine.plugin->build(engine.handle, &view, onnx.data(), onnx.size(),
                             how.capability.empty() ? nullptr : how.capability.c_str(), keep, &bytes, &error) != 0)
      fail_as(error);
    cache.store(graph, key, bytes, now_ns() - start);
  }
  if (how.show == nullptr) return;
  const std::string file = cache.file(graph, key);
  if (!built) bytes = cache.find(graph, key, reason), reason = "built before from the same graph, library, device and settings";
  const clip_edge_engine shown{sizeof(shown), built ? 1 : 0, graph.path.c_str(), graph.precision.c_str(), capability.c_str(),
                               file.c_str(), reason.c_str(), bytes.size(), built ? now_ns() - start : 0};
  how.show(&shown, how.user);
}

}  // namespace

std::unique_ptr<Tower> open_tensorrt(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                     const TowerShape &) {
  return open_with(kTensorRt, options, bundle, artifact);
}

std::unique_ptr<Tower> open_tensorrt_rtx(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                                         const TowerShape &) {
  return open_with(kTensorRtRtx, options, bundle, artifact);
}

void build_tensorrt(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                    const EngineBuild &how) {
  build_with(kTensorRt, options, bundle, artifact, how);
}

void build_tensorrt_rtx(const EngineOptions &options, const Bundle &bundle, const Artifact &artifact,
                        const EngineBuild &how) {
  build_with(kTensorRtRtx, options, bundle, artifact, how);
}

}  // namespace clip_edge::core
