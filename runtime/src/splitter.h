// The pre-tokenizers of a tokenizer.json: what cuts the normalized text into words.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "json.h"
#include "pattern.h"

namespace clip_edge::core {

struct Words {
  std::u32string text;
  std::vector<Span> spans;
  size_t head;  // as in Text
};

using SplitStep = std::function<void(Words &)>;

// `pre_tokenizer` of a tokenizer.json, as steps in their order; `byte_level` tells whether the last of them makes bytes
// of the words. Throws Error for what is damaged or (unsupported) not done.
std::vector<SplitStep> read_splitters(const Json &table, const std::string &where, bool *byte_level);

}  // namespace clip_edge::core
