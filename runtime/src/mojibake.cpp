#include "mojibake.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string_view>

#include "unicode.h"

namespace clip_edge::core {
namespace {

// A row of characters that seldom stand side by side. 0..63: a class; its complement: anything else; from 64 on: the
// character with that number, less 64.
struct Rule {
  bool at_start;  // of the text
  int8_t length;
  int16_t parts[7];
};
struct Membership {
  char32_t first, last;
  uint64_t classes;  // one bit for each
};
struct Encoding {
  bool sloppy;  // passes bytes without a meaning through; U+FFFD is byte 0x1A
  bool dashes;  // byte 0xD0 is a dash, so a space behind it is one
  char16_t upper[128];
};

#include "mojibake.inc"

constexpr int kDeepest = 32;  // repairs within repairs
constexpr char kLost = 0x1A;  // stands for a byte that nobody knows any more

uint64_t classes_of(char32_t c) {
  const Membership *entry = std::upper_bound(std::begin(kMembers), std::end(kMembers), c,
                                             [](char32_t value, const Membership &m) { return value < m.first; });
  return entry != std::begin(kMembers) && c <= (--entry)->last ? entry->classes : 0;
}

bool is_in(int part, char32_t c) {
  if (part >= 64) return c == static_cast<char32_t>(part - 64);
  return part < 0 ? (classes_of(c) >> ~part & 1) == 0 : (classes_of(c) >> part & 1) != 0;
}

bool matches(const Rule &rule, std::u32string_view text, size_t at) {
  if ((rule.at_start && at > 0) || text.size() - at < static_cast<size_t>(rule.length)) return false;
  for (int i = 0; i < rule.length; i++)
    if (!is_in(rule.parts[i], text[at + static_cast<size_t>(i)])) return false;
  return true;
}

bool is_bad(std::u32string_view text) {
  for (size_t at = 0; at < text.size(); at++) {
    const char32_t next = at + 1 < text.size() ? text[at + 1] : U'\0';
    if (text[at] < 0x80 && next > 0x20 && next < 0x80) continue;  // no rule begins so
    for (const Rule &rule : kRules)
      if (matches(rule, text, at)) return true;
  }
  return false;
}

// The bytes that `encoding` would have read as this text, if it could.
std::optional<std::string> encode(std::u32string_view text, const Encoding &encoding) {
  std::string bytes;
  bytes.reserve(text.size());
  for (char32_t c : text) {
    if (encoding.sloppy && (c == kLost || c == 0xFFFD)) {
      if (c == kLost) return std::nullopt;
      bytes.push_back(kLost);
    } else if (c < 0x80) {
      bytes.push_back(static_cast<char>(c));
    } else {
      const char16_t *found = std::find(std::begin(encoding.upper), std::end(encoding.upper), c);
      if (found == std::end(encoding.upper)) return std::nullopt;
      bytes.push_back(static_cast<char>(0x80 + (found - std::begin(encoding.upper))));
    }
  }
  return bytes;
}

// Bytes that end in zeros.
class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}
  uint8_t operator[](size_t at) const { return at < bytes_.size() ? static_cast<uint8_t>(bytes_[at]) : 0; }
  bool has(size_t at) const { return at < bytes_.size(); }
  bool is(size_t at, uint8_t first, uint8_t last) const {
    return has(at) && (*this)[at] >= first && (*this)[at] <= last;
  }
  bool continues(size_t at) const { return is(at, 0x80, 0xBF); }

 private:
  std::string_view bytes_;
};

