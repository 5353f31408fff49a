#include "unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace clip_edge::core {
namespace {

struct Range {
  char32_t first, last;
};
struct ClassRange {
  char32_t first, last;
  uint8_t value;
};
struct Mapping {
  char32_t point;
  uint16_t start;
  uint8_t length;
};
struct Composition {
  char32_t first, second, joined;
};

#include "tokenizer_tables.inc"
#include "unicode_tables.inc"

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kHangul = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

// The entry that holds `point`, or null. Entries are sorted and have `first` and `last`.
template <class Entry, size_t N>
const Entry *find_range(const Entry (&table)[N], char32_t point) {
  const Entry *entry = std::upper_bound(std::begin(table), std::end(table), point,
                                        [](char32_t value, const Entry &range) { return value < range.first; });
  if (entry == std::begin(table)) return nullptr;
  return point <= (--entry)->last ? entry : nullptr;
}

template <size_t N, size_t M>
std::u32string_view find_mapping(const Mapping (&table)[N], const char32_t (&points)[M], char32_t point) {
  const Mapping *entry = std::lower_bound(std::begin(table), std::end(table), point,
                                          [](const Mapping &mapping, char32_t value) { return mapping.point < value; });
  if (entry == std::end(table) || entry->point != point) return {};
  return {points + entry->start, entry->length};
}

// A character that the normal forms of `tokenizers` do not know yet is nothing special to them.
bool is_known(char32_t point, Tables tables) {
  return tables == Tables::kPython || find_range(kUnknownToNormalizers, point) == nullptr;
}

uint8_t combining_class(char32_t point, Tables tables) {
  const ClassRange *range = point < 0x300 ? nullptr : find_range(kCombining, point);
  return range == nullptr || !is_known(point, tables) ? 0 : range->value;
}

void decompose(char32_t point, bool compatible, Tables tables, std::u32string &out) {
  if (point < 0x80) {
    out.push_back(point);
  } else if (point - kHangul < kSyllables) {
    const char32_t index = point - kHangul;
    out.push_back(kLead + index / (kVowels * kTails));
    out.push_back(kVowel + index / kTails % kVowels);
    if (index % kTails != 0) out.push_back(kTail + index % kTails);
  } else {
    std::u32string_view parts;
    if (compatible) parts = find_mapping(kCompatible, kCompatiblePoints, point);
    if (parts.empty()) parts = find_mapping(kCanonical, kCanonicalPoints, point);
    if (parts.empty() || !is_known(point, tables))
      out.push_back(point);
    else
      out.append(parts);
  }
}

// Marks after a base letter in the order of their classes; equal classes stay as they stand.
void order_marks(std::u32string &text, Tables tables) {
  for (size_t start = 0; start < text.size(); start++) {
    if (combining_class(text[start], tables) == 0) continue;
    size_t end = start;
    while (end < text.size() && combining_class(text[end], tables) != 0) end++;
    const auto less = [tables](char32_t a, char32_t b) {
      return combining_class(a, tables) < combining_class(b, tables);
    };
    std::stable_sort(text.begin() + static_cast<ptrdiff_t>(start), text.begin() + static_cast<ptrdiff_t>(end), less);
    start = end;
  }
}

char32_t compose_pair(char32_t first, char32_t second) {
  if (first - kLead < kLeads && second - kVowel < kVowels)
    return kHangul + ((first - kLead) * kVowels + second - kVowel) * kTails;
  if (first - kHangul < kSyllables && (first - kHangul) % kTails == 0 && second - kTail - 1 < kTails - 1)
    return first + second - kTail;
  const auto less = [](const Composition &entry, const std::pair<char32_t, char32_t> &pair) {
    return std::pair(entry.first, entry.second) < pair;
  };
  const Composition *entry =
      std::lower_bound(std::begin(kCompositions), std::end(kCompositions), std::pair(first, second), less);
  return entry != std::end(kCompositions) && entry->first == first && entry->second == second ? entry->joined : 0;
}

void compose(std::u32string &text, Tables tables) {
  size_t kept = 0, starter = std::u32string::npos;
  uint8_t last_class = 0;
  for (size_t i = 0; i < text.size(); i++) {
    const char32_t point = text[i];
    const uint8_t mark = combining_class(point, tables);
    const bool adjacent = starter != std::u32string::npos && starter + 1 == kept;
    if (starter != std::u32string::npos && (adjacent || (last_class < mark && last_class != 0))) {
      const char32_t joined = compose_pair(text[starter], point);
      if (joined != 0 && is_known(joined, tables)) {
        text[starter] = joined;
        continue;
      }
    }
    if (mark == 0) starter = kept;
    last_class = mark;
    text[kept++] = point;
  }
  text.resize(kept);
}

bool all_ascii(std::u32string_view text) {
  return std::all_of(text.begin(), text.end(), [](char32_t point) { return point < 0x80; });
}

// How many continuation bytes follow `lead`, and the least and greatest second byte; -1 where none can follow.
int sequence(uint8_t lead, uint8_t *least, uint8_t *greatest) {
  *least = 0x80, *greatest = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) return 1;
  if (lead == 0xE0) *least = 0xA0;
  if (lead == 0xED) *greatest = 0x9F;
  if (lead >= 0xE0 && lead <= 0xEF) return 2;
  if (lead == 0xF0) *least = 0x90;
  if (lead == 0xF4) *greatest = 0x8F;
  return lead >= 0xF0 && lead <= 0xF4 ? 3 : -1;
}

