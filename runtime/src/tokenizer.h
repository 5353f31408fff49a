// Sentences to rows of token ids, as clip_edge/tokenizer.py makes them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bpe.h"
#include "clip_edge/clip_edge.h"
#include "pattern.h"

namespace clip_edge::core {

class Tokenizer {
 public:
  // `json` is a tokenizer.json, `name` stands in messages. Throws Error.
  Tokenizer(std::string json, const std::string &name, const clip_edge_text_spec &spec);

  const clip_edge_text_spec &spec() const { return spec_; }

  // Writes context_length ids: BOS, the sentence (cut where it is too long), EOS, padding.
  void row(std::string_view text, int32_t *ids) const;

 private:
  struct Replacement {
    std::unique_ptr<Pattern> pattern;
    std::u32string by;
  };
  using Step = void (*)(const Tokenizer &, const Replacement &, std::u32string &);
  struct Normalizer {
    Step step;
    Replacement replacement;
  };
  struct Split {
    Pattern pattern;
    bool keep_matches, keep_gaps;
  };

  void add_normalizer(const Json &table);
  void add_replacement(const Json &table);
  void add_splits(const Json &table);
  void add_split(const Json &table);
  std::vector<Span> words(std::u32string_view text) const;

  clip_edge_text_spec spec_;
  std::string name_;
  std::vector<Normalizer> normalizers_;
  std::vector<Split> splits_;
  std::unique_ptr<Bpe> bpe_;
  bool byte_level_ = false;
};

clip_edge_text_spec read_text_spec(const clip_edge_text_spec *spec);

}  // namespace clip_edge::core
