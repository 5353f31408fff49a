#include "sha256.h"

#include <cstdint>
#include <cstring>

#include "sha256_simd.h"

namespace clip_edge::core {

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const uint32_t kSha256Rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

uint32_t turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

inline void add_round(uint32_t a, uint32_t b, uint32_t c, uint32_t &d, uint32_t e, uint32_t f, uint32_t g, uint32_t &h,
                      uint32_t input) {
  const uint32_t first = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + input;
  d += first;
  h = first + (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
}

void add_block(uint32_t (&state)[8], const uint8_t *block) {
  uint32_t w[64];
  for (int i = 0; i < 16; i++)
    w[i] = static_cast<uint32_t>(block[4 * i]) << 24 | static_cast<uint32_t>(block[4 * i + 1]) << 16 |
           static_cast<uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
  for (int i = 16; i < 64; i++) {
    const uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
    const uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  // The eight words stay where they are; their parts move round instead of them.
  uint32_t s[8];
  std::memcpy(s, state, sizeof(s));
  for (int i = 0; i < 64; i += 8) {
    add_round(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], kSha256Rounds[i] + w[i]);
    add_round(s[7], s[0], s[1], s[2], s[3], s[4], s[5], s[6], kSha256Rounds[i + 1] + w[i + 1]);
    add_round(s[6], s[7], s[0], s[1], s[2], s[3], s[4], s[5], kSha256Rounds[i + 2] + w[i + 2]);
    add_round(s[5], s[6], s[7], s[0], s[1], s[2], s[3], s[4], kSha256Rounds[i + 3] + w[i + 3]);
    add_round(s[4], s[5], s[6], s[7], s[0], s[1], s[2], s[3], kSha256Rounds[i + 4] + w[i + 4]);
    add_round(s[3], s[4], s[5], s[6], s[7], s[0], s[1], s[2], kSha256Rounds[i + 5] + w[i + 5]);
    add_round(s[2], s[3], s[4], s[5], s[6], s[7], s[0], s[1], kSha256Rounds[i + 6] + w[i + 6]);
    add_round(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[0], kSha256Rounds[i + 7] + w[i + 7]);
  }
  for (int i = 0; i < 8; i++) state[i] += s[i];
}

}  // namespace

void sha256_blocks_scalar(uint32_t (&state)[8], const uint8_t *blocks, size_t count) {
  for (; count > 0; count--, blocks += 64) add_block(state, blocks);
}

std::string sha256_hex(std::string_view bytes) {
  static const Sha256Blocks simd = sha256_blocks_simd();
  const Sha256Blocks add_blocks = simd != nullptr ? simd : sha256_blocks_scalar;
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto *data = reinterpret_cast<const uint8_t *>(bytes.data());
  const size_t left = bytes.size() % 64;
  add_blocks(state, data, bytes.size() / 64);
  data += bytes.size() - left;
  uint8_t tail[128] = {};
  if (left > 0) std::memcpy(tail, data, left);
  tail[left] = 0x80;
  const size_t total = left < 56 ? 64 : 128;
  const uint64_t bits = static_cast<uint64_t>(bytes.size()) * 8;
  for (size_t i = 0; i < 8; i++) tail[total - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  add_blocks(state, tail, total / 64);
  std::string hex;
  for (uint32_t word : state)
    for (int shift = 28; shift >= 0; shift -= 4) hex.push_back("0123456789abcdef"[word >> shift & 15]);
  return hex;
}

}  // namespace clip_edge::core
