// Launching kernels, and what libtorch is told about devices.
#include "device.h"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>

#include "octrain.h"

namespace {

std::atomic<OctrainLauncher> launcher{nullptr};

}  // namespace

void octrain_start(const at::Tensor& on, const char* kernel, int64_t blocks, void** arguments) {
  OctrainLauncher run = launcher.load();
  TORCH_CHECK(run, "a CUDA tensor reached an operator of Octrain before its kernels were registered; "
                   "native::load_cuda registers them");
  OctrainLaunch l{kernel, on.device().index(), nullptr, blocks, arguments};
  if (on.device().is_cuda()) {
    c10::impl::VirtualGuardImpl device(on.device().type());
    l.stream = device.getStreamNativeHandle(device.getStream(on.device()));
  }
  if (char* message = run(&l)) {
    std::string text(message);
    free(message);
    TORCH_CHECK(false, text);
  }
}

extern "C" {

// Who launches the kernels for CUDA tensors.
void octrain_register_cuda(OctrainLauncher run) { launcher.store(run); }

// Whether libtorch's CUDA part has registered itself; this needs no GPU.
bool octrain_has_cuda_guard() { return c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA); }

// Makes a GPU the calling thread's current one.
char* octrain_set_device(int32_t ordinal) {
  return octrain_guard([&] {
    const c10::Device device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(ordinal));
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(device);
  });
}

// Whether FP32 operands may be rounded to TF32, in convolutions and in products alike.
char* octrain_set_tf32(bool on) {
  return octrain_guard([&] {
    at::globalContext().setAllowTF32CuDNN(on);
    at::globalContext().setAllowTF32CuBLAS(on);
  });
}

char* octrain_tf32(bool* convolutions, bool* products) {
  return octrain_guard([&] {
    *convolutions = at::globalContext().allowTF32CuDNN();
    *products = at::globalContext().allowTF32CuBLAS();
  });
}

char* octrain_deterministic(bool on) {
  return octrain_guard([&] { at::globalContext().setDeterministicAlgorithms(on, false); });
}
}
