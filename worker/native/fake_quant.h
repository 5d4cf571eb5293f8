// The interface of the fake-quant operator: to Rust, and to the CUDA kernels that Rust compiles and launches.
// worker/src/native/ has the same structs.
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

enum OctrainKernel : int32_t {
  kOctrainQuantize = 0,  // x -> y (or null: observe only), bits or null, seen or null
  kOctrainMask = 1,      // dy, bits -> y
  kOctrainLearn = 2,     // x, dy -> y, partial, scale_gradient
};

// One launch on a GPU. Pointers are the device's; a row has `inner` elements and `row_words` words of the mask.
struct OctrainLaunch {
  int32_t kernel, kind, device, per_channel;
  void* stream;
  const void* x;
  const void* dy;
  void* y;
  uint32_t* bits;
  const float* scales;
  float* seen;         // [absmax over finite values, count of the others]
  uint64_t* scratch;   // 2 zeros, for `seen`
  double* partial;     // [rows * ceil(inner / chunk)]
  float* scale_gradient;
  int64_t rows, inner, row_words, chunk;
  float qmin, qmax, min_scale, grad_scale;
};

// Launches; null, or a message from malloc.
typedef char* (*OctrainLauncher)(const OctrainLaunch*);
