#include "clean.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "mojibake.h"
#include "unicode.h"

namespace clip_edge::core {
namespace {

struct Entity {
  const char *name;   // without `&`, with `;` where it has one
  const char *value;  // UTF-8
  bool shouted;       // an upper-case spelling that only fix_text reads
};

#include "html_entities.inc"

constexpr char32_t kReplacement = 0xFFFD;

// What Windows-1252 has at 0x80..0x9F; 0 where it has nothing.
constexpr char16_t kWindows1252[32] = {0x20AC, 0,      0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                       0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017D, 0,
                                       0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                       0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0,      0x017E, 0x0178};

bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
bool is_hex(char32_t c) { return is_digit(c) || (c >= U'a' && c <= U'f') || (c >= U'A' && c <= U'F'); }
bool is_alnum(char32_t c) { return is_digit(c) || (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z'); }

const Entity *find_entity(std::u32string_view name) {
  char ascii[40];
  if (name.size() >= sizeof(ascii)) return nullptr;
  for (size_t i = 0; i < name.size(); i++) {
    if (name[i] >= 0x80) return nullptr;
    ascii[i] = static_cast<char>(name[i]);
  }
  ascii[name.size()] = '\0';
  const Entity *entity =
      std::lower_bound(std::begin(kEntities), std::end(kEntities), ascii,
                       [](const Entity &e, const char *key) { return std::strcmp(e.name, key) < 0; });
  return entity != std::end(kEntities) && std::strcmp(entity->name, ascii) == 0 ? entity : nullptr;
}

const Entity *find_html(std::u32string_view name) {
  const Entity *entity = find_entity(name);
  return entity != nullptr && !entity->shouted ? entity : nullptr;
}

void append_number(uint32_t number, std::u32string &out) {
  const bool c1 = number >= 0x80 && number <= 0x9F;
  const bool noncharacter = (number >= 0xFDD0 && number <= 0xFDEF) || (number & 0xFFFE) == 0xFFFE;
  if (number == 0 || (number >= 0xD800 && number <= 0xDFFF) || number > 0x10FFFF)
    out.push_back(kReplacement);
  else if (c1)
    out.push_back(kWindows1252[number - 0x80] != 0 ? kWindows1252[number - 0x80] : number);
  else if ((number < 0x20 && !is_space(number)) || (number >= 0x0E && number < 0x20) || number == 0x0B ||
           number == 0x7F || noncharacter)
    return;  // these stand for nothing
  else
    out.push_back(number);
}

// A reference at text[at] == '&': appends what it stands for and returns the position behind it; `at` where none is.
size_t numeric_reference(std::u32string_view text, size_t at, std::u32string &out) {
  size_t i = at + 2;
  const bool hex = i < text.size() && (text[i] == U'x' || text[i] == U'X');
  if (hex) i++;
  const size_t first = i;
  uint32_t number = 0;
  for (; i < text.size() && (hex ? is_hex(text[i]) : is_digit(text[i])); i++) {
    const uint32_t digit = is_digit(text[i]) ? text[i] - U'0' : (text[i] | 32) - U'a' + 10;
    number = std::min<uint32_t>(number * (hex ? 16 : 10) + digit, 0x110000);
  }
  if (i == first) return at;
  append_number(number, out);
  return i + (i < text.size() && text[i] == U';');
}

size_t named_reference(std::u32string_view text, size_t at, std::u32string &out) {
  constexpr std::u32string_view kStops = U"\t\n\f <&#;";
  size_t i = at + 1;
  while (i < text.size() && i - at <= 32 && kStops.find(text[i]) == std::u32string_view::npos) i++;
  if (i == at + 1) return at;
  if (i < text.size() && text[i] == U';') i++;
  const std::u32string_view name = text.substr(at + 1, i - at - 1);
  for (size_t length = name.size(); length > 1 || length == name.size(); length--) {
    if (const Entity *entity = find_html(name.substr(0, length))) {
      out += from_utf8(entity->value);
      out += name.substr(length);
      return i;
    }
    if (length == 1) break;
  }
  out += text.substr(at, i - at);
  return i;
}

// Only `&name;` and `&#number;` that are complete, as ftfy does; everything else stays.
std::u32string unescape_complete(std::u32string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i + 1;
    if (text[i] == U'&') {
      if (end < text.size() && text[end] == U'#') end++;
      const size_t first = end;
      while (end < text.size() && end - first < 24 && is_alnum(text[end])) end++;
      if (end > first && end < text.size() && text[end] == U';') {
        const std::u32string_view whole = text.substr(i, end + 1 - i);
        std::u32string value(whole);
        if (whole[1] == U'#') {
          std::u32string number;
          if (numeric_reference(whole, 0, number) == whole.size()) value = number;
        } else if (const Entity *entity = find_entity(whole.substr(1))) {
          value = from_utf8(entity->value);
        }
        out += value;
        i = end + 1;
        continue;
      }
    }
    out.push_back(text[i++]);
  }
  return out;
}

bool is_latin_ligature(char32_t c) {
  return c == 0x132 || c == 0x133 || c == 0x149 || (c >= 0x1C4 && c <= 0x1CC) || (c >= 0x1F1 && c <= 0x1F3) ||
         (c >= 0xFB00 && c <= 0xFB06);
}

// Control characters that nobody types on purpose.
bool is_unwanted(char32_t c) {
  return (c < 0x20 && c != 9 && c != 10 && c != 12 && c != 13) || c == 0x7F || (c >= 0x206A && c <= 0x206F) ||
         c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFC);
}

void append_fixed(char32_t c, std::u32string &out) {
  if (c >= 0x80 && c <= 0x9F && kWindows1252[c - 0x80] != 0) c = kWindows1252[c - 0x80];
  if (c == 0xFB05)
    out += U"\u017Ft";
  else if (is_latin_ligature(c) || (c >= 0xFF01 && c < 0xFFF0))
    out += normalize(std::u32string_view(&c, 1), Form::kNfkc);
  else if (c == 0x3000)
    out.push_back(U' ');
  else if (c == 0x2BC || (c >= 0x2018 && c <= 0x201B))
    out.push_back(U'\'');
  else if (c >= 0x201C && c <= 0x201F)
    out.push_back(U'"');
  else
    out.push_back(c);
}

std::u32string fix_line_breaks(std::u32string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size(); i++) {
    const char32_t c = text[i];
    const bool before_line_feed = c == U'\r' && i + 1 < text.size() && text[i + 1] == U'\n';
    if (before_line_feed) continue;
    out.push_back(c == U'\r' || c == 0x2028 || c == 0x2029 || c == 0x85 ? U'\n' : c);
  }
  return out;
}

// ESC [ digits and semicolons, then a letter.
std::u32string without_terminal_escapes(std::u32string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    if (text[i] == 0x1B && i + 1 < text.size() && text[i + 1] == U'[') {
      for (end = i + 2; end < text.size() && (is_digit(text[end]) || text[end] == U';'); end++) {
      }
      end = end < text.size() && is_alnum(text[end]) ? end + 1 : i;
    }
    if (end == i) out.push_back(text[end++]);
    i = end;
  }
  return out;
}

