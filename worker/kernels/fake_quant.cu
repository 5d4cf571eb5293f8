// The fake-quant operator on GPUs: the arithmetic of native/loops.cpp, launched by native/fake_quant.cpp. Compiled
// by NVRTC without headers, with --fmad=false, --ftz=false and --prec-div=true; so division, product and rounding are
// IEEE's and results equal the CPU's.
//
// Memory is taken in its own order as `rows` rows of `inner` elements, one scale a row where there is more than one.
// A row's mask has ceil(inner / 32) words, bit k of word w for element 32 w + k.

#define WORDS 4  // of the mask that a warp takes in one turn: as many loads are under way at once

// The block's largest magnitude and count of values that are not finite into `scratch` = {count, largest | ticket};
// the last block to do so writes `seen`. Maxima and integer sums do not depend on the order.
static __device__ void report(u32 largest, u32 others, u64* scratch, float* seen) {
  __shared__ u32 block_largest;
  __shared__ u32 block_others;
  if (threadIdx.x == 0) block_largest = block_others = 0;
  __syncthreads();
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    u32 other = __shfl_down_sync(ALL_LANES, largest, lanes);
    largest = other > largest ? other : largest;
    others += __shfl_down_sync(ALL_LANES, others, lanes);
  }
  if (threadIdx.x % 32 == 0) {
    atomicMax(&block_largest, largest);
    atomicAdd(&block_others, others);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  u32* rest = (u32*)(scratch + 1);
  // Bits of magnitudes are ordered as the magnitudes are.
  atomicMax(&rest[0], block_largest);
  atomicAdd(&scratch[0], (u64)block_others);
  __threadfence();
  if (atomicAdd(&rest[1], 1u) == gridDim.x - 1) {
    __threadfence();
    seen[0] = __uint_as_float(atomicMax(&rest[0], 0u));
    seen[1] = __ull2float_rn(atomicAdd(&scratch[0], 0ull));
  }
}

// y (none: observe only), bits (none: keep nothing), seen (none: do not observe), in one pass over x.
template <typename K>
static __device__ void quantize(const typename K::Word* x, typename K::Word* y, u32* bits, const float* scales,
                                float* seen, u64* scratch, i64 rows, i64 inner, float qmin, float qmax,
                                float min_scale) {
  const u32 lane = threadIdx.x % 32;
  const i64 tiles = (inner + 32 * WORDS - 1) / (32 * WORDS), words = (inner + 31) / 32;
  const i64 warps = (i64)gridDim.x * (blockDim.x / 32);
  u32 largest = 0, others = 0;
  for (i64 tile = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; tile < rows * tiles; tile += warps) {
    const i64 row = rows == 1 ? 0 : tile / tiles, begin = (tile - row * tiles) * (32 * WORDS);
    const typename K::Word* from = x + row * inner;
    float f[WORDS];
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      const i64 i = begin + w * 32 + lane;
      f[w] = i < inner ? K::widen(from[i]) : 0.0f;
    }
    if (seen) {
#pragma unroll
      for (int w = 0; w < WORDS; ++w) {
        const u32 m = __float_as_uint(f[w]) & 0x7fffffffu;
        if (m < 0x7f800000u) {
          largest = m > largest ? m : largest;
        } else {
          ++others;
        }
      }
    }
    if (!y) continue;
    const float scale = guarded(scales[row], min_scale);
    u32 mine = 0;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      const i64 i = begin + w * 32 + lane;
      const float q = rintf(__fdiv_rn(f[w], scale));
      const u32 word = __ballot_sync(ALL_LANES, i < inner && q >= qmin && q <= qmax);
      if (lane == w) mine = word;
      if (i < inner) y[row * inner + i] = K::narrow(__fmul_rn(clamped(q, qmin, qmax), scale));
    }
    if (bits && lane < WORDS && begin / 32 + lane < words) bits[row * words + begin / 32 + lane] = mine;
  }
  if (seen) report(largest, others, scratch, seen);
}

// dx = dy where the bit is set, else 0. A warp takes the same pieces as in `quantize`: one lane reads each word of the
// mask, and there is one division a piece, not one an element.
template <typename Word>
static __device__ void mask(const Word* dy, Word* dx, const u32* bits, i64 rows, i64 inner) {
  const u32 lane = threadIdx.x % 32;
  const i64 tiles = (inner + 32 * WORDS - 1) / (32 * WORDS), words = (inner + 31) / 32;
  const i64 warps = (i64)gridDim.x * (blockDim.x / 32);
  for (i64 tile = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; tile < rows * tiles; tile += warps) {
    const i64 row = rows == 1 ? 0 : tile / tiles, begin = (tile - row * tiles) * (32 * WORDS);
    const u32 mine = lane < WORDS && begin / 32 + lane < words ? bits[row * words + begin / 32 + lane] : 0;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      const u32 word = __shfl_sync(ALL_LANES, mine, w);
      const i64 i = begin + w * 32 + lane;
      if (i < inner) dx[row * inner + i] = (word >> lane) & 1 ? dy[row * inner + i] : (Word)0;
    }
  }
}

