// Fake quantization as one autograd operator, and the observer's statistic.
//
//   q = clamp(round_half_even(x / scale), qmin, qmax);  y = q * scale;  dx = dy where q was not clamped
//
// Arithmetic is FP32 with true division whatever the type of x. Forward reads x once: it observes, quantizes and
// leaves one bit an element for backward. A learned scale keeps x instead, which its gradient needs. CPU loops are in
// loops.cpp, CUDA kernels in ../kernels/fake_quant.cu, launched by ../src/native/cuda.rs.
#include "fake_quant.h"

#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>

#include "device.h"
#include "isa.h"
#include "octrain.h"
#include "parallel.h"
#include "tensors.h"

namespace {

// ---- tensors as rows

int kind_of(const at::Tensor& x) {
  TORCH_CHECK(x.device().is_cpu() || x.device().is_cuda(), "a tensor on ", x.device(),
              " cannot be fake-quantized; those on the CPU and on CUDA devices can");
  return octrain_kind_of(x, "fake-quantized or observed");
}

// x itself if it is dense in some order whose outermost dimension is the first where rows are wanted; else a copy.
at::Tensor in_rows(const at::Tensor& x, bool per_channel) {
  if (!x.is_non_overlapping_and_dense()) return x.contiguous();
  const bool outermost = !per_channel || x.size(0) <= 1 || x.stride(0) == x.numel() / x.size(0);
  return outermost ? x : x.contiguous();
}

// A tensor's values in the order of `strides`.
at::Tensor in_order(const at::Tensor& t, at::IntArrayRef strides) {
  if (t.strides() == strides) return t;
  at::Tensor ordered = at::empty_strided(t.sizes(), strides, t.options());
  return ordered.copy_(t);
}

struct Rows {
  int64_t rows, inner;
  int64_t words() const { return (inner + 31) / 32; }  // of a row's mask
};

Rows rows_of(const at::Tensor& x, bool per_channel) {
  if (x.numel() == 0) return {0, 0};
  const int64_t rows = per_channel ? x.size(0) : 1;
  return {rows, x.numel() / rows};
}

constexpr int64_t kChunk = 32768;  // a multiple of 32: threads write whole words of the mask

// Runs f(index, row, begin, count) for every piece of at most kChunk elements of every row.
template <typename F>
void for_pieces(Rows r, const F& f) {
  if (r.rows == 0) return;
  const int64_t pieces = (r.inner + kChunk - 1) / kChunk;
  const int64_t grain = std::max<int64_t>(1, kChunk / r.inner);
  at::parallel_for(0, r.rows * pieces, grain, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t begin = i % pieces * kChunk;
      f(i, i / pieces, begin, std::min(r.inner - begin, kChunk));
    }
  });
}

// ---- CUDA

// Blocks that `quantize` and `mask` have work for: a warp takes 128 elements at a time.
int64_t blocks_of(Rows r) { return octrain_ceil(r.rows * octrain_ceil(r.inner, 128), kOctrainThreads / 32); }

// ---- forward

// y (skipped if not defined), the mask (likewise) and what an observer sees (likewise), in one pass over x.
void quantize(const at::Tensor& x, const at::Tensor& scales, const OctrainFakeQuant& o, at::Tensor y, at::Tensor inside,
              at::Tensor seen) {
  const Rows r = rows_of(x, o.per_channel);
  const int kind = kind_of(x);
  if (r.rows == 0) {
    if (seen.defined()) seen.zero_();
    return;
  }
  if (x.device().is_cuda()) {
    c10::DeviceGuard guard(x.device());
    at::Tensor scratch;
    if (seen.defined()) scratch = at::zeros({2}, x.options().dtype(at::kLong));
    octrain_launch(x, octrain_kernel("quantize", kind), blocks_of(r), x.const_data_ptr(),
                   y.defined() ? y.mutable_data_ptr() : nullptr, inside.defined() ? inside.mutable_data_ptr() : nullptr,
                   y.defined() ? scales.const_data_ptr<float>() : nullptr,
                   seen.defined() ? seen.mutable_data_ptr<float>() : nullptr,
                   seen.defined() ? scratch.mutable_data_ptr() : nullptr, r.rows, r.inner, static_cast<float>(o.qmin),
                   static_cast<float>(o.qmax), o.min_scale);
    return;
  }
  const OctrainLoops& run = octrain_loops();
  const float* scale = y.defined() ? scales.const_data_ptr<float>() : nullptr;
  uint8_t* bits = inside.defined() ? static_cast<uint8_t*>(inside.mutable_data_ptr()) : nullptr;
  std::mutex merging;
  OctrainSeen all{0, 0};
  for_pieces(r, [&](int64_t, int64_t row, int64_t begin, int64_t count) {
    OctrainSeen here{0, 0};
    const int64_t at = row * r.inner + begin;
    if (y.defined()) {
      const float s = scale[row] < o.min_scale ? o.min_scale : scale[row];
      run.quantize[kind](octrain_at(x, at), octrain_at(y, at), bits ? bits + row * r.words() * 4 + begin / 8 : nullptr,
                         count, s, static_cast<float>(o.qmin), static_cast<float>(o.qmax),
                         seen.defined() ? &here : nullptr);
    } else {
      run.observe[kind](octrain_at(x, at), count, &here);
    }
    if (seen.defined()) {
      std::lock_guard<std::mutex> lock(merging);
      all.largest = std::max(all.largest, here.largest);
      all.others += here.others;
    }
  });
  if (seen.defined()) {
    float* out = seen.mutable_data_ptr<float>();
    memcpy(out, &all.largest, 4);
    out[1] = static_cast<float>(all.others);
  }
}

