#include "words.h"

#include <cstdio>

#include "status.h"

namespace clip_edge::core {

std::unique_ptr<WordModel> open_word_model(const Json &model, bool byte_level, const std::string &where) {
  const std::string type(model["type"].string());
  if (type == "BPE") return open_bpe(model, byte_level, where);
  if (byte_level)
    fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: ByteLevel before a model of type `%.40s` is not supported", where.c_str(),
         type.c_str());
  if (type == "Unigram") return open_unigram(model, where);
  if (type == "WordPiece") return open_word_piece(model, where);
  fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the model `%.40s` is not supported; BPE, Unigram and WordPiece are",
       where.c_str(), type.c_str());
}

bool flag(const Json &table, std::string_view key, bool otherwise) {
  Json value = table;
  return table.find(key, &value) && !value.is_null() ? value.boolean() : otherwise;
}

std::string_view optional_text(const Json &table, std::string_view key) {
  Json value = table;
  return table.find(key, &value) && !value.is_null() ? value.string() : std::string_view();
}

std::string byte_token(int byte) {
  char text[8];
  std::snprintf(text, sizeof(text), "<0x%02X>", static_cast<unsigned>(byte & 255));
  return text;
}

void fail_unknown(const std::string &where, std::string_view word) {
  fail(CLIP_EDGE_ERROR_FORMAT, "%s: no token for `%.40s`, and no unknown token", where.c_str(),
       std::string(word.substr(0, 40)).c_str());
}

}  // namespace clip_edge::core