// The length of a sequence of UTF-8 at `at` in which a space stands for byte 0xA0; 0: none.
size_t spaced_sequence(const Bytes &b, size_t at) {
  const uint8_t lead = b[at];
  const auto space = [&](size_t i) { return b[at + i] == ' '; };
  const auto certain = [&](size_t i) { return b.continues(at + i) && b[at + i] != 0x85 && b[at + i] != 0xA0; };
  const bool two = lead == 0xC2 || lead == 0xC3 || lead == 0xC5 || lead == 0xCE || lead == 0xD0 || lead == 0xD9;
  if (two && space(1)) return 2;
  if ((lead == 0xE2 || lead == 0xE3) && space(1) && certain(2)) return 3;
  if (lead >= 0xE0 && lead <= 0xE3 && certain(1) && space(2)) return 3;
  if (lead != 0xF0) return 0;
  int spaces = 0;
  for (size_t i = 1; i <= 3; i++) {
    if (!space(i) && !b.continues(at + i)) return 0;
    spaces += space(i);
  }
  return spaces == 1 ? 4 : 0;
}

// "à " in French, Portuguese and the like is a word: two spaces were meant, of which one is left.
bool is_word_a(std::string_view bytes, size_t at) {
  if (bytes.substr(at, 2) != "\xc3 ") return false;
  const std::string_view rest = bytes.substr(at + 2);
  for (std::string_view word : {" ", "quele", "quela", "quilo", "s "})
    if (rest.substr(0, word.size()) == word) return false;
  return true;
}

std::string restore_spaces(std::string_view bytes) {
  std::string words;
  for (size_t at = 0; at < bytes.size(); at++) {
    if (is_word_a(bytes, at)) {
      words += "\xc3\xa0 ";
      at++;
    } else {
      words.push_back(bytes[at]);
    }
  }
  const Bytes b(words);
  std::string out = words;
  for (size_t at = 0; at < words.size();) {
    const size_t length = spaced_sequence(b, at);
    std::replace(out.begin() + static_cast<ptrdiff_t>(at), out.begin() + static_cast<ptrdiff_t>(at + length), ' ',
                 '\xa0');
    at += std::max<size_t>(length, 1);
  }
  return out;
}

bool has_spaced_sequence(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size(); at++)
    if (spaced_sequence(Bytes(bytes), at) > 0) return true;
  return false;
}

// The length of a sequence of UTF-8 at `at` of which a byte is lost; 0: none. `?` may stand for a lost byte, too.
size_t lossy_sequence(const Bytes &b, size_t at) {
  const auto lost = [&](size_t i) { return b[at + i] == kLost || b[at + i] == '?'; };
  const auto part = [&](size_t i) { return b[at + i] == kLost || b.continues(at + i); };
  const uint8_t lead = b[at];
  if (b.is(at, 0xC2, 0xDF) && b[at + 1] == kLost) return 2;
  if (b.is(at, 0xC2, 0xC3) && b[at + 1] == '?') return 2;
  const bool pair = lead == 0xED && b.is(at + 1, 0xA0, 0xAF) && b[at + 3] == 0xED && b.is(at + 4, 0xB0, 0xBF);
  if (pair && (lost(2) || lost(5)) && (lost(2) || part(2)) && (lost(5) || part(5))) return 6;
  if (b.is(at, 0xE0, 0xEF) && ((lost(1) && part(2)) || (part(1) && lost(2)))) return 3;
  if (b.is(at, 0xF0, 0xF4) &&
      ((lost(1) && part(2) && part(3)) || (part(1) && lost(2) && part(3)) || (part(1) && part(2) && lost(3))))
    return 4;
  return lead == kLost && b.has(at) ? 1 : 0;
}

std::string replace_lossy(std::string_view bytes) {
  const Bytes b(bytes);
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = lossy_sequence(b, at);
    if (length > 0)
      out += "\xef\xbf\xbd";
    else
      out.push_back(bytes[at]);
    at += std::max<size_t>(length, 1);
  }
  return out;
}

