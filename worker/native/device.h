// Starting kernels on a GPU. Rust compiles them, from worker/kernels, and launches them: worker/src/native/cuda.rs, which
// has the same struct.
#pragma once
#include <ATen/ATen.h>

#include <string>

// One launch of a kernel. Pointers among its arguments are the device's.
struct OctrainLaunch {
  const char* kernel;
  int32_t device;
  void* stream;
  int64_t blocks;    // as many as there is work for; fewer are started where the device holds fewer at once
  void** arguments;  // addresses of values of the kernel's parameter types
};

// Launches; null, or a message from malloc.
typedef char* (*OctrainLauncher)(const OctrainLaunch*);

// Threads of a block.
constexpr int64_t kOctrainThreads = 256;

// Elements that a thread of the kernels behind eight.cuh takes at once.
constexpr int64_t kOctrainPerThread = 8;

// Whether those load all eight of channels-last images together.
inline bool octrain_wide(const at::Tensor& t) {
  return t.size(1) % kOctrainPerThread == 0 && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
}

inline int64_t octrain_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

void octrain_start(const at::Tensor& on, const char* kernel, int64_t blocks, void** arguments);

// Starts a kernel on the device of a tensor, on the stream that libtorch computes on; the arguments are of the kernel's own
// parameter types. To be called with that device current.
template <typename... A>
void octrain_launch(const at::Tensor& on, const std::string& kernel, int64_t blocks, A... a) {
  void* arguments[] = {static_cast<void*>(&a)...};
  octrain_start(on, kernel.c_str(), blocks, arguments);
}

// The name of a kernel for one of the loops' types (octrain_kind_of).
inline std::string octrain_kernel(const char* name, int kind) {
  static const char* const types[] = {"_f32", "_bf16", "_f16"};
  return std::string(name) + types[kind];
}
