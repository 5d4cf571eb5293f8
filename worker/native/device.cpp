// Launching kernels, and what libtorch is told about devices.
#include "device.h"

#include <ATen/Context.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>

#include "octrain.h"

namespace {

std::atomic<OctrainLauncher> launcher{nullptr};

// The stream of a device on which tensors come to it, beside the one that computes.
c10::Stream upload_stream(const c10::impl::VirtualGuardImpl& gpu, c10::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, c10::Stream> streams;
  std::lock_guard<std::mutex> lock(mutex);
  auto known = streams.find(device.index());
  if (known == streams.end()) known = streams.emplace(device.index(), gpu.getStreamFromGlobalPool(device, false)).first;
  return known->second;
}

}  // namespace

// A tensor that is on its way to a GPU.
struct OctrainUpload {
  at::Tensor tensor;
  c10::Event arrived{c10::DeviceType::CUDA};
};

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

// The tensor in pinned memory, from which a GPU copies while the host goes on.
char* octrain_pinned(at::Tensor** out, const at::Tensor* t) {
  return octrain_guard([&] { *out = new at::Tensor(t->pin_memory()); });
}

// Begins to copy a tensor to a GPU while that computes; from pinned memory the host does not wait either.
char* octrain_upload(OctrainUpload** out, const at::Tensor* t, int32_t ordinal) {
  return octrain_guard([&] {
    const c10::Device device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(ordinal));
    const c10::impl::VirtualGuardImpl gpu(c10::DeviceType::CUDA);
    c10::DeviceGuard guard(device);
    const c10::Stream stream = upload_stream(gpu, device);
    auto upload = std::make_unique<OctrainUpload>();
    struct Turned {
      const c10::impl::VirtualGuardImpl& gpu;
      c10::Stream before;
      ~Turned() { gpu.exchangeStream(before); }
    } turned{gpu, gpu.exchangeStream(stream)};
    upload->tensor = at::empty_strided(t->sizes(), t->strides(), t->options().device(device).pinned_memory(false));
    upload->tensor.copy_(*t, /*non_blocking=*/true);
    upload->arrived.record(stream);
    *out = upload.release();
  });
}

// The tensor, for what this thread's stream does from now on: it waits until the tensor is there, the host does not.
char* octrain_arrived(at::Tensor** out, OctrainUpload* upload) {
  return octrain_guard([&] {
    const c10::impl::VirtualGuardImpl gpu(c10::DeviceType::CUDA);
    const c10::Stream stream = gpu.getStream(upload->tensor.device());
    upload->arrived.block(stream);
    // Its memory came from the other stream, and must not be given out there before this one is done with it.
    gpu.recordDataPtrOnStream(upload->tensor.storage().data_ptr(), stream);
    *out = new at::Tensor(upload->tensor);
  });
}

void octrain_forget_upload(OctrainUpload* upload) { delete upload; }
}
