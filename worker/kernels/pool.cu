// The maximum over windows of channels-last images, forward and backward. A thread takes eight channels at one place; `wide`
// is as in pointwise.cu, whose loads these are. `where` says for each result which place of its window, row by row, it is of:
// the first largest, as libtorch has it, or a NaN.

struct Windows {
  i64 images, height, width, channels, out_height, out_width, kernel, stride, padding;
};

// Which images, rows, columns and channels a thread's turn is about.
struct Place {
  i64 image, row, column, channel;
  int left;

  __device__ Place(i64 turn, i64 height, i64 width, i64 channels) {
    const i64 eights = (channels + PER_THREAD - 1) / PER_THREAD;
    channel = turn % eights * PER_THREAD;
    column = turn / eights % width;
    row = turn / (eights * width) % height;
    image = turn / (eights * width * height);
    left = channels - channel > PER_THREAD ? PER_THREAD : (int)(channels - channel);
  }
};

template <typename K, bool WIDE>
static __device__ void max_pool(const typename K::Word* x, typename K::Word* y, unsigned char* where, const Windows& w) {
  const i64 turns = w.images * w.out_height * w.out_width * ((w.channels + PER_THREAD - 1) / PER_THREAD);
  for (i64 turn = (i64)blockIdx.x * blockDim.x + threadIdx.x; turn < turns; turn += (i64)gridDim.x * blockDim.x) {
    const Place at(turn, w.out_height, w.out_width, w.channels);
    float most[PER_THREAD];
    int of[PER_THREAD];
    bool none = true;
    for (i64 tap = 0; tap < w.kernel * w.kernel; ++tap) {
      const i64 row = at.row * w.stride - w.padding + tap / w.kernel, column = at.column * w.stride - w.padding + tap % w.kernel;
      if (row < 0 || row >= w.height || column < 0 || column >= w.width) continue;
      const Eight<K> e = load<K, WIDE>(x + ((at.image * w.height + row) * w.width + column) * w.channels + at.channel, at.left);
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) {
        const float v = K::widen(e.get(k));
        const bool takes = none || v > most[k] || v != v;
        most[k] = takes ? v : most[k];
        of[k] = takes ? (int)tap : of[k];
      }
      none = false;
    }
    const i64 to = ((at.image * w.out_height + at.row) * w.out_width + at.column) * w.channels + at.channel;
    Eight<K> made;
    made.narrow(most);
    store<K, WIDE>(y + to, at.left, made);
    if (!where) continue;
    if (WIDE) {
      u64 all = 0;
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) all |= (u64)of[k] << (8 * k);
      *(u64*)(where + to) = all;
    } else {
#pragma unroll
      for (int k = 0; k < PER_THREAD; ++k) {
        if (k < at.left) where[to + k] = (unsigned char)of[k];
      }
    }
  }
}

// dx is the sum, in FP32, of the gradients of the results that are of this place.
template <typename K, bool WIDE>
static __device__ void max_pool_backward(const typename K::Word* dy, const unsigned char* where, typename K::Word* dx,
                                         const Windows& w) {
  const i64 turns = w.images * w.height * w.width * ((w.channels + PER_THREAD - 1) / PER_THREAD);
  for (i64 turn = (i64)blockIdx.x * blockDim.x + threadIdx.x; turn < turns; turn += (i64)gridDim.x * blockDim.x) {
    const Place at(turn, w.height, w.width, w.channels);
    float sum[PER_THREAD] = {};
    // The windows that this place lies in.
    const i64 row = at.row + w.padding, column = at.column + w.padding;
    const i64 top = row < w.kernel ? 0 : (row - w.kernel) / w.stride + 1;
    const i64 first = column < w.kernel ? 0 : (column - w.kernel) / w.stride + 1;
    for (i64 r = top; r <= row / w.stride && r < w.out_height; ++r) {
      for (i64 c = first; c <= column / w.stride && c < w.out_width; ++c) {
        const int tap = (int)((row - r * w.stride) * w.kernel + column - c * w.stride);
        const i64 from = ((at.image * w.out_height + r) * w.out_width + c) * w.channels + at.channel;
        const Eight<K> e = load<K, WIDE>(dy + from, at.left);
        u64 of = 0;
        if (WIDE) {
          of = *(const u64*)(where + from);
        } else {
          for (int k = 0; k < at.left; ++k) of |= (u64)where[from + k] << (8 * k);
        }
#pragma unroll
        for (int k = 0; k < PER_THREAD; ++k) {
          if ((int)(of >> (8 * k) & 0xff) == tap) sum[k] = __fadd_rn(sum[k], K::widen(e.get(k)));
        }
      }
    }
    Eight<K> made;
    made.narrow(sum);
    store<K, WIDE>(dx + ((at.image * w.height + at.row) * w.width + at.column) * w.channels + at.channel, at.left, made);
  }
}

#define POOL_OF_TYPE(K, name)                                                                                          \
  extern "C" __global__ void LAUNCHED_WITH(THREADS) max_pool_##name(                                                  \
      const K::Word* __restrict__ x, K::Word* __restrict__ y, unsigned char* __restrict__ where, int wide, i64 images, i64 height, i64 width, i64 channels,  \
      i64 out_height, i64 out_width, i64 kernel, i64 stride, i64 padding) {                                           \
    const Windows w = {images, height, width, channels, out_height, out_width, kernel, stride, padding};              \
    wide ? max_pool<K, true>(x, y, where, w) : max_pool<K, false>(x, y, where, w);                                    \
  }                                                                                                                   \
  extern "C" __global__ void LAUNCHED_WITH(THREADS) max_pool_backward_##name(                                         \
      const K::Word* __restrict__ dy, const unsigned char* __restrict__ where, K::Word* __restrict__ dx, int wide, i64 images, i64 height, i64 width,        \
      i64 channels, i64 out_height, i64 out_width, i64 kernel, i64 stride, i64 padding) {                             \
    const Windows w = {images, height, width, channels, out_height, out_width, kernel, stride, padding};              \
    wide ? max_pool_backward<K, true>(dy, where, dx, w) : max_pool_backward<K, false>(dy, where, dx, w);              \
  }
POOL_OF_TYPE(F32, f32)
POOL_OF_TYPE(Bf16, bf16)
POOL_OF_TYPE(F16, f16)
