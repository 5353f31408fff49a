// The regular expressions that tokenizer files split text with: alternatives of character classes with repetition.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace clip_edge::core {

struct Span {
  size_t start, end;
};

// A set of code points: ranges, plus classes of Unicode, possibly negated as a whole.
struct CharSet {
  bool negated = false;
  std::vector<std::pair<char32_t, char32_t>> ranges;  // sorted, not touching
  bool (*classes[4])(char32_t) = {};                  // any of these, too
  bool ascii[128] = {};                               // the answer, negation included

  bool has(char32_t point) const;
};

class Pattern {
 public:
  // Compiles Oniguruma syntax: literals, classes, \p{L} \p{N} \s \S \r \n \t \x{..}, | (?:) (?i:) (?=) (?!), ? * +
  // {m,n} with lazy and possessive forms refused. Throws Error (unsupported) for anything else.
  Pattern(std::string_view expression, const std::string &where);

  // The leftmost matches, one after the other, empty ones left out. Throws Error when backtracking gets out of hand.
  std::vector<Span> matches(std::u32string_view text) const;

 private:
  friend class PatternParser;
  struct Term {
    int set = 0;  // index in sets_
    size_t least = 1, most = 1;
    int look = 0;  // 1: must follow, -1: must not follow; nothing is consumed
  };
  using Sequence = std::vector<Term>;

  bool match(const Sequence &terms, size_t term, std::u32string_view text, size_t at, size_t *end, size_t *steps) const;

  std::vector<CharSet> sets_;
  std::vector<Sequence> alternatives_;  // groups are multiplied out
};

}  // namespace clip_edge::core
