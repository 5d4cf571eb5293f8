// What all kernels share: element types, and comparisons. NVRTC compiles it and the files of kernels as one program,
// without headers; emulation.cpp compiles them as C++, and defines the few words that lacks.
#ifndef OCTRAIN_EMULATION
#define LAUNCHED_WITH(threads) __launch_bounds__(threads)
#define THREE_BLOCKS __launch_bounds__(THREADS, 3)  // of a multiprocessor at least: enough loads are under way
static __device__ float half_to_float(unsigned short x) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x));
  return f;
}
static __device__ unsigned short float_to_half(float f) {
  unsigned short x;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x) : "f"(f));
  return x;
}
// What one instruction does from compute capability 8.0 on.
#if __CUDA_ARCH__ >= 800
#define PAIRS_AT_ONCE
static __device__ unsigned int floats_to_halves(float low, float high) {
  unsigned int pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
static __device__ unsigned int floats_to_bf16s(float low, float high) {
  unsigned int pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif
#else
#define LAUNCHED_WITH(threads)
#define THREE_BLOCKS
#endif

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#define ALL_LANES 0xffffffffu
#define THREADS 256  // of a block

struct F32 {
  typedef u32 Word;
  static __device__ float widen(Word x) { return __uint_as_float(x); }
  static __device__ Word narrow(float f) { return __float_as_uint(f); }
};

struct Bf16 {
  typedef u16 Word;
  static __device__ float widen(Word x) { return __uint_as_float((u32)x << 16); }
  static __device__ Word narrow(float f) {
    u32 u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (Word)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  static __device__ u32 narrow_pair(float low, float high) {
#ifdef PAIRS_AT_ONCE
    return floats_to_bf16s(low, high);
#else
    return (u32)narrow(low) | (u32)narrow(high) << 16;
#endif
  }
};

struct F16 {
  typedef u16 Word;
  static __device__ float widen(Word x) { return half_to_float(x); }
  static __device__ Word narrow(float f) { return float_to_half(f); }
  static __device__ u32 narrow_pair(float low, float high) {
#ifdef PAIRS_AT_ONCE
    return floats_to_halves(low, high);
#else
    return (u32)narrow(low) | (u32)narrow(high) << 16;
#endif
  }
};

// Comparisons written so that NaN stays NaN.
static __device__ float clamped(float q, float qmin, float qmax) {
  float c = q < qmin ? qmin : q;
  return c > qmax ? qmax : c;
}

static __device__ float guarded(float scale, float min_scale) { return scale < min_scale ? min_scale : scale; }

// The same in one instruction each, where there is one; a zero may come out with the other sign.
static __device__ float bounded(float f, float low, float high) {
#ifdef PAIRS_AT_ONCE
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(f), "f"(low));
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(c), "f"(high));
  return c;
#else
  return clamped(f, low, high);
#endif
}
