// Fake quantization as one autograd operator, and the observer's statistic.
//
//   q = clamp(round_half_even(x / step), qmin, qmax);  y = q * step;  dx = dy where q was not clamped
//
// Arithmetic is FP32 with true division whatever the type of x. On CPUs the loops are compiled for AVX-512, AVX2
// and plain x86-64, chosen at run time; without contraction and with the same operations in each, so that results
// are equal. Backward keeps one bit an element.
#include "octrain.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define PER_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PER_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

namespace {

struct F32 {
  using Bits = uint32_t;
  static constexpr Bits kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
};
struct Bf16 {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7fffu, kInfinity = 0x7f80u;
};

INLINE float load(const float* p) { return *p; }
INLINE float load(const uint16_t* p) {
  uint32_t u = static_cast<uint32_t>(*p) << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
INLINE void store(float* p, float v) { *p = v; }
INLINE void store(uint16_t* p, float v) {
  uint32_t u;
  __builtin_memcpy(&u, &v, 4);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  *p = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

constexpr int64_t kBlock = 256;

// Elements [0, n) of one range with one step; `bits`, if not null, gets one bit an element from bit 0 on.
template <typename T>
INLINE void quantize_loop(const T* x, T* y, uint8_t* bits, int64_t n, float step, float qmin, float qmax) {
  uint8_t inside[kBlock];
  for (int64_t start = 0; start < n; start += kBlock) {
    int64_t count = n - start < kBlock ? n - start : kBlock;
    for (int64_t i = 0; i < count; ++i) {
      float q = __builtin_rintf(load(x + start + i) / step);
      inside[i] = static_cast<uint8_t>((q >= qmin) & (q <= qmax));
      // Comparisons written so that NaN stays NaN.
      float c = q < qmin ? qmin : q;
      c = c > qmax ? qmax : c;
      store(y + start + i, c * step);
    }
    if (bits) {
      for (int64_t i = count; i % 8 != 0; ++i) inside[i] = 0;
      for (int64_t i = 0; i < count; i += 8) {
        uint64_t eight;
        __builtin_memcpy(&eight, inside + i, 8);
        bits[(start + i) / 8] = static_cast<uint8_t>((eight * 0x0102040810204080ull) >> 56);
      }
    }
  }
}

template <typename T>
INLINE void mask_loop(const T* dy, T* dx, const uint8_t* bits, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] = (bits[i >> 3] >> (i & 7)) & 1 ? dy[i] : T(0);
}

// Largest magnitude of the finite values as bits, and the count of the others.
template <typename K>
INLINE void abs_max_loop(const typename K::Bits* x, int64_t n, uint32_t* largest, int64_t* others) {
  typename K::Bits most = 0;
  int64_t bad = 0;
  for (int64_t start = 0; start < n; start += 4096) {
    int64_t end = start + 4096 < n ? start + 4096 : n;
    uint32_t bad_here = 0;
    for (int64_t i = start; i < end; ++i) {
      typename K::Bits m = x[i] & K::kMagnitude;
      bool finite = m < K::kInfinity;
      typename K::Bits v = finite ? m : typename K::Bits(0);
      most = v > most ? v : most;
      bad_here += finite ? 0u : 1u;
    }
    bad += bad_here;
  }
  *largest = most;
  *others = bad;
}

PER_CPU void quantize_f32(const float* x, float* y, uint8_t* b, int64_t n, float s, float lo, float hi) {
  quantize_loop(x, y, b, n, s, lo, hi);
}
PER_CPU void quantize_bf16(const uint16_t* x, uint16_t* y, uint8_t* b, int64_t n, float s, float lo, float hi) {
  quantize_loop(x, y, b, n, s, lo, hi);
}
PER_CPU void mask_f32(const float* dy, float* dx, const uint8_t* b, int64_t n) { mask_loop(dy, dx, b, n); }
PER_CPU void mask_bf16(const uint16_t* dy, uint16_t* dx, const uint8_t* b, int64_t n) { mask_loop(dy, dx, b, n); }
PER_CPU void abs_max_f32(const uint32_t* x, int64_t n, uint32_t* m, int64_t* c) { abs_max_loop<F32>(x, n, m, c); }
PER_CPU void abs_max_bf16(const uint16_t* x, int64_t n, uint32_t* m, int64_t* c) { abs_max_loop<Bf16>(x, n, m, c); }

// Dense in its own order, whichever that is; CPU types of the loops only.
at::Tensor dense(const at::Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : x.contiguous();
}

constexpr int64_t kGrain = 32768;  // a multiple of 8: threads write whole bytes of the mask

// Rows of `inner` elements, each with its step; the mask's rows start at whole bytes.
void quantize_rows(const at::Tensor& x, at::Tensor& y, uint8_t* bits, const float* steps, int64_t rows, int64_t inner,
                   float qmin, float qmax) {
  const int64_t row_bytes = (inner + 7) / 8;
  auto run = [&](int64_t row, int64_t begin, int64_t end) {
    uint8_t* b = bits ? bits + row * row_bytes + begin / 8 : nullptr;
    int64_t at = row * inner + begin;
    if (x.scalar_type() == at::kFloat) {
      quantize_f32(x.const_data_ptr<float>() + at, y.mutable_data_ptr<float>() + at, b, end - begin, steps[row], qmin,
                   qmax);
    } else {
      quantize_bf16(reinterpret_cast<const uint16_t*>(x.const_data_ptr()) + at,
                    reinterpret_cast<uint16_t*>(y.mutable_data_ptr()) + at, b, end - begin, steps[row], qmin, qmax);
    }
  };
  if (rows == 1) {
    const int64_t blocks = (inner + kGrain - 1) / kGrain;
    at::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) {
      run(0, from * kGrain, std::min(inner, to * kGrain));
    });
  } else {
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, inner)), [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) run(r, 0, inner);
    });
  }
}

