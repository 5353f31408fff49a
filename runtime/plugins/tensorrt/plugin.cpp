// What the plug-in exports: the functions of engine_plugin.h, with every exception caught.
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "library.h"

using namespace clip_edge::plugin;

namespace {

// body() -> what is returned, or `otherwise` with the error filled.
template <class Result, class Body>
Result guarded(clip_edge_plugin_error *error, Result otherwise, Body body) noexcept {
  int32_t status = CLIP_EDGE_ERROR_INTERNAL;
  try {
    return body();
  } catch (const Problem &problem) {
    status = problem.status;
    std::snprintf(error->text, sizeof(error->text), "%s", problem.text.c_str());
  } catch (const std::bad_alloc &) {
    status = CLIP_EDGE_ERROR_OUT_OF_MEMORY;
    std::snprintf(error->text, sizeof(error->text), "out of memory");
  } catch (const std::exception &problem) {
    std::snprintf(error->text, sizeof(error->text), "%s: %s", kTitle, problem.what());
  } catch (...) {
    std::snprintf(error->text, sizeof(error->text), "%s: unknown error", kTitle);
  }
  error->status = status;
  return otherwise;
}

template <size_t N>
void copy(char (&to)[N], const std::string &text) {
  std::snprintf(to, N, "%s", text.c_str());
}

void *open_engine(const char *libraries, int32_t device, clip_edge_plugin_log log, clip_edge_plugin_facts *facts,
                  clip_edge_plugin_error *error) {
  return guarded<void *>(error, nullptr, [&] {
    auto library = std::make_unique<Library>(libraries, device, log);
    copy(facts->version, library->version());
    copy(facts->device, library->cuda() == nullptr ? "" : library->cuda()->name());
    copy(facts->capability, library->cuda() == nullptr ? "" : library->cuda()->capability());
    return library.release();
  });
}

void *open_one(void *engine, const clip_edge_plugin_graph *graph, const void *bytes, size_t size,
               clip_edge_plugin_error *error) {
  return guarded<void *>(error, nullptr,
                         [&] { return open_tower(*static_cast<Library *>(engine), *graph, bytes, size); });
}

void close_one(void *tower) { close_tower(static_cast<Tower *>(tower)); }

int32_t run_one(void *tower, const void *input, size_t rows, float *out, clip_edge_plugin_error *error) {
  return guarded<int32_t>(error, 1, [&] {
    run_tower(*static_cast<Tower *>(tower), input, rows, out);
    return 0;
  });
}

int32_t build_one(void *engine, const clip_edge_plugin_graph *graph, const void *onnx, size_t size,
                  const char *capability, clip_edge_plugin_sink sink, void *user, clip_edge_plugin_error *error) {
  return guarded<int32_t>(error, 1, [&] {
    build(*static_cast<Library *>(engine), *graph, onnx, size, capability, sink, user);
    return 0;
  });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const clip_edge_plugin *clip_edge_plugin_get(void) {
  static const clip_edge_plugin plugin = {CLIP_EDGE_PLUGIN_ABI, kTitle,    open_engine, open_one,
                                          close_one,            run_one,   build_one};
  return &plugin;
}
