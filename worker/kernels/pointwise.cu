// The chains of native/pointwise.h on GPUs: channels-last tensors of `n` elements, channels innermost, or of `rows` rows of
// `channels` elements; a thread takes eight at once (eight.cuh). Arithmetic is FP32 and rounded once, as the CPU's, but that a
// zero may have the other sign; sums go by pieces that depend on the shape alone, so that neither the device nor the grid
// changes a bit.
//
// Masks have bit k of byte b for element 8 b + k. `seen` = {absmax over finite values, count of the others} is raised in
// place.

// Numbers by channel for the eight elements from `at` on, in registers where rows are whole eights: a thread that stays with
// its channels reads them once. Elsewhere each is read when it is wanted; behind the last channel comes the first.
template <bool WIDE>
struct ByChannel {
  float held[WIDE ? PER_THREAD : 1];

  __device__ void read(const float* numbers, i64 at) {
    if (!WIDE) return;
    const float4 a = ((const float4*)(numbers + at))[0], b = ((const float4*)(numbers + at))[1];
    const float all[PER_THREAD] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) held[WIDE ? k : 0] = all[k];
  }
  __device__ float get(const float* numbers, i64 at, i64 channels, int k) const {
    return WIDE ? held[k] : numbers[(at + k) % channels];
  }
};

// What a thread has seen.
struct Seen {
  u32 largest, others;

  // The first `left` of eight.
  __device__ void look(const float* f, int left) {
    u32 most = 0;
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) {
      const u32 m = __float_as_uint(f[k]) & 0x7fffffffu;
      most = k < left && m > most ? m : most;
    }
    if (most < 0x7f800000u) {
      largest = most > largest ? most : largest;
      return;
    }
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) {
      const u32 m = __float_as_uint(f[k]) & 0x7fffffffu;
      if (m >= 0x7f800000u) others += k < left;
      else largest = k < left && m > largest ? m : largest;
    }
  }
};

// Raises `seen` by what the block's threads have seen. Bits of magnitudes are ordered as the magnitudes are.
static __device__ void raise(Seen mine, float* seen, u32* block) {
  if (threadIdx.x < 2) block[threadIdx.x] = 0;
  __syncthreads();
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const u32 other = __shfl_down_sync(ALL_LANES, mine.largest, lanes);
    mine.largest = other > mine.largest ? other : mine.largest;
    mine.others += __shfl_down_sync(ALL_LANES, mine.others, lanes);
  }
  if (threadIdx.x % 32 == 0) {
    atomicMax(&block[0], mine.largest);
    atomicAdd(&block[1], mine.others);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicMax((u32*)seen, block[0]);
    if (block[1]) atomicAdd(&seen[1], (float)block[1]);
  }
  __syncthreads();
}

// round_half_even(v / scale) of eight. The product with the inverse is off by less than 1e-3 where codes can lie, so only near
// a half a division is needed. Where it lies far beyond all codes, the result does, too.
static __device__ void codes(const float* v, float scale, float inverse, float* q) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: a sum with it has no fraction
  bool near = false;
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) {
    const float r = __fmul_rn(v[k], inverse);
    q[k] = copysignf(__fsub_rn(__fadd_rn(r, magic), magic), r);
    near = near || fabsf(__fsub_rn(r, q[k])) > 0.499f;
  }
  if (!near) return;
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) q[k] = rintf(__fdiv_rn(v[k], scale));
}

struct Stages {
  int cuts, strict, quantizes, unclipped;
  float low, high, qmin, qmax, min_scale;
};

