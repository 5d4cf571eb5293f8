// Convolutions and linear layers of INT8 codes on CPUs, by oneDNN as libtorch ships it, and what they are made of.
//
//   y = (sum of (input code - zero) * weight code) * input scale * weight scale + bias
//
// The sum is exact (INT32) where zero is 0; where it is not, AMX takes zero's part away in FP32, so that sums of 518 products (2^24
// over 255 * 127) and fewer are. The rest is FP32, rounded to BF16 once where y is of that. Gradients are straight-through: those of the product of
// the fake-quantized x and weight that the codes stand for.
#include "int8.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <atomic>

#include "isa.h"
#include "octrain.h"
#include "parallel.h"
#include "tensors.h"

namespace {

// oneDNN's operators, by name: libtorch has no header of them. Their schemas are checked by the dispatcher.
at::Tensor call(const char* name, torch::jit::Stack stack) {
  const auto operation = c10::Dispatcher::singleton().findSchema({name, ""});
  TORCH_CHECK(operation, "this libtorch has no operator ", name);
  operation->callBoxed(stack);
  return stack[0].toTensor();
}

c10::List<int64_t> pair(const int64_t (&of)[2]) { return c10::List<int64_t>({of[0], of[1]}); }

// Weight codes [O, I, KH, KW] as the convolution wants them for images [N, I, H, W]; other sizes of images cost it a reorder.
at::Tensor pack(const at::Tensor& codes, at::IntArrayRef images, const OctrainInt8& o) {
  // The scales do not alter codes; one for all spares a loop over them.
  const at::Tensor one = at::ones({}, at::kFloat);
  return call("onednn::qconv_prepack", {codes, one, 1.0, o.zero, pair(o.stride), pair(o.padding), pair(o.dilation), int64_t{1},
                                        c10::List<int64_t>(images)});
}

at::Tensor convolve(const at::Tensor& codes, const at::Tensor& packed, const at::Tensor& scales,
                    const std::optional<at::Tensor>& bias, const OctrainInt8& o, at::ScalarType kind) {
  const at::Tensor zeros = at::zeros({scales.numel()}, at::kInt);
  c10::List<std::optional<at::Scalar>> nothing;
  return call("onednn::qconv2d_pointwise",
              {codes, o.scale, o.zero, packed, scales, zeros, bias ? c10::IValue(bias->to(at::kFloat)) : c10::IValue(),
               pair(o.stride), pair(o.padding), pair(o.dilation), int64_t{1}, 1.0, int64_t{0}, static_cast<int64_t>(kind),
               std::string("none"), nothing, std::string("")});
}

// What a layer reads as images, channels last: as they are for a convolution; [..., C] of a linear layer, of any number of
// dimensions, as one image of a column of pixels.
at::Tensor as_images(const at::Tensor& t, bool convolves) {
  if (convolves) return octrain_channels_last(t);
  const at::Tensor rows = t.reshape({1, -1, 1, t.size(-1)});
  return rows.permute({0, 3, 1, 2});
}

struct Product : public torch::autograd::Function<Product> {
  using Maybe = std::optional<at::Tensor>;

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const Maybe& bias, const at::Tensor& codes, const at::Tensor& packed, const at::Tensor& scales,
                            const OctrainInt8* options) {
    const OctrainInt8& o = *options;
    ctx->saved_data["options"] = std::string(reinterpret_cast<const char*>(&o), sizeof(o));
    ctx->saved_data["bias"] = bias.has_value();
    ctx->save_for_backward({x, weight});
    const bool convolves = weight.dim() == 4;
    at::Tensor y = convolve(as_images(codes, convolves), packed, scales, bias, o, x.scalar_type());
    if (convolves) return octrain_channels_last(y);
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.back() = weight.size(0);
    return y.permute({0, 2, 3, 1}).reshape(sizes);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    octrain_once_only("a product of INT8 codes", "compute it in floating point, whose gradients have gradients");
    at::Tensor dx, dw, db;
    if (grads[0].defined()) {
      const torch::autograd::variable_list kept = ctx->get_saved_variables();
      const at::Tensor &x = kept[0], &weight = kept[1];
      const bool biased = ctx->saved_data["bias"].toBool();
      const std::array<bool, 3> wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1), biased && ctx->needs_input_grad(2)};
      if (weight.dim() == 4) {
        OctrainInt8 o;
        const std::string saved = ctx->saved_data["options"].toStringRef();
        memcpy(&o, saved.data(), sizeof(o));
        const int64_t none[2] = {0, 0}, channels[1] = {weight.size(0)};
        const at::OptionalIntArrayRef bias_sizes = biased ? at::OptionalIntArrayRef(channels) : std::nullopt;
        std::tie(dx, dw, db) = at::convolution_backward(grads[0], x, weight, bias_sizes, o.stride, o.padding, o.dilation, false,
                                                        none, 1, wanted);
      } else {
        const at::Tensor dy = grads[0].reshape({-1, weight.size(0)});
        if (wanted[0]) dx = dy.mm(weight).reshape(x.sizes());
        if (wanted[1]) dw = dy.t().mm(x.reshape({-1, x.size(-1)}));
        if (wanted[2]) db = dy.sum(0);
      }
    }
    return {dx, dw, db, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Whether a convolution of the largest codes is exact: it is not where sums saturate, as without VNNI, and where there is none.
bool exact() {
  try {
    c10::NoGradGuard no_gradients;
    OctrainInt8 o{{1, 1}, {0, 0}, {1, 1}, 0, 1.0};
    const int64_t channels = 64;
    const at::Tensor codes = at::full({1, channels, 2, 2}, 255, at::kByte).contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor weight = at::full({16, channels, 1, 1}, 127, at::kChar);
    const at::Tensor y = convolve(codes, pack(weight, codes.sizes(), o), at::ones({16}), std::nullopt, o, at::kFloat);
    return y.eq(static_cast<double>(255 * 127 * channels)).all().item<bool>();
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

extern "C" {

// Whether products of codes are exact on this CPU, with this libtorch.
bool octrain_int8_products() {
  static const bool is = exact();
  return is;
}

// Codes of x, in its order where that is dense: clamp(round_half_even(x / scale), qmin, qmax) + zero. `others`: how many are NaN.
char* octrain_int8_codes(at::Tensor** out, int64_t* others, const at::Tensor* input, float scale, int64_t qmin, int64_t qmax,
                         int64_t zero) {
  return octrain_guard([&] {
    const at::Tensor given = input->detach();
    // A part of another tensor has its codes in an order of its own.
    const at::Tensor x = given.is_non_overlapping_and_dense() ? given : given.contiguous();
    const int kind = octrain_kind_of(x, "encoded");
    TORCH_CHECK(x.device().is_cpu(), "codes are of tensors on the CPU");
    at::Tensor codes = at::empty_strided(x.sizes(), x.strides(), x.options().dtype(at::kByte));
    uint8_t* to = codes.mutable_data_ptr<uint8_t>();
    std::atomic<int64_t> bad{0};
    const int64_t n = x.numel(), piece = 32768;
    at::parallel_for(0, (n + piece - 1) / piece, 1, [&](int64_t from, int64_t end) {
      int64_t here = 0;
      for (int64_t begin = from * piece; begin < std::min(n, end * piece); begin += piece) {
        here += octrain_loops().codes[kind](octrain_at(x, begin), to + begin, std::min(piece, n - begin), scale,
                                            static_cast<float>(qmin), static_cast<float>(qmax), static_cast<float>(zero));
      }
      bad += here;
    });
    *others = bad;
    *out = new at::Tensor(codes);
  });
}

// The largest code of each window of [kernel, stride, padding] pixels a side, of images [N, C, H, W]. Outside of them there is none.
char* octrain_int8_max_pool(at::Tensor** out, const at::Tensor* codes, int64_t kernel, int64_t stride, int64_t padding) {
  return octrain_guard([&] {
    const at::Tensor x = octrain_channels_last(*codes);
    TORCH_CHECK(x.scalar_type() == at::kByte && kernel > 0 && stride > 0 && padding >= 0 && 2 * padding <= kernel &&
                    x.size(2) + 2 * padding >= kernel && x.size(3) + 2 * padding >= kernel,
                "windows of ", kernel, " pixels over codes ", x.sizes());
    const int64_t channels = x.size(1), h = x.size(2), w = x.size(3);
    const int64_t rows = (h + 2 * padding - kernel) / stride + 1, columns = (w + 2 * padding - kernel) / stride + 1;
    at::Tensor y = at::empty({x.size(0), channels, rows, columns}, x.options(), at::MemoryFormat::ChannelsLast);
    const uint8_t* from = x.const_data_ptr<uint8_t>();
    uint8_t* to = y.mutable_data_ptr<uint8_t>();
    at::parallel_for(0, x.size(0) * rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const uint8_t* image = from + row / rows * h * w * channels;
        const int64_t top = row % rows * stride - padding;
        for (int64_t column = 0; column < columns; ++column) {
          const int64_t left = column * stride - padding;
          uint8_t* __restrict most = to + (row * columns + column) * channels;
          std::fill(most, most + channels, uint8_t{0});
          for (int64_t i = std::max<int64_t>(top, 0); i < std::min(top + kernel, h); ++i) {
            for (int64_t j = std::max<int64_t>(left, 0); j < std::min(left + kernel, w); ++j) {
              const uint8_t* __restrict pixel = image + (i * w + j) * channels;
              for (int64_t c = 0; c < channels; ++c) most[c] = std::max(most[c], pixel[c]);
            }
          }
        }
      }
    });
    *out = new at::Tensor(y);
  });
}

// `codes` of a weight [O, I] or [O, I, KH, KW], INT8, contiguous, packed for input `x`.
char* octrain_int8_pack(at::Tensor** out, const at::Tensor* codes, const at::Tensor* x, const OctrainInt8* o) {
  return octrain_guard([&] {
    c10::NoGradGuard no_gradients;
    const at::Tensor weight = codes->dim() == 4 ? *codes : codes->reshape({codes->size(0), codes->size(1), 1, 1});
    TORCH_CHECK(weight.scalar_type() == at::kChar && x->dim() >= 2, "INT8 codes of a weight are wanted");
    TORCH_CHECK(codes->dim() != 4 || x->dim() == 4, "a convolution reads images, not ", x->sizes());
    const int64_t rows = x->numel() / std::max<int64_t>(1, x->size(-1));
    const std::vector<int64_t> line{1, x->size(-1), rows, 1};
    *out = new at::Tensor(pack(weight, codes->dim() == 4 ? x->sizes() : at::IntArrayRef(line), *o));
  });
}

// The layer's value, of the type of x, whose codes are `codes`; `weight`: what `packed` was made of, fake-quantized, of that type.
char* octrain_int8_product(at::Tensor** out, const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                           const at::Tensor* codes, const at::Tensor* packed, const at::Tensor* scales, const OctrainInt8* o) {
  return octrain_guard([&] {
    octrain_kind_of(*x, "multiplied by codes");
    TORCH_CHECK(x->device().is_cpu() && codes->scalar_type() == at::kByte && codes->sizes() == x->sizes() &&
                    weight->scalar_type() == x->scalar_type(),
                "a product of codes takes x ", x->sizes(), " on the CPU, a weight of its type, and its codes, not ", codes->sizes());
    TORCH_CHECK(scales->scalar_type() == at::kFloat && scales->numel() == weight->size(0), "one FP32 scale for each output is wanted");
    const auto other = bias ? Product::Maybe(*bias) : std::nullopt;
    *out = new at::Tensor(Product::apply(*x, *weight, other, *codes, *packed, *scales, o));
  });
}

// A layer's weight, FP32, contiguous, as a step uses it: each row of the first dimension fake-quantized with the scale that its
// largest magnitude gives, of the type of `kind`, channels-last where it has four dimensions and `channels_last`. `codes` and
// `scales`, where they are not null, get the INT8 codes in the order of w, and the scales.
char* octrain_weight_on_cpu(at::Tensor** out, at::Tensor** codes, at::Tensor** scales, const at::Tensor* w, int32_t kind,
                            int32_t channels_last, int64_t qmin, int64_t qmax, float min_scale) {
  return octrain_guard([&] {
    TORCH_CHECK(w->device().is_cpu() && w->scalar_type() == at::kFloat && w->is_contiguous() && w->dim() >= 2 && w->numel() > 0,
                "a weight is FP32, contiguous, on the CPU, and has rows; this one is ", w->scalar_type(), " ", w->sizes());
    const at::ScalarType types[] = {at::kFloat, at::kBFloat16, at::kHalf};
    // Where one order is the other, strides are those of the first.
    const bool reorders = channels_last && w->dim() == 4 && w->size(1) > 1 && w->size(2) * w->size(3) > 1;
    const auto format = reorders ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    at::Tensor y = at::empty(w->sizes(), w->options().dtype(types[kind]).memory_format(format));
    const int64_t rows = w->size(0), inner = w->numel() / rows, taps = reorders ? w->size(2) * w->size(3) : 1;
    at::Tensor code = codes ? at::empty(w->sizes(), w->options().dtype(at::kChar)) : at::Tensor();
    at::Tensor scale = at::empty({rows}, w->options());
    float* s = scale.mutable_data_ptr<float>();
    const float* from = w->const_data_ptr<float>();
    int8_t* to = codes ? code.mutable_data_ptr<int8_t>() : nullptr;
    at::parallel_for(0, rows, std::max<int64_t>(1, 16384 / inner), [&](int64_t begin, int64_t end) {
      std::vector<float> room(inner);
      for (int64_t i = begin; i < end; ++i) {
        s[i] = octrain_loops().weight[kind](from + i * inner, octrain_at(y, i * inner), to ? to + i * inner : nullptr, room.data(),
                                            inner, taps, static_cast<float>(qmin), static_cast<float>(qmax), min_scale);
      }
    });
    *out = new at::Tensor(y);
    if (codes) *codes = new at::Tensor(code);
    if (scales) *scales = new at::Tensor(scale);
  });
}
}
