// The interface of the fake-quant operator to Rust; worker/src/native/mod.rs has the same struct.
#pragma once
#include <stdint.h>

enum OctrainGradient : int32_t {
  kOctrainClipped = 0,    // dx = dy where the code was not clamped
  kOctrainUnclipped = 1,  // dx = dy
  kOctrainLearned = 2,    // dx as clipped, and the gradient of the scale
};

struct OctrainFakeQuant {
  int64_t qmin, qmax;
  float min_scale;   // a scale below it counts as it
  float grad_scale;  // of a learned scale's gradient
  int32_t gradient;  // OctrainGradient
  int32_t per_channel;
};