// The character at `*i`, which moves behind it; false, behind the longest piece that could begin one, if there is none.
bool next_point(std::string_view bytes, size_t *i, char32_t *point) {
  const uint8_t lead = static_cast<uint8_t>(bytes[(*i)++]);
  *point = lead;
  if (lead < 0x80) return true;
  uint8_t least, greatest;
  const int more = sequence(lead, &least, &greatest);
  if (more < 0) return false;
  *point = lead & (0x3F >> more);
  for (int k = 0; k < more; k++, ++*i) {
    const uint8_t next = *i < bytes.size() ? static_cast<uint8_t>(bytes[*i]) : 0;
    if (next < (k == 0 ? least : 0x80) || next > (k == 0 ? greatest : 0xBF)) return false;
    *point = *point << 6 | (next & 0x3F);
  }
  return true;
}

bool sigma_ends_word(std::u32string_view text, size_t at) {
  size_t i = at;
  while (i > 0 && find_range(kIgnoredForSigma, text[i - 1]) != nullptr) i--;
  if (i == 0 || find_range(kCasedForSigma, text[i - 1]) == nullptr) return false;
  i = at + 1;
  while (i < text.size() && find_range(kIgnoredForSigma, text[i]) != nullptr) i++;
  return i == text.size() || find_range(kCasedForSigma, text[i]) == nullptr;
}

void append_lower(char32_t point, std::u32string &out) {
  if (point < 0x80) {
    out.push_back(point >= U'A' && point <= U'Z' ? point + 32 : point);
    return;
  }
  const std::u32string_view changed = find_mapping(kLower, kLowerPoints, point);
  if (changed.empty())
    out.push_back(point);
  else
    out.append(changed);
}

}  // namespace

std::u32string from_utf8(std::string_view bytes) {
  std::u32string points;
  points.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size();) {
    char32_t point;
    if (!next_point(bytes, &i, &point)) point = kReplacement;
    points.push_back(point);
  }
  return points;
}

bool is_utf8(std::string_view bytes) {
  char32_t point;
  for (size_t i = 0; i < bytes.size();)
    if (!next_point(bytes, &i, &point)) return false;
  return true;
}

void append_utf8(std::string &out, char32_t point) {
  const auto byte = [](char32_t value) { return static_cast<char>(static_cast<uint8_t>(value)); };
  if (point < 0x80) {
    out.push_back(byte(point));
  } else if (point < 0x800) {
    out += {byte(0xC0 | point >> 6), byte(0x80 | (point & 0x3F))};
  } else if (point < 0x10000) {
    out += {byte(0xE0 | point >> 12), byte(0x80 | (point >> 6 & 0x3F)), byte(0x80 | (point & 0x3F))};
  } else {
    out += {byte(0xF0 | point >> 18), byte(0x80 | (point >> 12 & 0x3F)), byte(0x80 | (point >> 6 & 0x3F)),
            byte(0x80 | (point & 0x3F))};
  }
}

std::string to_utf8(std::u32string_view points) {
  std::string bytes;
  bytes.reserve(points.size());
  for (char32_t point : points) append_utf8(bytes, point);
  return bytes;
}

bool is_letter(char32_t point) { return find_range(kLetters, point) != nullptr; }
bool is_number(char32_t point) { return find_range(kNumbers, point) != nullptr; }
bool is_space(char32_t point) {
  return point < 0x80 ? point == ' ' || (point >= 9 && point <= 13) || (point >= 0x1C && point <= 0x1F)
                      : find_range(kPythonSpaces, point) != nullptr;
}
bool is_unicode_space(char32_t point) { return is_space(point) && !(point >= 0x1C && point <= 0x1F); }

std::u32string normalize(std::u32string_view text, Form form, Tables tables) {
  if (all_ascii(text)) return std::u32string(text);
  std::u32string result;
  result.reserve(text.size() * 2);
  for (char32_t point : text) decompose(point, form == Form::kNfkc || form == Form::kNfkd, tables, result);
  order_marks(result, tables);
  if (form == Form::kNfc || form == Form::kNfkc) compose(result, tables);
  return result;
}

std::u32string lower(std::u32string_view text) {
  std::u32string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == 0x3A3)
      result.push_back(sigma_ends_word(text, i) ? 0x3C2 : 0x3C3);
    else
      append_lower(text[i], result);
  }
  return result;
}

void append_lower_each(char32_t point, std::u32string &out) {
  const std::u32string_view changed =
      point < 0x80 ? std::u32string_view() : find_mapping(kNewLower, kNewLowerPoints, point);
  if (changed.empty())
    append_lower(point, out);
  else
    out.append(changed);
}

char32_t other_case(char32_t point) {
  const bool letter = (point >= U'a' && point <= U'z') || (point >= U'A' && point <= U'Z');
  return letter ? point ^ 32 : point;
}

bool is_mark(char32_t point) { return find_range(kMarks, point) != nullptr; }
bool is_bert_removed(char32_t point) { return find_range(kBertRemoved, point) != nullptr; }
bool is_bert_accent(char32_t point) { return find_range(kBertAccents, point) != nullptr; }
bool is_bert_chinese(char32_t point) { return find_range(kBertChinese, point) != nullptr; }
bool is_bert_punctuation(char32_t point) { return find_range(kBertPunctuation, point) != nullptr; }
bool joins_before(char32_t point) { return find_range(kJoinsBefore, point) != nullptr; }
bool joins_after(char32_t point) { return find_range(kJoinsAfter, point) != nullptr; }
bool is_cluster_control(char32_t point) { return find_range(kControls, point) != nullptr; }

}  // namespace clip_edge::core
