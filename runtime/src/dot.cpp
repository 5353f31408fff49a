#include "dot.h"

#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace clip_edge::core {
namespace {

// IEEE 754 binary16, widened.
float widened(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float sign = half & 0x8000 ? -1.0F : 1.0F;
  if (exponent == 31) return mantissa == 0 ? sign * HUGE_VALF : std::nanf("");
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

// How one stored value becomes a float.
struct Float32 {
  static constexpr size_t kBytes = 4;
  static float one(const uint8_t *at) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
};
struct Float16 {
  static constexpr size_t kBytes = 2;
  static float one(const uint8_t *at) {
    uint16_t value;
    std::memcpy(&value, at, sizeof(value));
    return widened(value);
  }
};
struct Int8 {
  static constexpr size_t kBytes = 1;
  static float one(const uint8_t *at) { return static_cast<float>(static_cast<int8_t>(*at)); }
};

template <class Type>
float tail(const uint8_t *row, size_t from, size_t dim, const float *query) {
  float sum = 0;
  for (size_t i = from; i < dim; i++) sum += Type::one(row + i * Type::kBytes) * query[i];
  return sum;
}

template <class Type>
void dots_scalar(const uint8_t *rows, size_t count, size_t dim, const float *query, float *out) {
  for (size_t i = 0; i < count; i++, rows += dim * Type::kBytes) out[i] = tail<Type>(rows, 0, dim, query);
}

#if defined(__x86_64__)
#define CLIP_EDGE_AVX2 __attribute__((target("avx2,fma,f16c")))

CLIP_EDGE_AVX2 inline __m256 eight(const uint8_t *at, Float32) {
  return _mm256_loadu_ps(reinterpret_cast<const float *>(at));
}
CLIP_EDGE_AVX2 inline __m256 eight(const uint8_t *at, Float16) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at)));
}
CLIP_EDGE_AVX2 inline __m256 eight(const uint8_t *at, Int8) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(at))));
}

template <class Type>
CLIP_EDGE_AVX2 void dots_avx2(const uint8_t *rows, size_t count, size_t dim, const float *query, float *out) {
  const size_t whole = dim / 32 * 32;
  for (size_t i = 0; i < count; i++, rows += dim * Type::kBytes) {
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t at = 0; at < whole; at += 32)
      for (size_t lane = 0; lane < 4; lane++)
        sums[lane] = _mm256_fmadd_ps(eight(rows + (at + 8 * lane) * Type::kBytes, Type{}),
                                     _mm256_loadu_ps(query + at + 8 * lane), sums[lane]);
    const __m256 sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    four = _mm_hadd_ps(four, four);
    out[i] = _mm_cvtss_f32(_mm_hadd_ps(four, four)) + tail<Type>(rows, whole, dim, query);
  }
}

#elif defined(__aarch64__)

inline void sixteen(const uint8_t *at, float32x4_t *to, Float32) {
  for (int i = 0; i < 4; i++) to[i] = vreinterpretq_f32_u8(vld1q_u8(at + 16 * i));
}
inline void sixteen(const uint8_t *at, float32x4_t *to, Float16) {
  for (int i = 0; i < 4; i++) to[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at + 8 * i)));
}
inline void sixteen(const uint8_t *at, float32x4_t *to, Int8) {
  const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(at));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  to[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), to[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)));
  to[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), to[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)));
}

template <class Type>
void dots_neon(const uint8_t *rows, size_t count, size_t dim, const float *query, float *out) {
  const size_t whole = dim / 16 * 16;
  for (size_t i = 0; i < count; i++, rows += dim * Type::kBytes) {
    float32x4_t sums[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (size_t at = 0; at < whole; at += 16) {
      float32x4_t values[4];
      sixteen(rows + at * Type::kBytes, values, Type{});
      for (size_t lane = 0; lane < 4; lane++)
        sums[lane] = vfmaq_f32(sums[lane], values[lane], vld1q_f32(query + at + 4 * lane));
    }
    out[i] = vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]))) +
             tail<Type>(rows, whole, dim, query);
  }
}

#endif

}  // namespace

const DotKernels &scalar_dots() {
  static constexpr DotKernels scalar{"scalar", dots_scalar<Float32>, dots_scalar<Float16>, dots_scalar<Int8>};
  return scalar;
}

const DotKernels &best_dots() {
#if defined(__x86_64__)
  static constexpr DotKernels avx2{"avx2", dots_avx2<Float32>, dots_avx2<Float16>, dots_avx2<Int8>};
  // F16C came before AVX2 and is in every processor that has it; older clang cannot ask for it.
  const bool able = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return able ? avx2 : scalar_dots();
#elif defined(__aarch64__)
  static constexpr DotKernels neon{"neon", dots_neon<Float32>, dots_neon<Float16>, dots_neon<Int8>};
  return neon;
#else
  return scalar_dots();
#endif
}

}  // namespace clip_edge::core
