#include "splitter.h"

#include <algorithm>
#include <memory>

#include "status.h"
#include "unicode.h"
#include "words.h"

namespace clip_edge::core {
namespace {

// Where `use_regex` is set, ByteLevel splits as GPT-2 did.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What becomes of a match between two words.
enum class Keep { kRemoved, kIsolated, kWithPrevious, kWithNext, kContiguous };

struct Part {
  Span span;
  bool match;
};

// The matches in a text and what lies between them.
std::vector<Part> parts_of(size_t length, const std::vector<Span> &matches) {
  std::vector<Part> parts;
  size_t last = 0;
  for (const Span &match : matches) {
    if (match.start > last) parts.push_back({{last, match.start}, false});
    parts.push_back({match, true});
    last = match.end;
  }
  if (length > last) parts.push_back({{last, length}, false});
  return parts;
}

std::vector<Span> keep_parts(const std::vector<Part> &parts, Keep keep) {
  std::vector<Span> spans;
  if (keep == Keep::kWithNext) {  // from the end, so that it mirrors kWithPrevious
    bool after = false;
    for (size_t i = parts.size(); i-- > 0; after = parts[i].match) {
      if (parts[i].match && !after && !spans.empty())
        spans.back().start = parts[i].span.start;
      else
        spans.push_back(parts[i].span);
    }
    std::reverse(spans.begin(), spans.end());
    return spans;
  }
  bool before = false;
  for (const Part &part : parts) {
    const bool grows =
        keep == Keep::kWithPrevious ? part.match && !before : keep == Keep::kContiguous && part.match == before;
    if (grows && !spans.empty())
      spans.back().end = part.span.end;
    else if (!(part.match && keep == Keep::kRemoved))
      spans.push_back(part.span);
    before = part.match;
  }
  return spans;
}

// Cuts every word where find(text) -> matches says.
template <class Find>
void split(Words &words, Keep keep, bool invert, Find find) {
  std::vector<Span> finer;
  for (const Span &word : words.spans) {
    const auto text = std::u32string_view(words.text).substr(word.start, word.end - word.start);
    std::vector<Part> parts = parts_of(text.size(), find(text));
    for (Part &part : parts) part.match = part.match != invert;
    for (const Span &span : keep_parts(parts, keep)) finer.push_back({word.start + span.start, word.start + span.end});
  }
  words.spans = std::move(finer);
}

SplitStep split_at(bool (*is_match)(char32_t), Keep keep) {
  return [is_match, keep](Words &words) {
    split(words, keep, false, [is_match](std::u32string_view text) {
      std::vector<Span> found;
      for (size_t i = 0; i < text.size(); i++)
        if (is_match(text[i])) found.push_back({i, i + 1});
      return found;
    });
  };
}

SplitStep split_by(std::string_view expression, Keep keep, bool invert, const std::string &where) {
  const auto pattern = std::make_shared<Pattern>(expression, where);
  return [pattern, keep, invert](Words &words) {
    split(words, keep, invert, [&](std::u32string_view text) { return pattern->matches(text); });
  };
}

Keep read_keep(const Json &behavior, const std::string &where) {
  static constexpr std::pair<std::string_view, Keep> kNames[] = {{"Removed", Keep::kRemoved},
                                                                 {"Isolated", Keep::kIsolated},
                                                                 {"MergedWithPrevious", Keep::kWithPrevious},
                                                                 {"MergedWithNext", Keep::kWithNext},
                                                                 {"Contiguous", Keep::kContiguous}};
  const std::string name(behavior.string());
  for (const auto &[known, keep] : kNames)
    if (name == known) return keep;
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: Split `%.40s` is not supported", where.c_str(), name.c_str());
}

// The regular expression of {"Regex": ...}, or {"String": ...} with every character taken literally.
std::string expression_of(const Json &pattern) {
  Json value = pattern;
  if (pattern.find("Regex", &value)) return std::string(value.string());
  std::string escaped;
  for (char32_t point : from_utf8(pattern["String"].string())) {
    char text[16];
    std::snprintf(text, sizeof(text), "\\x{%x}", static_cast<unsigned>(point));
    escaped += text;
  }
  return escaped;
}

// Puts `prefix` before every word that does not begin with it, or before those only that begin the sentence.
void prepend(Words &words, char32_t prefix, bool only_head) {
  std::u32string text;
  text.reserve(words.text.size() + words.spans.size());
  size_t head = 0;
  for (Span &word : words.spans) {
    const size_t start = text.size();
    const bool begins = word.start < words.head;
    if (word.end > word.start && words.text[word.start] != prefix && (begins || !only_head)) text.push_back(prefix);
    text.append(words.text, word.start, word.end - word.start);
    if (begins) head = text.size() - (word.end - std::min(word.end, words.head));
    word = {start, text.size()};
  }
  words.text = std::move(text);
  words.head = head;
}

SplitStep read_metaspace(const Json &table, const std::string &where) {
  const std::u32string mark = from_utf8(table["replacement"].string());
  if (mark.size() != 1) fail(CLIP_EDGE_ERROR_FORMAT, "%s: `replacement` must be one character", where.c_str());
  std::string_view scheme = optional_text(table, "prepend_scheme");
  if (scheme.empty()) scheme = "always";
  if (scheme != "always" && scheme != "first" && scheme != "never")
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: unknown `prepend_scheme`: `%.40s`", where.c_str(), std::string(scheme).c_str());
  if (!flag(table, "add_prefix_space", scheme != "never") && scheme != "never")
    fail(CLIP_EDGE_ERROR_FORMAT, "%s: `add_prefix_space` and `prepend_scheme` contradict each other", where.c_str());
  const bool never = scheme == "never", only_head = scheme == "first", cut = flag(table, "split", true);
  return [=](Words &words) {
    std::replace(words.text.begin(), words.text.end(), U' ', mark[0]);
    if (!never) prepend(words, mark[0], only_head);
    if (!cut) return;
    split(words, Keep::kWithNext, false, [&](std::u32string_view text) {
      std::vector<Span> found;
      for (size_t at = 0; (at = text.find(mark[0], at)) != std::u32string_view::npos; at++)
        found.push_back({at, at + 1});
      return found;
    });
  };
}

std::vector<SplitStep> read_byte_level(const Json &table, const std::string &where) {
  std::vector<SplitStep> steps;
  if (flag(table, "add_prefix_space", true)) steps.push_back([](Words &words) { prepend(words, U' ', false); });
  if (flag(table, "use_regex", true)) steps.push_back(split_by(kGpt2, Keep::kIsolated, false, where));
  return steps;
}

}  // namespace

std::vector<SplitStep> read_splitters(const Json &table, const std::string &where, bool *byte_level) {
  const std::string type(table["type"].string());
  if (*byte_level) fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: ByteLevel must come last", where.c_str());
  if (type == "Sequence") {
    std::vector<SplitStep> steps;
    table["pretokenizers"].each([&](const Json &item) {
      for (SplitStep &step : read_splitters(item, where, byte_level)) steps.push_back(std::move(step));
    });
    return steps;
  }
  *byte_level = type == "ByteLevel";
  if (*byte_level) return read_byte_level(table, where);
  if (type == "Metaspace") return {read_metaspace(table, where)};
  if (type == "WhitespaceSplit") return {split_at(is_unicode_space, Keep::kRemoved)};
  if (type == "BertPreTokenizer")
    return {split_at(is_unicode_space, Keep::kRemoved), split_at(is_bert_punctuation, Keep::kIsolated)};
  if (type == "Split")
    return {split_by(expression_of(table["pattern"]), read_keep(table["behavior"], where), flag(table, "invert", false),
                     where)};
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the pre-tokenizer `%.40s` is not supported", where.c_str(), type.c_str());
}

}  // namespace clip_edge::core
