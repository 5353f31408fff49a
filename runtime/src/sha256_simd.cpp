#include "sha256_simd.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace clip_edge::core {

#if defined(__x86_64__)
namespace {

// Intel's instructions keep the state as (a, b, e, f) and (c, d, g, h), and do two rounds at a time.
__attribute__((target("sha,sse4.1"))) void blocks_sha_ni(uint32_t (&state)[8], const uint8_t *data, size_t count) {
  const __m128i turned = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);  // big-endian words
  auto *words = reinterpret_cast<__m128i *>(state);
  const __m128i dcba = _mm_shuffle_epi32(_mm_loadu_si128(words), 0xB1);      // c d a b
  const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128(words + 1), 0x1B);  // e f g h
  __m128i abef = _mm_alignr_epi8(dcba, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, dcba, 0xF0);
  for (; count > 0; count--, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; i++)
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(data) + i), turned);
    for (int group = 0; group < 16; group++) {
      __m128i &now = w[group % 4];
      const __m128i keys = _mm_loadu_si128(reinterpret_cast<const __m128i *>(kSha256Rounds) + group);
      __m128i input = _mm_add_epi32(now, keys);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, input);
      input = _mm_shuffle_epi32(input, 0x0E);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, input);
      if (group < 12) {  // the words of four groups later take the place of these
        const __m128i last = w[(group + 3) % 4], third = w[(group + 2) % 4];
        const __m128i sum =
            _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(group + 1) % 4]), _mm_alignr_epi8(last, third, 4));
        now = _mm_sha256msg2_epu32(sum, last);
      }
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(words, _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(words + 1, _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace

Sha256Blocks sha256_blocks_simd() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool has_sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & 1u << 29) != 0;
  const bool has_sse41 = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & 1u << 19) != 0;
  return has_sha && has_sse41 ? blocks_sha_ni : nullptr;
}

#elif defined(__aarch64__)
namespace {

#if defined(__clang__)
#define CLIP_EDGE_WITH_SHA2 __attribute__((target("sha2")))
#else
#define CLIP_EDGE_WITH_SHA2 __attribute__((target("+crypto")))
#endif

// Arm's instructions take the state as (a, b, c, d) and (e, f, g, h), and do four rounds at a time.
CLIP_EDGE_WITH_SHA2 void blocks_sha2(uint32_t (&state)[8], const uint8_t *data, size_t count) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; count > 0; count--, data += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t w[4];
    for (int i = 0; i < 4; i++) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
    for (int group = 0; group < 16; group++) {
      uint32x4_t &now = w[group % 4];
      const uint32x4_t input = vaddq_u32(now, vld1q_u32(kSha256Rounds + 4 * group)), abcd_now = abcd;
      abcd = vsha256hq_u32(abcd, efgh, input);
      efgh = vsha256h2q_u32(efgh, abcd_now, input);
      if (group < 12)  // the words of four groups later take the place of these
        now = vsha256su1q_u32(vsha256su0q_u32(now, w[(group + 1) % 4]), w[(group + 2) % 4], w[(group + 3) % 4]);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace

Sha256Blocks sha256_blocks_simd() {
#if defined(__APPLE__)
  return blocks_sha2;  // every 64-bit Apple processor has them
#elif defined(__linux__)
  constexpr unsigned long kSha2 = 1ul << 6;  // HWCAP_SHA2
  return (getauxval(AT_HWCAP) & kSha2) != 0 ? blocks_sha2 : nullptr;
#else
  return nullptr;
#endif
}

#else

Sha256Blocks sha256_blocks_simd() { return nullptr; }

#endif

}  // namespace clip_edge::core
