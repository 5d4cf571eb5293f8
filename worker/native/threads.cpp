// Threads that compute on their own.
#include "parallel.h"

// The calling thread runs libtorch's parallel loops alone from now on.
extern "C" void octrain_alone() {
  // libtorch sets a thread's number when it is first asked for it, and not again.
  at::get_num_threads();
  omp_set_num_threads(1);
}
