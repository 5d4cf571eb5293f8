// The kernels on a CPU, for tests: as C++, the threads of a block as fibers that a scheduler resumes in
// turn, one block after another. A barrier, a shuffle or a ballot lets a fiber go on once all threads that it is for
// have come there; if they never do, that is an error, as it is a hang on a GPU. Nothing else is promised: memory is
// coherent here and kernels are slow.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

struct Dim {
  unsigned int x;
};
static Dim threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __shared__ static

namespace emulation {

constexpr int kStack = 64 << 10;
constexpr int kWarp = 32;

// Where a warp's, or a block's, threads wait for each other: who has come, and, once all have, who has yet to leave.
struct Meeting {
  int kind = 0;  // 0 nothing, else what the threads came for
  int come = 0, left = 0;
  uint64_t given[kWarp];
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};

static std::vector<Fiber> fibers;
static std::vector<Meeting> warps;
static Meeting block;
static ucontext_t scheduler;
static int current;
static bool moved;  // some fiber has got on since the scheduler last looked
static std::string error;
static void (*body)(void*);
static void* body_argument;

static void wait() { swapcontext(&fibers[current].context, &scheduler); }

static void fail(const char* what) {
  if (error.empty()) error = what;
  // Never resumed.
  for (;;) wait();
}

// Comes to a meeting of `size` threads and leaves it with everybody else's word still there.
static void meet(Meeting& m, int kind, int size, int slot, uint64_t word) {
  while (m.left > 0) wait();  // the one before is not over
  if (m.kind != 0 && m.kind != kind) fail("threads of a warp came to different calls");
  m.kind = kind;
  m.given[slot] = word;
  ++m.come;
  moved = true;
  if (m.come == size) {
    m.left = size;
    m.come = 0;
  }
  while (m.left == 0) wait();
}

static void leave(Meeting& m) {
  moved = true;
  if (--m.left == 0) m.kind = 0;
  // Nobody takes part in the next one before all have left this one.
}

static int warp_size(int warp) {
  const int rest = static_cast<int>(blockDim.x) - warp * kWarp;
  return rest < kWarp ? rest : kWarp;
}

// A call of the whole warp: every thread gives a word, `f` sees all of them.
template <typename F>
auto exchange(int kind, uint64_t word, const F& f) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  Meeting& m = warps[warp];
  meet(m, kind, warp_size(warp), lane, word);
  const auto result = f(m.given, lane, warp_size(warp));
  leave(m);
  return result;
}

static void run_body() {
  body(body_argument);
  fibers[current].done = true;
  moved = true;
  for (;;) wait();
}

static void resume(int thread) {
  current = thread;
  if (fibers[current].done) return;
  threadIdx.x = static_cast<unsigned int>(current);
  swapcontext(&scheduler, &fibers[current].context);
}

// Resumes every thread once. Order 0: in turn from the first on. Order 1: from the last on, each warp as far as it gets
// alone, so that a warp which no barrier holds back runs ahead of the others.
static void pass(int threads, int order) {
  if (order == 0) {
    for (int t = 0; t < threads && error.empty(); ++t) resume(t);
    return;
  }
  bool any = false;
  for (int end = threads; end > 0; end = (end - 1) / kWarp * kWarp) {
    do {
      moved = false;
      for (int t = end - 1; t >= (end - 1) / kWarp * kWarp && error.empty(); --t) resume(t);
      any |= moved;
    } while (moved && error.empty());
  }
  moved = any;
}

static bool alive() {
  for (const Fiber& fiber : fibers) {
    if (!fiber.done) return true;
  }
  return false;
}

// Runs `f` in every thread of every block; blocks from the first on in order 0, from the last on in order 1. Empty, or
// what went wrong.
template <typename F>
std::string launch(unsigned int blocks, unsigned int threads, int order, const F& f) {
  gridDim.x = blocks;
  blockDim.x = threads;
  error.clear();
  body = [](void* argument) { (*static_cast<const F*>(argument))(); };
  body_argument = const_cast<F*>(&f);
  for (unsigned int b = 0; b < blocks && error.empty(); ++b) {
    blockIdx.x = order ? blocks - 1 - b : b;
    fibers.resize(threads);
    warps.assign((threads + kWarp - 1) / kWarp, Meeting());
    block = Meeting();
    for (Fiber& fiber : fibers) {
      fiber.done = false;
      fiber.stack.resize(kStack);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, run_body, 0);
    }
    while (alive() && error.empty()) {
      moved = false;
      pass(static_cast<int>(threads), order);
      if (!moved && error.empty()) error = "threads wait for others that never come: a barrier in divergent code";
    }
  }
  return error;
}

}  // namespace emulation

