// The input is a build.json that holds a graph `g.onnx`.
#include "build_plan.h"
#include "fuzz.h"
#include "status.h"

using namespace clip_edge::core;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  try {
    const EngineGraph graph = parse_engine_graph(std::string(reinterpret_cast<const char *>(data), size), "g.onnx", "b");
    const clip_edge_plugin_graph view = graph.view();
    EXPECT(view.rank >= 1 && view.rank <= 3 && view.profile_count >= 1 && view.workspace_bytes >= 1 && view.dim >= 1);
    for (int32_t i = 0; i < view.profile_count; i++) {
      const clip_edge_plugin_profile &profile = view.profiles[i];
      EXPECT(profile.least >= 1 && profile.least <= profile.best && profile.best <= profile.most);
    }
  } catch (const Error &error) {
    EXPECT(error.status != CLIP_EDGE_ERROR_INTERNAL && !error.text.empty());
  }
  return 0;
}
