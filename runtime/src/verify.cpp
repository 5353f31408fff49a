// The proof that a bundle gives its reference embeddings on this machine, as clip_edge/runtime/verify.py makes it.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "golden.h"
#include "model.h"
#include "preprocess.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr int kMostGrey = 1;               // another rounding moves a pixel by one; a wrong filter by ten and more
constexpr double kMostLengthError = 1e-3;  // of a unit vector: fp16 rounds to 5e-4
constexpr size_t kBatches[] = {1, 3, 8};   // a graph with a fixed batch inside shows when the batch changes

// The least cosine for each precision: clip_edge/numerics.py says why.
float tolerance_of(const std::string &precision) {
  static const struct {
    const char *precision;
    float tolerance;
  } kTable[] = {{"fp32", 0.9999F}, {"fp16", 0.999F}, {"fp8", 0.97F},  {"int8", 0.99F},
                {"w8a8", 0.99F},   {"pal6", 0.99F},  {"int4", 0.97F}, {"pal4", 0.97F}};
  for (const auto &row : kTable)
    if (precision == row.precision) return row.tolerance;
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "no tolerance is known for precision `%.40s`", precision.c_str());
}

// `count` input rows, made by fill(first, how_many, to), through the tower in batches of changing size.
template <class Item, class Fill>
std::vector<float> run_rows(const Tower &tower, const Artifact &artifact, size_t count, size_t row_items, size_t dim,
                            Fill fill) {
  std::vector<float> out(count * dim);
  size_t turn = 0;
  for (size_t start = 0; start < count; turn++) {
    const size_t batch = artifact.batch > 0 ? static_cast<size_t>(artifact.batch) : kBatches[turn % 3];
    const size_t real = std::min(batch, count - start), given = artifact.batch > 0 ? batch : real;
    std::vector<Item> rows(given * row_items);
    std::vector<float> embeds(given * dim);
    fill(start, real, rows.data());
    tower.run(rows.data(), given, embeds.data());
    std::copy_n(embeds.data(), real * dim, out.data() + start * dim);
    start += real;
  }
  return out;
}

std::vector<float> embed_pictures(clip_edge_model &model, const Golden &golden) {
  const Manifest &manifest = model.bundle.manifest();
  const size_t row = 3 * static_cast<size_t>(manifest.preprocess.size) * manifest.preprocess.size;
  return run_rows<float>(model.image_tower(), model.artifact("image"), golden.pictures.size(), row,
                         static_cast<size_t>(manifest.dim), [&](size_t start, size_t count, float *to) {
                           for (size_t i = 0; i < count; i++)
                             normalize(golden.at(golden.pixels_start + (start + i) * row), manifest.preprocess,
                                       to + i * row);
                         });
}

template <class Id>
std::vector<float> embed_ids(clip_edge_model &model, const Golden &golden) {
  const auto length = static_cast<size_t>(model.bundle.manifest().text.context_length);
  return run_rows<Id>(model.text_tower(), model.artifact("text"), golden.texts.size(), length,
                      static_cast<size_t>(model.bundle.manifest().dim), [&](size_t start, size_t count, Id *to) {
                        const int64_t *from = golden.input_ids.data() + start * length;
                        std::transform(from, from + count * length, to, [](int64_t id) { return static_cast<Id>(id); });
                      });
}

std::vector<float> embed_sentences(clip_edge_model &model, const Golden &golden) {
  return model.artifact("text").wide_ids ? embed_ids<int64_t>(model, golden) : embed_ids<int32_t>(model, golden);
}

double dot(const float *a, const float *b, size_t dim) {
  double sum = 0;
  for (size_t d = 0; d < dim; d++) sum += static_cast<double>(a[d]) * b[d];
  return sum;
}

// (N, D) against (N, D); what is wrong is added to `problems`.
clip_edge_tower_check compare(const std::vector<float> &found, const std::vector<float> &expected,
                              const Manifest &manifest, const Artifact &artifact, std::string &problems) {
  const auto dim = static_cast<size_t>(manifest.dim);
  const size_t count = expected.size() / dim;
  clip_edge_tower_check check{static_cast<int32_t>(count), -1, -1, 0, tolerance_of(artifact.precision), 0};
  const auto tell = [&](const char *format, auto... values) {
    char text[200];
    std::snprintf(text, sizeof(text), format, values...);
    problems += (problems.empty() ? "" : "; ") + artifact.path + ": " + text;
  };
  if (!std::all_of(found.begin(), found.end(), [](float value) { return std::isfinite(value); })) {
    tell("NaN or infinity in an embedding of %zu rows", count);
    return check;
  }
  double least = 2, sum = 0, length_error = 0, max_abs = 0;
  size_t worst = 0;
  for (size_t i = 0; i < count; i++) {
    const float *a = &found[i * dim], *b = &expected[i * dim];
    const double length = std::sqrt(dot(a, a, dim)), product = length * std::sqrt(dot(b, b, dim));
    const double cosine = product > 0 ? dot(a, b, dim) / product : 0;
    if (cosine < least) least = cosine, worst = i;
    sum += cosine;
    length_error = std::max(length_error, std::abs(length - 1));
    for (size_t d = 0; d < dim; d++) max_abs = std::max(max_abs, std::abs(static_cast<double>(a[d]) - b[d]));
  }
  check.min_cosine = static_cast<float>(least), check.mean_cosine = static_cast<float>(sum / count);
  check.max_abs = static_cast<float>(max_abs);
  check.passed = least >= check.tolerance && (!manifest.normalized || length_error <= kMostLengthError);
  if (least < check.tolerance)
    tell("cosine %.6f in golden row %zu, at least %g expected", least, worst, check.tolerance);
  else if (!check.passed)
    tell("rows are not of length 1: off by %.4f", length_error);
  return check;
}

