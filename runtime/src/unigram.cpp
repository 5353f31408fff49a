// SentencePiece's unigram model: of all ways to cut a word into tokens, the one with the greatest sum of scores (Kudo
// 2018, "Subword Regularization", section 3.2), found by dynamic programming. Sums, ties and what happens to unknown
// characters are those of the package `tokenizers`.
#include <algorithm>
#include <limits>

#include "status.h"
#include "trie.h"
#include "words.h"

namespace clip_edge::core {
namespace {

constexpr double kUnknownPenalty = 10;  // below the least score of the vocabulary; SentencePiece's kUnkPenalty

size_t character_size(char lead) {
  const uint8_t byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

class Unigram : public WordModel {
 public:
  Unigram(const Json &model, const std::string &where) : where_(where) {
    std::vector<std::pair<std::string_view, int32_t>> tokens;
    double least = std::numeric_limits<double>::infinity();
    model["vocab"].each([&](const Json &entry) {
      const std::vector<Json> pair = entry.items();
      if (pair.size() != 2) fail(CLIP_EDGE_ERROR_FORMAT, "%s: a token and its score expected", where.c_str());
      tokens.push_back({pair[0].string(), static_cast<int32_t>(tokens.size())});
      scores_.push_back(pair[1].quick_number());
      least = std::min(least, scores_.back());
    });
    if (tokens.empty() || tokens.size() > static_cast<size_t>(kMostIds))
      fail(CLIP_EDGE_ERROR_FORMAT, "%s: 1 to %d tokens expected; found %zu", where.c_str(), static_cast<int>(kMostIds),
           tokens.size());
    unknown_score_ = least - kUnknownPenalty;
    Json unknown = model;
    if (model.find("unk_id", &unknown) && !unknown.is_null())
      unknown_ = static_cast<int32_t>(unknown.integer(0, static_cast<int64_t>(tokens.size()) - 1));
    trie_.build(std::move(tokens), where);
    if (flag(model, "byte_fallback", false)) read_bytes();
  }

  void encode(std::string_view word, std::vector<int32_t> &ids) const override {
    const std::vector<Node> best = best_path(word);
    std::vector<std::string_view> pieces;
    for (size_t end = word.size(); end > 0; end = best[end].start) {
      std::string_view piece = word.substr(best[end].start, end - best[end].start);
      const bool unknown = best[end].id == unknown_;
      if (unknown && last_was_unknown(pieces, best, word)) {
        const std::string_view right = pieces.back();
        piece = std::string_view(piece.data(), piece.size() + right.size());  // neighbours in the word
        pieces.back() = piece;
      } else {
        pieces.push_back(piece);
      }
    }
    for (size_t i = pieces.size(); i-- > 0;) append(pieces[i], ids);
  }

 private:
  struct Node {
    double score = 0;
    size_t start = SIZE_MAX;  // of the last token on the best way to here
    int32_t id = -1;
  };

  // Whether the piece put in last is made of unknown characters: then it grows to the left.
  bool last_was_unknown(const std::vector<std::string_view> &pieces, const std::vector<Node> &best,
                        std::string_view word) const {
    if (pieces.empty()) return false;
    const size_t end = static_cast<size_t>(pieces.back().data() - word.data()) + pieces.back().size();
    return best[end].id == unknown_;
  }

  std::vector<Node> best_path(std::string_view word) const {
    std::vector<Node> best(word.size() + 1);
    const auto offer = [&](size_t start, size_t end, int32_t id, double score) {
      Node &node = best[end];
      if (node.start == SIZE_MAX || score > node.score) node = {score, start, id};
    };
    for (size_t start = 0; start < word.size();) {
      const double so_far = best[start].score;
      const size_t one = character_size(word[start]);
      bool known = false;  // the character by itself
      uint32_t node = Trie::kRoot;
      for (size_t end = start; end < word.size();) {
        node = trie_.step(node, word[end++]);
        if (node == Trie::kNowhere) break;
        const int32_t id = trie_.id(node);
        if (id < 0) continue;
        offer(start, end, id, scores_[static_cast<size_t>(id)] + so_far);
        known = known || end - start == one;
      }
      if (!known) {
        if (unknown_ < 0) fail_unknown(where_, word.substr(start, one));
        offer(start, start + one, unknown_, unknown_score_ + so_far);
      }
      start += one;
    }
    return best;
  }

  void append(std::string_view piece, std::vector<int32_t> &ids) const {
    const int32_t id = trie_.find(piece);
    if (id >= 0) return ids.push_back(id);
    const auto has_token = [this](char byte) { return bytes_[static_cast<uint8_t>(byte)] >= 0; };
    if (!std::all_of(piece.begin(), piece.end(), has_token)) return ids.push_back(unknown_);
    for (char byte : piece) ids.push_back(bytes_[static_cast<uint8_t>(byte)]);
  }

  void read_bytes() {
    for (int byte = 0; byte < 256; byte++) bytes_[static_cast<size_t>(byte)] = trie_.find(byte_token(byte));
  }

  std::string where_;
  Trie trie_;
  std::vector<double> scores_;
  std::vector<int32_t> bytes_ = std::vector<int32_t>(256, -1);
  double unknown_score_ = 0;
  int32_t unknown_ = -1;
};

}  // namespace

std::unique_ptr<WordModel> open_unigram(const Json &model, const std::string &where) {
  return std::make_unique<Unigram>(model, where);
}

}  // namespace clip_edge::core
