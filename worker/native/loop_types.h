// What the inner loops of all operators on CPUs share: the types of tensors, rounding, observation. Included once by each file
// that build.rs compiles for every instruction set.
//
// No library header stands here or in those files: an inline function compiled for AVX-512 there must never be
// the copy that the linker keeps for the rest of the program.
#pragma once
#include <stdint.h>

#include "loops.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define NAME_(x) #x
#define NAME(x) NAME_(x)

namespace {

constexpr int64_t kBlock = 256;
constexpr uint32_t kInfinity = 0x7f800000u;

INLINE uint32_t bits_of(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}
INLINE float float_of(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

// Each type: its memory word, and blocks of n <= kBlock elements to and from FP32. NaN stays NaN.
struct F32 {
  using Word = uint32_t;
  INLINE void widen(const Word* x, float* f, int64_t n) {
    for (int64_t i = 0; i < n; ++i) f[i] = float_of(x[i]);
  }
  INLINE void narrow(const float* f, Word* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = bits_of(f[i]);
  }
};

struct Bf16 {
  using Word = uint16_t;
  INLINE void widen(const Word* x, float* f, int64_t n) {
    for (int64_t i = 0; i < n; ++i) f[i] = float_of(static_cast<uint32_t>(x[i]) << 16);
  }
  INLINE void narrow(const float* f, Word* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      uint32_t u = bits_of(f[i]);
      uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
      y[i] = static_cast<Word>((u & 0x7fffffffu) > kInfinity ? 0x7fc0u : rounded);
    }
  }
};

// IEEE half. The bit arithmetic gives what F16C's instructions give, subnormals and NaN payloads included.
INLINE float half_to_float(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, m = h & 0x7fffu;
  uint32_t normal = (m << 13) + (112u << 23);
  // A subnormal is m * 2^-24: put m into the mantissa of 2^-14 and take 2^-14 off, which is exact.
  uint32_t subnormal = bits_of(float_of((m << 13) + (113u << 23)) - float_of(113u << 23));
  uint32_t special = (m << 13) + (224u << 23);
  special |= m > 0x7c00u ? 0x400000u : 0u;
  uint32_t u = m < 0x400u ? subnormal : normal;
  return float_of((m >= 0x7c00u ? special : u) | sign);
}
INLINE uint16_t half_of_float(float f) {
  uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000u, m = u & 0x7fffffffu;
  uint32_t normal = (m + 0xfffu + ((m >> 13) & 1u) - (112u << 23)) >> 13;
  // The last place of 0.5 is 2^-24, half's smallest: the addition rounds to it.
  uint32_t subnormal = bits_of(float_of(m) + 0.5f) - bits_of(0.5f);
  uint32_t nan = 0x7e00u | ((m >> 13) & 0x3ffu);
  uint32_t h = m < 0x38800000u ? subnormal : normal;
  h = m >= 0x477ff000u ? 0x7c00u : h;  // 65520 and above
  return static_cast<uint16_t>((m > kInfinity ? nan : h) | sign);
}

struct F16 {
  using Word = uint16_t;
  INLINE void widen(const Word* x, float* f, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      _mm256_storeu_ps(f + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
    }
#endif
    for (; i < n; ++i) f[i] = half_to_float(x[i]);
  }
  INLINE void narrow(const float* f, Word* y, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(f + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), h);
    }
#endif
    for (; i < n; ++i) y[i] = half_of_float(f[i]);
  }
};

// Widening keeps order and finiteness, so all types are observed as FP32 bits.
INLINE void observe_block(const float* f, int64_t n, OctrainSeen* seen) {
  int32_t most = static_cast<int32_t>(seen->largest), bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t m = static_cast<int32_t>(bits_of(f[i]) & 0x7fffffffu);
    int32_t finite = (m - static_cast<int32_t>(kInfinity)) >> 31;  // all ones, or 0
    int32_t v = m & finite;
    most = v > most ? v : most;
    bad += finite + 1;
  }
  seen->largest = static_cast<uint32_t>(most);
  seen->others += bad;
}

// Half to even. Without the instruction: below 2^23 adding 2^23 leaves no fraction; above there is none.
INLINE float rounded(float v) {
#if defined(__SSE4_1__) || !defined(__x86_64__)
  return __builtin_rintf(v);
#else
  float big = float_of(0x4b000000u | (bits_of(v) & 0x80000000u));
  float r = float_of(bits_of((v + big) - big) | (bits_of(v) & 0x80000000u));
  return (bits_of(v) & 0x7fffffffu) < 0x4b000000u ? r : v;
#endif
}

// to = from / scale, as rounding to whole numbers within bounds sees it, to the last bit.
//
// A division of 16 numbers takes as long as a dozen multiplications of them. Where these come fused with additions, the quotient
// is x * (1 / scale), corrected twice by what is left of x, which is then the nearest number (P. Markstein, IBM J. Res. Dev. 34,
// 1990); below a quarter, where what is left may be too small for a number, and far beyond all bounds the first one rounds the same.
INLINE void quotients(const float* __restrict from, float* __restrict to, int64_t n, float scale) {
#if defined(__AVX512F__)
  if (scale > 0x1p-60f && scale < 0x1p60f) {
    const float inverse = 1.0f / scale;
    for (int64_t i = 0; i < n; ++i) {
      const float x = from[i], near = x * inverse;
      const float nearer = __builtin_fmaf(__builtin_fmaf(-near, scale, x), inverse, near);
      const float nearest = __builtin_fmaf(__builtin_fmaf(-nearer, scale, x), inverse, nearer);
      // Of 0.25 and 2^22 as bits, between which neither zeros nor numbers that are not finite lie.
      const uint32_t magnitude = bits_of(near) & 0x7fffffffu;
      to[i] = magnitude - 0x3e800000u < 0x4a800000u - 0x3e800000u ? nearest : near;
    }
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i) to[i] = from[i] / scale;
}

// Comparisons written so that NaN stays NaN.
INLINE float clamped(float q, float qmin, float qmax) {
  float c = q < qmin ? qmin : q;
  return c > qmax ? qmax : c;
}

// A code, clamped and not NaN, as a byte.
INLINE uint8_t byte_of(float q, float zero) { return static_cast<uint8_t>(static_cast<int32_t>(q + zero)); }

// One bit an element, from bytes of 0 or 1 that stand in whole eights.
INLINE void pack_bits(const uint8_t* bytes, uint8_t* bits, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    uint64_t eight;
    __builtin_memcpy(&eight, bytes + i, 8);
    bits[i / 8] = static_cast<uint8_t>((eight * 0x0102040810204080ull) >> 56);
  }
}

// Bytes that are 0 or not, from one bit an element.
INLINE void unpack_bits(const uint8_t* bits, uint8_t* bytes, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    uint64_t eight = (bits[i / 8] * 0x0101010101010101ull) & 0x8040201008040201ull;
    __builtin_memcpy(bytes + i, &eight, 8);
  }
}

}  // namespace
