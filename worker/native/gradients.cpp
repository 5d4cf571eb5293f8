// Hears of gradients while backward still runs.
#include "octrain.h"

#include <memory>

extern "C" {
// Calls `come(context, gradient)` whenever backward has all of a leaf's gradient, on the thread that runs backward there, and
// `forget(context)` once, when the leaf is forgotten or its last backward is over. `gradient` is undefined where there is none.
char* octrain_on_gradient(const at::Tensor* leaf, void* context, void (*come)(void*, const at::Tensor*),
                          void (*forget)(void*)) {
  std::shared_ptr<void> held(context, forget);
  return octrain_guard([&] {
    leaf->register_hook([held, come](const at::Tensor& gradient) { come(held.get(), &gradient); });
  });
}
}
