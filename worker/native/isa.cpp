// Which instruction set the loops of this process use: decided by the CPU, once, or forced by tests; and what oneDNN has for
// this CPU.
#include "isa.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <cstdint>

namespace {

enum Isa { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

bool has(int isa) {
  if (isa == kPortable) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  if (isa == kAvx2) return avx2;
  if (isa == kAvx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return false;
}

Isa best() { return has(kAvx512) ? kAvx512 : has(kAvx2) ? kAvx2 : kPortable; }

constexpr int kNotForced = -1;
std::atomic<int> forced{kNotForced};

int in_use() {
  static const Isa found = best();
  const int other = forced.load(std::memory_order_relaxed);
  return other == kNotForced ? found : other;
}

}  // namespace

#if defined(__x86_64__)
#define OCTRAIN_OF_ISA(table) \
  in_use() == kAvx512 ? table##_avx512 : in_use() == kAvx2 ? table##_avx2 : table##_portable
#else
#define OCTRAIN_OF_ISA(table) table##_portable
#endif

const OctrainLoops& octrain_loops() { return OCTRAIN_OF_ISA(octrain_loops); }
const OctrainDepthwiseLoops& octrain_depthwise_loops() { return OCTRAIN_OF_ISA(octrain_depthwise); }
const OctrainPointwiseLoops& octrain_pointwise_loops() { return OCTRAIN_OF_ISA(octrain_pointwise); }

extern "C" {

// For tests: 0 portable, 1 AVX2, 2 AVX-512, from now on in this process; anything else: the best there is. False,
// and nothing changed, where this CPU lacks it.
bool octrain_force_isa(int32_t isa) {
  if (isa < kPortable || isa > kAvx512) {
    forced.store(kNotForced);
    return true;
  }
  if (!has(isa)) return false;
  forced.store(isa);
  return true;
}

// Whether libtorch hands convolutions and matrix products of BF16 to oneDNN on this CPU (1), computes them by loops of its own (0),
// or cannot say (-1).
int32_t octrain_bf16_products() {
  static const int32_t has = [] {
    try {
      const auto asked = c10::Dispatcher::singleton().findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
      return asked ? int32_t{asked->typed<bool()>().call()} : -1;
    } catch (const std::exception&) {
      return -1;
    }
  }();
  return has;
}

// The instruction set of the loops in use.
const char* octrain_isa() {
  static const char* const names[] = {"portable", "avx2", "avx512"};
  return names[in_use()];
}
}
