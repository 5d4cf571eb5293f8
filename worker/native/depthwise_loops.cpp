// See depthwise.h; as in loops.cpp every variant gives the same bits.
#include "depthwise.h"

#include "loop_types.h"

namespace {

// Channels whose sums stay in registers.
constexpr int64_t kChannels = 64;

// sum += dy * weight of n channels; n is a constant where all of them are there.
template <typename K>
INLINE void add(const typename K::Word* dy, const float* __restrict w, float* __restrict sum, int64_t n) {
  float f[kChannels];
  K::widen(dy, f, n);
  for (int64_t i = 0; i < n; ++i) sum[i] += f[i] * w[i];
}

// The output that tap `k` made of input `i`, or -1.
INLINE int64_t output_of(const OctrainDepthwise& d, int side, int64_t i, int64_t k) {
  const int64_t from = i + d.padding[side] - k * d.dilation[side];
  if (from < 0 || from % d.stride[side] != 0) return -1;
  const int64_t o = from / d.stride[side];
  return o < d.out[side] ? o : -1;
}

template <typename K>
INLINE void row(const OctrainDepthwise& d, const void* gradient, const float* weight, int64_t y, void* to) {
  using Word = typename K::Word;
  auto* dy = static_cast<const Word*>(gradient);
  auto* dx = static_cast<Word*>(to);
  for (int64_t x = 0; x < d.size[1]; ++x) {
    for (int64_t c = 0; c < d.channels; c += kChannels) {
      const int64_t n = d.channels - c < kChannels ? d.channels - c : kChannels;
      float sum[kChannels] = {};
      for (int64_t i = 0; i < d.kernel[0]; ++i) {
        const int64_t oy = output_of(d, 0, y, i);
        for (int64_t j = 0; oy >= 0 && j < d.kernel[1]; ++j) {
          const int64_t ox = output_of(d, 1, x, j);
          if (ox < 0) continue;
          const Word* from = dy + (oy * d.out[1] + ox) * d.channels + c;
          const float* w = weight + (i * d.kernel[1] + j) * d.channels + c;
          if (n == kChannels) {
            add<K>(from, w, sum, kChannels);
          } else {
            add<K>(from, w, sum, n);
          }
        }
      }
      K::narrow(sum, dx + x * d.channels + c, n);
    }
  }
}

#define FOR_TYPE(K)                                                                                              \
  void row_##K(const OctrainDepthwise* d, const void* dy, const float* weight, int64_t y, void* dx) {            \
    row<K>(*d, dy, weight, y, dx);                                                                               \
  }
FOR_TYPE(F32)
FOR_TYPE(Bf16)
FOR_TYPE(F16)

}  // namespace

extern const OctrainDepthwiseLoops CONCAT(octrain_depthwise_, OCTRAIN_ISA) = {{row_F32, row_Bf16, row_F16}};
