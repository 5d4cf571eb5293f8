// See loops.h. OCTRAIN_ISA names the table; build.rs compiles this file with the matching flags.
//
// Every variant does the same FP32 operations on the same elements and sums in the same order, without contraction,
// so their results are equal bit for bit. Work goes through blocks that stay in the nearest cache: a tensor is
// read once from memory and written once.
#include "loop_types.h"

namespace {

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
    pack_bits(inside, bits, n);
  } else {
    for (int64_t i = 0; i < n; ++i) f[i] = clamped(rounded(f[i] / scale), qmin, qmax) * scale;
  }
  K::narrow(f, y, n);
}

template <typename K>
INLINE void mask_block(const typename K::Word* dy, typename K::Word* dx, const uint8_t* bits, int64_t n) {
  uint8_t keep[kBlock];
  unpack_bits(bits, keep, n);
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

}  // namespace

extern const OctrainLoops CONCAT(octrain_loops_, OCTRAIN_ISA) = {
    NAME(OCTRAIN_ISA),
    {quantize_F32, quantize_Bf16, quantize_F16},
    {observe_F32, observe_Bf16, observe_F16},
    {mask_F32, mask_Bf16, mask_F16},
    {learned_F32, learned_Bf16, learned_F16},
};
