#include "cli.h"

namespace clip_edge::cli {
namespace {

struct Found {
  List rows;
  std::string text;
};

void add_engine(const clip_edge_engine *engine, void *user) {
  auto *found = static_cast<Found *>(user);
  const double seconds = static_cast<double>(engine->build_ns) * 1e-9, megabytes = static_cast<double>(engine->bytes) / 1e6;
  found->rows.push_back(Table{{"graph", engine->graph},
                              {"precision", engine->precision},
                              {"capability", engine->capability},
                              {"engine", engine->file},
                              {"built", engine->built != 0},
                              {"reason", engine->reason},
                              {"build_s", seconds},
                              {"engine_bytes", static_cast<int64_t>(engine->bytes)}});
  const std::string how = engine->built ? format("built in %.1f s", seconds) : "kept";
  found->text += format("%-40s %-6s %-16s %7.1f MB\n", engine->graph, engine->capability, how.c_str(), megabytes);
}

}  // namespace

// As `clip-edge build`: what was built for the GPU of this machine is proved on it at once.
Outcome run_build(const Options &options) {
  Found found;
  clip_edge_build_options how;
  clip_edge_build_options_init(&how, sizeof(how));
  how.workspace_mib = options.workspace_mib;
  how.capability = options.capability.empty() ? nullptr : options.capability.c_str();
  how.show = add_engine;
  how.user = &found;
  for (const std::string &precision : precisions_of(options)) open_model(options, precision).build(&how);
  Outcome outcome;
  Json verification;
  if (options.capability.empty()) {
    outcome = run_verify(options);
    verification = outcome.data;
  } else {
    outcome.text = "the engines were not run: that takes the GPUs they were built for\n";
  }
  outcome.text = found.text + outcome.text;
  outcome.data = Table{{"engines", found.rows}, {"verification", verification}};
  return outcome;
}

}  // namespace clip_edge::cli
