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
  float f[kBlock], v[kBlock];
  uint8_t inside[kBlock];
  K::widen(x, f, n);
  if (seen) observe_block(f, n, seen);
  quotients(f, v, n, scale);
  if (bits) {
    for (int64_t i = 0; i < n; ++i) {
      float q = rounded(v[i]);
      inside[i] = static_cast<uint8_t>((q >= qmin) & (q <= qmax));
      f[i] = clamped(q, qmin, qmax) * scale;
    }
    for (int64_t i = n; i % 8 != 0; ++i) inside[i] = 0;
    pack_bits(inside, bits, n);
  } else {
    for (int64_t i = 0; i < n; ++i) f[i] = clamped(rounded(v[i]), qmin, qmax) * scale;
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

template <typename K>
INLINE int64_t codes(const void* from, uint8_t* to, int64_t n, float scale, float qmin, float qmax, float zero) {
  auto* x = static_cast<const typename K::Word*>(from);
  int64_t others = 0;
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t count = n - at < kBlock ? n - at : kBlock;
    float f[kBlock], v[kBlock];
    int32_t bad = 0;
    K::widen(x + at, f, count);
    quotients(f, v, count, scale);
    for (int64_t i = 0; i < count; ++i) {
      float q = clamped(rounded(v[i]), qmin, qmax);
      bad += q != q;
      to[at + i] = byte_of(q == q ? q : 0.0f, zero);
    }
    others += bad;
  }
  return others;
}

template <typename K>
INLINE float weight(const float* w, void* to, int8_t* codes, float* row, int64_t n, int64_t taps, float qmin, float qmax,
                    float min_scale) {
  auto* y = static_cast<typename K::Word*>(to);
  // As bits magnitudes are ordered as they are, NaN above all.
  int32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t m = static_cast<int32_t>(bits_of(w[i]) & 0x7fffffffu);
    most = m > most ? m : most;
  }
  float scale = float_of(static_cast<uint32_t>(most)) / qmax;
  scale = scale < min_scale ? min_scale : scale;
  quotients(w, row, n, scale);
  for (int64_t i = 0; i < n; ++i) row[i] = clamped(rounded(row[i]), qmin, qmax);
  if (codes) {
    for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<int8_t>(byte_of(row[i] == row[i] ? row[i] : 0.0f, 0.0f));
  }
  for (int64_t i = 0; i < n; ++i) row[i] *= scale;
  const int64_t channels = n / taps;
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int64_t at = 0; at < channels; at += kBlock) {
      const int64_t count = channels - at < kBlock ? channels - at : kBlock;
      float f[kBlock];
      for (int64_t i = 0; i < count; ++i) f[i] = row[(at + i) * taps + tap];
      K::narrow(f, y + tap * channels + at, count);
    }
  }
  return scale;
}

#define FOR_TYPE(K)                                                                                             \
  void quantize_##K(const void* x, void* y, uint8_t* b, int64_t n, float s, float lo, float hi, OctrainSeen* o) { \
    quantize<K>(x, y, b, n, s, lo, hi, o);                                                                      \
  }                                                                                                             \
  void observe_##K(const void* x, int64_t n, OctrainSeen* o) { observe<K>(x, n, o); }                           \
  void mask_##K(const void* dy, void* dx, const uint8_t* b, int64_t n) { mask<K>(dy, dx, b, n); }                 \
  void learned_##K(const void* x, const void* dy, void* dx, int64_t n, float s, float lo, float hi, double* d) { \
    learned<K>(x, dy, dx, n, s, lo, hi, d);                                                                     \
  }                                                                                                             \
  int64_t codes_##K(const void* x, uint8_t* c, int64_t n, float s, float lo, float hi, float zero) {            \
    return codes<K>(x, c, n, s, lo, hi, zero);                                                                  \
  }                                                                                                             \
  float weight_##K(const float* w, void* y, int8_t* c, float* row, int64_t n, int64_t taps, float lo, float hi, \
                   float least) {                                                                               \
    return weight<K>(w, y, c, row, n, taps, lo, hi, least);                                                     \
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
    {codes_F32, codes_Bf16, codes_F16},
    {weight_F32, weight_Bf16, weight_F16},
};