void mask_rows(const at::Tensor& dy, at::Tensor& dx, const uint8_t* bits, int64_t rows, int64_t inner) {
  const int64_t row_bytes = (inner + 7) / 8, blocks = (inner + kGrain - 1) / kGrain;
  at::parallel_for(0, rows * blocks, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      int64_t row = i / blocks, begin = i % blocks * kGrain, count = std::min(inner - begin, kGrain);
      const uint8_t* b = bits + row * row_bytes + begin / 8;
      int64_t at = row * inner + begin;
      if (dy.scalar_type() == at::kFloat) {
        mask_f32(dy.const_data_ptr<float>() + at, dx.mutable_data_ptr<float>() + at, b, count);
      } else {
        mask_bf16(reinterpret_cast<const uint16_t*>(dy.const_data_ptr()) + at,
                  reinterpret_cast<uint16_t*>(dx.mutable_data_ptr()) + at, b, count);
      }
    }
  });
}

bool native_type(const at::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

// The same formula by library operators: devices and types without a loop above.
at::Tensor composite(const at::Tensor& x, const at::Tensor& steps, int64_t qmin, int64_t qmax, at::Tensor* inside) {
  at::Tensor q = x.to(at::kFloat).div(steps).round_();
  if (inside) *inside = q.ge(qmin).logical_and_(q.le(qmax));
  return q.clamp_(qmin, qmax).mul_(steps).to(x.scalar_type());
}

class FakeQuant : public torch::autograd::Function<FakeQuant> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& input, const at::Tensor& steps,
                            int64_t qmin, int64_t qmax, bool per_channel, bool pass_through) {
    const bool keep = input.requires_grad() && !pass_through;
    at::Tensor inside, y;
    int64_t rows = -1;  // made by library operators
    if (native_type(input)) {
      // Rows are the outermost dimension only in the plain order.
      at::Tensor x = per_channel ? input.contiguous() : dense(input);
      rows = per_channel ? x.size(0) : 1;
      int64_t inner = rows == 0 ? 0 : x.numel() / rows;
      y = at::empty_like(x);
      if (keep) inside = at::empty({rows * ((inner + 7) / 8)}, x.options().dtype(at::kByte));
      at::Tensor s = steps.contiguous();
      if (x.numel() > 0) {
        quantize_rows(x, y, keep ? inside.mutable_data_ptr<uint8_t>() : nullptr, s.const_data_ptr<float>(), rows, inner,
                      static_cast<float>(qmin), static_cast<float>(qmax));
      }
      // Gradients come in the order of the output; the mask is in the order of x.
      ctx->saved_data["strides"] = x.strides().vec();
    } else {
      at::Tensor s = steps;
      if (per_channel) {
        std::vector<int64_t> shape(input.dim(), 1);
        shape[0] = -1;
        s = steps.view(shape);
      }
      y = composite(input, s, qmin, qmax, keep ? &inside : nullptr);
    }
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["pass_through"] = pass_through;
    if (keep) ctx->saved_data["inside"] = inside;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    at::Tensor dy = grads[0], dx;
    if (ctx->saved_data["pass_through"].toBool()) {
      dx = dy;
    } else {
      at::Tensor inside = ctx->saved_data["inside"].toTensor();
      const int64_t rows = ctx->saved_data["rows"].toInt();
      if (rows < 0) {
        dx = dy * inside;
      } else {
        std::vector<int64_t> strides = ctx->saved_data["strides"].toIntVector();
        at::Tensor ordered = dy;
        if (dy.strides() != at::IntArrayRef(strides)) {
          ordered = at::empty_strided(dy.sizes(), strides, dy.options());
          ordered.copy_(dy);
        }
        dx = at::empty_strided(dy.sizes(), strides, dy.options());
        if (dy.numel() > 0) mask_rows(ordered, dx, inside.const_data_ptr<uint8_t>(), rows, dy.numel() / std::max<int64_t>(1, rows));
      }
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

char* octrain_fake_quant(at::Tensor** out, const at::Tensor* x, const at::Tensor* steps, int64_t qmin, int64_t qmax,
                         bool per_channel, bool pass_through) {
  return octrain_guard([&] {
    TORCH_CHECK(steps->scalar_type() == at::kFloat, "steps are ", steps->scalar_type(), ", FP32 is wanted");
    TORCH_CHECK(steps->device() == x->device(), "steps are on ", steps->device(), ", the tensor on ", x->device());
    const int64_t wanted = per_channel ? (x->dim() > 0 ? x->size(0) : 0) : 1;
    TORCH_CHECK(steps->numel() == wanted, steps->numel(), " steps where ", wanted, " are wanted");
    TORCH_CHECK(at::isFloatingType(x->scalar_type()) && x->scalar_type() != at::kDouble, "a tensor of type ",
                x->scalar_type(), " cannot be fake-quantized; FP32, BF16 and FP16 can");
    *out = new at::Tensor(FakeQuant::apply(*x, *steps, qmin, qmax, per_channel, pass_through));
  });
}

// [absmax over finite values, count of the others] as FP32 on the device of x.
char* octrain_abs_max(at::Tensor** out, const at::Tensor* input) {
  return octrain_guard([&] {
    at::Tensor x = input->detach();
    if (!native_type(x)) {
      at::Tensor magnitude = x.to(at::kFloat).abs();
      at::Tensor finite = magnitude.isfinite();
      at::Tensor largest = x.numel() == 0 ? at::zeros({}, magnitude.options())
                                          : at::where(finite, magnitude, at::zeros_like(magnitude)).max();
      at::Tensor others = finite.logical_not().sum().to(at::kFloat);
      *out = new at::Tensor(at::stack({largest, others}));
      return;
    }
    x = dense(x);
    const int64_t n = x.numel(), blocks = (n + kGrain - 1) / kGrain;
    const bool wide = x.scalar_type() == at::kFloat;
    struct Seen {
      uint32_t largest;
      int64_t others;
    };
    Seen seen = at::parallel_reduce(
        0, blocks, 1, Seen{0, 0},
        [&](int64_t from, int64_t to, Seen) {
          Seen s{0, 0};
          int64_t begin = from * kGrain, count = std::min(n, to * kGrain) - begin;
          if (wide) {
            abs_max_f32(reinterpret_cast<const uint32_t*>(x.const_data_ptr()) + begin, count, &s.largest, &s.others);
          } else {
            abs_max_bf16(reinterpret_cast<const uint16_t*>(x.const_data_ptr()) + begin, count, &s.largest, &s.others);
          }
          return s;
        },
        [](Seen a, Seen b) { return Seen{std::max(a.largest, b.largest), a.others + b.others}; });
    uint32_t bits = wide ? seen.largest : seen.largest << 16;
    float largest;
    memcpy(&largest, &bits, 4);
    at::Tensor result = at::empty({2}, at::kFloat);
    result.mutable_data_ptr<float>()[0] = largest;
    result.mutable_data_ptr<float>()[1] = static_cast<float>(seen.others);
    *out = new at::Tensor(result);
  });
}

char* octrain_deterministic(bool on) {
  return octrain_guard([&] { at::globalContext().setDeterministicAlgorithms(on, false); });
}
}
