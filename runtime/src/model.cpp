// The C interface of models, sessions and prompts.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#include "clock.h"
#include "model.h"
#include "parallel.h"
#include "preprocess.h"
#include "session.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

constexpr size_t kBatch = 8;  // rows given to a graph that takes any number: enough to be quick, little memory

std::mutex log_mutex;
clip_edge_log_function log_function = nullptr;
void *log_user = nullptr;

}  // namespace

struct clip_edge_session {
  clip_edge_model *model;
  clip_edge_abort_function abort = nullptr;
  void *abort_user = nullptr;
  clip_edge_timings timings{};

  void start() {
    timings = {};
    timings.struct_size = sizeof(timings);
  }

  void stop_if_asked() const {
    if (abort != nullptr && abort(abort_user) != 0) fail(CLIP_EDGE_ERROR_ABORTED, "stopped by the abort callback");
  }

  // Rows in batches of what the graph takes: prepare(start, n, to) makes n input rows, the last batch is padded with
  // zeros.
  template <class Row, class Prepare>
  void embed(const Tower &tower, const Artifact &artifact, size_t row_items, size_t count, float *out,
             Prepare prepare) {
    const size_t dim = static_cast<size_t>(model->bundle.manifest().dim);
    const size_t batch = artifact.batch > 0 ? static_cast<size_t>(artifact.batch) : std::min(kBatch, count);
    std::vector<Row> rows(batch * row_items);
    std::vector<float> embeds(batch * dim);
    for (size_t start = 0; start < count; start += batch) {
      stop_if_asked();
      const size_t real = std::min(batch, count - start), given = artifact.batch > 0 ? batch : real;
      std::fill(rows.begin(), rows.end(), Row{});
      const uint64_t prepared_from = now_ns(), decoded_before = timings.decode_ns;
      prepare(start, real, rows.data());
      const uint64_t encoded_from = now_ns();
      tower.run(rows.data(), given, embeds.data());
      timings.prepare_ns += encoded_from - prepared_from - (timings.decode_ns - decoded_before);
      timings.encode_ns += now_ns() - encoded_from;
      for (size_t i = 0; i < real * dim; i++)
        if (!std::isfinite(embeds[i])) fail(CLIP_EDGE_ERROR_BACKEND, "the model gives NaN or infinity");
      std::copy_n(embeds.data(), real * dim, out + start * dim);
    }
  }

  // A picture as the model reads it; what is wrong with one of many says which.
  std::vector<uint8_t> square_of(const clip_edge_image &image, size_t index, uint64_t &decode_ns) const {
    try {
      return make_square(image, model->bundle.manifest().preprocess, decode_ns);
    } catch (Error &error) {
      if (image.format == CLIP_EDGE_PIXELS_ENCODED) error.text = "images[" + std::to_string(index) + "]: " + error.text;
      throw;
    }
  }

  // Several pictures of a batch are read at once, on as many threads as the engine has.
  void embed_images(const clip_edge_image *images, size_t count, float *out) {
    const clip_edge_preprocess_spec &spec = model->bundle.manifest().preprocess;
    const size_t stride = images->struct_size;  // of the caller's version of the structure
    const auto *bytes = reinterpret_cast<const unsigned char *>(images);
    const size_t row_items = 3 * static_cast<size_t>(spec.size) * spec.size;
    const int asked = model->engine.threads;
    const size_t threads = asked > 0 ? static_cast<size_t>(asked) : std::thread::hardware_concurrency();
    const auto prepare = [&](size_t start, size_t n, float *rows) {
      std::atomic<uint64_t> spent_ns{0}, decoding_ns{0};  // on all threads together
      const uint64_t from = now_ns();
      share_out(n, threads, [&](size_t i) {
        const uint64_t begun = now_ns();
        uint64_t decode_ns = 0;
        const auto *image = reinterpret_cast<const clip_edge_image *>(bytes + (start + i) * stride);
        normalize(square_of(read_image(image), start + i, decode_ns).data(), spec, rows + i * row_items);
        spent_ns += now_ns() - begun;
        decoding_ns += decode_ns;
      });
      const double share = spent_ns > 0 ? static_cast<double>(decoding_ns) / static_cast<double>(spent_ns) : 0;
      timings.decode_ns += static_cast<uint64_t>(share * static_cast<double>(now_ns() - from));
    };
    embed<float>(model->image_tower(), model->artifact("image"), row_items, count, out, prepare);
  }