template <typename K, bool WIDE>
static __device__ void apply(const typename K::Word* x, const float* gain, const float* bias,
                             const typename K::Word* residual, typename K::Word* y, unsigned char* bits, float* normed,
                             float* last, const float* scales, i64 n, i64 channels, const Stages& o, u32* block) {
  const i64 threads = (i64)gridDim.x * blockDim.x;
  i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * PER_THREAD;
  i64 channel = i % channels, held = -1;
  const i64 stride = threads * PER_THREAD % channels;
  // Nothing lies beyond a bound that is infinite, infinity neither.
  const bool high_cuts = o.high < __uint_as_float(0x7f800000u);
  const float scale = o.quantizes ? guarded(scales[0], o.min_scale) : 1.0f, inverse = __fdiv_rn(1.0f, scale);
  ByChannel<WIDE> a, b;
  Seen first = {0, 0}, second = {0, 0};
  for (; i < n; i += threads * PER_THREAD) {
    const int left = WIDE || n - i > PER_THREAD ? PER_THREAD : (int)(n - i);
    const Eight<K> from = load<K, WIDE>(x + i, left);
    Eight<K> added, made;
    if (residual) added = load<K, WIDE>(residual + i, left);
    if (gain && channel != held) {
      a.read(gain, channel);
      b.read(bias, channel);
      held = channel;
    }
    float v[PER_THREAD];
    u32 passes = 0xff;
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) v[k] = K::widen(from.get(k));
    if (gain) {
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) {
        v[k] = __fadd_rn(__fmul_rn(v[k], a.get(gain, channel, channels, k)), b.get(bias, channel, channels, k));
      }
    }
    if (normed) first.look(v, left);
    if (residual) {
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) v[k] = __fadd_rn(v[k], K::widen(added.get(k)));
    }
    if (o.cuts) {
      u32 beyond = 0;
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) {
        beyond |= (u32)(o.strict ? v[k] <= o.low : v[k] < o.low) << k;
        v[k] = v[k] < o.low ? o.low : v[k];
      }
      if (high_cuts) {
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
          beyond |= (u32)(o.strict ? v[k] >= o.high : v[k] > o.high) << k;
          v[k] = v[k] > o.high ? o.high : v[k];
        }
      }
      passes &= ~beyond;
    }
    if (last) second.look(v, left);
    if (o.quantizes) {
      float q[PER_THREAD];
      codes(v, scale, inverse, q);
      u32 within = 0;
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) {
        const float c = bounded(q[k], o.qmin, o.qmax);
        within |= (u32)(c == q[k]) << k;
        v[k] = __fmul_rn(c, scale);
      }
      if (!o.unclipped) passes &= within;
    }
    made.narrow(v);
    store<K, WIDE>(y + i, left, made);
    if (bits) bits[i / PER_THREAD] = (unsigned char)passes;
    channel += stride;
    channel = channel >= channels ? channel - channels : channel;
  }
  if (normed) raise(first, normed, block);
  if (last) raise(second, last, block);
}

// The gradients behind a mask, two added up where there are two: zeros where none passes.
template <typename K, bool WIDE>
static __device__ Eight<K> masked(const typename K::Word* dy, const typename K::Word* other, const unsigned char* bits,
                                  i64 i, int left) {
  Eight<K> e = load<K, WIDE>(dy + i, left);
  if (other) {
    const Eight<K> more = load<K, WIDE>(other + i, left);
    float f[PER_THREAD];
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) f[k] = __fadd_rn(K::widen(e.get(k)), K::widen(more.get(k)));
    e.narrow(f);
  }
  if (bits) {
    // A row that is no whole eights begins anywhere in a byte.
    u32 keep = bits[i / PER_THREAD];
    if (!WIDE && i % PER_THREAD) {
      keep >>= i % PER_THREAD;
      if (left > PER_THREAD - i % PER_THREAD) keep |= (u32)bits[i / PER_THREAD + 1] << (PER_THREAD - i % PER_THREAD);
    }
    e.keep(keep);
  }
  return e;
}

// Which rows and channels a block sums up: `tiles` of `width` eights of channels, `chunks` of `chunk` rows. A piece is a
// chunk of a tile.
struct Pieces {
  i64 rows, channels, tiles, width, chunks, chunk;
};

