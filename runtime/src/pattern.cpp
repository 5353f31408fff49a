#include "pattern.h"

#include <algorithm>
#include <limits>

#include "status.h"
#include "unicode.h"

namespace clip_edge::core {
namespace {

constexpr size_t kMostAlternatives = 4096;
constexpr size_t kStepsPerCharacter = 256, kFreeSteps = 1 << 20;
constexpr size_t kEndless = std::numeric_limits<size_t>::max();

bool is_other_than_space(char32_t point) { return !is_unicode_space(point); }

bool raw_has(const CharSet &set, char32_t point) {
  const auto after = std::upper_bound(set.ranges.begin(), set.ranges.end(), point,
                                      [](char32_t value, const auto &range) { return value < range.first; });
  if (after != set.ranges.begin() && point <= (after - 1)->second) return true;
  for (auto belongs : set.classes)
    if (belongs != nullptr && belongs(point)) return true;
  return false;
}

void finish(CharSet &set) {
  std::sort(set.ranges.begin(), set.ranges.end());
  std::vector<std::pair<char32_t, char32_t>> joined;
  for (const auto &range : set.ranges) {
    if (!joined.empty() && range.first <= joined.back().second + 1)
      joined.back().second = std::max(joined.back().second, range.second);
    else
      joined.push_back(range);
  }
  set.ranges = std::move(joined);
  for (char32_t point = 0; point < 128; point++) set.ascii[point] = raw_has(set, point) != set.negated;
}

}  // namespace

bool CharSet::has(char32_t point) const { return point < 128 ? ascii[point] : raw_has(*this, point) != negated; }

class PatternParser {
 public:
  using Sequences = std::vector<Pattern::Sequence>;

  PatternParser(std::string_view expression, const std::string &where, Pattern &pattern)
      : text_(from_utf8(expression)), where_(where), pattern_(pattern) {}

  void parse() {
    pattern_.alternatives_ = alternatives(false, 0);
    if (at_ != text_.size()) refuse("an unmatched `)`");
  }

 private:
  [[noreturn]] void refuse(const char *what) const {
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: a pattern with %s (at character %zu) is not supported", where_.c_str(), what,
         at_);
  }

