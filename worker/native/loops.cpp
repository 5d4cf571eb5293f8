// See loops.h. OCTRAIN_ISA names the table; build.rs compiles this file with the matching flags.
//
// Every variant does the same FP32 operations on the same elements and sums in the same order, without contraction,
// so their results are equal bit for bit. Work goes through blocks that stay in the nearest cache: a tensor is
// read once from memory and written once.
#include "loops.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

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

// Comparisons written so that NaN stays NaN.
INLINE float clamped(float q, float qmin, float qmax) {
  float c = q < qmin ? qmin : q;
  return c > qmax ? qmax : c;
}

template <typename K>
INLINE void quantize_block(const void* from, void* to, uint8_t* bits, int64_t n, float scale, float qmin, float qmax,
                           OctrainSeen* seen) {
  auto* x = static_cast<const typename K::Word*>(from);
  auto* y = static_cast<typename K::Word*>(to);
  float f[kBlock];
  uint8_t inside[kBlock];
  K::widen(x, f, n);
  if (seen) observe_block(f, n, seen);
  if (bits) {
    for (int64_t i = 0; i < n; ++i) {
      float q = rounded(f[i] / scale);
      inside[i] = static_cast<uint8_t>((q >= qmin) & (q <= qmax));
      f[i] = clamped(q, qmin, qmax) * scale;
    }
    for (int64_t i = n; i % 8 != 0; ++i) inside[i] = 0;
    for (int64_t i = 0; i < n; i += 8) {
      uint64_t eight;
      __builtin_memcpy(&eight, inside + i, 8);
      bits[i / 8] = static_cast<uint8_t>((eight * 0x0102040810204080ull) >> 56);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) f[i] = clamped(rounded(f[i] / scale), qmin, qmax) * scale;
  }
  K::narrow(f, y, n);
}

template <typename K>
INLINE void mask_block(const typename K::Word* dy, typename K::Word* dx, const uint8_t* bits, int64_t n) {
  uint8_t keep[kBlock];
  for (int64_t i = 0; i < n; i += 8) {
    uint64_t eight = (bits[i / 8] * 0x0101010101010101ull) & 0x8040201008040201ull;
    __builtin_memcpy(keep + i, &eight, 8);
  }
  using Word = typename K::Word;
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] & static_cast<Word>(-static_cast<Word>(keep[i] != 0));
}

constexpr int kLanes = 16;

template <typename K>
INLINE void learned_block(const typename K::Word* x, const typename K::Word* dy, typename K::Word* dx, int64_t n,
                          float scale, float qmin, float qmax, double* lanes) {
  float f[kBlock], g[kBlock];
  uint32_t keep[kBlock];
  K::widen(x, f, n);
  K::widen(dy, g, n);
  for (int64_t i = 0; i < n; ++i) {
    float v = f[i] / scale, q = rounded(v);
    bool inside = (q >= qmin) & (q <= qmax);
    // Not inside: the bound, or NaN.
    f[i] = inside ? q - v : clamped(q, qmin, qmax);
    keep[i] = inside ? ~0u : 0u;
  }
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] & static_cast<typename K::Word>(keep[i]);
  for (int64_t i = n; i % kLanes != 0; ++i) f[i] = g[i] = 0.0f;
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += static_cast<double>(g[i + k]) * static_cast<double>(f[i + k]);
  }
}

template <typename K>
INLINE void quantize(const void* from, void* to, uint8_t* bits, int64_t n, float scale, float qmin, float qmax,
                     OctrainSeen* seen) {
  auto* x = static_cast<const typename K::Word*>(from);
  auto* y = static_cast<typename K::Word*>(to);
  for (int64_t i = 0; i < n; i += kBlock) {
    int64_t count = n - i < kBlock ? n - i : kBlock;
    quantize_block<K>(x + i, y + i, bits ? bits + i / 8 : nullptr, count, scale, qmin, qmax, seen);
  }
}

template <typename K>
INLINE void mask(const void* gradient, void* to, const uint8_t* bits, int64_t n) {
  using Word = typename K::Word;
  for (int64_t i = 0; i < n; i += kBlock) {
    int64_t count = n - i < kBlock ? n - i : kBlock;
    mask_block<K>(static_cast<const Word*>(gradient) + i, static_cast<Word*>(to) + i, bits + i / 8, count);
  }
}

template <typename K>
INLINE void observe(const void* from, int64_t n, OctrainSeen* seen) {
  auto* x = static_cast<const typename K::Word*>(from);
  for (int64_t i = 0; i < n; i += kBlock) {
    float f[kBlock];
    int64_t count = n - i < kBlock ? n - i : kBlock;
    K::widen(x + i, f, count);
    observe_block(f, count, seen);
  }
}

template <typename K>
INLINE void learned(const void* from, const void* gradient, void* to, int64_t n, float scale, float qmin, float qmax,
                    double* sum) {
  using Word = typename K::Word;
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < n; i += kBlock) {
    int64_t count = n - i < kBlock ? n - i : kBlock;
    learned_block<K>(static_cast<const Word*>(from) + i, static_cast<const Word*>(gradient) + i,
                     static_cast<Word*>(to) + i, count, scale, qmin, qmax, lanes);
  }
  double total = 0.0;
  for (int k = 0; k < kLanes; ++k) total += lanes[k];
  *sum += total;
}

#define FOR_TYPE(K)                                                                                             \
  void quantize_##K(const void* x, void* y, uint8_t* b, int64_t n, float s, float lo, float hi, OctrainSeen* o) { \
    quantize<K>(x, y, b, n, s, lo, hi, o);                                                                      \
  }                                                                                                             \
  void observe_##K(const void* x, int64_t n, OctrainSeen* o) { observe<K>(x, n, o); }                           \
  void mask_##K(const void* dy, void* dx, const uint8_t* b, int64_t n) { mask<K>(dy, dx, b, n); }                 \
  void learned_##K(const void* x, const void* dy, void* dx, int64_t n, float s, float lo, float hi, double* d) { \
    learned<K>(x, dy, dx, n, s, lo, hi, d);                                                                     \
  }
FOR_TYPE(F32)
FOR_TYPE(Bf16)
FOR_TYPE(F16)

#define NAME_(x) #x
#define NAME(x) NAME_(x)

}  // namespace

extern const OctrainLoops CONCAT(octrain_loops_, OCTRAIN_ISA) = {
    NAME(OCTRAIN_ISA),
    {quantize_F32, quantize_Bf16, quantize_F16},
    {observe_F32, observe_Bf16, observe_F16},
    {mask_F32, mask_Bf16, mask_F16},
    {learned_F32, learned_Bf16, learned_F16},
};
