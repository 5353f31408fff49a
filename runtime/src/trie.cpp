#include "trie.h"

#include <algorithm>

#include "status.h"

namespace clip_edge::core {
namespace {
constexpr size_t kMostUnits = size_t{1} << 24;
constexpr size_t kMostTries = 16;  // of a gap for a node with several children, before it goes to the end
}  // namespace

void Trie::build(std::vector<std::pair<std::string_view, int32_t>> tokens, const std::string &where) {
  for (const auto &[token, id] : tokens)
    if (token.size() > kLongestToken)
      fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: a token may have %zu bytes; found %zu", where.c_str(), kLongestToken,
           token.size());
  std::stable_sort(tokens.begin(), tokens.end(), [](const auto &a, const auto &b) { return a.first < b.first; });
  units_.assign(1, {});
  std::vector<Task> tasks = {{kRoot, 0, tokens.size(), 0}};
  std::vector<std::pair<uint8_t, size_t>> children;  // byte, first token
  while (!tasks.empty()) {
    Task task = tasks.back();
    tasks.pop_back();
    for (; task.first < task.last && tokens[task.first].first.size() == task.depth; task.first++)
      if (task.depth > 0) units_[task.node].id = tokens[task.first].second;
    if (task.first == task.last) continue;
    children.clear();
    for (size_t i = task.first; i < task.last; i++) {
      const uint8_t byte = static_cast<uint8_t>(tokens[i].first[task.depth]);
      if (children.empty() || children.back().first != byte) children.push_back({byte, i});
    }
    const uint32_t base = units_[task.node].base = place(children, where);
    for (size_t i = children.size(); i-- > 0;) {
      units_[base + children[i].first].parent = task.node;
      const size_t last = i + 1 < children.size() ? children[i + 1].second : task.last;
      tasks.push_back({base + children[i].first, children[i].second, last, task.depth + 1});
    }
  }
  gaps_ = {};
}

// A base at which all of the children's places are free.
uint32_t Trie::place(const std::vector<std::pair<uint8_t, size_t>> &children, const std::string &where) {
  const uint32_t lowest = children.front().first;
  const auto fits = [&](uint32_t base) {
    return std::all_of(children.begin(), children.end(), [&](const auto &child) {
      const size_t at = base + child.first;
      return at >= units_.size() || units_[at].parent == kFreeParent;
    });
  };
  uint32_t base = static_cast<uint32_t>(std::max<size_t>(units_.size(), lowest + 1) - lowest);  // at the end
  for (size_t tries = 0, i = gaps_.size(); i-- > 0 && tries < kMostTries; tries++) {
    const uint32_t gap = gaps_[i];
    if (units_[gap].parent != kFreeParent) {
      gaps_[i] = gaps_.back();
      gaps_.pop_back();
    } else if (gap > lowest && fits(gap - lowest)) {
      base = gap - lowest;
      break;
    }
  }
  const size_t before = units_.size(), needed = base + size_t{children.back().first} + 1;
  if (needed > kMostUnits) fail(CLIP_EDGE_ERROR_UNSUPPORTED, "%s: the vocabulary is too large", where.c_str());
  if (needed <= before) return base;
  if (needed > units_.capacity()) units_.reserve(std::max(needed, 2 * units_.capacity()));
  units_.resize(needed);
  for (size_t at = std::max<size_t>(before, 1); at < needed; at++) gaps_.push_back(static_cast<uint32_t>(at));
  return base;
}

uint32_t Trie::walk(uint32_t node, std::string_view bytes) const {
  for (size_t i = 0; i < bytes.size() && node != kNowhere; i++) node = step(node, bytes[i]);
  return node;
}

int32_t Trie::find(std::string_view token) const {
  const uint32_t node = walk(kRoot, token);
  return node == kNowhere ? -1 : id(node);
}

}  // namespace clip_edge::core
