// Normalisation, sum, activation and fake quantization of channels-last tensors as one autograd operator; see pointwise.h.
//
// Forward reads x twice where the statistics are the batch's, once elsewhere, and leaves one bit an element for backward,
// which reads x and dy twice, or once. A value with two readers can be handed out twice: so the two gradients come apart, and
// behind a normalisation are added where they are read, not by autograd in a pass of its own. Here is the CPU's way;
// pointwise_gpu.cpp has the one of GPUs.
#include "pointwise_run.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <mutex>

#include "isa.h"
#include "octrain.h"
#include "parallel.h"
#include "tensors.h"

namespace {

// A tensor's elements in the order of memory, in pieces. Where they begin depends on the shape alone, so sums by piece do not
// depend on the number of threads.
struct Pieces {
  int64_t elements, channels, size, count;

  explicit Pieces(const at::Tensor& x) : elements(x.numel()), channels(x.size(1)) {
    // Whole blocks, and enough of them that adding up a piece's channels costs little beside the piece.
    size = std::max<int64_t>(32768, (channels * 32 + OCTRAIN_PATTERN - 1) / OCTRAIN_PATTERN * OCTRAIN_PATTERN);
    count = (elements + size - 1) / size;
  }

  OctrainChannels of(int64_t piece) const {
    const int64_t begin = piece * size;
    return {std::min(size, elements - begin), begin % channels, channels};
  }

  template <typename F>
  void each(const F& f) const {
    at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) f(i, i * size);
    });
  }

  int64_t pattern() const { return channels + OCTRAIN_PATTERN; }
};

// Numbers by channel, as the loops want them.
struct Pattern {
  std::vector<float> values;

  explicit Pattern(const Pieces& p) : values(p.pattern()) {}

  template <typename F>
  Pattern(const Pieces& p, const F& f) : values(p.pattern()) {
    for (int64_t c = 0; c < p.channels; ++c) values[c] = static_cast<float>(f(c));
    for (int64_t i = p.channels; i < p.pattern(); ++i) values[i] = values[i - p.channels];
  }

  const float* data() const { return values.data(); }
};

// Two sums a channel over the whole tensor: `add(piece, begin, sum, other)` adds a piece's to two patterns of zeros.
struct Sums {
  std::vector<double> sum, other;

  template <typename F>
  Sums(const Pieces& p, const F& add) : sum(p.channels, 0.0), other(p.channels, 0.0) {
    const int64_t c = p.channels;
    std::vector<float> all(p.count * 2 * c);
    at::parallel_for(0, p.count, 1, [&](int64_t from, int64_t to) {
      std::vector<float> here(2 * p.pattern());
      for (int64_t piece = from; piece < to; ++piece) {
        std::fill(here.begin(), here.end(), 0.0f);
        add(piece, piece * p.size, here.data(), here.data() + p.pattern());
        for (int64_t which = 0; which < 2; ++which) {
          const float* of = here.data() + which * p.pattern();
          float* folded = all.data() + (piece * 2 + which) * c;
          for (int64_t i = 0; i < c; ++i) folded[i] = of[i];
          for (int64_t begin = c; begin < p.pattern(); begin += c) {
            const int64_t n = std::min(c, p.pattern() - begin);
            for (int64_t i = 0; i < n; ++i) folded[i] += of[begin + i];
          }
        }
      }
    });
    for (int64_t piece = 0; piece < p.count; ++piece) {
      const float *first = all.data() + piece * 2 * c, *second = first + c;
      for (int64_t i = 0; i < c; ++i) {
        sum[i] += first[i];
        other[i] += second[i];
      }
    }
  }
};

