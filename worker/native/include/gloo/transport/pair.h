// The connection to one other rank. Objects of these types are libtorch's; here they are only pointed to.
#pragma once
#include <exception>
#include <string>
namespace gloo {
namespace transport {
class Pair {
 public:
  virtual ~Pair();
};
namespace tcp {
class Pair {
 public:
  // Closes the connection and ends whatever waits for it with an error that says `message`. For any thread.
  std::exception_ptr signalExceptionExternal(const std::string& message);
};
}  // namespace tcp
}  // namespace transport
}  // namespace gloo