// Two sums a channel of a piece, from those of each thread, rows in order, to partial[chunk][sum][channel].
static __device__ void fold(const Pieces& p, i64 tile, i64 chunk, const float* s, const float* q, float* all,
                            float* partial) {
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) {
    all[k * THREADS + threadIdx.x] = s[k];
    all[(PER_THREAD + k) * THREADS + threadIdx.x] = q[k];
  }
  __syncthreads();
  const int width = (int)p.width, lanes = THREADS / width;
  for (int o = threadIdx.x; o < 2 * PER_THREAD * width; o += THREADS) {
    const int k = o / width, group = o % width;
    const i64 channel = (tile * width + group) * PER_THREAD + k % PER_THREAD;
    if (channel >= p.channels) continue;
    float sum = 0.0f;
    for (int lane = 0; lane < lanes; ++lane) sum = __fadd_rn(sum, all[k * THREADS + lane * width + group]);
    partial[(chunk * 2 + k / PER_THREAD) * p.channels + channel] = sum;
  }
  __syncthreads();
}

// Sums of x - shift and of its squares; `shift` is a mean of four rows, so that little is lost where the mean is far from 0.
template <typename K, bool WIDE>
static __device__ void statistics(const typename K::Word* x, float* shift, float* partial, const Pieces& p, float* all) {
  const int group = threadIdx.x % p.width, lane = threadIdx.x / p.width, lanes = THREADS / p.width;
  for (i64 piece = blockIdx.x; piece < p.tiles * p.chunks; piece += gridDim.x) {
    const i64 tile = piece % p.tiles, chunk = piece / p.tiles, channel = (tile * p.width + group) * PER_THREAD;
    const int left = p.channels - channel > PER_THREAD ? PER_THREAD : (int)(p.channels - channel);
    float s[PER_THREAD] = {}, q[PER_THREAD] = {}, middle[PER_THREAD] = {};
    if (left > 0 && lane < lanes) {
      for (int quarter = 0; quarter < 4; ++quarter) {
        const Eight<K> e = load<K, WIDE>(x + p.rows * quarter / 4 * p.channels + channel, left);
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) middle[k] = __fadd_rn(middle[k], __fmul_rn(0.25f, K::widen(e.get(k))));
      }
      if (chunk == 0 && lane == 0) {
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
          if (k < left) shift[channel + k] = middle[k];
        }
      }
      const i64 end = (chunk + 1) * p.chunk < p.rows ? (chunk + 1) * p.chunk : p.rows;
#pragma unroll(sizeof(typename K::Word) == 2 ? 4 : 2)
      for (i64 row = chunk * p.chunk + lane; row < end; row += lanes) {
        const Eight<K> e = load<K, WIDE>(x + row * p.channels + channel, left);
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
          const float d = __fsub_rn(K::widen(e.get(k)), middle[k]);
          s[k] = __fadd_rn(s[k], d);
          q[k] = __fadd_rn(q[k], __fmul_rn(d, d));
        }
      }
    }
    fold(p, tile, chunk, s, q, all, partial);
  }
}