// Mean and 1 / sqrt(biased variance + eps) of each channel of x; mean and unbiased variance go to `mean_out`, `var_out`.
std::pair<at::Tensor, at::Tensor> batch_statistics(const at::Tensor& x, float eps, at::Tensor mean_out, at::Tensor var_out) {
  const Pieces p(x);
  const int kind = octrain_chain_kind(x);
  const int64_t rows = p.elements / p.channels, first_rows = std::min<int64_t>(rows, 16);
  // Deviations from the mean of the first rows lose nothing where the mean is far from 0.
  std::vector<float> sum(p.pattern(), 0.0f), square(p.pattern(), 0.0f);
  const Pattern zero(p);
  octrain_pointwise_loops().statistics[kind]({first_rows * p.channels, 0, p.channels}, x.const_data_ptr(), zero.data(), sum.data(), square.data());
  for (int64_t i = p.channels; i < p.pattern(); ++i) sum[i % p.channels] += sum[i];
  const Pattern shift(p, [&](int64_t c) { return sum[c] / static_cast<float>(first_rows); });
  const Sums all(p, [&](int64_t piece, int64_t begin, float* s, float* q) {
    octrain_pointwise_loops().statistics[kind](p.of(piece), octrain_at(x, begin), shift.data(), s, q);
  });
  at::Tensor mean = at::empty({p.channels}, x.options().dtype(at::kFloat)), inverse = at::empty_like(mean);
  float *m = mean.mutable_data_ptr<float>(), *r = inverse.mutable_data_ptr<float>();
  float *m_out = mean_out.mutable_data_ptr<float>(), *v_out = var_out.mutable_data_ptr<float>();
  const double n = static_cast<double>(rows);
  for (int64_t c = 0; c < p.channels; ++c) {
    const double d = all.sum[c] / n, squares = std::max(0.0, all.other[c] - all.sum[c] * d);
    m[c] = m_out[c] = static_cast<float>(shift.data()[c] + d);
    v_out[c] = static_cast<float>(squares / (n - 1.0));
    r[c] = static_cast<float>(1.0 / std::sqrt(squares / n + static_cast<double>(eps)));
    // What is not finite anywhere is not finite here: max() would have hidden it.
    if (!std::isfinite(all.other[c])) v_out[c] = r[c] = std::numeric_limits<float>::quiet_NaN();
  }
  return {mean, inverse};
}

using Given = OctrainChain;
using Forward = OctrainChainForward;
using Gradients = OctrainChainGradients;

Forward run_forward(const at::Tensor& x, const OctrainPointwise& o, const Given& g, bool differentiate) {
  TORCH_CHECK(!g.codes || (x.device().is_cpu() && !o.emulated && o.quantizes), "codes are of a quantizer on the CPU");
  if (x.device().is_cuda() || o.emulated) return octrain_chain_on_gpu(x, o, g, differentiate);
  Forward made;
  const Pieces p(x);
  const int kind = octrain_chain_kind(x);
  made.y = at::empty_like(x);
  Pattern gain(p), bias(p);
  if (o.statistics == kOctrainBatch) {
    std::tie(made.mean, made.inverse) = batch_statistics(x, o.eps, *g.mean, *g.var);
  } else if (o.statistics == kOctrainRunning) {
    made.mean = g.mean->detach().contiguous();
    made.inverse = (g.var->detach() + o.eps).rsqrt();
  }
  if (o.statistics != kOctrainNoNorm) {
    const at::Tensor gamma = g.gamma->detach().contiguous(), beta = g.beta->detach().contiguous();
    const float *w = gamma.const_data_ptr<float>(), *b = beta.const_data_ptr<float>();
    const float *m = made.mean.const_data_ptr<float>(), *r = made.inverse.const_data_ptr<float>();
    gain = Pattern(p, [&](int64_t c) { return w[c] * r[c]; });
    bias = Pattern(p, [&](int64_t c) { return b[c] - m[c] * (w[c] * r[c]); });
  }
  const bool masks = o.cuts || (o.quantizes && !o.unclipped);
  if (differentiate && masks) made.bits = at::empty({(p.elements + 31) / 32}, x.options().dtype(at::kInt));
  uint8_t* bits = made.bits.defined() ? static_cast<uint8_t*>(made.bits.mutable_data_ptr()) : nullptr;
  OctrainStages stages{o.cuts, o.strict, o.quantizes, o.unclipped, o.low, o.high, 1.0f, static_cast<float>(o.qmin),
                       static_cast<float>(o.qmax), o.zero};
  if (o.quantizes) stages.scale = std::max(g.scale->const_data_ptr<float>()[0], o.min_scale);
  const bool norm = o.statistics != kOctrainNoNorm;
  uint8_t* codes = nullptr;
  if (g.codes) {
    *g.codes = at::empty_like(x, x.options().dtype(at::kByte));
    codes = g.codes->mutable_data_ptr<uint8_t>();
    *g.others = 0;
  }
  std::mutex merging;
  OctrainSeen normed{0, 0}, last{0, 0};
  p.each([&](int64_t piece, int64_t begin) {
    OctrainSeen first{0, 0}, second{0, 0};
    const int64_t others = octrain_pointwise_loops().forward[kind](p.of(piece), octrain_at(x, begin), norm ? gain.data() : nullptr, norm ? bias.data() : nullptr,
                          g.residual ? octrain_at(*g.residual, begin) : nullptr, octrain_at(made.y, begin),
                          bits ? bits + begin / 8 : nullptr, codes ? codes + begin : nullptr, &stages, g.normed ? &first : nullptr,
                          g.last ? &second : nullptr);
    std::lock_guard<std::mutex> lock(merging);
    if (codes) *g.others += others;
    normed.largest = std::max(normed.largest, first.largest);
    normed.others += first.others;
    last.largest = std::max(last.largest, second.largest);
    last.others += second.others;
  });
  for (auto [seen, into] : {std::pair{&normed, g.normed}, std::pair{&last, g.last}}) {
    if (!into) continue;
    float* row = into->mutable_data_ptr<float>();
    float largest;
    memcpy(&largest, &seen->largest, 4);
    row[0] = std::max(row[0], largest);
    row[1] += static_cast<float>(seen->others);
  }
  return made;
}