// UTF-8, in which C0 80 may be a zero and a surrogate pair a character (Java's and Oracle's variants of it).
std::optional<std::u32string> decode(std::string_view bytes) {
  const Bytes b(bytes);
  std::string plain;
  for (size_t at = 0; at < bytes.size();) {
    const bool pair = b[at] == 0xED && b.is(at + 1, 0xA0, 0xAF) && b.continues(at + 2) && b[at + 3] == 0xED &&
                      b.is(at + 4, 0xB0, 0xBF) && b.continues(at + 5);
    if (b[at] == 0xC0 && b[at + 1] == 0x80) {
      plain.push_back('\0');
      at += 2;
    } else if (pair) {
      append_utf8(plain, 0x10000u + ((b[at + 1] & 0xFu) << 16) + ((b[at + 2] & 0x3Fu) << 10) +
                             ((b[at + 4] & 0xFu) << 6) + (b[at + 5] & 0x3Fu));
      at += 6;
    } else {
      plain.push_back(bytes[at++]);
    }
  }
  if (!is_utf8(plain)) return std::nullopt;
  return from_utf8(plain);
}

// The text as one encoding after the other would have it, if that is UTF-8.
std::optional<std::u32string> decode_again(std::u32string_view text, bool *is_latin1) {
  for (const Encoding &encoding : kEncodings) {
    std::optional<std::string> bytes = encode(text, encoding);
    if (!bytes) continue;
    if (&encoding == &kEncodings[0]) *is_latin1 = true;
    if (!encoding.dashes && has_spaced_sequence(*bytes)) bytes = restore_spaces(*bytes);
    if (encoding.sloppy) bytes = replace_lossy(*bytes);
    if (std::optional<std::u32string> fixed = decode(*bytes)) return fixed;
  }
  return std::nullopt;
}

// The end of the sequences at `at` that look like UTF-8 in some encoding; `at` where there are none.
size_t end_of_sequences(std::u32string_view text, size_t at) {
  if (at > 0 && is_in(kBlocks, text[at - 1])) return at;
  static constexpr int kLeads[] = {kFirst2, kFirst3, kFirst4};
  for (;;) {
    size_t length = 0;
    for (size_t more = 1; more <= 3 && length == 0; more++) {
      if (at + more >= text.size() || !is_in(kLeads[more - 1], text[at])) continue;
      length = more + 1;
      for (size_t i = 1; i <= more; i++)
        if (!is_in(kFollows, text[at + i])) length = 0;
    }
    if (length == 0) return at;
    at += length;
  }
}

std::u32string fix_at_depth(std::u32string text, int depth);

std::u32string fix_parts(std::u32string_view text, int depth) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = end_of_sequences(text, at);
    const std::u32string_view part = text.substr(at, end - at);
    if (part.empty())
      out.push_back(text[at]);
    else
      out += part.size() < text.size() && is_bad(part) ? fix_at_depth(std::u32string(part), depth + 1) : part;
    at = std::max(end, at + 1);
  }
  return out;
}

// C1 controls as Windows-1252 has them. `strict`: nothing is changed where it has none for one of them.
std::u32string without_c1(std::u32string_view text, bool strict) {
  constexpr const Encoding &kWindows1252 = kEncodings[1];
  std::u32string out(text);
  for (char32_t &c : out) {
    if (c < 0x80 || c > 0x9F) continue;
    const char32_t meaning = kWindows1252.upper[c - 0x80];
    if (strict && meaning == c) return std::u32string(text);
    c = meaning;
  }
  return out;
}

std::u32string fix_once(const std::u32string &text, int depth) {
  if (!is_bad(text)) return text;
  bool is_latin1 = false;
  if (std::optional<std::u32string> fixed = decode_again(text, &is_latin1)) return *fixed;
  std::u32string fixed = fix_parts(text, depth);
  if (fixed == text && is_latin1) fixed = without_c1(text, true);
  return fixed == text ? without_c1(text, false) : fixed;
}

std::u32string fix_at_depth(std::u32string text, int depth) {
  for (; depth < kDeepest;) {
    std::u32string fixed = fix_once(text, depth);
    if (fixed == text) break;
    text = std::move(fixed);
  }
  return text;
}

}  // namespace

std::u32string fix_encoding(std::u32string text) { return fix_at_depth(std::move(text), 0); }

}  // namespace clip_edge::core