  // fill(i, row, length) makes one row of int32 ids, which the graph may want as int64.
  template <class Fill>
  void embed_ids(size_t count, float *out, Fill fill) {
    const Tower &tower = model->text_tower();
    const Artifact &artifact = model->artifact("text");
    const size_t length = static_cast<size_t>(model->bundle.manifest().text.context_length);
    std::vector<int32_t> ids(length);
    const auto each = [&](auto make_row) {
      return [&, make_row](size_t start, size_t n, auto *rows) {
        for (size_t i = 0; i < n; i++) make_row(start + i, rows + i * length);
      };
    };
    if (artifact.wide_ids)
      embed<int64_t>(tower, artifact, length, count, out, each([&](size_t i, int64_t *row) {
                       fill(i, ids.data(), length);
                       std::copy(ids.begin(), ids.end(), row);
                     }));
    else
      embed<int32_t>(tower, artifact, length, count, out,
                     each([&](size_t i, int32_t *row) { fill(i, row, length); }));
  }

  template <class Text>  // text(i) -> std::string_view
  void embed_texts(size_t count, float *out, Text text) {
    const Tokenizer &tokenizer = model->tokenizer();
    embed_ids(count, out, [&](size_t i, int32_t *row, size_t) { tokenizer.row(text(i), row); });
  }
};

struct clip_edge_prompts {
  std::string space;  // of the model that made them
  size_t count, dim;
  std::vector<float> embeds;  // count * dim, unit rows
};

namespace {

void check_room(size_t have, size_t count, size_t each, const char *name) {
  if (count > SIZE_MAX / each || have < count * each)
    fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`%s` needs room for %zu x %zu floats, it has room for %zu", name, count,
         each, have);
}

// What every call that embeds `count` rows begins with.
void check_call(clip_edge_session *session, const void *rows, size_t count, const float *out, size_t out_floats) {
  need(session, "session");
  session->start();
  if (count == 0) return;
  need(rows, "the input");
  need(out, "out");
  check_room(out_floats, count, static_cast<size_t>(session->model->bundle.manifest().dim), "out");
}

std::string with_label(const std::string &pattern, const std::string &label) {
  std::string text = pattern;
  size_t at = text.find("{}");
  if (at == std::string::npos)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "a template without `{}`: `%.100s`", pattern.c_str());
  for (; at != std::string::npos; at = text.find("{}", at + label.size())) text.replace(at, 2, label);
  return text;
}

// The mean direction of each label over its templates (CLIP, section 3.1.4): (C, T, D) -> (C, D), unit rows.
std::vector<float> mean_directions(const std::vector<float> &embeds, size_t labels, size_t templates, size_t dim) {
  std::vector<float> result(labels * dim);
  for (size_t label = 0; label < labels; label++) {
    std::vector<double> sum(dim);
    for (size_t t = 0; t < templates; t++)
      for (size_t d = 0; d < dim; d++) sum[d] += embeds[(label * templates + t) * dim + d];
    double square = 0;
    for (double value : sum) square += value * value;
    for (size_t d = 0; d < dim; d++) result[label * dim + d] = static_cast<float>(sum[d] / std::sqrt(square));
  }
  return result;
}