static inline unsigned int __float_as_uint(float f) {
  unsigned int u;
  memcpy(&u, &f, 4);
  return u;
}
static inline float __uint_as_float(unsigned int u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float __ull2float_rn(unsigned long long u) { return static_cast<float>(u); }
static inline void __threadfence() {}

static inline void __syncthreads() {
  emulation::meet(emulation::block, 1, static_cast<int>(blockDim.x), 0, 0);
  emulation::leave(emulation::block);
}

template <typename T>
static T __shfl_down_sync(unsigned int, T value, int lanes) {
  uint64_t word = 0;
  memcpy(&word, &value, sizeof(T));
  return emulation::exchange(2, word, [&](const uint64_t* given, int lane, int size) {
    T other;
    memcpy(&other, &given[lane + lanes < size ? lane + lanes : lane], sizeof(T));
    return other;
  });
}

template <typename T>
static T __shfl_sync(unsigned int, T value, int from) {
  uint64_t word = 0;
  memcpy(&word, &value, sizeof(T));
  return emulation::exchange(3, word, [&](const uint64_t* given, int, int size) {
    T other;
    memcpy(&other, &given[from % size], sizeof(T));
    return other;
  });
}

static unsigned int __ballot_sync(unsigned int, bool mine) {
  return emulation::exchange(4, mine, [](const uint64_t* given, int, int size) {
    unsigned int all = 0;
    for (int lane = 0; lane < size; ++lane) all |= static_cast<unsigned int>(given[lane] != 0) << lane;
    return all;
  });
}

// Fibers change at barriers only, so plain code is atomic.
template <typename T>
static T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
template <typename T>
static T atomicMax(T* at, T value) {
  const T before = *at;
  if (value > before) *at = value;
  return before;
}

// The compiler's own conversions, rounded to nearest even; the kernels' CPU counterpart has others.
static inline float half_to_float(unsigned short h) {
  _Float16 x;
  memcpy(&x, &h, 2);
  return static_cast<float>(x);
}
static inline unsigned short float_to_half(float f) {
  const _Float16 x = static_cast<_Float16>(f);
  unsigned short h;
  memcpy(&h, &x, 2);
  return h;
}

struct uint4 {
  unsigned int x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};

#define OCTRAIN_EMULATION
#include "types.cuh"
// In this order.
#include "fake_quant.cu"
#include "eight.cuh"
#include "pointwise.cu"
#include "pool.cu"

// ---- for Rust

// Calls a kernel with arguments of its own types, in a thread.
template <typename... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}

template <typename... A>
static std::string run(void (*kernel)(A...), unsigned int blocks, unsigned int threads, int order, void** arguments) {
  return emulation::launch(blocks, threads, order, [&] { call(kernel, arguments, std::index_sequence_for<A...>()); });
}

extern "C" {

// Launches a kernel by its name; null, or what went wrong, which stays until the next launch.
const char* emulated(const char* name, unsigned int blocks, unsigned int threads, int order, void** arguments) {
  static std::string told;
  const std::string wanted(name);
  told = "there is no kernel " + wanted;
#define KERNEL(kernel) \
  if (wanted == #kernel) told = run(kernel, blocks, threads, order, arguments);
#define OF_TYPES(kernel) KERNEL(kernel##_f32) KERNEL(kernel##_bf16) KERNEL(kernel##_f16)
  OF_TYPES(quantize) OF_TYPES(mask) OF_TYPES(learn) OF_TYPES(weight) KERNEL(learn_sum)
  OF_TYPES(max_pool) OF_TYPES(max_pool_backward)
  OF_TYPES(chain_statistics) OF_TYPES(chain_apply) OF_TYPES(chain_sums) OF_TYPES(chain_sums_of_two)
  OF_TYPES(chain_backward)
  KERNEL(chain_statistics_end) KERNEL(chain_running) KERNEL(chain_sums_end)
  return told.empty() ? nullptr : told.c_str();
}

// A barrier that half of the threads never reach, to show that it is told.
const char* emulated_divergence(unsigned int threads) {
  static std::string told;
  told = emulation::launch(1, threads, 0, [&] {
    if (threadIdx.x % 2 == 0) __syncthreads();
  });
  return told.empty() ? nullptr : told.c_str();
}
}
