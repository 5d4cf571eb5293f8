// Convolutions of INT8 codes on CPUs; worker/src/native/int8.rs has the same struct.
#pragma once
#include <stdint.h>

struct OctrainInt8 {
  int64_t stride[2], padding[2], dilation[2];
  int64_t zero;  // the code of 0 among the input's codes
  double scale;  // of the input's codes
};
