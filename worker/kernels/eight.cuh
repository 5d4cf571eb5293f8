// Eight elements at once, for the kernels behind this file: sixteen bytes of BF16 where `WIDE` says that rows are whole eights
// and addresses multiples of 16, else one by one.

#define PER_THREAD 8

// Eight elements as they lie in memory.
template <typename K, int bytes = sizeof(typename K::Word)>
struct Eight;

template <typename K>
struct Eight<K, 2> {
  u32 pairs[4];

  __device__ u16 get(int k) const { return (u16)(k % 2 ? pairs[k / 2] >> 16 : pairs[k / 2]); }
  __device__ void put(int k, u16 w) { pairs[k / 2] = k % 2 ? (pairs[k / 2] & 0xffffu) | (u32)w << 16 : w; }  // in order
  __device__ void narrow(const float* f) {
#pragma unroll
    for (int k = 0; k < 4; ++k) pairs[k] = K::narrow_pair(f[2 * k], f[2 * k + 1]);
  }
  __device__ void load(const u16* from) {
    const uint4 v = *(const uint4*)from;
    pairs[0] = v.x, pairs[1] = v.y, pairs[2] = v.z, pairs[3] = v.w;
  }
  __device__ void store(u16* to) const {
    uint4 v;
    v.x = pairs[0], v.y = pairs[1], v.z = pairs[2], v.w = pairs[3];
    *(uint4*)to = v;
  }
  // Zeros where a bit is not set.
  __device__ void keep(u32 bits) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      pairs[k] &= ((bits >> (2 * k)) & 1 ? 0xffffu : 0u) | ((bits >> (2 * k + 1)) & 1 ? 0xffff0000u : 0u);
    }
  }
};

template <typename K>
struct Eight<K, 4> {
  u32 w[8];

  __device__ u32 get(int k) const { return w[k]; }
  __device__ void put(int k, u32 word) { w[k] = word; }
  __device__ void narrow(const float* f) {
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = K::narrow(f[k]);
  }
  __device__ void load(const u32* from) {
    const uint4 a = ((const uint4*)from)[0], b = ((const uint4*)from)[1];
    w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w, w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
  }
  __device__ void store(u32* to) const {
    uint4 a, b;
    a.x = w[0], a.y = w[1], a.z = w[2], a.w = w[3], b.x = w[4], b.y = w[5], b.z = w[6], b.w = w[7];
    ((uint4*)to)[0] = a;
    ((uint4*)to)[1] = b;
  }
  __device__ void keep(u32 bits) {
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = (bits >> k) & 1 ? w[k] : 0u;
  }
};

// Eight elements, or the `left` that there are and zeros.
template <typename K, bool WIDE>
static __device__ Eight<K> load(const typename K::Word* from, int left) {
  Eight<K> e;
  if (WIDE) {
    e.load(from);
    return e;
  }
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) e.put(k, k < left ? from[k] : (typename K::Word)0);
  return e;
}

template <typename K, bool WIDE>
static __device__ void store(typename K::Word* to, int left, const Eight<K>& e) {
  if (WIDE) {
    e.store(to);
    return;
  }
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) {
    if (k < left) to[k] = e.get(k);
  }
}
