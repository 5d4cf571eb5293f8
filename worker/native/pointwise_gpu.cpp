// The chains of pointwise.h on a GPU: which kernels of ../kernels/pointwise.cu run, with what.
//
// Forward reads x twice where the statistics are the batch's, backward x and dy; each pass has a small kernel behind it that
// adds up what the pieces gave.
#include <c10/core/DeviceGuard.h>

#include "device.h"
#include "pointwise_run.h"
#include "tensors.h"

namespace {

constexpr int64_t kWidth = 32;     // eights of channels of a tile at most: 512 bytes of BF16
constexpr int64_t kPieces = 396;   // at most: what 132 multiprocessors hold at once, and adding them up costs little
constexpr int64_t kRows = 16;      // of a thread at least, where there are as many

// A channels-last tensor as the kernels take it. Sums go by pieces of its shape.
struct Shape {
  int64_t n, channels, rows, tiles, width, chunks, chunk;
  int32_t wide;

  Shape(const at::Tensor& x, std::initializer_list<const at::Tensor*> besides) : n(x.numel()), channels(x.size(1)) {
    rows = n / channels;
    const int64_t eights = octrain_ceil(channels, kOctrainPerThread);
    tiles = octrain_ceil(eights, kWidth);
    width = octrain_ceil(eights, tiles);
    const int64_t lanes = kOctrainThreads / width, most = std::max<int64_t>(1, kPieces / tiles);
    chunk = std::max<int64_t>(1, octrain_ceil(rows, std::clamp<int64_t>(octrain_ceil(rows, lanes * kRows), 1, most)));
    chunks = octrain_ceil(rows, chunk);
    wide = octrain_wide(x);
    for (const at::Tensor* t : besides) wide = wide && (!t || octrain_wide(*t));
  }