// Sums of dz and of dz (x - mean); dz and dz times gain to memory, where that is wanted. With TWO `other` is added to dy; as much
// is under way then of one row as else of two.
template <typename K, bool WIDE, bool TWO>
static __device__ void sums(const typename K::Word* dy, const typename K::Word* other, const unsigned char* bits, const typename K::Word* x,
                            const float* mean, const float* gain, typename K::Word* dz, typename K::Word* dx,
                            float* partial, const Pieces& p, float* all) {
  const int group = threadIdx.x % p.width, lane = threadIdx.x / p.width, lanes = THREADS / p.width;
  for (i64 piece = blockIdx.x; piece < p.tiles * p.chunks; piece += gridDim.x) {
    const i64 tile = piece % p.tiles, chunk = piece / p.tiles, channel = (tile * p.width + group) * PER_THREAD;
    const int left = p.channels - channel > PER_THREAD ? PER_THREAD : (int)(p.channels - channel);
    float s[PER_THREAD] = {}, q[PER_THREAD] = {};
    if (left > 0 && lane < lanes) {
      float m[PER_THREAD];
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) m[k] = k < left ? mean[channel + k] : 0.0f;
      const i64 end = (chunk + 1) * p.chunk < p.rows ? (chunk + 1) * p.chunk : p.rows;
#pragma unroll(sizeof(typename K::Word) == 2 && !TWO ? 2 : 1)
      for (i64 row = chunk * p.chunk + lane; row < end; row += lanes) {
        const i64 i = row * p.channels + channel;
        const Eight<K> v = load<K, WIDE>(x + i, left);
        const Eight<K> g = masked<K, WIDE>(dy, TWO ? other : nullptr, bits, i, left);
        if (dz) store<K, WIDE>(dz + i, left, g);
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
          const float f = K::widen(g.get(k));
          s[k] = __fadd_rn(s[k], f);
          q[k] = __fadd_rn(q[k], __fmul_rn(f, __fsub_rn(K::widen(v.get(k)), m[k])));
        }
        if (dx) {
          Eight<K> made;
          float f[PER_THREAD];
#pragma unroll
          for (int k = 0; k < PER_THREAD; ++k) f[k] = k < left ? __fmul_rn(K::widen(g.get(k)), gain[channel + k]) : 0.0f;
          made.narrow(f);
          store<K, WIDE>(dx + i, left, made);
        }
      }
    }
    fold(p, tile, chunk, s, q, all, partial);
  }
}

// dx = gain dz - (x - mean) slope - offset.
template <typename K, bool WIDE>
static __device__ void backward(const typename K::Word* dy, const unsigned char* bits, const typename K::Word* x,
                                const float* mean, const float* gain, const float* slope, const float* offset,
                                typename K::Word* dx, i64 n, i64 channels) {
  const i64 threads = (i64)gridDim.x * blockDim.x;
  i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * PER_THREAD;
  i64 channel = i % channels, held = -1;
  const i64 stride = threads * PER_THREAD % channels;
  ByChannel<WIDE> m, a, b, d;
  for (; i < n; i += threads * PER_THREAD) {
    const int left = WIDE || n - i > PER_THREAD ? PER_THREAD : (int)(n - i);
    const Eight<K> v = load<K, WIDE>(x + i, left), g = masked<K, WIDE>(dy, nullptr, bits, i, left);
    Eight<K> made;
    float all[PER_THREAD];
    if (channel != held) {
      m.read(mean, channel);
      a.read(gain, channel);
      b.read(slope, channel);
      d.read(offset, channel);
      held = channel;
    }
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) {
      const float f = __fmul_rn(K::widen(g.get(k)), a.get(gain, channel, channels, k));
      const float deviation = __fsub_rn(K::widen(v.get(k)), m.get(mean, channel, channels, k));
      const float sloped = __fmul_rn(deviation, b.get(slope, channel, channels, k));
      all[k] = __fsub_rn(__fsub_rn(f, sloped), d.get(offset, channel, channels, k));
    }
    made.narrow(all);
    store<K, WIDE>(dx + i, left, made);
    channel += stride;
    channel = channel >= channels ? channel - channels : channel;
  }
}

// A channel's two sums over all chunks, in FP64, in an order that the number of chunks decides; whole in the first 8 threads,
// one channel each. Threads 8 l + c take channel c and chunks l, l + 32, ...
static __device__ void total(const float* partial, i64 channel, i64 channels, i64 chunks, double* sum, double* other) {
  __shared__ double all[2 * THREADS];
  double s = 0.0, q = 0.0;
  if (channel < channels) {
#pragma unroll 4
    for (i64 chunk = threadIdx.x / 8; chunk < chunks; chunk += THREADS / 8) {
      s += (double)partial[chunk * 2 * channels + channel];
      q += (double)partial[(chunk * 2 + 1) * channels + channel];
    }
  }
  __syncthreads();  // the eight before are read
  all[threadIdx.x] = s;
  all[THREADS + threadIdx.x] = q;
  __syncthreads();
  *sum = *other = 0.0;
  if (threadIdx.x < 8) {
    for (int lane = 0; lane < THREADS / 8; ++lane) {
      *sum += all[lane * 8 + threadIdx.x];
      *other += all[THREADS + lane * 8 + threadIdx.x];
    }
  }
}