at::Tensor new_seen(const at::Tensor& x) { return at::empty({2}, x.options().dtype(at::kFloat)); }

// ---- backward

at::Tensor masked(const at::Tensor& dy, const at::Tensor& inside, const OctrainFakeQuant& o) {
  at::Tensor dx = at::empty_strided(dy.sizes(), dy.strides(), dy.options());
  const Rows r = rows_of(dy, o.per_channel);
  if (r.rows == 0) return dx;
  if (dy.device().is_cuda()) {
    c10::DeviceGuard guard(dy.device());
    octrain_launch(dy, octrain_kernel("mask", kind_of(dy)), blocks_of(r), dy.const_data_ptr(), dx.mutable_data_ptr(),
                   inside.const_data_ptr(), r.rows, r.inner);
    return dx;
  }
  const OctrainLoops& run = octrain_loops();
  const uint8_t* bits = static_cast<const uint8_t*>(inside.const_data_ptr());
  for_pieces(r, [&](int64_t, int64_t row, int64_t begin, int64_t count) {
    const int64_t at = row * r.inner + begin;
    run.mask[kind_of(dy)](octrain_at(dy, at), octrain_at(dx, at), bits + row * r.words() * 4 + begin / 8, count);
  });
  return dx;
}

// [dx, dscale]. Each piece has a sum of its own, and a row's are added in order: the number of threads does not matter.
std::pair<at::Tensor, at::Tensor> learned(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& scales,
                                          const OctrainFakeQuant& o) {
  at::Tensor dx = at::empty_strided(dy.sizes(), dy.strides(), dy.options());
  at::Tensor dscale = at::empty(scales.sizes(), scales.options());
  const Rows r = rows_of(x, o.per_channel);
  if (r.rows == 0) return {dx, dscale.zero_()};
  if (x.device().is_cuda()) {
    c10::DeviceGuard guard(x.device());
    const int64_t chunk = 4096, pieces = octrain_ceil(r.inner, chunk);
    at::Tensor partial = at::empty({r.rows * pieces}, x.options().dtype(at::kDouble));
    octrain_launch(x, octrain_kernel("learn", kind_of(x)), r.rows * pieces, x.const_data_ptr(), dy.const_data_ptr(),
                   dx.mutable_data_ptr(), scales.const_data_ptr<float>(), partial.mutable_data_ptr<double>(), r.rows,
                   r.inner, chunk, static_cast<float>(o.qmin), static_cast<float>(o.qmax), o.min_scale);
    octrain_launch(x, "learn_sum", r.rows, partial.const_data_ptr<double>(), dscale.mutable_data_ptr<float>(), r.rows,
                   pieces, o.grad_scale);
    return {dx, dscale};
  }
  const OctrainLoops& run = octrain_loops();
  const int kind = kind_of(x);
  const float* scale = scales.const_data_ptr<float>();
  const int64_t pieces = (r.inner + kChunk - 1) / kChunk;
  std::vector<double> sums(r.rows * pieces, 0.0);
  for_pieces(r, [&](int64_t i, int64_t row, int64_t begin, int64_t count) {
    const int64_t at = row * r.inner + begin;
    const float s = scale[row] < o.min_scale ? o.min_scale : scale[row];
    run.learned[kind](octrain_at(x, at), octrain_at(dy, at), octrain_at(dx, at), count, s, static_cast<float>(o.qmin),
                      static_cast<float>(o.qmax), &sums[i]);
  });
  float* out = dscale.mutable_data_ptr<float>();
  for (int64_t row = 0; row < r.rows; ++row) {
    double sum = 0.0;
    for (int64_t p = 0; p < pieces; ++p) sum += sums[row * pieces + p];
    out[row] = static_cast<float>(sum * static_cast<double>(o.grad_scale));
  }
  return {dx, dscale};
}

