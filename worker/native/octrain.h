// The C interface between Rust and libtorch's C++ parts that tch does not reach. Every function returns null, or
// a message that the caller frees with free().
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <cstring>
#include <exception>
#include <string>

template <typename F>
char* octrain_guard(F&& f) {
  try {
    f();
    return nullptr;
  } catch (const c10::Error& e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception that is not a std::exception");
  }
}

// To be called in the backward of an operator whose gradients have none: without it they would silently count as constants.
// `what` cannot be differentiated twice; `instead` says what can.
inline void octrain_once_only(const char* what, const char* instead) {
  TORCH_CHECK(!at::GradMode::is_enabled(), what,
              " cannot be differentiated twice: take its gradients without create_graph, or ", instead);
}
