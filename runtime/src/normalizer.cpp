#include "normalizer.h"

#include <algorithm>
#include <memory>

#include "pattern.h"
#include "status.h"
#include "unicode.h"
#include "words.h"

namespace clip_edge::core {
namespace {

// Every character by itself: append(c, out) writes what becomes of it.
template <class Append>
TextStep each_character(Append append) {
  return [append](Text &text) {
    std::u32string out;
    out.reserve(text.points.size());
    size_t head = 0;
    for (size_t i = 0; i < text.points.size(); i++) {
      append(text.points[i], out);
      if (i < text.head) head = out.size();
    }
    text = {std::move(out), head};
  };
}

TextStep without(bool (*unwanted)(char32_t)) {
  return each_character([unwanted](char32_t c, std::u32string &out) {
    if (!unwanted(c)) out.push_back(c);
  });
}

TextStep normal_form(Form form) {
  return [form](Text &text) {
    const size_t head =
        normalize(std::u32string_view(text.points).substr(0, text.head), form, Tables::kTokenizers).size();
    text.points = normalize(text.points, form, Tables::kTokenizers);
    text.head = std::min(head, text.points.size());
  };
}

TextStep read_strip(const Json &table) {
  const bool left = flag(table, "strip_left", true), right = flag(table, "strip_right", true);
  return [left, right](Text &text) {
    size_t first = 0, last = text.points.size();
    while (left && first < last && is_unicode_space(text.points[first])) first++;
    while (right && last > first && is_unicode_space(text.points[last - 1])) last--;
    text = {text.points.substr(first, last - first), text.head > first ? std::min(text.head, last) - first : 0};
  };
}

TextStep read_prepend(const Json &table) {
  const std::u32string added = from_utf8(table["prepend"].string());
  return [added](Text &text) {
    if (text.points.empty()) return;
    text.points.insert(0, added);
    if (text.head > 0) text.head += added.size();
  };
}

std::vector<Span> find_all(std::u32string_view text, std::u32string_view wanted) {
  std::vector<Span> found;
  for (size_t at = 0; (at = text.find(wanted, at)) != std::u32string_view::npos; at += wanted.size())
    found.push_back({at, at + wanted.size()});
  return found;
}

void replace(Text &text, const std::vector<Span> &matches, const std::u32string &by) {
  if (matches.empty()) return;
  std::u32string out;
  size_t last = 0, head = 0;
  const auto copy_until = [&](size_t end) {
    out.append(text.points, last, end - last);
    if (last < text.head) head = out.size() - (end - std::min(end, text.head));
  };
  for (const Span &match : matches) {
    copy_until(match.start);
    out += by;
    if (match.end <= text.head) head = out.size();
    last = match.end;
  }
  copy_until(text.points.size());
  text = {std::move(out), head};
}

TextStep read_replace(const Json &table, const std::string &where) {
  const std::u32string by = from_utf8(table["content"].string());
  const Json pattern = table["pattern"];
  Json expression = pattern;
  if (pattern.find("Regex", &expression)) {
    const auto compiled = std::make_shared<Pattern>(expression.string(), where);
    return [compiled, by](Text &text) { replace(text, compiled->matches(text.points), by); };
  }
  const std::u32string literal = from_utf8(pattern["String"].string());
  if (literal.empty())
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: Replace of an empty string is not supported", where.c_str());
  return [literal, by](Text &text) { replace(text, find_all(text.points, literal), by); };
}

// clean_text of BERT: control characters go, every white space is a space.
void append_clean(char32_t c, std::u32string &out) {
  if (!is_bert_removed(c)) out.push_back(is_unicode_space(c) ? U' ' : c);
}

void append_apart(char32_t c, std::u32string &out) {
  if (is_bert_chinese(c))
    out += {U' ', c, U' '};
  else
    out.push_back(c);
}

void append_steps(std::vector<TextStep> &steps, std::vector<TextStep> more) {
  for (TextStep &step : more) steps.push_back(std::move(step));
}

std::vector<TextStep> read_bert(const Json &table) {
  std::vector<TextStep> steps;
  const bool lowercase = flag(table, "lowercase", true);
  if (flag(table, "clean_text", true)) steps.push_back(each_character(append_clean));
  if (flag(table, "handle_chinese_chars", true)) steps.push_back(each_character(append_apart));
  if (flag(table, "strip_accents", lowercase)) append_steps(steps, {normal_form(Form::kNfd), without(is_bert_accent)});
  if (lowercase) steps.push_back(each_character(append_lower_each));
  return steps;
}

// Nmt: the rules that SentencePiece calls by that name.
void append_nmt(char32_t c, std::u32string &out) {
  if ((c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
  const bool space = (c >= 9 && c <= 13) || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 ||
                     c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  out.push_back(space ? U' ' : c);
}

}  // namespace

std::vector<TextStep> read_normalizers(const Json &table, const std::string &where) {
  const std::string type(table["type"].string());
  std::vector<TextStep> steps;
  if (type == "Sequence") {
    table["normalizers"].each([&](const Json &item) { append_steps(steps, read_normalizers(item, where)); });
    return steps;
  }
  if (type == "NFC") return {normal_form(Form::kNfc)};
  if (type == "NFD") return {normal_form(Form::kNfd)};
  if (type == "NFKC") return {normal_form(Form::kNfkc)};
  if (type == "NFKD") return {normal_form(Form::kNfkd)};
  if (type == "Lowercase") return {each_character(append_lower_each)};
  if (type == "StripAccents") return {without(is_mark)};
  if (type == "Nmt") return {each_character(append_nmt)};
  if (type == "Strip") return {read_strip(table)};
  if (type == "Prepend") return {read_prepend(table)};
  if (type == "Replace") return {read_replace(table, where)};
  if (type == "BertNormalizer") return read_bert(table);
  if (type == "Precompiled") return {read_precompiled(table, where)};
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the normalizer `%.40s` is not supported", where.c_str(), type.c_str());
}

}  // namespace clip_edge::core
