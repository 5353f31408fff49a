#include "huffman.h"

#include <algorithm>

namespace clip_edge::core {
namespace {

uint16_t entry_of(int length, uint8_t symbol) { return static_cast<uint16_t>((length + (symbol & 15)) << 8 | symbol); }

}  // namespace

bool HuffmanTable::make(const uint8_t counts[16], const uint8_t *symbols, size_t symbol_count) {
  symbols_.assign(symbols, symbols + symbol_count);
  std::fill(std::begin(one_), std::end(one_), uint16_t{0});
  int32_t code = 0;
  size_t index = 0;
  for (int length = 1; length <= 16; length++, code <<= 1) {
    offset_[length] = static_cast<int32_t>(index) - code;
    for (int i = 0; i < counts[length - 1]; i++, code++, index++) {
      if (code >= (1 << length) || index >= symbol_count) return symbols_.clear(), false;
      if (length > kLookBits) continue;
      const int rest = kLookBits - length;
      std::fill_n(&one_[code << rest], 1 << rest, entry_of(length, symbols[index]));
    }
    last_[length] = counts[length - 1] == 0 ? -1 : code - 1;
  }
  if (index != symbol_count || symbol_count == 0) return symbols_.clear(), false;
  make_steps();
  return true;
}

// As many coefficients as the bits of an index hold in whole, their values included.
void HuffmanTable::make_steps() {
  for (uint32_t index = 0; index < (1U << kLookBits); index++) {
    int bits = 0, positions = 0;
    bool end = false;
    while (!end && bits < kLookBits) {
      const uint16_t entry = one_[index << bits & ((1U << kLookBits) - 1)];
      const int symbol = entry & 255, size = symbol & 15, taken = entry >> 8;
      const int step = symbol == kEnd ? 0 : (symbol >> 4) + 1;
      const bool known = symbol == kEnd || symbol == kZeroRun || size > 0;
      if (entry == 0 || !known || bits + taken > kLookBits || positions + step >= kCoefficients) break;
      bits += taken, positions += step;
      end = symbol == kEnd;
    }
    many_[index] = static_cast<uint16_t>(bits | positions << 4 | (end ? kEndOfBlock : 0));
  }
}

uint32_t HuffmanTable::find_long(uint32_t bits) const {
  for (int length = kLookBits + 1; length <= 16; length++) {
    const auto code = static_cast<int32_t>(bits >> (16 - length));
    if (code > last_[length]) continue;
    const int32_t index = code + offset_[length];
    if (index < 0 || static_cast<size_t>(index) >= symbols_.size()) return 0;
    return entry_of(length, symbols_[static_cast<size_t>(index)]);
  }
  return 0;
}

}  // namespace clip_edge::core
