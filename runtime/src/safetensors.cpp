#include "safetensors.h"

#include <algorithm>

#include "json.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr uint64_t kMostHeaderBytes = uint64_t{4} << 20;
constexpr size_t kMostTensors = 4200;
constexpr uint64_t kMostBytes = uint64_t{1} << 40;

size_t bytes_of(const std::string &type) {
  return type == "U8" || type == "I8" ? 1 : type == "F16" ? 2 : type == "F32" ? 4 : type == "I64" ? 8 : 0;
}

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; i++) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  return value;
}

std::string written(const std::vector<size_t> &shape) {
  std::string text;
  for (size_t side : shape) text += (text.empty() ? "" : ", ") + (side == Tensors::kAny ? "any" : std::to_string(side));
  return "(" + text + ")";
}

}  // namespace

std::string Tensor::written() const { return core::written(shape); }

Tensors::Tensors(std::string_view file, const std::string &where) : where_(where) {
  const uint64_t header = file.size() < 8 ? UINT64_MAX : little_endian(file);
  if (header > kMostHeaderBytes || header > file.size() - 8) bad("its header does not fit");
  const JsonDocument document(std::string(file.substr(8, header)), where);
  const size_t data = 8 + static_cast<size_t>(header);
  document.root().members([&](std::string_view key, const Json &entry) {
    if (key != "__metadata__") return add(std::string(key), entry, data, file.size());
    entry.members([&](std::string_view name, const Json &text) { metadata_[std::string(name)] = text.string(); });
  });
  check_cover(data, file.size());
}

Tensor Tensors::take(const std::string &name, const char *type, const std::vector<size_t> &shape) {
  const auto entry = tensors_.find(name);
  if (entry == tensors_.end()) fail(CLIP_EDGE_ERROR_FORMAT, "%s: missing tensor: `%s`", where_.c_str(), name.c_str());
  const Tensor found = entry->second;
  const bool fits = std::equal(found.shape.begin(), found.shape.end(), shape.begin(), shape.end(),
                               [](size_t have, size_t want) { return want == kAny ? have > 0 : have == want; });
  if (found.type != type || !fits)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `%.60s` must be %s of shape %s; found %.20s %s", where_.c_str(), name.c_str(), type,
         written(shape).c_str(), found.type.c_str(), found.written().c_str());
  tensors_.erase(entry);
  return found;
}

std::string Tensors::type_of(const std::string &name) const {
  const auto entry = tensors_.find(name);
  return entry == tensors_.end() ? "" : entry->second.type;
}

size_t Tensors::count(const char *prefix) const {
  const std::string_view start(prefix);
  return static_cast<size_t>(std::count_if(tensors_.begin(), tensors_.end(), [&](const auto &entry) {
    return entry.first.compare(0, start.size(), start) == 0;
  }));
}

void Tensors::check_all_taken() const {
  if (!tensors_.empty())
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: unknown tensor: `%.60s`", where_.c_str(), tensors_.begin()->first.c_str());
}

std::string Tensors::metadata(const std::string &key) const {
  const auto entry = metadata_.find(key);
  return entry == metadata_.end() ? "" : entry->second;
}

void Tensors::bad(const char *what) const {
  fail(CLIP_EDGE_ERROR_FORMAT, "%s: not a safetensors file: %s", where_.c_str(), what);
}

void Tensors::add(const std::string &name, const Json &entry, size_t data, size_t end) {
  entry.only({"dtype", "shape", "data_offsets"});
  Tensor tensor{std::string(entry["dtype"].string()), {}, 0, 0};
  uint64_t needed = bytes_of(tensor.type);
  if (needed == 0) bad("a tensor of an unknown type");
  for (const Json &side : entry["shape"].items()) {
    const auto count = static_cast<uint64_t>(side.integer(0, static_cast<int64_t>(kMostBytes)));
    tensor.shape.push_back(static_cast<size_t>(count));
    if (tensor.shape.size() > 8 || (count > 0 && needed > kMostBytes / count)) bad("a tensor is too large");
    needed *= count;
  }
  const std::vector<Json> offsets = entry["data_offsets"].items();
  if (offsets.size() != 2) bad("a tensor without a start and an end");
  const auto room = static_cast<int64_t>(end - data);
  const int64_t from = offsets[0].integer(0, room), to = offsets[1].integer(from, room);
  tensor.start = data + static_cast<size_t>(from), tensor.bytes = static_cast<size_t>(to - from);
  if (tensor.bytes != needed) bad("a tensor's size differs from its shape");
  if (!tensors_.emplace(name, tensor).second) bad("a tensor is there twice");
  if (tensors_.size() > kMostTensors) bad("too many tensors");
}

void Tensors::check_cover(size_t data, size_t end) const {
  std::vector<std::pair<size_t, size_t>> parts;
  for (const auto &[name, tensor] : tensors_) parts.emplace_back(tensor.start, tensor.bytes);
  std::sort(parts.begin(), parts.end());
  for (const auto &[start, bytes] : parts) {
    if (start != data) bad("its tensors overlap or leave a gap");
    data += bytes;
  }
  if (data != end) bad("something follows its tensors");
}

}  // namespace clip_edge::core
