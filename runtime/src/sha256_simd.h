// SHA-256 with the instructions that processors have for it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clip_edge::core {

extern const uint32_t kSha256Rounds[64];

// Adds blocks of 64 bytes to the eight words of the state.
using Sha256Blocks = void (*)(uint32_t (&state)[8], const uint8_t *blocks, size_t count);

Sha256Blocks sha256_blocks_simd();  // null where this processor has no such instructions
void sha256_blocks_scalar(uint32_t (&state)[8], const uint8_t *blocks, size_t count);

}  // namespace clip_edge::core
