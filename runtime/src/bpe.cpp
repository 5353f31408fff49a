// Byte-pair encoding: of all neighbours, the pair with the lowest rank is joined first. Words are bytes (CLIP's and
// GPT-2's vocabularies) or characters (SentencePiece's), unknown ones of which may be spelt as bytes.
#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>

#include "status.h"
#include "unicode.h"
#include "words.h"

namespace clip_edge::core {
namespace {

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
  if (flag(model, "ignore_merges", false))
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `ignore_merges` of a BPE model is not supported", where.c_str());
}

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t slot_of(uint64_t pair, size_t size) {
  const uint64_t mixed = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;  // the high bits depend on every bit of the pair
  return static_cast<size_t>(mixed >> 32) & (size - 1);
}

// What may be joined, by pair: open addressing, the size is a power of two.
class Merges {
 public:
  struct Merge {
    uint64_t pair = UINT64_MAX;  // left id in the high half, right id in the low half
    uint32_t rank = 0;
    int32_t joined = 0;
  };

  Merges(const Json &list, const Vocabulary &vocabulary, const std::string &where) {
    size_t size = 64, count = 0;
    list.each([&](const Json &) { count++; });
    while (size < 2 * count) size *= 2;
    table_.resize(size);
    uint32_t rank = 0;
    std::string joined;
    list.each([&](const Json &item) {
      const auto [left, right] = read_merge(item, where);
      joined.assign(left).append(right);
      insert({pair_of(id_of(vocabulary, left, where), id_of(vocabulary, right, where)), rank++,
              id_of(vocabulary, joined, where)},
             where);
    });
  }

  const Merge *find(int32_t left, int32_t right) const {
    const uint64_t pair = pair_of(left, right);
    for (size_t slot = slot_of(pair, table_.size());; slot = (slot + 1) & (table_.size() - 1)) {
      if (table_[slot].pair == pair) return &table_[slot];
      if (table_[slot].pair == UINT64_MAX) return nullptr;
    }
  }

  // Joins until nothing more can be joined, and appends what is left.
  void apply(const std::vector<int32_t> &start, std::vector<int32_t> &ids) const;

 private:
  void insert(const Merge &merge, const std::string &where) {
    size_t slot = slot_of(merge.pair, table_.size());
    while (table_[slot].pair != UINT64_MAX) {
      if (table_[slot].pair == merge.pair) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a merge stands twice", where.c_str());
      slot = (slot + 1) & (table_.size() - 1);
    }
    table_[slot] = merge;
  }

  std::vector<Merge> table_;
};

void Merges::apply(const std::vector<int32_t> &start, std::vector<int32_t> &ids) const {
  struct Symbol {
    int32_t id, previous, next;  // next is -1 at the end; id is -1 once merged into its left neighbour
  };
  struct Candidate {
    uint32_t rank;
    int32_t at, joined;
    bool operator>(const Candidate &other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  const int32_t count = static_cast<int32_t>(start.size());
  std::vector<Symbol> symbols(start.size());
  for (int32_t i = 0; i < count; i++) symbols[i] = {start[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
  std::vector<Candidate> storage;
  storage.reserve(start.size());
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

class ByteBpe : public WordModel {
 public:
  ByteBpe(const Json &model, const Vocabulary &vocabulary, const std::string &where)
      : merges_(model["merges"], vocabulary, where) {
    const std::string ending(optional_text(model, "end_of_word_suffix"));
    for (int byte = 0; byte < 256; byte++) {
      inner_[byte] = id_of(vocabulary, stand_in(byte), where);
      last_[byte] = id_of(vocabulary, stand_in(byte) + ending, where);
    }
  }

  void encode(std::string_view word, std::vector<int32_t> &ids) const override {
    std::vector<int32_t> start(word.size());
    for (size_t i = 0; i < word.size(); i++) start[i] = inner_[static_cast<uint8_t>(word[i])];
    start.back() = last_[static_cast<uint8_t>(word.back())];
    merges_.apply(start, ids);
  }

 private:
  Merges merges_;
  int32_t inner_[256], last_[256];  // ids of a byte within a word and at its end
};

class CharacterBpe : public WordModel {
 public:
  CharacterBpe(const Json &model, const Vocabulary &vocabulary, const std::string &where)
      : where_(where), merges_(model["merges"], vocabulary, where) {
    if (!optional_text(model, "end_of_word_suffix").empty())
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `end_of_word_suffix` without ByteLevel is not supported", where.c_str());
    for (const auto &[token, id] : vocabulary) {
      const std::u32string points = token.size() <= 4 ? from_utf8(token) : std::u32string();
      if (points.size() == 1) characters_.emplace(points[0], id);
    }
    const auto find = [&](std::string_view token) {
      const auto found = vocabulary.find(token);
      return found == vocabulary.end() ? -1 : found->second;
    };
    if (flag(model, "byte_fallback", false))
      for (int byte = 0; byte < 256; byte++) bytes_[byte] = find(byte_token(byte));
    fuse_ = flag(model, "fuse_unk", false);
    Json unknown = model;
    drop_ = !model.find("unk_token", &unknown) || unknown.is_null();
    if (!drop_) unknown_ = find(unknown.string());
  }

  void encode(std::string_view word, std::vector<int32_t> &ids) const override {
    std::vector<int32_t> start;
    start.reserve(word.size());
    bool pending = false;  // an unknown token that the next known character is preceded by
    const auto flush = [&] {
      if (pending) start.push_back(unknown_);
      pending = false;
    };
    std::string bytes;
    for (char32_t point : from_utf8(word)) {
      const auto known = characters_.find(point);
      if (known != characters_.end()) {
        flush();
        start.push_back(known->second);
        continue;
      }
      bytes.clear();
      append_utf8(bytes, point);
      if (std::all_of(bytes.begin(), bytes.end(), [this](char b) { return bytes_[static_cast<uint8_t>(b)] >= 0; })) {
        for (char byte : bytes) start.push_back(bytes_[static_cast<uint8_t>(byte)]);  // before one that is pending
      } else if (!drop_) {
        if (unknown_ < 0) fail_unknown(where_, bytes);
        if (!fuse_) flush();
        pending = true;
      }
    }
    flush();
    merges_.apply(start, ids);
  }

 private:
  std::string where_;
  Merges merges_;
  std::unordered_map<char32_t, int32_t> characters_;
  std::vector<int32_t> bytes_ = std::vector<int32_t>(256, -1);
  int32_t unknown_ = -1;
  bool fuse_ = false, drop_ = false;  // drop: unknown characters leave nothing
};

}  // namespace

std::unique_ptr<WordModel> open_bpe(const Json &model, bool byte_level, const std::string &where) {
  refuse_unless_plain(model, where);
  const Vocabulary vocabulary = read_vocabulary(model, where);
  if (byte_level) return std::make_unique<ByteBpe>(model, vocabulary, where);
  return std::make_unique<CharacterBpe>(model, vocabulary, where);
}

}  // namespace clip_edge::core
