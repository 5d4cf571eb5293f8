// The gradient of a depthwise convolution by its input, channels-last, on the CPU: its numbers, for Rust
// (worker/src/native/depthwise.rs has the same struct), and its inner loop, compiled once for each instruction set from
// depthwise_loops.cpp.
#pragma once
#include <stdint.h>

// Pairs are of height and width.
struct OctrainDepthwise {
  int64_t channels;
  int64_t size[2], out[2];
  int64_t kernel[2], stride[2], padding[2], dilation[2];
};

struct OctrainDepthwiseLoops {
  // Row `row` of one image's dx [height, width, channels], from all of its dy [out height, out width, channels] and
  // `weight`, FP32 [kernel height, kernel width, channels].
  void (*row[3])(const OctrainDepthwise* d, const void* dy, const float* weight, int64_t row, void* dx);
};

extern const OctrainDepthwiseLoops octrain_depthwise_portable;
#if defined(__x86_64__)
extern const OctrainDepthwiseLoops octrain_depthwise_avx2;
extern const OctrainDepthwiseLoops octrain_depthwise_avx512;
#endif