// Mean and 1 / sqrt(biased variance + eps) of each channel, gain and bias of the normalisation; mean and unbiased variance
// are told. Blocks take 8 channels each.
extern "C" __global__ void LAUNCHED_WITH(THREADS)
    chain_statistics_end(const float* partial, const float* shift, const float* gamma, const float* beta, float* mean,
                         float* inverse, float* gain, float* bias, float* told_mean, float* told_var, i64 rows,
                         i64 channels, i64 chunks, float eps) {
  for (i64 eight = blockIdx.x; eight * 8 < channels; eight += gridDim.x) {
    const i64 c = eight * 8 + threadIdx.x % 8;
    double sum, other;
    total(partial, c, channels, chunks, &sum, &other);
    if (threadIdx.x >= 8 || c >= channels) continue;
    const double n = (double)rows, d = sum / n;
    const double squares = other - sum * d < 0.0 ? 0.0 : other - sum * d;
    // What is not finite anywhere is no number here: it must not become a plausible one.
    const double nan = other - other;
    const float m = (float)((double)shift[c] + d), r = (float)(1.0 / sqrt(squares / n + (double)eps) + nan);
    mean[c] = told_mean[c] = m;
    told_var[c] = (float)(squares / (n - 1.0) + nan);
    inverse[c] = r;
    gain[c] = __fmul_rn(gamma[c], r);
    bias[c] = __fsub_rn(beta[c], __fmul_rn(m, gain[c]));
  }
}

// Inverse, gain and bias of given statistics; a thread takes a channel.
extern "C" __global__ void LAUNCHED_WITH(THREADS)
    chain_running(const float* mean, const float* var, const float* gamma, const float* beta, float* inverse, float* gain,
                  float* bias, i64 channels, float eps) {
  for (i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x; c < channels; c += (i64)gridDim.x * blockDim.x) {
    const float r = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(var[c], eps)));
    inverse[c] = r;
    gain[c] = __fmul_rn(gamma[c], r);
    bias[c] = __fsub_rn(beta[c], __fmul_rn(mean[c], gain[c]));
  }
}

// Gradients of gamma and beta, and slope and offset of `backward`. Blocks take 8 channels each.
extern "C" __global__ void LAUNCHED_WITH(THREADS)
    chain_sums_end(const float* partial, const float* gamma, const float* inverse, float* by_gamma, float* by_beta,
                   float* gain, float* slope, float* offset, i64 rows, i64 channels, i64 chunks) {
  for (i64 eight = blockIdx.x; eight * 8 < channels; eight += gridDim.x) {
    const i64 c = eight * 8 + threadIdx.x % 8;
    double sum, other;
    total(partial, c, channels, chunks, &sum, &other);
    if (threadIdx.x >= 8 || c >= channels) continue;
    const double n = (double)rows, r = (double)inverse[c], w = (double)gamma[c];
    by_beta[c] = (float)sum;
    by_gamma[c] = (float)(other * r);
    gain[c] = __fmul_rn(gamma[c], inverse[c]);
    slope[c] = (float)(w * r * r * r * other / n);
    offset[c] = (float)(w * r * sum / n);
  }
}

