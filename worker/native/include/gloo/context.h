#pragma once
#include <chrono>
#include <memory>
#include <gloo/transport/pair.h>
namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
  std::unique_ptr<transport::Pair>& getPair(int i);
};
}  // namespace gloo
