// The two passes with vector instructions. A 23-bit weight is split in high * 4096 + low, so that two exact 16-bit
// multiply-adds do the work of one slow 32-bit multiplication; the sums agree with the scalar code to the last bit
// because all arithmetic is modulo 2^32.
#include "resample.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace clip_edge::core {
namespace {

#if defined(__x86_64__)

constexpr int kBits = 22;

// Eight weights as 32-bit pairs (k0,k1) x 4 | (k2,k3) x 4: one pair for each of R, G, B and nothing.
__attribute__((target("avx2"))) inline __m256i spread(const int16_t *weights) {
  const __m256i four = _mm256_castsi128_si256(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(weights)));
  return _mm256_permutevar8x32_epi32(four, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

__attribute__((target("avx2"))) void horizontal_avx2(const uint8_t *row, const Taps &taps, uint8_t *out) {
  // 4 RGB pixels -> R0 R1 G0 G1 B0 B1 0 0 | R2 R3 G2 G3 B2 B3 0 0
  const __m128i pair_up = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1);
  const __m128i half = _mm_set1_epi32(1 << (kBits - 1));
  for (size_t i = 0; i < taps.first.size(); i++, out += 3) {
    const uint8_t *pixel = row + 3 * static_cast<size_t>(taps.first[i]);
    const size_t at = i * static_cast<size_t>(taps.longest);
    __m256i high = _mm256_setzero_si256(), low = high;
    for (int k = 0; k < taps.length[i]; k += 4, pixel += 12) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(pixel));
      const __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(bytes, pair_up));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(words, spread(&taps.high[at + k])));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(words, spread(&taps.low[at + k])));
    }
    const __m256i sums = _mm256_add_epi32(_mm256_slli_epi32(high, 12), low);
    const __m128i both = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    const __m128i pixels = _mm_srai_epi32(_mm_add_epi32(both, half), kBits);
    const __m128i words = _mm_packs_epi32(pixels, pixels);
    const uint32_t rgb = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
    out[0] = rgb & 255, out[1] = rgb >> 8 & 255, out[2] = rgb >> 16 & 255;
  }
}

__attribute__((target("avx2"))) void vertical_avx2(const uint8_t *rows, int length, const int32_t *weights, int bytes,
                                                   uint8_t *out) {
  int x = 0;
  for (; x + 8 <= bytes; x += 8) {
    __m256i sum = _mm256_set1_epi32(1 << (kBits - 1));
    for (int k = 0; k < length; k++) {
      const uint8_t *in = rows + static_cast<size_t>(k) * bytes + x;
      const __m256i pixels = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(in)));
      sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(pixels, _mm256_set1_epi32(weights[k])));
    }
    sum = _mm256_srai_epi32(sum, kBits);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(out + x), _mm_packus_epi16(words, words));
  }
  for (; x < bytes; x++) {
    int32_t sum = 1 << (kBits - 1);
    for (int k = 0; k < length; k++) sum += rows[static_cast<size_t>(k) * bytes + x] * weights[k];
    sum >>= kBits;
    out[x] = static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
  }
}

#elif defined(__aarch64__)

constexpr int kBits = 22;

void horizontal_neon(const uint8_t *row, const Taps &taps, uint8_t *out) {
  // 4 RGB pixels -> R0..R3 G0..G3 and B0..B3 0..0, each byte followed by a zero: 16-bit lanes
  const uint8x16_t red_green = {0, 255, 3, 255, 6, 255, 9, 255, 1, 255, 4, 255, 7, 255, 10, 255};
  const uint8x16_t blue_only = {2, 255, 5, 255, 8, 255, 11, 255, 255, 255, 255, 255, 255, 255, 255, 255};
  for (size_t i = 0; i < taps.first.size(); i++, out += 3) {
    const uint8_t *pixel = row + 3 * static_cast<size_t>(taps.first[i]);
    const size_t at = i * static_cast<size_t>(taps.longest);
    int32x4_t high[3], low[3];
    for (int c = 0; c < 3; c++) high[c] = low[c] = vdupq_n_s32(0);
    for (int k = 0; k < taps.length[i]; k += 4, pixel += 12) {
      const uint8x16_t bytes = vld1q_u8(pixel);
      const int16x8_t rg = vreinterpretq_s16_u8(vqtbl1q_u8(bytes, red_green));
      const int16x8_t b = vreinterpretq_s16_u8(vqtbl1q_u8(bytes, blue_only));
      const int16x4_t high_weights = vld1_s16(&taps.high[at + k]), low_weights = vld1_s16(&taps.low[at + k]);
      const int16x4_t channel[3] = {vget_low_s16(rg), vget_high_s16(rg), vget_low_s16(b)};
      for (int c = 0; c < 3; c++) {
        high[c] = vmlal_s16(high[c], channel[c], high_weights);
        low[c] = vmlal_s16(low[c], channel[c], low_weights);
      }
    }
    for (int c = 0; c < 3; c++) {
      const int32_t sum = vaddvq_s32(vaddq_s32(vshlq_n_s32(high[c], 12), low[c])) + (1 << (kBits - 1));
      const int32_t value = sum >> kBits;
      out[c] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
  }
}

void vertical_neon(const uint8_t *rows, int length, const int32_t *weights, int bytes, uint8_t *out) {
  int x = 0;
  for (; x + 8 <= bytes; x += 8) {
    int32x4_t left = vdupq_n_s32(1 << (kBits - 1)), right = left;
    for (int k = 0; k < length; k++) {
      const uint16x8_t words = vmovl_u8(vld1_u8(rows + static_cast<size_t>(k) * bytes + x));
      left = vmlaq_n_s32(left, vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))), weights[k]);
      right = vmlaq_n_s32(right, vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(words))), weights[k]);
    }
    const int16x8_t words = vcombine_s16(vqmovn_s32(vshrq_n_s32(left, kBits)), vqmovn_s32(vshrq_n_s32(right, kBits)));
    vst1_u8(out + x, vqmovun_s16(words));
  }
  for (; x < bytes; x++) {
    int32_t sum = 1 << (kBits - 1);
    for (int k = 0; k < length; k++) sum += rows[static_cast<size_t>(k) * bytes + x] * weights[k];
    sum >>= kBits;
    out[x] = static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
  }
}

#endif

}  // namespace

const Kernels &best_kernels() {
#if defined(__x86_64__)
  static constexpr Kernels avx2{"avx2", horizontal_avx2, vertical_avx2};
  return __builtin_cpu_supports("avx2") ? avx2 : scalar_kernels();
#elif defined(__aarch64__)
  static constexpr Kernels neon{"neon", horizontal_neon, vertical_neon};
  return neon;
#else
  return scalar_kernels();
#endif
}

}  // namespace clip_edge::core
