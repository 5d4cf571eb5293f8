// The inner loops of the fake-quant operator on CPUs, compiled once for each instruction set from loops.cpp.
//
// No library header stands here or in loops.cpp: an inline function compiled for AVX-512 there must never be
// the copy that the linker keeps for the rest of the program.
#pragma once
#include <stdint.h>

enum OctrainKind { kOctrainF32 = 0, kOctrainBf16 = 1, kOctrainF16 = 2 };

// What an observer sees: the largest magnitude of the finite values as FP32 bits, and how many are not finite.
struct OctrainSeen {
  uint32_t largest;
  int64_t others;
};

// `x`, `y`, `dy`, `dx`: n elements of the kind that the index into the table names. `bits`: one bit an element
// from bit 0 on, whole bytes written, the spare bits 0. Codes are clamped to [qmin, qmax].
struct OctrainLoops {
  const char* name;
  // y = clamp(round_half_even(x / scale)) * scale; `bits` (not clamped) and `seen` (merged into) may be null.
  void (*quantize[3])(const void* x, void* y, uint8_t* bits, int64_t n, float scale, float qmin, float qmax,
                      OctrainSeen* seen);
  // The statistic alone.
  void (*observe[3])(const void* x, int64_t n, OctrainSeen* seen);
  // dx = dy where the bit is set, else 0.
  void (*mask[3])(const void* dy, void* dx, const uint8_t* bits, int64_t n);
  // dx as `mask`; adds sum(dy * (q - x / scale, or the bound that q was clamped to)) to `sum`, in an order that
  // depends on n alone.
  void (*learned[3])(const void* x, const void* dy, void* dx, int64_t n, float scale, float qmin, float qmax,
                     double* sum);
  // codes = clamp(round_half_even(x / scale)) + zero, and how many x are NaN, whose code is that of 0.
  int64_t (*codes[3])(const void* x, uint8_t* codes, int64_t n, float scale, float qmin, float qmax, float zero);
  // A row of a weight, n FP32 numbers: its scale (NaN where one of them is), its codes in the order of w (may be null), and y =
  // code * scale, in the order of w if taps is 1, else tap by tap (w has the taps innermost). `row`: room for n numbers.
  float (*weight[3])(const float* w, void* y, int8_t* codes, float* row, int64_t n, int64_t taps, float qmin, float qmax,
                     float min_scale);
};

extern const OctrainLoops octrain_loops_portable;
#if defined(__x86_64__)
extern const OctrainLoops octrain_loops_avx2;
extern const OctrainLoops octrain_loops_avx512;
#endif
