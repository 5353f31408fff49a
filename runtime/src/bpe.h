// Byte-pair encoding over bytes: vocabularies of CLIP (words end in `</w>`) and of GPT-2's kind.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace clip_edge::core {

class Bpe {
 public:
  // The `model` table of a tokenizer.json. Throws Error where it is damaged or asks for what is not done here.
  explicit Bpe(const Json &model, const std::string &where);

  // Appends the ids of one word (bytes of UTF-8, not empty).
  void encode(std::string_view word, std::vector<int32_t> &ids) const;

 private:
  struct Merge {
    uint64_t pair = UINT64_MAX;  // left id in the high half, right id in the low half
    uint32_t rank = 0;
    int32_t joined = 0;
  };
  const Merge *find(int32_t left, int32_t right) const;
  void insert(const Merge &merge, const std::string &where);

  int32_t inner_[256], last_[256];  // ids of a byte within a word and at its end
  std::vector<Merge> merges_;       // open addressing; the size is a power of two
};

}  // namespace clip_edge::core