// Sum over the block in an order that depends on the number of threads alone; valid in thread 0.
static __device__ double block_sum(double value) {
  __shared__ double sums[32];
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_down_sync(ALL_LANES, value, lanes);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (int w = 0; w < blockDim.x / 32; ++w) total += sums[w];
  }
  __syncthreads();
  return total;
}

// dx as `mask`; each piece of `chunk` elements of a row leaves its part of the scale's gradient in `partial`. Products
// are made in double precision, where they are exact.
template <typename K>
static __device__ void learn(const typename K::Word* x, const typename K::Word* dy, typename K::Word* dx,
                             const float* scales, double* partial, i64 rows, i64 inner, i64 chunk, float qmin,
                             float qmax, float min_scale) {
  const i64 pieces = (inner + chunk - 1) / chunk;
  for (i64 piece = blockIdx.x; piece < rows * pieces; piece += gridDim.x) {
    const i64 row = piece / pieces, begin = piece % pieces * chunk;
    const i64 end = begin + chunk < inner ? begin + chunk : inner;
    const float scale = guarded(scales[row], min_scale);
    double sum = 0.0;
    for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
      const i64 at = row * inner + i;
      const typename K::Word g = dy[at];
      const float v = __fdiv_rn(K::widen(x[at]), scale), q = rintf(v);
      const bool inside = q >= qmin && q <= qmax;
      dx[at] = inside ? g : (typename K::Word)0;
      // Not inside: the bound, or NaN.
      sum += (double)K::widen(g) * (double)(inside ? __fsub_rn(q, v) : clamped(q, qmin, qmax));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[piece] = sum;
  }
}

extern "C" __global__ void LAUNCHED_WITH(THREADS) learn_sum(const double* partial, float* scale_gradient, i64 rows, i64 pieces,
                                     float grad_scale) {
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < pieces; i += blockDim.x) sum += partial[row * pieces + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) scale_gradient[row] = (float)(sum * (double)grad_scale);
  }
}

// A layer's weight as a step uses it: row by row, each with the scale that its largest magnitude gives, and, with `taps` above
// 1, rows of [in, taps] as [taps, in]. A block takes a row.
template <typename K>
static __device__ void weight(const float* w, typename K::Word* y, i64 rows, i64 inner, i64 taps, float qmin, float qmax,
                              float min_scale) {
  __shared__ u32 largest;
  const i64 in = inner / taps;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    __syncthreads();
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    u32 mine = 0;
    // The bits of NaN are larger than all others'.
    for (i64 i = threadIdx.x; i < inner; i += blockDim.x) {
      const u32 m = __float_as_uint(w[row * inner + i]) & 0x7fffffffu;
      mine = m > mine ? m : mine;
    }
    atomicMax(&largest, mine);
    __syncthreads();
    const float scale = guarded(__fdiv_rn(__uint_as_float(largest), qmax), min_scale);
    for (i64 i = threadIdx.x; i < inner; i += blockDim.x) {
      const float q = rintf(__fdiv_rn(w[row * inner + i % in * taps + i / in], scale));
      y[row * inner + i] = K::narrow(__fmul_rn(clamped(q, qmin, qmax), scale));
    }
  }
}

#define FOR_TYPE(K, name)                                                                                          \
  extern "C" __global__ void LAUNCHED_WITH(THREADS) quantize_##name(const K::Word* x, K::Word* y, u32* bits, const float* scales, float* seen, \
                                             u64* scratch, i64 rows, i64 inner, float qmin, float qmax,              \
                                             float min_scale) {                                                      \
    quantize<K>(x, y, bits, scales, seen, scratch, rows, inner, qmin, qmax, min_scale);                               \
  }                                                                                                                  \
  extern "C" __global__ void LAUNCHED_WITH(THREADS) mask_##name(const K::Word* dy, K::Word* dx, const u32* bits, i64 rows, i64 inner) {     \
    mask<K::Word>(dy, dx, bits, rows, inner);                                                                        \
  }                                                                                                                  \
  extern "C" __global__ void LAUNCHED_WITH(THREADS) learn_##name(const K::Word* x, const K::Word* dy, K::Word* dx, const float* scales,      \
                                          double* partial, i64 rows, i64 inner, i64 chunk, float qmin, float qmax,   \
                                          float min_scale) {                                                         \
    learn<K>(x, dy, dx, scales, partial, rows, inner, chunk, qmin, qmax, min_scale);                                  \
  }                                                                                                                  \
  extern "C" __global__ void LAUNCHED_WITH(THREADS) weight_##name(const float* w, K::Word* y, i64 rows, i64 inner, i64 taps, float qmin,     \
                                           float qmax, float min_scale) {                                            \
    weight<K>(w, y, rows, inner, taps, qmin, qmax, min_scale);                                                       \
  }
FOR_TYPE(F32, f32)
FOR_TYPE(Bf16, bf16)
FOR_TYPE(F16, f16)
