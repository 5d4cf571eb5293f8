// See pointwise.h; as in loops.cpp every variant gives the same bits.
#include "pointwise.h"

#include "loop_types.h"

namespace {

static_assert(kBlock <= OCTRAIN_PATTERN, "a block may begin at any channel and goes on from there");

// Runs f(first element, its channel, count) for every block.
template <typename F>
INLINE void blocks(OctrainChannels c, const F& f) {
  int64_t channel = c.at;
  for (int64_t i = 0; i < c.n; i += kBlock) {
    f(i, channel, c.n - i < kBlock ? c.n - i : kBlock);
    channel = (channel + kBlock) % c.channels;
  }
}

template <typename K>
INLINE void statistics(OctrainChannels c, const void* from, const float* shift, float* sum, float* square) {
  auto* x = static_cast<const typename K::Word*>(from);
  blocks(c, [=](int64_t at, int64_t channel, int64_t n) __attribute__((always_inline)) {
    float f[kBlock];
    K::widen(x + at, f, n);
    const float* __restrict k = shift + channel;
    float* __restrict s = sum + channel;
    float* __restrict q = square + channel;
    for (int64_t i = 0; i < n; ++i) {
      float d = f[i] - k[i];
      s[i] += d;
      q[i] += d * d;
    }
  });
}

template <typename K>
INLINE int64_t forward(OctrainChannels c, const void* from, const float* gain, const float* bias, const void* residual,
                       void* to, uint8_t* bits, uint8_t* codes, const OctrainStages* stages, OctrainSeen* normed,
                       OctrainSeen* last) {
  using Word = typename K::Word;
  auto* x = static_cast<const Word*>(from);
  auto* r = static_cast<const Word*>(residual);
  auto* y = static_cast<Word*>(to);
  const OctrainStages o = *stages;
  // Nothing lies beyond a bound that is infinite, infinity neither.
  const float high = o.high == float_of(kInfinity) ? float_of(kInfinity | 1u) : o.high;
  int64_t others = 0;
  blocks(c, [=, &others](int64_t at, int64_t channel, int64_t n) __attribute__((always_inline)) {
    float f[kBlock], g[kBlock];
    uint8_t passes[kBlock];
    K::widen(x + at, f, n);
    if (gain) {
      const float* __restrict a = gain + channel;
      const float* __restrict b = bias + channel;
      for (int64_t i = 0; i < n; ++i) f[i] = f[i] * a[i] + b[i];
    }
    if (normed) observe_block(f, n, normed);
    if (r) {
      K::widen(r + at, g, n);
      for (int64_t i = 0; i < n; ++i) f[i] += g[i];
    }
    for (int64_t i = 0; i < kBlock; ++i) passes[i] = i < n;
    if (o.cuts) {
      if (bits && o.strict) {
        for (int64_t i = 0; i < n; ++i) passes[i] &= static_cast<uint8_t>(!(f[i] <= o.low) & !(f[i] >= high));
      } else if (bits) {
        for (int64_t i = 0; i < n; ++i) passes[i] &= static_cast<uint8_t>(!(f[i] < o.low) & !(f[i] > high));
      }
      for (int64_t i = 0; i < n; ++i) f[i] = clamped(f[i], o.low, o.high);
    }
    if (last) observe_block(f, n, last);
    if (o.quantizes) {
      quotients(f, g, n, o.scale);
      for (int64_t i = 0; i < n; ++i) g[i] = rounded(g[i]);
      if (bits && !o.unclipped) {
        for (int64_t i = 0; i < n; ++i) passes[i] &= static_cast<uint8_t>((g[i] >= o.qmin) & (g[i] <= o.qmax));
      }
      for (int64_t i = 0; i < n; ++i) g[i] = clamped(g[i], o.qmin, o.qmax);
      if (codes) {
        int32_t bad = 0;
        for (int64_t i = 0; i < n; ++i) {
          bad += g[i] != g[i];
          codes[at + i] = byte_of(g[i] == g[i] ? g[i] : 0.0f, o.zero);
        }
        others += bad;
      }
      for (int64_t i = 0; i < n; ++i) f[i] = g[i] * o.scale;
    }
    if (bits) pack_bits(passes, bits + at / 8, n);
    K::narrow(f, y + at, n);
  });
  return others;
}

// dz of a block: to memory as it came, with zeros where no gradient passes, and to f.
template <typename K>
INLINE void masked(const typename K::Word* dy, const typename K::Word* other, const uint8_t* bits,
                   typename K::Word* dz, float* f, int64_t n) {
  using Word = typename K::Word;
  Word added[kBlock];
  if (other) {
    float g[kBlock];
    K::widen(dy, f, n);
    K::widen(other, g, n);
    for (int64_t i = 0; i < n; ++i) f[i] += g[i];
    K::narrow(f, added, n);
    dy = added;
  }
  if (!bits) {
    if (dz) {
      for (int64_t i = 0; i < n; ++i) dz[i] = dy[i];
    }
    K::widen(dy, f, n);
    return;
  }
  uint8_t keep[kBlock];
  Word word[kBlock];
  unpack_bits(bits, keep, n);
  for (int64_t i = 0; i < n; ++i) word[i] = dy[i] & static_cast<Word>(-static_cast<Word>(keep[i] != 0));
  if (dz) {
    for (int64_t i = 0; i < n; ++i) dz[i] = word[i];
  }
  K::widen(word, f, n);
}

template <typename K>
INLINE void sums(OctrainChannels c, const void* gradient, const void* another, const uint8_t* bits, const void* from,
                 const float* mean, void* passed, void* to, const float* gain, float* sum, float* product) {
  using Word = typename K::Word;
  auto* dy = static_cast<const Word*>(gradient);
  auto* other = static_cast<const Word*>(another);
  auto* x = static_cast<const Word*>(from);
  auto* dz = static_cast<Word*>(passed);
  auto* dx = static_cast<Word*>(to);
  blocks(c, [=](int64_t at, int64_t channel, int64_t n) __attribute__((always_inline)) {
    float g[kBlock], f[kBlock];
    masked<K>(dy + at, other ? other + at : nullptr, bits ? bits + at / 8 : nullptr, dz ? dz + at : nullptr, g, n);
    K::widen(x + at, f, n);
    const float* __restrict m = mean + channel;
    float* __restrict s = sum + channel;
    float* __restrict p = product + channel;
    for (int64_t i = 0; i < n; ++i) {
      s[i] += g[i];
      p[i] += g[i] * (f[i] - m[i]);
    }
    if (dx) {
      const float* __restrict a = gain + channel;
      for (int64_t i = 0; i < n; ++i) g[i] *= a[i];
      K::narrow(g, dx + at, n);
    }
  });
}

template <typename K>
INLINE void backward(OctrainChannels c, const void* gradient, const uint8_t* bits, const void* from, const float* mean,
                     const float* gain, const float* slope, const float* offset, void* to) {
  using Word = typename K::Word;
  auto* dy = static_cast<const Word*>(gradient);
  auto* x = static_cast<const Word*>(from);
  auto* dx = static_cast<Word*>(to);
  blocks(c, [=](int64_t at, int64_t channel, int64_t n) __attribute__((always_inline)) {
    float g[kBlock], f[kBlock];
    masked<K>(dy + at, nullptr, bits ? bits + at / 8 : nullptr, nullptr, g, n);
    K::widen(x + at, f, n);
    const float* __restrict m = mean + channel;
    const float* __restrict a = gain + channel;
    const float* __restrict b = slope + channel;
    const float* __restrict d = offset + channel;
    for (int64_t i = 0; i < n; ++i) g[i] = g[i] * a[i] - (f[i] - m[i]) * b[i] - d[i];
    K::narrow(g, dx + at, n);
  });
}

#define FOR_TYPE(K)                                                                                                   \
  void statistics_##K(OctrainChannels c, const void* x, const float* k, float* s, float* q) {                         \
    statistics<K>(c, x, k, s, q);                                                                                     \
  }                                                                                                                   \
  int64_t forward_##K(OctrainChannels c, const void* x, const float* a, const float* b, const void* r, void* y,       \
                      uint8_t* m, uint8_t* q, const OctrainStages* o, OctrainSeen* n, OctrainSeen* l) {               \
    return forward<K>(c, x, a, b, r, y, m, q, o, n, l);                                                               \
  }                                                                                                                   \
  void sums_##K(OctrainChannels c, const void* dy, const void* o, const uint8_t* b, const void* x, const float* m,    \
                void* dz, void* dx, const float* a, float* s, float* p) {                                             \
    sums<K>(c, dy, o, b, x, m, dz, dx, a, s, p);                                                                      \
  }                                                                                                                   \
  void backward_##K(OctrainChannels c, const void* dy, const uint8_t* b, const void* x, const float* m,               \
                    const float* a, const float* s, const float* o, void* dx) {                                       \
    backward<K>(c, dy, b, x, m, a, s, o, dx);                                                                         \
  }
FOR_TYPE(F32)
FOR_TYPE(Bf16)
FOR_TYPE(F16)

}  // namespace

extern const OctrainPointwiseLoops CONCAT(octrain_pointwise_, OCTRAIN_ISA) = {
    {statistics_F32, statistics_Bf16, statistics_F16},
    {forward_F32, forward_Bf16, forward_F16},
    {sums_F32, sums_Bf16, sums_F16},
    {backward_F32, backward_Bf16, backward_F16},
};