bool is_plain(std::u32string_view text) {
  return std::all_of(text.begin(), text.end(), [](char32_t c) { return c >= 0x20 && c < 0x7F && c != U'&'; });
}

std::u32string fix_line(std::u32string_view line, bool unescape) {
  std::u32string text(line);
  for (;;) {
    const std::u32string before = text;
    if (unescape) text = unescape_complete(text);
    text = fix_encoding(std::move(text));
    std::u32string fixed;
    for (char32_t c : text) append_fixed(c, fixed);
    fixed = without_terminal_escapes(fix_line_breaks(fixed));
    fixed.erase(std::remove_if(fixed.begin(), fixed.end(), is_unwanted), fixed.end());
    text = normalize(fixed, Form::kNfc);
    if (text == before) return text;
  }
}

std::u32string single_spaced(std::u32string_view text) {
  std::u32string spaced;
  spaced.reserve(text.size());
  bool gap = false;
  for (char32_t c : text) {
    if (is_space(c)) {
      gap = !spaced.empty();
      continue;
    }
    if (gap) spaced.push_back(U' ');
    gap = false;
    spaced.push_back(c);
  }
  return spaced;
}

// Without that of ASCII; `_` is a space.
std::u32string without_punctuation(std::u32string_view text) {
  std::u32string out;
  for (char32_t c : text) {
    if (c == U'_') c = U' ';
    const bool mark = c > 0x20 && c < 0x7F && !is_alnum(c);
    if (!mark) out.push_back(c);
  }
  return out;
}

}  // namespace

std::u32string unescape_html(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    if (text[i] == U'&' && i + 1 < text.size())
      end = text[i + 1] == U'#' ? numeric_reference(text, i, out) : named_reference(text, i, out);
    if (end == i) out.push_back(text[end++]);
    i = end;
  }
  return out;
}

std::u32string fix_text(std::u32string_view text) {
  if (is_plain(text)) return std::u32string(text);
  std::u32string out;
  bool unescape = true;  // a `<` looks like HTML, from its line on: then `&lt;` is meant as it stands
  for (size_t start = 0; start < text.size();) {
    const size_t feed = text.find(U'\n', start);
    const size_t end = std::min(feed == std::u32string_view::npos ? text.size() : feed + 1, start + 1000000);
    const std::u32string_view line = text.substr(start, end - start);
    unescape = unescape && line.find(U'<') == std::u32string_view::npos;
    out += fix_line(line, unescape);
    start = end;
  }
  return out;
}

std::u32string clean_text(std::u32string text, clip_edge_text_cleaning kind) {
  if (kind == CLIP_EDGE_CLEAN_NONE) return text;
  text = unescape_html(unescape_html(fix_text(text)));
  if (kind == CLIP_EDGE_CLEAN_CANONICALIZE) text = without_punctuation(text);
  if (kind != CLIP_EDGE_CLEAN_WHITESPACE) text = lower(text);
  return single_spaced(text);
}

}  // namespace clip_edge::core
