#include "added_tokens.h"

#include <algorithm>
#include <unordered_map>

#include "status.h"
#include "unicode.h"
#include "words.h"

namespace clip_edge::core {
namespace {

using Strings = std::vector<std::pair<std::string_view, int32_t>>;

// Calls visit(token, id) for the whole vocabulary of a model; returns how many tokens it has.
template <class Visit>
int64_t each_token(const Json &model, Visit visit) {
  const Json vocabulary = model["vocab"];
  int64_t count = 0;
  if (vocabulary.is(JsonKind::kObject)) {
    vocabulary.members([&](std::string_view token, const Json &id) {
      visit(token, id.integer(0, kMostIds));
      count++;
    });
  } else {
    vocabulary.each([&](const Json &entry) { visit(entry.items().at(0).string(), count++); });
  }
  return count;
}

}  // namespace

AddedTokens::AddedTokens(const Json &root, const std::vector<TextStep> &normalizers, const std::string &where) {
  Json list = root;
  if (!root.find("added_tokens", &list) || list.is_null()) return;
  list.each([&](const Json &item) { tokens_.push_back(read(item, where)); });
  if (tokens_.empty()) return;
  check_ids(root["model"], where);
  any_ = true;
  // Special ones first: where two tokens become equal, the first is found.
  std::stable_partition(tokens_.begin(), tokens_.end(), [](const Token &token) { return token.special; });
  std::vector<std::string> contents(tokens_.size());
  Strings raw, normalized;
  for (size_t i = tokens_.size(); i-- > 0;) {
    contents[i] = tokens_[i].content;
    if (tokens_[i].normalized) {
      Text text{from_utf8(contents[i]), 0};
      for (const TextStep &step : normalizers) step(text);
      contents[i] = to_utf8(text.points);
    }
    check_spaces(contents[i], where);
    (tokens_[i].normalized ? normalized : raw).push_back({contents[i], static_cast<int32_t>(i)});
  }
  raw_.build(std::move(raw), where);
  normalized_.build(std::move(normalized), where);
}

// `tokenizers` itself fails on some texts where one token strips white space and another one is white space, and where
// one is empty.
void AddedTokens::check_spaces(std::string_view content, const std::string &where) const {
  const std::u32string points = from_utf8(content);
  if (points.empty())
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: an added token that the normalizer makes empty is not supported",
         where.c_str());
  const bool space = is_unicode_space(points.front()) || is_unicode_space(points.back());
  const auto strips = [](const Token &token) { return token.strips_left || token.strips_right; };
  if (space && std::any_of(tokens_.begin(), tokens_.end(), strips))
    fail(CLIP_EDGE_ERROR_UNSUPPORTED,
         "%s: added tokens that strip white space beside one that is white space are not supported", where.c_str());
}

AddedTokens::Token AddedTokens::read(const Json &table, const std::string &where) const {
  const std::string content(table["content"].string());
  if (flag(table, "single_word", false))
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: `single_word` of the added token `%.40s` is not supported", where.c_str(),
         content.c_str());
  if (content.empty()) fail(CLIP_EDGE_ERROR_FORMAT, "%s: an added token is empty", where.c_str());
  const bool special = flag(table, "special", false);
  return {content,
          static_cast<int32_t>(table["id"].integer(0, kMostIds)),
          special,
          flag(table, "normalized", !special),
          flag(table, "lstrip", false),
          flag(table, "rstrip", false)};
}

// A token that the vocabulary has keeps that id; others get the next free ones, in the order of the file.
void AddedTokens::check_ids(const Json &model, const std::string &where) const {
  std::unordered_map<std::string_view, int64_t> ids;
  for (const Token &token : tokens_)
    if (!ids.emplace(token.content, -1).second)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: the added token `%.40s` stands twice", where.c_str(), token.content.c_str());
  const int64_t size = each_token(model, [&](std::string_view token, int64_t id) {
    const auto found = ids.find(token);
    if (found != ids.end()) found->second = id;
  });
  int64_t greatest = -1;
  for (const Token &token : tokens_) {
    const int64_t known = ids[token.content];
    const int64_t expected = known >= 0 ? known : std::max(size, greatest + 1);
    greatest = std::max(greatest, expected);
    if (token.id != expected)
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: the added token `%.40s` must have the id %lld; found %d", where.c_str(),
           token.content.c_str(), static_cast<long long>(expected), static_cast<int>(token.id));
  }
}

std::vector<Segment> AddedTokens::find(const Trie &trie, std::u32string_view text) const {
  std::vector<Segment> segments;
  size_t last = 0;  // end of the segment before
  std::string bytes;
  for (size_t at = 0; any_ && at < text.size();) {
    size_t end = at;
    int32_t longest = -1;
    uint32_t node = Trie::kRoot;
    for (size_t i = at; i < text.size(); i++) {
      bytes.clear();
      append_utf8(bytes, text[i]);
      node = trie.walk(node, bytes);
      if (node == Trie::kNowhere) break;
      if (trie.id(node) < 0) continue;
      longest = trie.id(node);
      end = i + 1;
    }
    if (longest >= 0) append_match({at, end}, tokens_[static_cast<size_t>(longest)], text, &last, segments);
    at = std::max(end, at + 1);
  }
  if (last < text.size()) segments.push_back({{last, text.size()}, -1});
  return segments;
}

// Stripped white space belongs to the token, unless a token before has taken it.
void AddedTokens::append_match(Span match, const Token &token, std::u32string_view text, size_t *last,
                               std::vector<Segment> &segments) const {
  while (token.strips_left && match.start > *last && is_unicode_space(text[match.start - 1])) match.start--;
  while (token.strips_right && match.end < text.size() && is_unicode_space(text[match.end])) match.end++;
  if (match.start > *last) segments.push_back({{*last, match.start}, -1});
  segments.push_back({match, token.id});
  *last = match.end;
}

}  // namespace clip_edge::core
