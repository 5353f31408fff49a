// Strings to ids, found byte by byte: a double array of twelve bytes a node.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace clip_edge::core {

class Trie {
 public:
  static constexpr uint32_t kRoot = 0, kNowhere = UINT32_MAX;
  static constexpr size_t kLongestToken = 512;  // bytes; it bounds the work at each position of a hostile text

  // Of equal strings the last counts; the empty string is never found. Throws Error: a string or the whole is too
  // large.
  void build(std::vector<std::pair<std::string_view, int32_t>> tokens, const std::string &where);

  uint32_t step(uint32_t node, char byte) const {
    const uint32_t child = units_[node].base + static_cast<uint8_t>(byte);
    return child < units_.size() && units_[child].parent == node ? child : kNowhere;
  }
  uint32_t walk(uint32_t node, std::string_view bytes) const;
  int32_t id(uint32_t node) const { return units_[node].id; }  // -1: no token ends here
  int32_t find(std::string_view token) const;                  // -1: none

 private:
  struct Unit {
    uint32_t base = 0;              // the child for byte b is at base + b
    uint32_t parent = kFreeParent;  // kFreeParent: nothing is here
    int32_t id = -1;
  };
  struct Task {
    uint32_t node;
    size_t first, last, depth;  // tokens that begin with the same `depth` bytes
  };
  static constexpr uint32_t kFreeParent = UINT32_MAX - 1;

  uint32_t place(const std::vector<std::pair<uint8_t, size_t>> &children, const std::string &where);

  std::vector<Unit> units_ = std::vector<Unit>(1);
  std::vector<uint32_t> gaps_;  // free places that may take a node's children; only while building
};

}  // namespace clip_edge::core
