// What the operators on tensors share.
#pragma once
#include <ATen/ATen.h>

#include "loops.h"

// Which of the loops' types a tensor has. `done`: what cannot be done with another, for the message.
inline int octrain_kind_of(const at::Tensor& x, const char* done) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return kOctrainF32;
    case at::kBFloat16:
      return kOctrainBf16;
    case at::kHalf:
      return kOctrainF16;
    default:
      TORCH_CHECK(false, "a tensor of type ", x.scalar_type(), " cannot be ", done, "; FP32, BF16 and FP16 can");
  }
}

inline const char* octrain_at(const at::Tensor& t, int64_t i) {
  return static_cast<const char*>(t.const_data_ptr()) + i * t.element_size();
}

inline char* octrain_at(at::Tensor& t, int64_t i) {
  return static_cast<char*>(t.mutable_data_ptr()) + i * t.element_size();
}

inline at::Tensor octrain_channels_last(const at::Tensor& t) { return t.contiguous(at::MemoryFormat::ChannelsLast); }
