// The Huffman codes of baseline JPEG (ITU-T T.81, annexes C and F), read quickly where most coefficients are skipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace clip_edge::core {

// Bits of compressed data, the most significant first. The data must be readable for kReadAhead bytes behind its end;
// what is read there is for the caller to find out: used() tells.
class BitReader {
 public:
  static constexpr size_t kReadAhead = 2048;  // more than six blocks take, each of at most 64 items of 31 bits
  static constexpr int kRefilled = 56;       // bits that refill() leaves at least

  BitReader(const uint8_t *start) : start_(start), next_(start) {}

  void refill() {
    uint64_t word;
    __builtin_memcpy(&word, next_, sizeof(word));
    bits_ |= __builtin_bswap64(word) >> count_;
    next_ += (63 - count_) >> 3;
    count_ |= kRefilled;
  }
  uint32_t peek(int bits) const { return static_cast<uint32_t>(bits_ >> (64 - bits)); }  // 1..32
  void skip(int bits) { bits_ <<= bits, count_ -= bits; }
  size_t used() const { return static_cast<size_t>(next_ - start_) * 8 - static_cast<size_t>(count_); }  // bits

 private:
  const uint8_t *start_, *next_;
  uint64_t bits_ = 0;
  int count_ = 0;
};

class HuffmanTable {
 public:
  static constexpr int kLookBits = 12;

  // `counts`: of the codes of 1..16 bits; `symbols`: in the order of their codes. False where these are no code.
  bool make(const uint8_t counts[16], const uint8_t *symbols, size_t symbol_count);
  bool ready() const { return !symbols_.empty(); }

  // A symbol, and the bits of the value behind it: as many as its lower half says.
  struct Item {
    int symbol;  // -1 where no code begins like this
    int size;    // bits of the value
    uint32_t value;
  };

  // The next symbol and its value, both skipped. 31 bits must be there.
  Item next(BitReader &reader) const {
    uint32_t entry = one_[reader.peek(kLookBits)];
    if (__builtin_expect(entry == 0, 0)) entry = find_long(reader.peek(16));
    if (entry == 0) return {-1, 0, 0};
    const int symbol = entry & 255, size = symbol & 15, both = static_cast<int>(entry >> 8);
    const uint32_t bits = reader.peek(both);
    reader.skip(both);  // in one step: the next code waits for nothing else
    return {symbol, size, bits & ((1U << size) - 1)};
  }

  // Skips the coefficients from position `k` on up to the end of their block, several at a time; kSteps * kLookBits
  // bits must be there. False where the data is no block.
  bool skip_block(BitReader &reader, int k) const {
    for (;;) {
      for (int i = 0; i < kSteps; i++) {
        const uint32_t step = many_[reader.peek(kLookBits)];
        const int bits = step & 15, reached = k + static_cast<int>(step >> 4 & 63);
        const bool end = (step & kEndOfBlock) != 0;
        if (bits == 0 || reached + (end ? 1 : 0) > kCoefficients) break;  // one by one, below
        reader.skip(bits);
        if (end || reached == kCoefficients) return true;
        k = reached;
      }
      reader.refill();
      const Item item = next(reader);
      if (item.symbol == kEnd) return true;
      if (item.symbol < 0 || (item.size == 0 && item.symbol != kZeroRun)) return false;
      k += (item.symbol >> 4) + 1;
      if (k >= kCoefficients) return k == kCoefficients;
      reader.refill();
    }
  }

  static constexpr int kCoefficients = 64, kEnd = 0x00, kZeroRun = 0xF0, kSteps = 2;

 private:
  static constexpr uint32_t kEndOfBlock = 1U << 15;

  uint32_t find_long(uint32_t bits) const;  // as in one_; 0: none
  void make_steps();

  std::vector<uint8_t> symbols_;
  int32_t last_[17] = {};    // the greatest code of each length, and -1 where there is none
  int32_t offset_[17] = {};  // what is added to a code to find its symbol
  uint16_t one_[1 << kLookBits] = {};   // bits of code and value << 8 | symbol; 0: a longer code, or none
  uint16_t many_[1 << kLookBits] = {};  // several coefficients: bits | positions << 4 | kEndOfBlock; 0: not even one
};

}  // namespace clip_edge::core
