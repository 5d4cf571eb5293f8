// Chains of what is done to each element of a channels-last tensor, as one operator:
//
//   z = (x - mean) / sqrt(var + eps) * gamma + beta;  s = z + residual;  a = min(max(s, low), high);  y = fake-quant(a)
//
// each part but one of them may be missing. Here are its options, for Rust (worker/src/native/pointwise.rs has the same
// structs), and its inner loops, compiled once for each instruction set from pointwise_loops.cpp.
#pragma once
#include <stdint.h>

#include "loops.h"

enum OctrainStatistics : int32_t {
  kOctrainNoNorm = 0,  // z = x
  kOctrainRunning = 1,  // mean and var are given
  kOctrainBatch = 2,  // they are those of x, biased; what is written down is unbiased
};

struct OctrainPointwise {
  int32_t statistics;  // OctrainStatistics
  float eps;
  int32_t cuts;  // whether there is an activation
  float low, high;
  int32_t strict;  // its gradient is 0 at the bounds too; that of NaN passes, as in libtorch
  int32_t quantizes;
  int32_t unclipped;  // of the quantizer: the gradient passes where it clamps
  int64_t qmin, qmax;
  float min_scale;
  float zero;  // the code of 0 among the codes that are wanted besides
  int32_t emulated;  // the kernels of GPUs run it on the CPU: tests have a launcher that does so
};

// The options as the inner loop wants them.
struct OctrainStages {
  int32_t cuts, strict, quantizes, unclipped;
  float low, high, scale, qmin, qmax, zero;
};

// Elements that a loop's arrays of channels go on for beyond the last channel, from the first one on again.
#define OCTRAIN_PATTERN 256

// Elements in the order of memory, channels innermost; `at` is the channel of the first. Arrays of channels ("patterns")
// hold channel i % channels at i, for i < channels + OCTRAIN_PATTERN.
struct OctrainChannels {
  int64_t n, at, channels;
};

struct OctrainPointwiseLoops {
  // sum += x - shift, square += (x - shift)^2, both patterns of sums.
  void (*statistics[3])(OctrainChannels c, const void* x, const float* shift, float* sum, float* square);
  // y from x. `gain` and `bias`: patterns, or null where nothing is normalised; `residual`, `bits` (what passes the gradient),
  // `normed` and `last` (what observers see behind the normalisation and before the quantizer), and `codes` (of the quantizer): may
  // be null. Returns how many codes are of NaN, which has that of 0.
  int64_t (*forward[3])(OctrainChannels c, const void* x, const float* gain, const float* bias, const void* residual, void* y,
                        uint8_t* bits, uint8_t* codes, const OctrainStages* stages, OctrainSeen* normed, OctrainSeen* last);
  // dz = dy + other, rounded to their type (dy, if `other` is null), where its bit is set (everywhere, if `bits` is null), to `dz`
  // and times `gain` to `dx` where they are not null; sum += dz, product += dz * (x - mean).
  void (*sums[3])(OctrainChannels c, const void* dy, const void* other, const uint8_t* bits, const void* x,
                  const float* mean, void* dz, void* dx, const float* gain, float* sum, float* product);
  // dx = gain * dz - (x - mean) * slope - offset.
  void (*backward[3])(OctrainChannels c, const void* dy, const uint8_t* bits, const void* x, const float* mean,
                      const float* gain, const float* slope, const float* offset, void* dx);
};

extern const OctrainPointwiseLoops octrain_pointwise_portable;
#if defined(__x86_64__)
extern const OctrainPointwiseLoops octrain_pointwise_avx2;
extern const OctrainPointwiseLoops octrain_pointwise_avx512;
#endif