  int64_t blocks() const { return octrain_ceil(n, kOctrainPerThread * kOctrainThreads); }
  int64_t pieces() const { return tiles * chunks; }
  int64_t ends() const { return octrain_ceil(channels, 8); }
  at::Tensor partial(const at::Tensor& x) const { return at::empty({chunks, 2, channels}, x.options().dtype(at::kFloat)); }
};

// Addresses, null for what is not there.
const void* from(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void* to(at::Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
float* row(const at::Tensor* t) { return t ? t->mutable_data_ptr<float>() : nullptr; }

}  // namespace

OctrainChainForward octrain_chain_on_gpu(const at::Tensor& x, const OctrainPointwise& o, const OctrainChain& g,
                                         bool differentiate) {
  c10::DeviceGuard guard(x.device());
  OctrainChainForward made;
  made.y = at::empty_like(x);
  const bool masks = o.cuts || (o.quantizes && !o.unclipped);
  if (differentiate && masks) made.bits = at::empty({octrain_ceil(x.numel(), 32)}, x.options().dtype(at::kInt));
  const Shape p(x, {g.residual});
  const auto floats = [&](int64_t rows) { return at::empty({rows, p.channels}, x.options().dtype(at::kFloat)); };
  at::Tensor gain, bias;
  if (o.statistics != kOctrainNoNorm) {
    const at::Tensor gamma = g.gamma->detach().contiguous(), beta = g.beta->detach().contiguous();
    const at::Tensor made_of = floats(4);
    gain = made_of[0], bias = made_of[1], made.inverse = made_of[3];
    if (o.statistics == kOctrainBatch) {
      made.mean = made_of[2];
      at::Tensor shift = floats(1), partial = p.partial(x);
      octrain_launch(x, octrain_kernel("chain_statistics", octrain_chain_kind(x)), p.pieces(), x.const_data_ptr(), to(shift),
                     to(partial), p.wide, p.rows, p.channels, p.tiles, p.width, p.chunks, p.chunk);
      octrain_launch(x, "chain_statistics_end", p.ends(), from(partial), from(shift), from(gamma), from(beta),
                     to(made.mean), to(made.inverse), to(gain), to(bias), row(g.mean), row(g.var), p.rows, p.channels,
                     p.chunks, o.eps);
    } else {
      made.mean = g.mean->detach().contiguous();
      octrain_launch(x, "chain_running", octrain_ceil(p.channels, kOctrainThreads), from(made.mean),
                     g.var->const_data_ptr(), from(gamma), from(beta), to(made.inverse), to(gain), to(bias), p.channels,
                     o.eps);
    }
  }
  if (p.n > 0) {
    octrain_launch(x, octrain_kernel("chain_apply", octrain_chain_kind(x)), p.blocks(), x.const_data_ptr(), from(gain), from(bias),
                   g.residual ? g.residual->const_data_ptr() : nullptr, to(made.y), to(made.bits), row(g.normed),
                   row(g.last), o.quantizes ? g.scale->const_data_ptr() : nullptr, p.wide, p.n, p.channels, o.cuts,
                   o.strict, o.quantizes, o.unclipped, o.low, o.high, static_cast<float>(o.qmin),
                   static_cast<float>(o.qmax), o.min_scale);
  }
  return made;
}

OctrainChainGradients octrain_chain_gradients_on_gpu(at::Tensor dy, at::Tensor other, const OctrainPointwise& o,
                                                     const at::Tensor& x, const at::Tensor& bits,
                                                     const at::Tensor& gamma, const at::Tensor& mean,
                                                     const at::Tensor& inverse, bool residual) {
  c10::DeviceGuard guard(dy.device());
  OctrainChainGradients made;
  const int kind = octrain_chain_kind(dy);
  const bool norm = o.statistics != kOctrainNoNorm, batch = o.statistics == kOctrainBatch;
  at::Tensor dz = dy, written;
  const bool writes = (other.defined() && (batch || residual)) || (bits.defined() && (residual || !norm));
  if (writes) dz = at::empty_like(dy);
  if (residual) made.residual = dz;
  if (!norm) {
    if (bits.defined() && dy.numel() > 0) {
      octrain_launch(dy, octrain_kernel("mask", kind), octrain_ceil(dy.numel(), 128 * kOctrainThreads / 32),
                     dy.const_data_ptr(), to(dz), from(bits), int64_t{1}, dy.numel());
    }
    made.x = dz;
    return made;
  }
  if (!batch || x.numel() == 0) made.x = at::empty_like(x);
  made.gamma = at::empty_like(gamma);
  made.beta = at::empty_like(gamma);
  const Shape p(x, {&dy, other.defined() ? &other : nullptr});
  if (p.n == 0) {
    made.gamma.zero_();
    made.beta.zero_();
    return made;
  }
  if (writes) written = dz;
  at::Tensor partial = p.partial(x), made_of = at::empty({3, p.channels}, x.options().dtype(at::kFloat));
  at::Tensor gain = made_of[0], slope = made_of[1], offset = made_of[2], none;
  if (!batch) at::mul_out(gain, gamma, inverse);
  const void *first = dy.const_data_ptr(), *second = from(other);
  const auto sums = [&](const char* name, auto... gradients) {
    octrain_launch(x, octrain_kernel(name, kind), p.pieces(), gradients..., from(bits), x.const_data_ptr(), from(mean),
                   from(gain), to(written), batch ? nullptr : to(made.x), to(partial), p.wide, p.rows, p.channels, p.tiles,
                   p.width, p.chunks, p.chunk);
  };
  if (second) {
    sums("chain_sums_of_two", first, second);
  } else {
    sums("chain_sums", first);
  }
  octrain_launch(x, "chain_sums_end", p.ends(), from(partial), from(gamma), from(inverse), to(made.gamma), to(made.beta),
                 to(gain), to(slope), to(offset), p.rows, p.channels, p.chunks);
  if (batch) {
    if (writes) dy.reset(), other.reset();
    made.x = at::empty_like(x);
    octrain_launch(x, octrain_kernel("chain_backward", kind), p.blocks(), written.defined() ? from(written) : from(dy),
                   written.defined() ? nullptr : from(bits), x.const_data_ptr(), from(mean), from(gain), from(slope),
                   from(offset), to(made.x), p.wide, p.n, p.channels);
  }
  return made;
}
