// libtorch's threads. `at::parallel_for` is a template, and a plain loop where OpenMP is off as it is compiled.
#pragma once

#include <ATen/Parallel.h>

#ifndef INTRA_OP_PARALLEL
#error "the operators would run on one thread: compile them with -fopenmp, as worker/build.rs does"
#endif
