// The maximum over windows of channels-last images on a GPU, as one autograd operator: kernels of ../kernels/pool.cu. Forward
// leaves one byte a result for backward, which is a sum in a fixed order.
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include "device.h"
#include "octrain.h"
#include "tensors.h"

namespace {

struct Windows {
  int64_t kernel, stride, padding;

  int64_t out(int64_t side) const { return (side + 2 * padding - kernel) / stride + 1; }
};

int64_t blocks(const at::Tensor& t) {
  const int64_t turns = t.size(0) * t.size(2) * t.size(3) * octrain_ceil(t.size(1), kOctrainPerThread);
  return octrain_ceil(turns, kOctrainThreads);
}

int pooled_kind(const at::Tensor& x) { return octrain_kind_of(x, "pooled"); }

struct MaxPool : public torch::autograd::Function<MaxPool> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& input, const Windows* windows,
                            bool differentiate) {
    const Windows w = *windows;
    const at::Tensor x = octrain_channels_last(input);
    c10::DeviceGuard guard(x.device());
    const auto options = x.options().memory_format(at::MemoryFormat::ChannelsLast);
    const std::vector<int64_t> size{x.size(0), x.size(1), w.out(x.size(2)), w.out(x.size(3))};
    at::Tensor y = at::empty(size, options), where;
    if (differentiate) where = at::empty(size, options.dtype(at::kByte));
    if (y.numel() > 0) {
      octrain_launch(x, octrain_kernel("max_pool", pooled_kind(x)), blocks(y), x.const_data_ptr(), y.mutable_data_ptr(),
                     where.defined() ? where.mutable_data_ptr() : nullptr, static_cast<int32_t>(octrain_wide(x) && octrain_wide(y)),
                     x.size(0), x.size(2), x.size(3), x.size(1), y.size(2), y.size(3), w.kernel, w.stride, w.padding);
    }
    if (differentiate) {
      ctx->save_for_backward({where});
      ctx->saved_data["size"] = x.sizes().vec();
      ctx->saved_data["windows"] = std::vector<int64_t>{w.kernel, w.stride, w.padding};
    }
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    octrain_once_only("this pooling", "pool by libtorch's own max_pool2d, whose gradients have gradients");
    at::Tensor dx;
    if (grads[0].defined()) {
      const std::vector<int64_t> size = ctx->saved_data["size"].toIntVector(), w = ctx->saved_data["windows"].toIntVector();
      const at::Tensor dy = octrain_channels_last(grads[0]), where = ctx->get_saved_variables()[0];
      c10::DeviceGuard guard(dy.device());
      dx = at::empty(size, dy.options().memory_format(at::MemoryFormat::ChannelsLast));
      if (dx.numel() > 0) {
        octrain_launch(dy, octrain_kernel("max_pool_backward", pooled_kind(dy)), blocks(dx), dy.const_data_ptr(),
                       where.const_data_ptr(), dx.mutable_data_ptr(), static_cast<int32_t>(octrain_wide(dx) && octrain_wide(dy)), size[0],
                       size[2], size[3], size[1], dy.size(2), dy.size(3), w[0], w[1], w[2]);
      }
    }
    return {dx, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// The maximum over windows of `kernel` x `kernel`, padded with what no value is below. `emulated` lets a test's launcher take
// tensors on the CPU.
char* octrain_max_pool(at::Tensor** out, const at::Tensor* x, int64_t kernel, int64_t stride, int64_t padding,
                       int32_t emulated) {
  return octrain_guard([&] {
    pooled_kind(*x);
    const Windows w{kernel, stride, padding};
    TORCH_CHECK(x->device().is_cuda() || emulated, "these pooling kernels take tensors on CUDA devices, not on ", x->device());
    TORCH_CHECK(x->dim() == 4 && kernel > 0 && kernel <= 16 && stride > 0 && padding >= 0 && 2 * padding <= kernel &&
                    x->size(2) + 2 * padding >= kernel && x->size(3) + 2 * padding >= kernel,
                "windows of ", kernel, " with stride ", stride, " and padding ", padding, " cannot be taken of ", x->sizes());
    *out = new at::Tensor(MaxPool::apply(*x, &w, at::GradMode::is_enabled() && x->requires_grad()));
  });
}
}