// Softmax over the labels of the scaled cosine.
void probabilities(const float *image, const clip_edge_prompts &prompts, double scale, float *out) {
  std::vector<double> logits(prompts.count);
  for (size_t label = 0; label < prompts.count; label++) {
    double dot = 0;
    for (size_t d = 0; d < prompts.dim; d++)
      dot += static_cast<double>(image[d]) * prompts.embeds[label * prompts.dim + d];
    logits[label] = scale * dot;
  }
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double &value : logits) sum += value = std::exp(value - greatest);
  for (size_t label = 0; label < prompts.count; label++) out[label] = static_cast<float>(logits[label] / sum);
}

}  // namespace

namespace clip_edge::core {
SessionUse begin(clip_edge_session *session) {
  session->start();
  session->stop_if_asked();
  return {*session->model, session->timings};
}

void log_line(clip_edge_log_level level, const char *text) noexcept {
  const std::lock_guard<std::mutex> lock(log_mutex);
  if (log_function != nullptr) log_function(level, text, log_user);
}
}  // namespace clip_edge::core

extern "C" {

void clip_edge_log_set(clip_edge_log_function function, void *user) {
  const std::lock_guard<std::mutex> lock(log_mutex);
  log_function = function;
  log_user = user;
}

const char *clip_edge_backends(void) { return backend_names(); }

void clip_edge_model_free(clip_edge_model *model) { delete model; }

clip_edge_status clip_edge_model_check(const clip_edge_model *model) {
  return guard([&] {
    need(model, "model");
    model->bundle.check_all();
  });
}

clip_edge_status clip_edge_model_load(clip_edge_model *model, uint32_t parts) {
  return guard([&] {
    need(model, "model");
    if (parts > (CLIP_EDGE_LOAD_IMAGE | CLIP_EDGE_LOAD_TEXT | CLIP_EDGE_LOAD_TOKENIZER))
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "`parts` names something unknown: %u", static_cast<unsigned>(parts));
    if (parts & CLIP_EDGE_LOAD_IMAGE) model->image_tower();
    if (parts & CLIP_EDGE_LOAD_TEXT) model->text_tower();
    if (parts & CLIP_EDGE_LOAD_TOKENIZER) model->tokenizer();
  });
}

clip_edge_status clip_edge_model_get_info(const clip_edge_model *model, clip_edge_model_info *info,
                                          size_t struct_size) {
  return guard([&] {
    need(model, "model");
    need(info, "info");
    const Manifest &manifest = model->bundle.manifest();
    clip_edge_model_info known{};
    known.name = manifest.name.c_str();
    known.embedding_space = manifest.space.c_str();
    known.dim = manifest.dim;
    known.normalized = manifest.normalized;
    known.research_only = manifest.research_only;
    known.logit_scale = static_cast<float>(manifest.logit_scale);
    known.preprocess = manifest.preprocess;
    known.text = manifest.text;
    known.precisions = model->precisions.c_str();
    known.created_by = manifest.created_by.c_str();
    write_options(info, struct_size, known);
  });
}

clip_edge_status clip_edge_session_new(clip_edge_model *model, clip_edge_session **session) {
  return guard([&] {
    need(model, "model");
    need(session, "session");
    *session = new clip_edge_session{model};
    (*session)->start();
  });
}

void clip_edge_session_free(clip_edge_session *session) { delete session; }

void clip_edge_session_set_abort(clip_edge_session *session, clip_edge_abort_function function, void *user) {
  if (session == nullptr) return;
  session->abort = function;
  session->abort_user = user;
}

void clip_edge_session_get_timings(const clip_edge_session *session, clip_edge_timings *timings, size_t struct_size) {
  if (session != nullptr) write_options(timings, struct_size, session->timings);
}

clip_edge_status clip_edge_embed_images(clip_edge_session *session, const clip_edge_image *images, size_t count,
                                        float *out, size_t out_floats) {
  return guard([&] {
    check_call(session, images, count, out, out_floats);
    if (count > 0) session->embed_images(images, count, out);
  });
}

