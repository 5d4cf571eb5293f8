// What a chain of pointwise.h runs on, for the CPU's loops and for a GPU's kernels alike.
#pragma once
#include <ATen/ATen.h>

#include "tensors.h"

#include "pointwise.h"

// What a chain reads and writes besides x and y.
struct OctrainChain {
  const at::Tensor *residual, *gamma, *beta, *mean, *var, *scale;  // null: there is none
  const at::Tensor *normed, *last;  // [absmax over finite values, count of the others], raised by what is seen; null: nobody looks
  at::Tensor* codes;  // gets the quantizer's codes, bytes; null: nobody wants them
  int64_t* others;  // gets how many of them are of NaN
};

struct OctrainChainForward {
  at::Tensor y, bits, mean, inverse;
};

struct OctrainChainGradients {
  at::Tensor x, residual, gamma, beta;
};

// On a GPU; x is channels-last. `bits`, `mean`, `inverse` of backward: not defined where there is no mask, no normalisation;
// `other`, a second gradient of y: where there is none.
OctrainChainForward octrain_chain_on_gpu(const at::Tensor& x, const OctrainPointwise& o, const OctrainChain& g,
                                         bool differentiate);
OctrainChainGradients octrain_chain_gradients_on_gpu(at::Tensor dy, at::Tensor other, const OctrainPointwise& o,
                                                     const at::Tensor& x, const at::Tensor& bits,
                                                     const at::Tensor& gamma, const at::Tensor& mean,
                                                     const at::Tensor& inverse, bool residual);

inline int octrain_chain_kind(const at::Tensor& x) { return octrain_kind_of(x, "run through fused operators"); }
