#include "bpe.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>

#include "status.h"
#include "unicode.h"

namespace clip_edge::core {
namespace {

constexpr int64_t kMostIds = 1 << 21;

using Vocabulary = std::unordered_map<std::string_view, int32_t>;

// GPT-2's printable stand-in for a byte: itself where it is printable, else the next free character from U+0100 on.
std::string stand_in(int byte) {
  const auto printable = [](int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  char32_t point = static_cast<char32_t>(byte);
  if (!printable(byte)) {
    point = 0x100;
    for (int b = 0; b < byte; b++) point += printable(b) ? 0 : 1;
  }
  std::string text;
  append_utf8(text, point);
  return text;
}

Vocabulary read_vocabulary(const Json &model, const std::string &where) {
  Vocabulary vocabulary;
  vocabulary.reserve(1 << 16);
  model["vocab"].members([&](std::string_view name, const Json &id) {
    if (!vocabulary.emplace(name, static_cast<int32_t>(id.integer(0, kMostIds))).second)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: a token stands twice in the vocabulary", where.c_str());
  });
  return vocabulary;
}

int32_t id_of(const Vocabulary &vocabulary, std::string_view name, const std::string &where) {
  const auto found = vocabulary.find(name);
  if (found == vocabulary.end())
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: the vocabulary lacks `%.40s`", where.c_str(), std::string(name).c_str());
  return found->second;
}

// A merge is written as ["left", "right"], in older files as "left right".
std::pair<std::string_view, std::string_view> read_merge(const Json &merge, const std::string &where) {
  if (merge.is(JsonKind::kArray)) {
    const std::vector<Json> sides = merge.items();
    if (sides.size() == 2) return {sides[0].string(), sides[1].string()};
  } else {
    const std::string_view text = merge.string();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos) return {text.substr(0, space), text.substr(space + 1)};
  }
  fail(CLIP_EDGE_ERROR_FORMAT, "%s: a merge must join two tokens", where.c_str());
}

void refuse_unless_plain(const Json &model, const std::string &where) {
  Json value = model;
  for (const char *key : {"dropout", "continuing_subword_prefix"})
    if (model.find(key, &value) && !value.is_null() && !(value.is(JsonKind::kString) && value.string().empty()))
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `%s` of a BPE model is not supported", where.c_str(), key);
  for (const char *key : {"byte_fallback", "ignore_merges"})
    if (model.find(key, &value) && value.boolean())
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `%s` of a BPE model is not supported", where.c_str(), key);
}

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t slot_of(uint64_t pair, size_t size) {
  const uint64_t mixed = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;  // the high bits depend on every bit of the pair
  return static_cast<size_t>(mixed >> 32) & (size - 1);
}

}  // namespace

Bpe::Bpe(const Json &model, const std::string &where) {
  if (model["type"].string() != "BPE")
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: a model of type BPE expected; found `%.40s`", where.c_str(),
         std::string(model["type"].string()).c_str());
  refuse_unless_plain(model, where);
  const Vocabulary vocabulary = read_vocabulary(model, where);
  Json suffix = model;
  const bool has_suffix = model.find("end_of_word_suffix", &suffix) && !suffix.is_null();
  const std::string ending(has_suffix ? suffix.string() : std::string_view());
  for (int byte = 0; byte < 256; byte++) {
    inner_[byte] = id_of(vocabulary, stand_in(byte), where);
    last_[byte] = id_of(vocabulary, stand_in(byte) + ending, where);
  }
  size_t size = 64, count = 0;
  const Json merges = model["merges"];
  merges.each([&](const Json &) { count++; });
  while (size < 2 * count) size *= 2;
  merges_.resize(size);
  uint32_t rank = 0;
  std::string joined;
  merges.each([&](const Json &item) {
    const auto [left, right] = read_merge(item, where);
    joined.assign(left).append(right);
    insert({pair_of(id_of(vocabulary, left, where), id_of(vocabulary, right, where)), rank++,
            id_of(vocabulary, joined, where)},
           where);
  });
}

void Bpe::insert(const Merge &merge, const std::string &where) {
  size_t slot = slot_of(merge.pair, merges_.size());
  while (merges_[slot].pair != UINT64_MAX) {
    if (merges_[slot].pair == merge.pair) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a merge stands twice", where.c_str());
    slot = (slot + 1) & (merges_.size() - 1);
  }
  merges_[slot] = merge;
}

const Bpe::Merge *Bpe::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t slot = slot_of(pair, merges_.size());; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == UINT64_MAX) return nullptr;
  }
}

void Bpe::encode(std::string_view word, std::vector<int32_t> &ids) const {
  struct Symbol {
    int32_t id, previous, next;  // next is -1 at the end; id is -1 once merged into its left neighbour
  };
  struct Candidate {
    uint32_t rank;
    int32_t at, joined;
    bool operator>(const Candidate &other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  const int32_t count = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  for (int32_t i = 0; i < count; i++) {
    const uint8_t byte = static_cast<uint8_t>(word[static_cast<size_t>(i)]);
    symbols[i] = {i + 1 < count ? inner_[byte] : last_[byte], i - 1, i + 1 < count ? i + 1 : -1};
  }
  std::vector<Candidate> storage;
  storage.reserve(word.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> queue({}, std::move(storage));
  const auto consider = [&](int32_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    if (const Merge *merge = find(symbols[at].id, symbols[symbols[at].next].id))
      queue.push({merge->rank, at, merge->joined});
  };
  for (int32_t i = 0; i + 1 < count; i++) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol &left = symbols[best.at];
    if (left.id < 0 || left.next < 0) continue;
    const Merge *merge = find(left.id, symbols[left.next].id);
    if (merge == nullptr || merge->rank != best.rank) continue;  // a neighbour changed since
    Symbol &right = symbols[left.next];
    left.id = best.joined;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  for (int32_t i = 0; i >= 0 && i < count; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace clip_edge::core
