// The models of a tokenizer.json: one word, or whatever the pre-tokenizers leave, to ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace clip_edge::core {

class WordModel {
 public:
  virtual ~WordModel() = default;
  // Appends the ids of a word (UTF-8, not empty). Throws Error where a token is unknown and the model has no id for
  // that.
  virtual void encode(std::string_view word, std::vector<int32_t> &ids) const = 0;
};

// The `model` table of a tokenizer.json. `byte_level`: words are the bytes that ByteLevel makes. Throws Error for what
// is damaged, and (unsupported) for what is not done here.
std::unique_ptr<WordModel> open_word_model(const Json &model, bool byte_level, const std::string &where);

std::unique_ptr<WordModel> open_bpe(const Json &model, bool byte_level, const std::string &where);
std::unique_ptr<WordModel> open_unigram(const Json &model, const std::string &where);
std::unique_ptr<WordModel> open_word_piece(const Json &model, const std::string &where);

constexpr int64_t kMostIds = 1 << 21;

bool flag(const Json &table, std::string_view key, bool otherwise);               // where missing or null
std::string_view optional_text(const Json &table, std::string_view key);          // empty where missing or null
std::string byte_token(int byte);                                                 // "<0x0A>"
[[noreturn]] void fail_unknown(const std::string &where, std::string_view word);  // at a model without unknown token

}  // namespace clip_edge::core
