// The normalizers of a tokenizer.json: what changes the text before it is cut into words.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace clip_edge::core {

struct Text {
  std::u32string points;
  size_t head;  // so many of them stem from the first character of the sentence: Metaspace may treat those as its begin
};

using TextStep = std::function<void(Text &)>;

// `normalizer` of a tokenizer.json, as steps in their order. Throws Error for what is damaged or (unsupported) not
// done.
std::vector<TextStep> read_normalizers(const Json &table, const std::string &where);

// The normalizer `Precompiled`: SentencePiece's map from short sequences of characters to others.
TextStep read_precompiled(const Json &table, const std::string &where);

}  // namespace clip_edge::core
