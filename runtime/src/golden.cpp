#include "golden.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>

#include "json.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr uint64_t kMostHeaderBytes = uint64_t{4} << 20;
constexpr size_t kMostCases = 4096;
constexpr size_t kMostSide = 65535;
constexpr size_t kAny = 0;  // in a wanted shape: any size above 0

struct Tensor {
  std::string type;
  std::vector<size_t> shape;
  size_t start, bytes;  // in the file
};

size_t bytes_of(const std::string &type) { return type == "U8" ? 1 : type == "F32" ? 4 : type == "I64" ? 8 : 0; }

uint64_t little_endian(const std::string &bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; i++) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  return value;
}

std::string written(const std::vector<size_t> &shape) {
  std::string text;
  for (size_t side : shape) text += (text.empty() ? "" : ", ") + (side == kAny ? "any" : std::to_string(side));
  return "(" + text + ")";
}

// safetensors: the length of a JSON header, the header, then the tensors without a gap.
class Tensors {
 public:
  Tensors(const std::string &file, const std::string &where) : where_(where) {
    const uint64_t header = file.size() < 8 ? UINT64_MAX : little_endian(file);
    if (header > kMostHeaderBytes || header > file.size() - 8) bad("its header does not fit");
    const JsonDocument document(file.substr(8, header), where);
    const size_t data = 8 + static_cast<size_t>(header);
    document.root().members([&](std::string_view key, const Json &entry) {
      if (key != "__metadata__") add(std::string(key), entry, data, file.size());
    });
    check_cover(data, file.size());
  }

  // The named tensor, removed from the table, when it has the type and shape.
  Tensor take(const std::string &name, const char *type, const std::vector<size_t> &shape) {
    const auto entry = tensors_.find(name);
    if (entry == tensors_.end()) fail(CLIP_EDGE_ERROR_FORMAT, "%s: missing tensor: `%s`", where_.c_str(), name.c_str());
    const Tensor found = entry->second;
    const bool fits = std::equal(found.shape.begin(), found.shape.end(), shape.begin(), shape.end(),
                                 [](size_t have, size_t want) { return want == kAny ? have > 0 : have == want; });
    if (found.type != type || !fits)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: `%.60s` must be %s of shape %s; found %.20s %s", where_.c_str(), name.c_str(),
           type, written(shape).c_str(), found.type.c_str(), written(found.shape).c_str());
    tensors_.erase(entry);
    return found;
  }

  size_t count(const char *prefix) const {
    const std::string_view start(prefix);
    return static_cast<size_t>(std::count_if(tensors_.begin(), tensors_.end(), [&](const auto &entry) {
      return entry.first.compare(0, start.size(), start) == 0;
    }));
  }

  void check_all_taken() const {
    if (!tensors_.empty())
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: unknown tensor: `%.60s`", where_.c_str(), tensors_.begin()->first.c_str());
  }

 private:
  [[noreturn]] void bad(const char *what) const {
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: not a safetensors file: %s", where_.c_str(), what);
  }

  void add(const std::string &name, const Json &entry, size_t data, size_t end) {
    entry.only({"dtype", "shape", "data_offsets"});
    Tensor tensor{std::string(entry["dtype"].string()), {}, 0, 0};
    uint64_t needed = bytes_of(tensor.type);
    if (needed == 0) bad("a tensor of an unknown type");
    for (const Json &side : entry["shape"].items()) {
      tensor.shape.push_back(static_cast<size_t>(side.integer(0, kMostGoldenBytes)));
      if (tensor.shape.size() > 8 || needed > kMostGoldenBytes) bad("a tensor is too large");
      needed *= tensor.shape.back();
    }
    const std::vector<Json> offsets = entry["data_offsets"].items();
    if (offsets.size() != 2) bad("a tensor without a start and an end");
    const auto room = static_cast<int64_t>(end - data);
    const int64_t from = offsets[0].integer(0, room), to = offsets[1].integer(from, room);
    tensor.start = data + static_cast<size_t>(from), tensor.bytes = static_cast<size_t>(to - from);
    if (tensor.bytes != needed) bad("a tensor's size differs from its shape");
    if (!tensors_.emplace(name, tensor).second) bad("a tensor is there twice");
    if (tensors_.size() > kMostCases + 16) bad("too many tensors");
  }

  // Every byte belongs to one tensor: nothing overlaps, nothing hides.
  void check_cover(size_t data, size_t end) const {
    std::vector<std::pair<size_t, size_t>> parts;
    for (const auto &[name, tensor] : tensors_) parts.emplace_back(tensor.start, tensor.bytes);
    std::sort(parts.begin(), parts.end());
    for (const auto &[start, bytes] : parts) {
      if (start != data) bad("its tensors overlap or leave a gap");
      data += bytes;
    }
    if (data != end) bad("something follows its tensors");
  }

  std::string where_;
  std::map<std::string, Tensor> tensors_;
};

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
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: `%s` is too large: %s", where.c_str(), name, written(found.shape).c_str());
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
