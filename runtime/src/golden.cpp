#include "golden.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "json.h"
#include "safetensors.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr size_t kMostCases = 4096;
constexpr size_t kMostSide = 65535;
constexpr size_t kAny = Tensors::kAny;

// safetensors are little-endian, and so is every machine that this library is built for.
template <class Item>
std::vector<Item> copied(const std::string &file, const Tensor &tensor) {
  std::vector<Item> items(tensor.bytes / sizeof(Item));
  std::memcpy(items.data(), file.data() + tensor.start, items.size() * sizeof(Item));
  return items;
}

std::vector<std::string> read_texts(std::string json, const std::string &where) {
  const JsonDocument document(std::move(json), where + ": `texts`");
  std::vector<std::string> texts;
  document.root().each([&](const Json &text) { texts.emplace_back(text.string()); });
  if (texts.empty() || texts.size() > kMostCases)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: 1 to %zu sentences expected; found %zu", where.c_str(), kMostCases, texts.size());
  return texts;
}

std::vector<Golden::Picture> take_pictures(Tensors &tensors, const std::string &where) {
  const size_t count = tensors.count("image.");
  if (count < 1 || count > kMostCases)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: 1 to %zu pictures expected; found %zu", where.c_str(), kMostCases, count);
  std::vector<Golden::Picture> pictures;
  for (size_t i = 0; i < count; i++) {
    char name[32];
    std::snprintf(name, sizeof(name), "image.%03zu", i);
    const Tensor found = tensors.take(name, "U8", {kAny, kAny, 3});
    if (found.shape[0] > kMostSide || found.shape[1] > kMostSide)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: `%s` is too large: %s", where.c_str(), name, found.written().c_str());
    pictures.push_back({static_cast<int32_t>(found.shape[1]), static_cast<int32_t>(found.shape[0]), found.start});
  }
  return pictures;
}

}  // namespace

Golden parse_golden(std::string bytes, const Manifest &manifest, const std::string &where) {
  Tensors tensors(bytes, where);
  const auto side = static_cast<size_t>(manifest.preprocess.size), dim = static_cast<size_t>(manifest.dim);
  const auto length = static_cast<size_t>(manifest.text.context_length);
  Golden golden{};
  golden.pictures = take_pictures(tensors, where);
  const Tensor texts = tensors.take("texts", "U8", {kAny});
  golden.texts = read_texts(bytes.substr(texts.start, texts.bytes), where);
  const size_t n = golden.pictures.size(), m = golden.texts.size();
  golden.pixels_start = tensors.take("pixels", "U8", {n, side, side, 3}).start;
  golden.input_ids = copied<int64_t>(bytes, tensors.take("input_ids", "I64", {m, length}));
  golden.image_embeds = copied<float>(bytes, tensors.take("image_embeds", "F32", {n, dim}));
  golden.text_embeds = copied<float>(bytes, tensors.take("text_embeds", "F32", {m, dim}));
  tensors.check_all_taken();
  const auto finite = [](float value) { return std::isfinite(value); };
  for (const std::vector<float> *embeds : {&golden.image_embeds, &golden.text_embeds})
    if (!std::all_of(embeds->begin(), embeds->end(), finite))
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: a reference embedding is not finite", where.c_str());
  for (int64_t id : golden.input_ids)
    if (id < 0 || id >= manifest.text.vocab_size)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: a token id lies outside of the vocabulary", where.c_str());
  golden.bytes = std::move(bytes);
  return golden;
}

}  // namespace clip_edge::core