// `bits`, `mean`, `inverse`: not defined where there is no mask, no normalisation. Without one dx and dresidual are dz. `other`:
// a second gradient of y, not defined where there is none. Both gradients are let go as soon as they are added.
Gradients run_backward(at::Tensor dy, at::Tensor other, const OctrainPointwise& o, const at::Tensor& x,
                       const at::Tensor& bits, const at::Tensor& gamma, const at::Tensor& mean,
                       const at::Tensor& inverse, bool residual) {
  const bool norm = o.statistics != kOctrainNoNorm, batch = o.statistics == kOctrainBatch;
  if (!norm && other.defined()) {
    dy = dy + other;
    other.reset();
  }
  if (dy.device().is_cuda() || o.emulated) {
    return octrain_chain_gradients_on_gpu(std::move(dy), std::move(other), o, x, bits, gamma, mean, inverse, residual);
  }
  Gradients made;
  const Pieces p(dy);
  const int kind = octrain_chain_kind(dy);
  const uint8_t* mask = bits.defined() ? static_cast<const uint8_t*>(bits.const_data_ptr()) : nullptr;
  const auto mask_at = [&](int64_t begin) { return mask ? mask + begin / 8 : nullptr; };
  // Whether dz is written down: where somebody else wants it, and where reading it again is less than making it again.
  const bool writes = (other.defined() && (batch || residual)) || (mask && (residual || !norm));
  at::Tensor dz = dy;
  if (writes) dz = at::empty_like(dy);
  if (!norm) {
    if (mask) {
      p.each([&](int64_t piece, int64_t begin) {
        octrain_loops().mask[kind](octrain_at(dy, begin), octrain_at(dz, begin), mask_at(begin), p.of(piece).n);
      });
    }
    made.x = dz;
    if (residual) made.residual = dz;
    return made;
  }
  const float *w = gamma.const_data_ptr<float>(), *m = mean.const_data_ptr<float>();
  const float* r = inverse.const_data_ptr<float>();
  const Pattern means(p, [&](int64_t c) { return m[c]; }), gain(p, [&](int64_t c) { return w[c] * r[c]; });
  if (!batch) made.x = at::empty_like(x);
  const Sums all(p, [&](int64_t piece, int64_t begin, float* sum, float* product) {
    octrain_pointwise_loops().sums[kind](p.of(piece), octrain_at(dy, begin), other.defined() ? octrain_at(other, begin) : nullptr,
                       mask_at(begin), octrain_at(x, begin), means.data(), writes ? octrain_at(dz, begin) : nullptr, batch ? nullptr : octrain_at(made.x, begin), gain.data(),
                       sum, product);
  });
  made.beta = at::empty_like(gamma);
  made.gamma = at::empty_like(gamma);
  for (int64_t c = 0; c < p.channels; ++c) {
    made.beta.mutable_data_ptr<float>()[c] = static_cast<float>(all.sum[c]);
    made.gamma.mutable_data_ptr<float>()[c] = static_cast<float>(all.other[c] * r[c]);
  }
  if (batch) {
    if (writes) dy.reset(), other.reset();
    made.x = at::empty_like(x);
    const double n = static_cast<double>(p.elements / p.channels);
    const Pattern slope(p, [&](int64_t c) { return static_cast<double>(w[c]) * r[c] * r[c] * r[c] * all.other[c] / n; });
    const Pattern offset(p, [&](int64_t c) { return static_cast<double>(w[c]) * r[c] * all.sum[c] / n; });
    const at::Tensor& from = writes ? dz : dy;
    p.each([&](int64_t piece, int64_t begin) {
      octrain_pointwise_loops().backward[kind](p.of(piece), octrain_at(from, begin), writes ? nullptr : mask_at(begin), octrain_at(x, begin),
                             means.data(), gain.data(), slope.data(), offset.data(), octrain_at(made.x, begin));
    });
  }
  if (residual) made.residual = dz;
  return made;
}