  char32_t peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : 0; }
  bool take(std::u32string_view word) {
    if (std::u32string_view(text_).substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Sequences alternatives(bool any_case, int depth) {
    if (depth > 16) refuse("groups nested too deeply");
    Sequences all = sequence(any_case, depth);
    while (take(U"|")) {
      Sequences more = sequence(any_case, depth);
      all.insert(all.end(), more.begin(), more.end());
    }
    if (all.size() > kMostAlternatives) refuse("too many alternatives");
    return all;
  }

  Sequences sequence(bool any_case, int depth) {
    Sequences so_far = {{}};
    while (at_ < text_.size() && peek() != U'|' && peek() != U')') so_far = product(so_far, part(any_case, depth));
    return so_far;
  }

  Sequences product(const Sequences &heads, const Sequences &tails) const {
    if (heads.size() * tails.size() > kMostAlternatives) refuse("too many alternatives");
    Sequences all;
    for (const auto &head : heads)
      for (const auto &tail : tails) {
        all.push_back(head);
        all.back().insert(all.back().end(), tail.begin(), tail.end());
      }
    return all;
  }

  // One group, class or character, with what repeats it.
  Sequences part(bool any_case, int depth) {
    if (take(U"(?=")) return look(1, any_case, depth);
    if (take(U"(?!")) return look(-1, any_case, depth);
    if (peek() == U'(') {
      if (take(U"(?i:"))
        any_case = true;
      else if (!take(U"(?:"))
        refuse("a capturing group");
      Sequences inside = alternatives(any_case, depth + 1);
      if (!take(U")")) refuse("an unclosed group");
      if (take(U"?"))
        inside.push_back({});
      else if (peek() == U'*' || peek() == U'+' || peek() == U'{')
        refuse("a repeated group");
      return inside;
    }
    Pattern::Term term;
    term.set = add(character_set(any_case));
    repetition(term);
    return {{term}};
  }

  Sequences look(int direction, bool any_case, int depth) {
    Sequences inside = alternatives(any_case, depth + 1);
    if (!take(U")") || inside.size() != 1 || inside[0].size() != 1 || inside[0][0].most != 1)
      refuse("a look-ahead of more than one character");
    inside[0][0].look = direction;
    return inside;
  }

  void repetition(Pattern::Term &term) {
    if (take(U"?")) {
      term.least = 0;
    } else if (take(U"*")) {
      term.least = 0, term.most = kEndless;
    } else if (take(U"+")) {
      term.most = kEndless;
    } else if (take(U"{")) {
      term.least = term.most = number();
      if (take(U",")) term.most = peek() == U'}' ? kEndless : number();
      if (!take(U"}") || term.most < term.least) refuse("a repetition that is not {m,n}");
    } else {
      return;
    }
    if (peek() == U'?' || peek() == U'+' || peek() == U'*') refuse("a lazy or possessive repetition");
  }

  size_t number() {
    size_t value = 0;
    if (peek() < U'0' || peek() > U'9') refuse("a repetition that is not {m,n}");
    for (; peek() >= U'0' && peek() <= U'9' && value < 100000; at_++) value = value * 10 + (peek() - U'0');
    return value;
  }

  int add(CharSet set) {
    finish(set);
    pattern_.sets_.push_back(std::move(set));
    return static_cast<int>(pattern_.sets_.size() - 1);
  }

  CharSet character_set(bool any_case) {
    CharSet set;
    if (take(U"[")) {
      set.negated = take(U"^");
      in_class_ = true;
      while (peek() != U']') {
        if (at_ >= text_.size()) refuse("an unclosed class");
        if (peek() == U'[' || (peek() == U'&' && peek(1) == U'&')) refuse("a class within a class");
        member(set, any_case);
      }
      at_++;
      in_class_ = false;
    } else if (peek() == U'.') {
      at_++;
      set.negated = true;
      set.ranges = {{U'\n', U'\n'}};
    } else if (peek() == U'^' || peek() == U'$' || peek() == U'*' || peek() == U'+' || peek() == U'?' ||
               peek() == U'{') {
      refuse("an anchor or a repetition of nothing");
    } else {
      member(set, any_case);
    }
    return set;
  }

  // A character, a range or a class such as \s, added to the set.
  void member(CharSet &set, bool any_case) {
    if (peek() == U'\\' && unicode_class(set)) return;
    const char32_t first = character();
    char32_t last = first;
    if (peek() == U'-' && peek(1) != U']' && in_class_) {
      at_++;
      last = character();
      if (last < first) refuse("a range that ends before it begins");
    }
    set.ranges.push_back({first, last});
    if (any_case && first == last) set.ranges.push_back({other_case(first), other_case(first)});
    if (any_case && first != last) refuse("a range that ignores case");
  }

  bool unicode_class(CharSet &set) {
    bool (*belongs)(char32_t) = nullptr;
    if (take(U"\\p{L}"))
      belongs = is_letter;
    else if (take(U"\\p{N}"))
      belongs = is_number;
    else if (take(U"\\s"))
      belongs = is_unicode_space;
    else if (take(U"\\S"))
      belongs = is_other_than_space;
    else
      return false;
    for (auto &slot : set.classes) {
      if (slot != nullptr) continue;
      slot = belongs;
      return true;
    }
    refuse("too many classes in one");
  }

  char32_t character() {
    const char32_t point = peek();
    if (at_++ >= text_.size()) refuse("an end in the middle");
    if (point != U'\\') return point;
    const char32_t escaped = peek();
    at_++;
    switch (escaped) {
      case U'r': return U'\r';
      case U'n': return U'\n';
      case U't': return U'\t';
      case U'x': return hexadecimal();
      default: break;
    }
    if (escaped == 0 || escaped >= 128 || other_case(escaped) != escaped || (escaped >= U'0' && escaped <= U'9'))
      refuse("an unknown escape");
    return escaped;
  }

  char32_t hexadecimal() {
    if (!take(U"{")) refuse("a \\x without braces");
    char32_t value = 0;
    size_t digits = 0;
    for (; peek() != U'}'; at_++, digits++) {
      const char32_t c = peek() | 32;
      const bool decimal = peek() >= U'0' && peek() <= U'9';
      if (digits == 6 || !(decimal || (c >= U'a' && c <= U'f'))) refuse("a bad \\x{}");
      value = value * 16 + (decimal ? peek() - U'0' : c - U'a' + 10);
    }
    at_++;
    if (digits == 0 || value > 0x10FFFF) refuse("a bad \\x{}");
    return value;
  }

  std::u32string text_;
  const std::string &where_;
  Pattern &pattern_;
  size_t at_ = 0;
  bool in_class_ = false;  // `-` makes a range only there
};

Pattern::Pattern(std::string_view expression, const std::string &where) {
  PatternParser(expression, where, *this).parse();
}

bool Pattern::match(const Sequence &terms, size_t index, std::u32string_view text, size_t at, size_t *end,
                    size_t *steps) const {
  if (*steps == 0) fail(CLIP_EDGE_ERROR_UNSUPPORTED, "the tokenizer's pattern takes too long on this text");
  --*steps;
  if (index == terms.size()) return *end = at, true;
  const Term &term = terms[index];
  const CharSet &set = sets_[static_cast<size_t>(term.set)];
  if (term.look != 0) {
    const bool follows = at < text.size() && set.has(text[at]);
    return follows == (term.look > 0) && match(terms, index + 1, text, at, end, steps);
  }
  size_t count = 0;
  while (count < term.most && at + count < text.size() && set.has(text[at + count])) count++;
  for (;; count--) {
    if (count < term.least) return false;
    if (match(terms, index + 1, text, at + count, end, steps)) return true;
    if (count == 0) return false;
  }
}

std::vector<Span> Pattern::matches(std::u32string_view text) const {
  std::vector<Span> found;
  size_t steps = kFreeSteps + kStepsPerCharacter * text.size();
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    for (const Sequence &alternative : alternatives_)
      if (match(alternative, 0, text, at, &end, &steps)) break;
    if (end > at) found.push_back({at, end});
    at = std::max(end, at + 1);
  }
  return found;
}

}  // namespace clip_edge::core
