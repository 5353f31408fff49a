// Tokens that are found in the text itself, before anything is cut into words: "<mask>", "<unused7>".
#pragma once

#include <string>
#include <vector>

#include "normalizer.h"
#include "pattern.h"
#include "trie.h"

namespace clip_edge::core {

struct Segment {
  Span span;
  int32_t id;  // -1: text
};

class AddedTokens {
 public:
  // `root` is a whole tokenizer.json. Throws Error where an id is not the one that the token would get.
  AddedTokens(const Json &root, const std::vector<TextStep> &normalizers, const std::string &where);

  std::vector<Segment> in_raw(std::u32string_view text) const { return find(raw_, text); }
  std::vector<Segment> in_normalized(std::u32string_view text) const { return find(normalized_, text); }

 private:
  struct Token {
    std::string content;
    int32_t id;
    bool special, normalized, strips_left, strips_right;
  };

  Token read(const Json &table, const std::string &where) const;
  void check_spaces(std::string_view content, const std::string &where) const;
  void check_ids(const Json &model, const std::string &where) const;
  std::vector<Segment> find(const Trie &trie, std::u32string_view text) const;
  void append_match(Span match, const Token &token, std::u32string_view text, size_t *last,
                    std::vector<Segment> &segments) const;

  std::vector<Token> tokens_;
  Trie raw_, normalized_;  // to places in tokens_
  bool any_ = false;
};

}  // namespace clip_edge::core
