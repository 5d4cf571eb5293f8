// Update rules on flat FP32 weights on the CPU: each number is read and written once.
#include <cmath>

#include "octrain.h"
#include "parallel.h"

namespace {

constexpr int64_t kGrain = 32768;

float* numbers(at::Tensor* t, int64_t n) {
  TORCH_CHECK(t->device().is_cpu() && t->scalar_type() == at::kFloat && t->is_contiguous() && t->numel() == n,
              "an update wants ", n, " FP32 numbers on the CPU in one piece, not ", t->numel(), " of ", t->scalar_type());
  return t->mutable_data_ptr<float>();
}

}  // namespace

extern "C" {

// d = g + decay * w;  v = momentum * v + d;  w -= lr * (nesterov ? momentum * v + d : v), for [offset, offset + n) of the
// three. The gradient stays as it is.
char* octrain_sgd(at::Tensor* weights, at::Tensor* momentum_buffer, at::Tensor* gradients, int64_t offset, int64_t n,
                  float decay, float momentum, float lr, bool nesterov) {
  return octrain_guard([&] {
    const int64_t all = weights->numel();
    TORCH_CHECK(offset >= 0 && n >= 0 && offset + n <= all, "a piece beyond the end");
    float* __restrict w = numbers(weights, all) + offset;
    float* __restrict v = numbers(momentum_buffer, all) + offset;
    const float* __restrict g = numbers(gradients, all) + offset;
    at::parallel_for(0, n, kGrain, [&](int64_t from, int64_t to) {
      if (nesterov) {
        for (int64_t i = from; i < to; ++i) {
          const float d = g[i] + w[i] * decay;
          v[i] = v[i] * momentum + d;
          w[i] -= (v[i] * momentum + d) * lr;
        }
      } else {
        for (int64_t i = from; i < to; ++i) {
          const float d = g[i] + w[i] * decay;
          v[i] = v[i] * momentum + d;
          w[i] -= v[i] * lr;
        }
      }
    });
  });
}

struct OctrainAdamW {
  float kept;         // of a weight: 1 - lr * decay
  float beta1, beta2;
  float towards, share;  // 1 - beta1, 1 - beta2: of the numbers before they were rounded
  float root_scale;   // sqrt(1 - beta2^t)
  float epsilon;
  float rate;         // lr / (1 - beta1^t)
};

// w *= kept;  m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g^2;  w -= rate * m / (sqrt(v) / root_scale + epsilon)
char* octrain_adamw(at::Tensor* weights, at::Tensor* first, at::Tensor* second, at::Tensor* gradients, int64_t offset,
                    int64_t n, const OctrainAdamW* options) {
  return octrain_guard([&] {
    const int64_t all = weights->numel();
    TORCH_CHECK(offset >= 0 && n >= 0 && offset + n <= all, "a piece beyond the end");
    float* __restrict w = numbers(weights, all) + offset;
    float* __restrict m = numbers(first, all) + offset;
    float* __restrict v = numbers(second, all) + offset;
    const float* __restrict g = numbers(gradients, all) + offset;
    const OctrainAdamW o = *options;
    at::parallel_for(0, n, kGrain, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        m[i] += o.towards * (g[i] - m[i]);
        v[i] = v[i] * o.beta2 + g[i] * g[i] * o.share;
        w[i] = w[i] * o.kept - m[i] / (std::sqrt(v[i]) / o.root_scale + o.epsilon) * o.rate;
      }
    });
  });
}
}
