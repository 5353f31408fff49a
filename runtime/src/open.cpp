// The C interface that opens models: the same bundle from a folder, from memory, or out of an archive.
#include "model.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

clip_edge_model_options default_options() {
  clip_edge_model_options options{};
  options.struct_size = sizeof(options);
  return options;
}

// open_source() -> std::unique_ptr<Source>
template <class OpenSource>
clip_edge_status open_model(const clip_edge_model_options *options, clip_edge_model **model, OpenSource open_source) {
  return guard([&] {
    need(model, "model");
    *model = nullptr;
    const clip_edge_model_options given =
        options == nullptr ? default_options() : read_options(options, default_options(), "options");
    if (given.threads < 0 || given.threads > 1024)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`threads` must lie in 0..1024; found %d",
           static_cast<int>(given.threads));
    if (given.device < 0) fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`device` must not be negative; found %d", given.device);
    const Backend &backend = find_backend(given.backend);
    auto opened = std::make_unique<clip_edge_model>(open_source(), backend);
    const auto text = [](const char *value) { return std::string(value == nullptr ? "" : value); };
    opened->precision = text(given.precision);
    opened->engine = {text(given.onnxruntime), text(given.plugin), text(given.libraries),
                      text(given.engines),     given.threads,      given.device};
    *model = opened.release();
  });
}

}  // namespace

extern "C" {

void clip_edge_model_options_init(clip_edge_model_options *options, size_t struct_size) {
  write_options(options, struct_size, default_options());
}

clip_edge_status clip_edge_model_open(const char *folder, const clip_edge_model_options *options,
                                      clip_edge_model **model) {
  return open_model(options, model, [&] {
    need(folder, "folder");
    return open_folder(folder);
  });
}

clip_edge_status clip_edge_model_open_files(const clip_edge_file *files, size_t count,
                                            const clip_edge_model_options *options, clip_edge_model **model) {
  return open_model(options, model, [&] {
    need(files, "files");
    return open_files(files, count);
  });
}

clip_edge_status clip_edge_model_open_archive(int descriptor, int64_t offset, int64_t length,
                                              const clip_edge_model_options *options, clip_edge_model **model) {
  return open_model(options, model, [&] { return open_archive(descriptor, offset, length); });
}

}  // extern "C"