int32_t grey_difference(const Golden &golden, const clip_edge_preprocess_spec &spec) {
  int worst = 0;
  size_t start = golden.pixels_start;
  for (const Golden::Picture &picture : golden.pictures) {
    clip_edge_image image;
    clip_edge_image_init(&image, sizeof(image));
    image.width = picture.width, image.height = picture.height;
    image.plane[0] = golden.at(picture.start);
    const std::vector<uint8_t> found = resize_and_crop(image, spec);
    const uint8_t *expected = golden.at(start);
    for (size_t i = 0; i < found.size(); i++) worst = std::max(worst, std::abs(found[i] - expected[i]));
    start += found.size();
  }
  return worst;
}

int32_t rows_different(const Golden &golden, const Tokenizer &tokenizer) {
  std::vector<int32_t> row(static_cast<size_t>(tokenizer.spec().context_length));
  int32_t different = 0;
  auto expected = golden.input_ids.begin();
  for (const std::string &text : golden.texts) {
    tokenizer.row(text, row.data());
    different += std::equal(row.begin(), row.end(), expected) ? 0 : 1;
    expected += static_cast<std::ptrdiff_t>(row.size());
  }
  return different;
}

size_t nearest(const float *image, const std::vector<float> &texts, size_t dim) {
  size_t best = 0;
  double greatest = -HUGE_VAL;
  for (size_t i = 0; i * dim < texts.size(); i++) {
    const double found = dot(image, &texts[i * dim], dim);
    if (found > greatest) greatest = found, best = i;
  }
  return best;
}

float agreement(const std::vector<float> &images, const std::vector<float> &texts, const Golden &golden, size_t dim) {
  const size_t count = golden.pictures.size();
  size_t same = 0;
  for (size_t i = 0; i < count; i++)
    same += nearest(&images[i * dim], texts, dim) == nearest(&golden.image_embeds[i * dim], golden.text_embeds, dim);
  return static_cast<float>(same) / static_cast<float>(count);
}

// Fills the report; returns what is wrong, in words, or nothing.
std::string verify(clip_edge_model &model, clip_edge_verification &report) {
  const Manifest &manifest = model.bundle.manifest();
  model.bundle.check_all();
  const char *name = "golden.safetensors";
  const Golden golden =
      parse_golden(model.bundle.read(name, kMostGoldenBytes), manifest, model.bundle.path(name));
  std::string problems;
  const std::vector<float> images = embed_pictures(model, golden), texts = embed_sentences(model, golden);
  report.files = static_cast<int32_t>(manifest.files.size());
  report.image = compare(images, golden.image_embeds, manifest, model.artifact("image"), problems);
  report.text = compare(texts, golden.text_embeds, manifest, model.artifact("text"), problems);
  report.preprocess_max_grey = grey_difference(golden, manifest.preprocess);
  report.token_rows_different = rows_different(golden, model.tokenizer());
  report.top1_agreement = agreement(images, texts, golden, static_cast<size_t>(manifest.dim));
  const auto add = [&](const std::string &text) { problems += (problems.empty() ? "" : "; ") + text; };
  if (report.preprocess_max_grey > kMostGrey)
    add("preprocessing differs by " + std::to_string(report.preprocess_max_grey) + " grey levels, 1 allowed");
  if (report.token_rows_different > 0)
    add("token ids differ in " + std::to_string(report.token_rows_different) + " sentences");
  report.passed = problems.empty();
  return problems;
}

}  // namespace
}  // namespace clip_edge::core

using namespace clip_edge::core;

extern "C" clip_edge_status clip_edge_model_verify(clip_edge_model *model, clip_edge_verification *report,
                                                   size_t struct_size) {
  return guard([&] {
    clip_edge_verification known{};
    write_options(report, struct_size, known);
    need(model, "model");
    const std::string problems = verify(*model, known);
    write_options(report, struct_size, known);
    if (!problems.empty()) fail(CLIP_EDGE_ERROR_VERIFICATION, "%s", problems.c_str());
  });
}