struct Pointwise : public torch::autograd::Function<Pointwise> {
  using Maybe = std::optional<at::Tensor>;

  // y; where it is handed out twice, y and another tensor of the same memory, each with a gradient of its own.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& input,
                                                const Maybe& residual, const Maybe& gamma, const Maybe& beta,
                                                const OctrainPointwise* options, const Given* given, bool differentiate,
                                                bool twice) {
    const OctrainPointwise o = *options;
    const at::Tensor x = octrain_channels_last(input);
    const at::Tensor other = residual ? octrain_channels_last(*residual) : at::Tensor();
    Given g = *given;
    if (g.residual) g.residual = &other;
    Forward made = run_forward(x, o, g, differentiate);
    if (!differentiate) return {made.y};
    // A handle that nobody has used has no gradient, instead of one of zeros.
    ctx->set_materialize_grads(false);
    const bool norm = o.statistics != kOctrainNoNorm;
    ctx->saved_data["options"] = std::string(reinterpret_cast<const char*>(&o), sizeof(o));
    ctx->saved_data["residual"] = g.residual != nullptr;
    // All of it as variables, which are let go as soon as backward has passed.
    if (norm) {
      ctx->save_for_backward({made.bits, x, gamma->contiguous(), made.mean, made.inverse});
    } else {
      ctx->save_for_backward({made.bits});
    }
    if (twice) return {made.y, made.y.tensor_data()};
    return {made.y};
  }

  // `grads` are libtorch's own, which it keeps until this returns, unless they are taken out.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list& grads) {
    octrain_once_only("a chain of fused operators",
                      "run libtorch's operators one by one, whose gradients have gradients");
    OctrainPointwise o;
    const std::string saved = ctx->saved_data["options"].toStringRef();
    memcpy(&o, saved.data(), sizeof(o));
    Gradients made;
    at::Tensor dy = std::move(grads[0]), other = grads.size() > 1 ? std::move(grads[1]) : at::Tensor();
    if (!dy.defined()) std::swap(dy, other);
    if (dy.defined()) {
      // What lies in another order costs a pass anyhow: the sum, into the first one's memory order.
      const auto in_order = [](const at::Tensor& t) { return t.is_contiguous(at::MemoryFormat::ChannelsLast); };
      if (other.defined() && !(in_order(dy) && in_order(other))) {
        dy = in_order(other) ? other + dy : dy + other;
        other.reset();
      }
      dy = octrain_channels_last(dy);
      torch::autograd::variable_list kept = ctx->get_saved_variables();
      kept.resize(5);
      made = run_backward(std::move(dy), std::move(other), o, kept[1], kept[0], kept[2], kept[3], kept[4],
                          ctx->saved_data["residual"].toBool());
    }
    return {made.x, made.residual, made.gamma, made.beta, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// y. `second`: null, or gets y once more, for another reader, where there are gradients (else null). `x`: [N, C, H, W]; `residual`: of its shape and type. `gamma`, `beta`: FP32 [C]; `mean`, `var`: FP32 [C], read
// where the statistics are running ones, written where they are the batch's. Pointers of parts that a chain lacks are null.
// `normed`, `last`: FP32 [2], raised by what observers see behind the normalisation and before the quantizer, or null.
// `codes`: null, or gets the quantizer's codes, of which `others` are of NaN.
char* octrain_pointwise(at::Tensor** out, at::Tensor** second, at::Tensor** codes, int64_t* others, const at::Tensor* x, const at::Tensor* residual, const at::Tensor* gamma,
                        const at::Tensor* beta, const at::Tensor* mean, const at::Tensor* var, const at::Tensor* scale,
                        const at::Tensor* normed, const at::Tensor* last, const OctrainPointwise* options) {
  return octrain_guard([&] {
    octrain_chain_kind(*x);
    TORCH_CHECK(x->dim() == 4 && x->size(1) > 0, "fused operators take [N, C, H, W], not ", x->sizes());
    TORCH_CHECK(x->device().is_cpu() || x->device().is_cuda(), "fused operators take tensors on the CPU and on CUDA devices, not on ",
                x->device());
    for (const at::Tensor* t : {residual, gamma, beta, mean, var, scale, normed, last}) {
      TORCH_CHECK(!t || t->device() == x->device(), "a fused operator of a tensor on ", x->device(), " and of one on ", t->device());
    }
    for (const at::Tensor* t : {normed, last}) {
      TORCH_CHECK(!t || (t->scalar_type() == at::kFloat && t->numel() == 2 && t->is_contiguous()), "an observer wants two FP32 numbers");
    }
    TORCH_CHECK(x->numel() > 0 || options->statistics != kOctrainBatch, "there are no statistics of a batch of no images");
    TORCH_CHECK(!options->quantizes || (scale && scale->scalar_type() == at::kFloat && scale->numel() == 1),
                "one FP32 scale is wanted");
    TORCH_CHECK(!scale || !scale->requires_grad(), "a scale that is learned is not fused: it keeps what it quantizes");
    TORCH_CHECK(!residual || (residual->sizes() == x->sizes() && residual->scalar_type() == x->scalar_type()),
                "a sum of ", x->sizes(), " and of another shape or type");
    for (const at::Tensor* t : {gamma, beta, mean, var}) {
      TORCH_CHECK(options->statistics == kOctrainNoNorm ||
                      (t && t->scalar_type() == at::kFloat && t->numel() == x->size(1) && t->is_contiguous()),
                  "a normalisation wants four FP32 numbers for each of ", x->size(1), " channels");
    }
    at::Tensor encoded;
    const Given given{residual, gamma, beta, mean, var, scale, normed, last, codes ? &encoded : nullptr, others};
    const auto maybe = [](const at::Tensor* t) { return t ? Pointwise::Maybe(*t) : std::nullopt; };
    const auto wants = [](const at::Tensor* t) { return t && t->requires_grad(); };
    const bool differentiate =
        at::GradMode::is_enabled() && (wants(x) || wants(residual) || wants(gamma) || wants(beta));
    const auto made =
        Pointwise::apply(*x, maybe(residual), maybe(gamma), maybe(beta), options, &given, differentiate, second != nullptr);
    *out = new at::Tensor(made[0]);
    if (codes) *codes = new at::Tensor(encoded);
    if (second) *second = made.size() > 1 ? new at::Tensor(made[1]) : nullptr;
  });
}
}
