// The C interface between Rust and libtorch's C++ parts that tch does not reach. Every function returns null, or
// a message that the caller frees with free().
#pragma once
#include <ATen/ATen.h>
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