clip_edge_status clip_edge_embed_texts(clip_edge_session *session, const char *const *texts, const size_t *lengths,
                                       size_t count, float *out, size_t out_floats) {
  return guard([&] {
    check_call(session, texts, count, out, out_floats);
    if (count == 0) return;
    for (size_t i = 0; i < count; i++) need(texts[i], "texts[i]");
    session->embed_texts(count, out, [&](size_t i) {
      const bool ends = lengths == nullptr || lengths[i] == CLIP_EDGE_NUL_TERMINATED;
      return std::string_view(texts[i], ends ? std::strlen(texts[i]) : lengths[i]);
    });
  });
}

clip_edge_status clip_edge_encode_pixels(clip_edge_session *session, const float *pixel_values, size_t count,
                                         float *out, size_t out_floats) {
  return guard([&] {
    check_call(session, pixel_values, count, out, out_floats);
    if (count == 0) return;
    const auto size = static_cast<size_t>(session->model->bundle.manifest().preprocess.size), row = 3 * size * size;
    const auto copy = [&](size_t start, size_t n, float *to) { std::copy_n(pixel_values + start * row, n * row, to); };
    session->embed<float>(session->model->image_tower(), session->model->artifact("image"), row, count, out, copy);
  });
}

clip_edge_status clip_edge_encode_ids(clip_edge_session *session, const int32_t *input_ids, size_t count, float *out,
                                      size_t out_floats) {
  return guard([&] {
    check_call(session, input_ids, count, out, out_floats);
    if (count > 0) session->embed_ids(count, out, [&](size_t i, int32_t *row, size_t length) {
      const int32_t most = session->model->bundle.manifest().text.vocab_size;
      std::copy_n(input_ids + i * length, length, row);
      if (std::any_of(row, row + length, [&](int32_t id) { return id < 0 || id >= most; }))
        fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "row %zu: ids must lie in 0..%d", i, static_cast<int>(most - 1));
    });
  });
}

clip_edge_status clip_edge_prompts_new(clip_edge_session *session, const char *const *labels, size_t label_count,
                                       const char *const *templates, size_t template_count,
                                       clip_edge_prompts **prompts) {
  return guard([&] {
    need(session, "session");
    need(labels, "labels");
    need(prompts, "prompts");
    *prompts = nullptr;
    session->start();
    static const char *const kPlain[] = {"{}"};
    if (templates == nullptr) templates = kPlain, template_count = 1;
    if (label_count == 0 || template_count == 0)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "at least one label and one template are needed");
    std::vector<std::string> texts;
    for (size_t i = 0; i < label_count; i++)
      for (size_t t = 0; t < template_count; t++) {
        need(labels[i], "labels[i]");
        need(templates[t], "templates[t]");
        texts.push_back(with_label(templates[t], labels[i]));
      }
    const size_t dim = static_cast<size_t>(session->model->bundle.manifest().dim);
    std::vector<float> embeds(texts.size() * dim);
    session->embed_texts(texts.size(), embeds.data(), [&](size_t i) { return std::string_view(texts[i]); });
    *prompts = new clip_edge_prompts{session->model->bundle.manifest().space, label_count, dim,
                                     mean_directions(embeds, label_count, template_count, dim)};
  });
}

void clip_edge_prompts_free(clip_edge_prompts *prompts) { delete prompts; }

clip_edge_status clip_edge_classify(clip_edge_session *session, const clip_edge_prompts *prompts,
                                    const clip_edge_image *image, float *out, size_t out_floats) {
  return guard([&] {
    need(session, "session");
    need(prompts, "prompts");
    need(image, "image");
    need(out, "out");
    session->start();
    check_room(out_floats, 1, prompts->count, "out");
    const Manifest &manifest = session->model->bundle.manifest();
    if (prompts->space != manifest.space)
      fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT,
           "the prompts were made with another model: their vectors cannot be compared");
    std::vector<float> embed(prompts->dim);
    session->embed_images(image, 1, embed.data());
    probabilities(embed.data(), *prompts, manifest.logit_scale, out);
  });
}

}  // extern "C"