struct FakeQuant : public torch::autograd::Function<FakeQuant> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& input, const at::Tensor& scales,
                            const OctrainFakeQuant* options, const at::Tensor* seen, bool differentiate) {
    const OctrainFakeQuant o = *options;
    at::Tensor x = in_rows(input, o.per_channel), s = scales.contiguous(), inside;
    at::Tensor y = at::empty_like(x);
    if (differentiate && o.gradient == kOctrainClipped) {
      const Rows r = rows_of(x, o.per_channel);
      inside = at::empty({r.rows * r.words()}, x.options().dtype(at::kInt));
    }
    quantize(x, s, o, y, inside, *seen);
    if (!differentiate) return y;
    ctx->saved_data["options"] = std::string(reinterpret_cast<const char*>(&o), sizeof(o));
    if (o.gradient == kOctrainClipped) {
      ctx->save_for_backward({inside});
      ctx->saved_data["strides"] = x.strides().vec();
    } else if (o.gradient == kOctrainLearned) {
      ctx->save_for_backward({x, s});
    }
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    OctrainFakeQuant o;
    const std::string saved = ctx->saved_data["options"].toStringRef();
    memcpy(&o, saved.data(), sizeof(o));
    if (o.gradient != kOctrainUnclipped) octrain_once_only("fake quantization", "let its gradient pass unclipped");
    at::Tensor dy = grads[0], dx, dscale;
    if (dy.defined() && o.gradient == kOctrainUnclipped) {
      dx = dy;
    } else if (dy.defined() && o.gradient == kOctrainClipped) {
      // Gradients come in the order of the output or in any other; the mask is in the order of x.
      std::vector<int64_t> strides = ctx->saved_data["strides"].toIntVector();
      dx = masked(in_order(dy, strides), ctx->get_saved_variables()[0], o);
    } else if (dy.defined()) {
      torch::autograd::variable_list kept = ctx->get_saved_variables();
      std::tie(dx, dscale) = learned(kept[0], in_order(dy, kept[0].strides()), kept[1], o);
    }
    return {dx, dscale, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// y, and into `seen`, if it is not null, what an observer sees of x.
char* octrain_fake_quant(at::Tensor** out, at::Tensor** seen, const at::Tensor* x, const at::Tensor* scales,
                         const OctrainFakeQuant* options) {
  return octrain_guard([&] {
    kind_of(*x);
    TORCH_CHECK(scales->scalar_type() == at::kFloat, "scales are ", scales->scalar_type(), ", FP32 is wanted");
    TORCH_CHECK(scales->device() == x->device(), "scales are on ", scales->device(), ", the tensor on ", x->device());
    const int64_t wanted = options->per_channel ? (x->dim() > 0 ? x->size(0) : 0) : 1;
    TORCH_CHECK(scales->numel() == wanted, scales->numel(), " scales where ", wanted, " are wanted");
    at::Tensor observed = seen ? new_seen(*x) : at::Tensor();
    const at::Tensor* watch = &observed;
    const bool learned = options->gradient == kOctrainLearned;
    // A scale that is not learned has no gradient, whatever it says itself.
    const at::Tensor scale = learned ? *scales : scales->detach();
    const bool differentiate = at::GradMode::is_enabled() && (x->requires_grad() || scale.requires_grad());
    *out = new at::Tensor(FakeQuant::apply(*x, scale, options, watch, differentiate));
    if (seen) *seen = new at::Tensor(observed);
  });
}

// [absmax over finite values, count of the others] as FP32 on the device of x.
char* octrain_abs_max(at::Tensor** out, const at::Tensor* input) {
  return octrain_guard([&] {
    at::Tensor x = in_rows(input->detach(), false);
    kind_of(x);
    at::Tensor seen = new_seen(x);
    quantize(x, at::Tensor(), OctrainFakeQuant{}, at::Tensor(), at::Tensor(), seen);
    *out = new at::Tensor(seen);
  });
}

// A layer's weight, FP32, contiguous, on a GPU, as a step uses it: every row of the first dimension fake-quantized with the scale
// that its largest magnitude gives, of another type, laid out channels-last where it has four dimensions and `channels_last`.
// `emulated` lets a test's launcher take tensors on the CPU.
char* octrain_weight(at::Tensor** out, const at::Tensor* w, int32_t kind, int32_t channels_last, int64_t qmin, int64_t qmax,
                     float min_scale, int32_t emulated) {
  return octrain_guard([&] {
    TORCH_CHECK(w->device().is_cuda() || emulated, "this kernel takes weights on CUDA devices, not on ", w->device());
    TORCH_CHECK(w->scalar_type() == at::kFloat && w->is_contiguous() && w->dim() >= 2 && w->numel() > 0,
                "a weight is FP32, contiguous, and has rows; this one is ", w->scalar_type(), " ", w->sizes());
    c10::DeviceGuard guard(w->device());
    const at::ScalarType types[] = {at::kFloat, at::kBFloat16, at::kHalf};
    const bool reorders = channels_last && w->dim() == 4;
    const auto format = reorders ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    at::Tensor y = at::empty(w->sizes(), w->options().dtype(types[kind]).memory_format(format));
    const int64_t rows = w->size(0), inner = w->numel() / rows, taps = reorders ? w->size(2) * w->size(3) : 1;
    octrain_launch(*w, octrain_kernel("weight", kind), rows, w->const_data_ptr(), y.mutable_data_ptr(), rows, inner, taps,
                   static_cast<float>(qmin), static_cast<float>(qmax), min_scale);
    *out = new at::Tensor(y);
  });
}
}
