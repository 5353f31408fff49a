// The C interface that builds engines.
#include "engine_build.h"
#include "model.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

constexpr int32_t kLeastWorkspaceMib = 16, kMostWorkspaceMib = 1 << 20;

clip_edge_build_options default_options() {
  clip_edge_build_options options{};
  options.struct_size = sizeof(options);
  return options;
}

}  // namespace

extern "C" {

void clip_edge_build_options_init(clip_edge_build_options *options, size_t struct_size) {
  write_options(options, struct_size, default_options());
}

clip_edge_status clip_edge_model_build(clip_edge_model *model, const clip_edge_build_options *options) {
  return guard([&] {
    need(model, "model");
    const clip_edge_build_options given =
        options == nullptr ? default_options() : read_options(options, default_options(), "options");
    const int32_t mib = given.workspace_mib;
    if (mib != 0 && (mib < kLeastWorkspaceMib || mib > kMostWorkspaceMib))
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`workspace_mib` must lie in %d..%d, or be 0; found %d",
           static_cast<int>(kLeastWorkspaceMib), static_cast<int>(kMostWorkspaceMib), static_cast<int>(mib));
    if (model->backend.build == nullptr)
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "backend `%s` runs the bundle's own files: there is no engine to build",
           model->backend.name);
    const EngineBuild how{given.capability == nullptr ? "" : given.capability, int64_t{mib} << 20, given.show,
                          given.user};
    for (const char *tower : {"image", "text"})
      model->backend.build(model->engine, model->bundle, model->artifact(tower), how);
  });
}

}  // extern "C"
