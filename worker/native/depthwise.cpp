// Depthwise convolution of channels-last images on the CPU with a gradient by its input of our own; the rest is libtorch's.
//
// oneDNN (as of 3.10) has a kernel for that gradient with a stride in FP32 only; in BF16 it takes the one for full
// convolutions, one channel a group, which is fifty times slower.
#include "depthwise.h"

#include <torch/csrc/autograd/custom_function.h>

#include "isa.h"
#include "octrain.h"
#include "parallel.h"
#include "tensors.h"

namespace {

at::Tensor by_input(const at::Tensor& dy, const at::Tensor& weight, const OctrainDepthwise& d) {
  const int kind = octrain_kind_of(dy, "a gradient of a depthwise convolution");
  const at::Tensor w = weight.to(at::kFloat).squeeze(1).permute({1, 2, 0}).contiguous();
  const int64_t images = dy.size(0), rows = d.size[0];
  at::Tensor dx = at::empty({images, d.channels, rows, d.size[1]}, dy.options(), at::MemoryFormat::ChannelsLast);
  const int64_t row = d.size[1] * d.channels, image_out = d.out[0] * d.out[1] * d.channels;
  const float* taps = w.const_data_ptr<float>();
  at::parallel_for(0, images * rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      octrain_depthwise_loops().row[kind](&d, octrain_at(dy, i / rows * image_out), taps, i % rows, octrain_at(dx, i * row));
    }
  });
  return dx;
}

struct Depthwise : public torch::autograd::Function<Depthwise> {
  using Maybe = std::optional<at::Tensor>;

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const Maybe& bias, const OctrainDepthwise* options) {
    const OctrainDepthwise& d = *options;
    ctx->saved_data["options"] = std::string(reinterpret_cast<const char*>(&d), sizeof(d));
    ctx->saved_data["bias"] = bias.has_value();
    ctx->save_for_backward({x, weight});
    return at::conv2d(x, weight, bias, d.stride, d.padding, d.dilation, d.channels);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    octrain_once_only("this depthwise convolution", "convolve by libtorch's own conv2d, whose gradients have gradients");
    at::Tensor dx, dw, db;
    if (grads[0].defined()) {
      OctrainDepthwise d;
      const std::string saved = ctx->saved_data["options"].toStringRef();
      memcpy(&d, saved.data(), sizeof(d));
      const torch::autograd::variable_list kept = ctx->get_saved_variables();
      const at::Tensor dy = octrain_channels_last(grads[0]);
      if (ctx->needs_input_grad(0)) dx = by_input(dy, kept[1], d);
      const bool biased = ctx->saved_data["bias"].toBool();
      const std::array<bool, 3> wanted{false, ctx->needs_input_grad(1), biased && ctx->needs_input_grad(2)};
      const int64_t none[2] = {0, 0}, channels[1] = {d.channels};
      const at::OptionalIntArrayRef bias_sizes = biased ? at::OptionalIntArrayRef(channels) : std::nullopt;
      std::tie(std::ignore, dw, db) = at::convolution_backward(dy, kept[0], kept[1], bias_sizes, d.stride, d.padding,
                                                               d.dilation, false, none, d.channels, wanted);
    }
    return {dx, dw, db, at::Tensor()};
  }
};

}  // namespace

extern "C" {

// y [N, C, out] of x [N, C, size], weight [C, 1, kernel] and bias [C] (or null), all of one type.
char* octrain_depthwise(at::Tensor** out, const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                        const OctrainDepthwise* options) {
  return octrain_guard([&] {
    octrain_kind_of(*x, "convolved by channels");
    OctrainDepthwise d = *options;
    TORCH_CHECK(x->device().is_cpu() && x->dim() == 4 && weight->dim() == 4 && weight->size(1) == 1 &&
                    weight->size(0) == x->size(1) && weight->scalar_type() == x->scalar_type(),
                "a depthwise convolution on the CPU takes [N, C, H, W] and [C, 1, KH, KW] of one type, not ", x->sizes(),
                " and ", weight->sizes());
    d.channels = x->size(1);
    for (int i = 0; i < 2; ++i) {
      TORCH_CHECK(d.stride[i] > 0 && d.dilation[i] > 0 && d.padding[i] >= 0, "a stride, dilation or padding out of range");
      d.size[i] = x->size(2 + i);
      d.kernel[i] = weight->size(2 + i);
      d.out[i] = (d.size[i] + 2 * d.padding[i] - d.dilation[i] * (d.kernel[i] - 1) - 1) / d.stride[i] + 1;
    }
    const auto other = bias ? Depthwise::Maybe(*bias) : std::nullopt;
    *out = new at::Tensor(Depthwise::apply(*x, *weight, other, &d));
  });
}
}