#define OF_TYPE(K, name)                                                                                              \
  extern "C" __global__ void THREE_BLOCKS chain_statistics_##name(                                          \
      const K::Word* __restrict__ x, float* __restrict__ shift, float* __restrict__ partial, int wide, i64 rows, i64 channels, i64 tiles, i64 width,         \
      i64 chunks, i64 chunk) {                                                                                        \
    __shared__ float all[2 * PER_THREAD * THREADS];                                                                   \
    const Pieces p = {rows, channels, tiles, width, chunks, chunk};                                                   \
    wide ? statistics<K, true>(x, shift, partial, p, all) : statistics<K, false>(x, shift, partial, p, all);          \
  }                                                                                                                   \
  extern "C" __global__ void THREE_BLOCKS chain_apply_##name(                                               \
      const K::Word* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ bias, const K::Word* __restrict__ residual, K::Word* __restrict__ y,                    \
      unsigned char* __restrict__ bits, float* __restrict__ normed, float* __restrict__ last, const float* __restrict__ scales, int wide, i64 n, i64 channels, int cuts,  \
      int strict, int quantizes, int unclipped, float low, float high, float qmin, float qmax, float min_scale) {     \
    __shared__ u32 block[2];                                                                                          \
    const Stages o = {cuts, strict, quantizes, unclipped, low, high, qmin, qmax, min_scale};                          \
    wide ? apply<K, true>(x, gain, bias, residual, y, bits, normed, last, scales, n, channels, o, block)              \
         : apply<K, false>(x, gain, bias, residual, y, bits, normed, last, scales, n, channels, o, block);            \
  }                                                                                                                   \
  extern "C" __global__ void THREE_BLOCKS chain_sums_##name(                                                \
      const K::Word* __restrict__ dy, const unsigned char* __restrict__ bits, const K::Word* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ gain,           \
      K::Word* __restrict__ dz, K::Word* __restrict__ dx, float* __restrict__ partial, int wide, i64 rows, i64 channels, i64 tiles, i64 width, i64 chunks,   \
      i64 chunk) {                                                                                                    \
    __shared__ float all[2 * PER_THREAD * THREADS];                                                                   \
    const Pieces p = {rows, channels, tiles, width, chunks, chunk};                                                   \
    wide ? sums<K, true, false>(dy, nullptr, bits, x, mean, gain, dz, dx, partial, p, all)                            \
         : sums<K, false, false>(dy, nullptr, bits, x, mean, gain, dz, dx, partial, p, all);                          \
  }                                                                                                                   \
  extern "C" __global__ void THREE_BLOCKS chain_sums_of_two_##name(                                         \
      const K::Word* __restrict__ dy, const K::Word* __restrict__ other, const unsigned char* __restrict__ bits, const K::Word* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ gain,           \
      K::Word* __restrict__ dz, K::Word* __restrict__ dx, float* __restrict__ partial, int wide, i64 rows, i64 channels, i64 tiles, i64 width, i64 chunks,   \
      i64 chunk) {                                                                                                    \
    __shared__ float all[2 * PER_THREAD * THREADS];                                                                   \
    const Pieces p = {rows, channels, tiles, width, chunks, chunk};                                                   \
    wide ? sums<K, true, true>(dy, other, bits, x, mean, gain, dz, dx, partial, p, all)                               \
         : sums<K, false, true>(dy, other, bits, x, mean, gain, dz, dx, partial, p, all);                             \
  }                                                                                                                   \
  extern "C" __global__ void THREE_BLOCKS chain_backward_##name(                                            \
      const K::Word* __restrict__ dy, const unsigned char* __restrict__ bits, const K::Word* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ gain,           \
      const float* __restrict__ slope, const float* __restrict__ offset, K::Word* __restrict__ dx, int wide, i64 n, i64 channels) {                          \
    wide ? backward<K, true>(dy, bits, x, mean, gain, slope, offset, dx, n, channels)                                 \
         : backward<K, false>(dy, bits, x, mean, gain, slope, offset, dx, n, channels);                               \
  }
OF_TYPE(F32, f32)
OF_TYPE(Bf16, bf16)
OF_TYPE(F16, f16)
