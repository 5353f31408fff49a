#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <sstream>

#include "cli.h"

namespace clip_edge::cli {
namespace {

constexpr const char *kExportAgain = "copy the bundle again from where it was made, or export it again";

std::vector<std::string> words_of(const std::string &list) {
  std::vector<std::string> words;
  std::istringstream stream(list);
  for (std::string word; std::getline(stream, word, ',');) words.push_back(word);
  return words;
}

const char *or_null(const std::string &text) { return text.empty() ? nullptr : text.c_str(); }

// `options` must outlive what is returned.
clip_edge_model_options settings_of(const Options &options) {
  const char *library = std::getenv("ONNXRUNTIME_LIBRARY");
  clip_edge_model_options settings;
  clip_edge_model_options_init(&settings, sizeof(settings));
  settings.threads = options.threads;
  settings.device = options.device;
  settings.onnxruntime = options.onnxruntime.empty() ? library : options.onnxruntime.c_str();
  settings.backend = options.backend.c_str();
  settings.plugin = or_null(options.plugin);
  settings.libraries = or_null(options.libraries);
  settings.engines = or_null(options.engines);
  return settings;
}

// The bundle without its engine: nothing but the manifest is read.
Model open_manifest(const Options &options) {
  try {
    const clip_edge_model_options settings = settings_of(options);
    return Model(options.bundle, &settings);
  } catch (const Error &error) {
    if (error.status() == CLIP_EDGE_ERROR_INVALID_ARGUMENT || error.status() == CLIP_EDGE_ERROR_UNSUPPORTED)
      throw Failure{kUsage, "UsageError", error.what(), "", "see --help"};
    const bool memory = error.status() == CLIP_EDGE_ERROR_OUT_OF_MEMORY;
    throw Failure{memory ? kUnavailable : kNo, memory ? "UnavailableError" : "BundleError", error.what(),
                  options.bundle, kExportAgain};
  }
}

struct Input {
  const char *kind;
  std::string name;
};

Json floats(const float *values, size_t count) {
  List items;
  for (size_t i = 0; i < count; i++) items.emplace_back(static_cast<double>(values[i]));
  return items;
}

Json check_data(const std::string &tower, const std::string &precision, const clip_edge_tower_check &check) {
  return Table{{"tower", tower},
               {"precision", precision},
               {"cases", check.cases},
               {"min_cosine", static_cast<double>(check.min_cosine)},
               {"mean_cosine", static_cast<double>(check.mean_cosine)},
               {"max_abs", static_cast<double>(check.max_abs)},
               {"tolerance", static_cast<double>(check.tolerance)},
               {"passed", check.passed != 0}};
}

std::string check_line(const std::string &tower, const std::string &precision, const clip_edge_tower_check &check) {
  return format("%-14s cosine %.6f min, %.6f mean, %.1e max abs over %d cases; at least %g expected  %s\n",
                (tower + " " + precision).c_str(), check.min_cosine, check.mean_cosine, check.max_abs,
                static_cast<int>(check.cases), check.tolerance, check.passed ? "ok" : "FAILED");
}

const char *target_of(const std::string &backend) {
  return backend == "tensorrt" ? "trt" : backend == "tensorrt-rtx" ? "trt-rtx" : backend == "coreml" ? "coreml" : "onnx";
}

}  // namespace

std::vector<std::string> precisions_of(const Options &options) {
  const std::string listed = open_manifest(options).info().precisions;
  const std::vector<std::string> known = words_of(listed);
  if (known.empty())
    throw Failure{kNo, "BundleError", "nothing in the bundle runs on `" + options.backend + "`", options.bundle,
                  std::string("export it again with --target ") + target_of(options.backend)};
  if (options.precision.empty()) return known;
  if (std::find(known.begin(), known.end(), options.precision) == known.end())
    throw Failure{kUsage, "UsageError", "the bundle has no precision `" + options.precision + "`", options.bundle,
                  "known: " + listed};
  return {options.precision};
}

Model open_model(const Options &options, const std::string &precision) {
  Options one = options;
  one.precision = precision;
  const std::string chosen = precisions_of(one).front();
  clip_edge_model_options settings = settings_of(options);
  settings.precision = precision.empty() ? nullptr : chosen.c_str();
  return Model(options.bundle, &settings);
}

Failure failure_of(const Error &error, const Options &options) {
  const std::string &bundle = options.bundle;
  switch (error.status()) {
    case CLIP_EDGE_ERROR_IO:
    case CLIP_EDGE_ERROR_FORMAT:
    case CLIP_EDGE_ERROR_UNSUPPORTED: return {kNo, "BundleError", error.what(), bundle, kExportAgain};
    case CLIP_EDGE_ERROR_INVALID_ARGUMENT: return {kUsage, "UsageError", error.what(), "", "see --help"};
    case CLIP_EDGE_ERROR_VERSION:
    case CLIP_EDGE_ERROR_BACKEND:
      return {kUnavailable, "UnavailableError", error.what(), bundle,
              options.backend == "onnxruntime" ? "name a working ONNX Runtime library with --onnxruntime FILE" : ""};
    case CLIP_EDGE_ERROR_PICTURE: return {kUsage, "DataError", error.what(), "", "copy the file again, or leave it out"};
    case CLIP_EDGE_ERROR_DECODER:
      return {kUnavailable, "UnavailableError", error.what(), "", "install the library, or convert the picture to PPM"};
    case CLIP_EDGE_ERROR_OUT_OF_MEMORY: return {kUnavailable, "UnavailableError", error.what(), bundle, ""};
    default: return {kNo, "Error", std::string("unexpected: ") + error.what(), bundle, "please report it"};
  }
}

Outcome run_info(const Options &options) {
  const Model model = open_manifest(options);
  const clip_edge_model_info info = model.info();
  List precisions;
  for (const std::string &word : words_of(info.precisions)) precisions.emplace_back(word);
  Outcome outcome;
  outcome.data = Table{{"bundle", options.bundle},
                       {"name", info.name},
                       {"created_by", info.created_by},
                       {"embedding_space", info.embedding_space},
                       {"dim", info.dim},
                       {"normalized", info.normalized != 0},
                       {"research_only", info.research_only != 0},
                       {"image_size", info.preprocess.size},
                       {"context_length", info.text.context_length},
                       {"vocab_size", info.text.vocab_size},
                       {"precisions", precisions}};
  outcome.text = format(
      "name             %s\ncreated by       %s\nembedding space  %s\nembedding        %d floats%s\n"
      "picture          %d x %d\nsentence         %d tokens of %d\nprecisions       %s\nlicence          %s\n",
      info.name, info.created_by, info.embedding_space, static_cast<int>(info.dim),
      info.normalized ? " of length 1" : "", static_cast<int>(info.preprocess.size),
      static_cast<int>(info.preprocess.size), static_cast<int>(info.text.context_length),
      static_cast<int>(info.text.vocab_size), info.precisions, info.research_only ? "research only" : "see the bundle");
  return outcome;
}

Outcome run_verify(const Options &options) {
  Outcome outcome;
  List towers, problems;
  clip_edge_verification report{};
  for (const std::string &precision : precisions_of(options)) {
    report = open_model(options, precision).verify();
    if (!report.passed) {
      problems.emplace_back(clip_edge_last_error());
      std::fprintf(stderr, "warning: %s\n", clip_edge_last_error());
      outcome.code = kNo;
    }
    outcome.text += check_line("image", precision, report.image) + check_line("text", precision, report.text) +
                    format("%-14s %.1f %% agree\n", ("top-1 " + precision).c_str(), 100.0 * report.top1_agreement);
    towers.push_back(check_data("image", precision, report.image));
    towers.push_back(check_data("text", precision, report.text));
  }
  const int grey = report.preprocess_max_grey, rows = report.token_rows_different;
  outcome.text = format("%-14s %d, size and SHA-256 equal\n%-14s %d grey levels off, 1 allowed\n%-14s %d rows differ\n",
                        "files", static_cast<int>(report.files), "preprocessing", grey, "token ids", rows) +
                 outcome.text + (outcome.code == kOk ? "passed\n" : "FAILED\n");
  outcome.data = Table{{"bundle", options.bundle},      {"backend", options.backend},     {"files", report.files},
                       {"preprocess_max_grey", grey},   {"token_rows_different", rows}, {"towers", towers},
                       {"passed", outcome.code == kOk}, {"problems", problems}};
  return outcome;
}

Outcome run_embed(const Options &options) {
  std::vector<Input> inputs;
  std::vector<Picture> pictures;  // all are read before the model is: a wrong file is told at once
  for (const std::string &path : options.images) {
    pictures.push_back(read_picture(path, options));
    inputs.push_back({"image", path});
  }
  for (const std::string &text : options.texts) inputs.push_back({"text", text});
  const Model model = open_model(options, options.precision);
  Session session(model);
  const auto dim = static_cast<size_t>(model.info().dim);
  std::vector<clip_edge_image> images;
  for (const Picture &picture : pictures) images.push_back(picture.image);
  std::vector<float> values = images.empty() ? std::vector<float>() : session.embed(images);
  if (!options.texts.empty()) {
    const std::vector<float> texts =
        session.embed(std::vector<std::string_view>(options.texts.begin(), options.texts.end()));
    values.insert(values.end(), texts.begin(), texts.end());
  }
  Outcome outcome;
  List rows;
  for (size_t i = 0; i < inputs.size(); i++) {
    const float *row = &values[i * dim];
    rows.push_back(Table{{"kind", inputs[i].kind}, {"input", inputs[i].name}, {"values", floats(row, dim)}});
    for (size_t d = 0; d < dim; d++) outcome.text += format(d == 0 ? "%.9g" : " %.9g", static_cast<double>(row[d]));
    outcome.text += '\n';
  }
  outcome.data =
      Table{{"embedding_space", model.info().embedding_space}, {"dim", model.info().dim}, {"embeddings", rows}};
  return outcome;
}

Outcome run_classify(const Options &options) {
  std::vector<Picture> pictures;
  for (const std::string &path : options.images) pictures.push_back(read_picture(path, options));
  const Model model = open_model(options, options.precision);
  Session session(model);
  const std::vector<std::string> plain = {"a photo of {}"};
  const Prompts prompts = session.prompts(options.labels, options.templates.empty() ? plain : options.templates);
  Outcome outcome;
  List rows;
  for (size_t i = 0; i < pictures.size(); i++) {
    const std::vector<float> shares = session.classify(prompts, pictures[i].image);
    std::vector<size_t> order(shares.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return shares[a] > shares[b]; });
    List labels;
    if (pictures.size() > 1) outcome.text += options.images[i] + "\n";
    for (size_t at : order) {
      labels.push_back(Table{{"label", options.labels[at]}, {"probability", static_cast<double>(shares[at])}});
      outcome.text += format("%5.1f %%  %s\n", 100.0 * shares[at], options.labels[at].c_str());
    }
    rows.push_back(Table{{"input", options.images[i]}, {"labels", labels}});
  }
  outcome.data = Table{{"images", rows}};
  return outcome;
}

}  // namespace clip_edge::cli
