// SentencePiece's compiled character map, applied as the package `tokenizers` does: a grapheme cluster of at most five
// bytes is replaced as a whole by what its shortest known beginning stands for; longer ones character by character.
#include <algorithm>
#include <memory>

#include "normalizer.h"
#include "status.h"
#include "unicode.h"

namespace clip_edge::core {
namespace {

constexpr size_t kShortCluster = 5;  // bytes

std::string from_base64(std::string_view text, const std::string &where) {
  std::string bytes;
  uint32_t bits = 0;
  size_t digits = 0;
  const size_t padding = text.size() >= 2 && text.substr(text.size() - 2) == "==" ? 2
                         : !text.empty() && text.back() == '='                    ? 1
                                                                                  : 0;
  for (char c : text.substr(0, text.size() - padding)) {
    const int digit = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (digit < 0) fail(CLIP_EDGE_ERROR_FORMAT, "%s: `precompiled_charsmap` is not base64", where.c_str());
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if (++digits % 4 != 1) bytes.push_back(static_cast<char>(bits >> (6 - 2 * ((digits - 1) % 4)) & 255));
  }
  if (text.size() % 4 != 0 || (bits & ((1u << (2 * padding)) - 1)) != 0)
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `precompiled_charsmap` is not base64", where.c_str());
  return bytes;
}

bool is_within(char32_t c, char32_t first, char32_t last) { return c >= first && c <= last; }

// Syllables of Hangul, whole or in parts: leading consonants, vowels, trailing consonants.
bool is_one_syllable(char32_t left, char32_t right) {
  const auto leads = [](char32_t c) { return is_within(c, 0x1100, 0x115F) || is_within(c, 0xA960, 0xA97C); };
  const auto vowel = [](char32_t c) { return is_within(c, 0x1160, 0x11A7) || is_within(c, 0xD7B0, 0xD7C6); };
  const auto trails = [](char32_t c) { return is_within(c, 0x11A8, 0x11FF) || is_within(c, 0xD7CB, 0xD7FB); };
  const auto whole = [](char32_t c) { return is_within(c, 0xAC00, 0xD7A3); };
  if (leads(left)) return leads(right) || vowel(right) || whole(right);
  if (vowel(left) || (whole(left) && (left - 0xAC00) % 28 == 0)) return vowel(right) || trails(right);
  return (trails(left) || whole(left)) && trails(right);
}

// Which characters stay together (Unicode annex 29), as far as it decides anything here: the rules for emoji, flags and
// Indic conjuncts only lengthen clusters that are longer than kShortCluster without them.
bool stays_together(char32_t left, char32_t right) {
  if (left == U'\r' && right == U'\n') return true;
  if (left < 0x80 && right < 0x80) return false;
  if (is_cluster_control(left) || is_cluster_control(right)) return false;
  return joins_before(right) || joins_after(left) || is_one_syllable(left, right);
}

class Precompiled {
 public:
  Precompiled(std::string_view base64, const std::string &where) : where_(where) {
    const std::string bytes = from_base64(base64, where);
    const auto word = [&](size_t at) {
      uint32_t value = 0;
      for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
      return value;
    };
    const size_t trie_bytes = bytes.size() >= 4 ? word(0) : 0;
    if (trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes > bytes.size() - 4) damaged();
    units_.resize(trie_bytes / 4);
    for (size_t i = 0; i < units_.size(); i++) units_[i] = word(4 + 4 * i);
    values_ = bytes.substr(4 + trie_bytes);
    if (!is_utf8(values_)) damaged();
  }

  void apply(Text &text) const {
    const std::u32string_view points = text.points;
    std::u32string out;
    out.reserve(points.size());
    size_t head = 0;
    for (size_t start = 0; start < points.size();) {
      size_t end = start + 1;
      while (end < points.size() && stays_together(points[end - 1], points[end])) end++;
      append(points.substr(start, end - start), out);
      if (start < text.head) head = out.size();
      start = end;
    }
    // A first character that becomes nothing leaves its place to what follows.
    if (text.head > 0 && head == 0 && !out.empty()) head = 1;
    text = {std::move(out), head};
  }

 private:
  [[noreturn]] void damaged() const {
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `precompiled_charsmap` is damaged", where_.c_str());
  }

  void append(std::u32string_view cluster, std::u32string &out) const {
    std::string bytes;
    for (size_t i = 0; i < cluster.size() && bytes.size() <= kShortCluster; i++) append_utf8(bytes, cluster[i]);
    if (cluster.size() > 1 && bytes.size() <= kShortCluster && append_value(bytes, out)) return;
    for (char32_t point : cluster) {
      bytes.clear();
      append_utf8(bytes, point);
      if (!append_value(bytes, out)) out.push_back(point);
    }
  }

  // Appends what the shortest known beginning of `bytes` stands for; false where none is known.
  bool append_value(std::string_view bytes, std::u32string &out) const {
    const auto unit = [this](size_t at) { return at < units_.size() ? units_[at] : (damaged(), 0u); };
    const auto offset = [](uint32_t u) { return u >> 10 << ((u & 1u << 9) >> 6); };
    size_t at = offset(unit(0));
    for (char byte : bytes) {
      if (byte == 0) return false;
      at ^= static_cast<uint8_t>(byte);
      const uint32_t here = unit(at);
      if ((here & (1u << 31 | 0xFF)) != static_cast<uint8_t>(byte)) return false;
      at ^= offset(here);
      if ((here >> 8 & 1) == 0) continue;
      append_string(unit(at) & 0x7FFFFFFF, out);
      return true;
    }
    return false;
  }

  void append_string(size_t at, std::u32string &out) const {
    if (at > values_.size() || (at < values_.size() && (static_cast<uint8_t>(values_[at]) & 0xC0) == 0x80)) damaged();
    const size_t end = std::min(values_.find('\0', at), values_.size());
    out += from_utf8(std::string_view(values_).substr(at, end - at));
  }

  std::string where_;
  std::vector<uint32_t> units_;  // a double array as darts-clone writes it
  std::string values_;           // what sequences stand for, each ended by a zero byte
};

}  // namespace

TextStep read_precompiled(const Json &table, const std::string &where) {
  const auto map = std::make_shared<Precompiled>(table["precompiled_charsmap"].string(), where);
  return [map](Text &text) { map->apply(text); };
}

}  // namespace clip_edge::core
