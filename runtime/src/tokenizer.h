// Sentences to rows of token ids, as clip_edge/tokenizer.py makes them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "clip_edge/clip_edge.h"
#include "normalizer.h"
#include "splitter.h"
#include "words.h"

namespace clip_edge::core {

class Tokenizer {
 public:
  // `json` is a tokenizer.json, `name` stands in messages. Throws Error.
  Tokenizer(std::string json, const std::string &name, const clip_edge_text_spec &spec);

  const clip_edge_text_spec &spec() const { return spec_; }

  // Writes context_length ids: BOS if there is one, the sentence (cut where it is too long), EOS, padding.
  void row(std::string_view text, int32_t *ids) const;

 private:
  void append_segment(Text text, size_t room, std::vector<int32_t> &found) const;
  void append_words(Text text, size_t room, std::vector<int32_t> &found) const;

  clip_edge_text_spec spec_;
  std::string name_;
  std::vector<TextStep> normalizers_;
  std::vector<SplitStep> splitters_;
  std::unique_ptr<const WordModel> model_;
  std::unique_ptr<const AddedTokens> added_;
};

clip_edge_text_spec read_text_spec(const clip_edge_text_spec *spec);

}  // namespace clip_edge::core
