// WordPiece, as BERT cuts words: always the longest token that fits next.
#include <algorithm>

#include "status.h"
#include "trie.h"
#include "words.h"

namespace clip_edge::core {
namespace {

class WordPiece : public WordModel {
 public:
  WordPiece(const Json &model, const std::string &where) : where_(where) {
    std::vector<std::pair<std::string_view, int32_t>> tokens;
    model["vocab"].members([&](std::string_view token, const Json &id) {
      tokens.push_back({token, static_cast<int32_t>(id.integer(0, kMostIds))});
    });
    trie_.build(std::move(tokens), where);
    Json value = model;
    most_characters_ = model.find("max_input_chars_per_word", &value) ? value.integer(0, INT32_MAX) : 100;
    const bool has_prefix = model.find("continuing_subword_prefix", &value);
    inside_ = trie_.walk(Trie::kRoot, has_prefix ? value.string() : std::string_view("##"));
    unknown_ = trie_.find(model.find("unk_token", &value) ? value.string() : std::string_view("[UNK]"));
  }

  void encode(std::string_view word, std::vector<int32_t> &ids) const override {
    const size_t before = ids.size();
    const auto begins_character = [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; };
    bool fits = std::count_if(word.begin(), word.end(), begins_character) <= most_characters_;
    for (size_t start = 0; fits && start < word.size();) {
      uint32_t node = start == 0 ? Trie::kRoot : inside_;
      int32_t longest = -1;
      for (size_t end = start; end < word.size() && node != Trie::kNowhere;) {
        node = trie_.step(node, word[end++]);
        if (node == Trie::kNowhere || trie_.id(node) < 0) continue;
        longest = trie_.id(node);
        start = end;
      }
      ids.push_back(longest);
      fits = longest >= 0;
    }
    if (fits) return;
    if (unknown_ < 0) fail_unknown(where_, word);
    ids.resize(before);
    ids.push_back(unknown_);
  }

 private:
  std::string where_;
  Trie trie_;
  int64_t most_characters_ = 100;
  uint32_t inside_ = Trie::kNowhere;  // where tokens begin that continue a word
  int32_t unknown_ = -1;
};

}  // namespace

std::unique_ptr<WordModel> open_word_piece(const Json &model, const std::string &where) {
  return std::make_unique<WordPiece>(model, where);
}

}  // namespace clip_edge::core
