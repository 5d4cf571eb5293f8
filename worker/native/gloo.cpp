// libtorch's Gloo process group with a rendezvous store in Rust.
#define USE_C10D_GLOO
#include "octrain.h"

#include <atomic>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

extern "C" {
// What the Rust side gives: every function returns 0, or 1 after having put a message into `error`.
struct OctrainStore {
  void* context;
  int (*set)(void* context, const char* key, size_t key_len, const uint8_t* value, size_t len, void* error);
  int (*get)(void* context, const char* key, size_t key_len, int64_t timeout_ms, void* value, void* error);
  int (*add)(void* context, const char* key, size_t key_len, int64_t amount, int64_t* sum, void* error);
  int (*check)(void* context, const char* key, size_t key_len, bool* there, void* error);
  int (*remove)(void* context, const char* key, size_t key_len, bool* was, void* error);
};

// Fills the `value` or `error` of a callback.
void octrain_string_assign(void* string, const uint8_t* bytes, size_t len) {
  static_cast<std::string*>(string)->assign(reinterpret_cast<const char*>(bytes), len);
}
}

namespace {

// libtorch's record of collectives (FlightRecorder) is one a process and not guarded: ranks that are threads of one process crash
// in it. Nobody reads it, so it is off unless the environment says otherwise; this runs before `main`, while there is one thread.
[[maybe_unused]] const int kNoRecord = setenv("TORCH_FR_BUFFER_SIZE", "0", 0);

class RustStore : public c10d::Store {
 public:
  RustStore(OctrainStore f, std::chrono::milliseconds timeout) : c10d::Store(timeout), f_(f) {}

  c10::intrusive_ptr<c10d::Store> clone() override { return c10::make_intrusive<RustStore>(f_, timeout_); }

  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    call([&](void* e) { return f_.set(f_.context, key.data(), key.size(), value.data(), value.size(), e); });
  }

  std::vector<uint8_t> get(const std::string& key) override { return get_within(key, timeout_); }

  int64_t add(const std::string& key, int64_t amount) override {
    int64_t sum = 0;
    call([&](void* e) { return f_.add(f_.context, key.data(), key.size(), amount, &sum, e); });
    return sum;
  }

  bool deleteKey(const std::string& key) override {
    bool was = false;
    call([&](void* e) { return f_.remove(f_.context, key.data(), key.size(), &was, e); });
    return was;
  }

  bool check(const std::vector<std::string>& keys) override {
    for (const auto& key : keys) {
      bool there = false;
      call([&](void* e) { return f_.check(f_.context, key.data(), key.size(), &there, e); });
      if (!there) return false;
    }
    return true;
  }

  int64_t getNumKeys() override { throw std::runtime_error("the coordinator's store does not count its keys"); }

  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }

  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    // The group's timeout bounds Gloo's own, longer default.
    for (const auto& key : keys) get_within(key, std::min(timeout, timeout_));
  }

 private:
  template <typename F>
  void call(F&& f) {
    std::string error;
    if (f(&error) != 0) throw std::runtime_error(error);
  }

  std::vector<uint8_t> get_within(const std::string& key, std::chrono::milliseconds timeout) {
    std::string value;
    call([&](void* e) { return f_.get(f_.context, key.data(), key.size(), timeout.count(), &value, e); });
    return {value.begin(), value.end()};
  }

  OctrainStore f_;
};

// The process group and its connections, each of which it owns.
class Connected : public c10d::ProcessGroupGloo {
 public:
  using c10d::ProcessGroupGloo::ProcessGroupGloo;

  // Closes the connections to all other ranks, so that whatever waits for one fails now. All are there: the
  // constructor connects them. They are asked for by the object and not by descriptors, which other threads may open
  // and close meanwhile. createDeviceForHostname makes TCP devices, so the pairs are TCP pairs.
  void cut() {
    for (const auto& context : contexts_)
      for (int other = 0; other < getSize(); other++)
        if (other != getRank())
          reinterpret_cast<gloo::transport::tcp::Pair*>(context->getPair(other).get())
              ->signalExceptionExternal("the group was aborted");
  }
};

struct Group {
  c10::intrusive_ptr<Connected> gloo;
  std::atomic<bool> aborted{false};
  std::chrono::milliseconds timeout;

  void cut() {
    if (!aborted.exchange(true)) gloo->cut();
  }

  void finish(const c10::intrusive_ptr<c10d::Work>& work) {
    auto deadline = std::chrono::steady_clock::now() + timeout;
    while (true) {
      try {
        work->wait(std::chrono::milliseconds(20));
        return;
      } catch (...) {
        // Either it failed, or it is not done yet.
        if (work->isCompleted()) {
          if (work->exception()) std::rethrow_exception(work->exception());
          return;
        }
      }
      TORCH_CHECK(!aborted.load(), "aborted");
      if (std::chrono::steady_clock::now() >= deadline) {
        // Gloo's thread would hold up the end of the group.
        cut();
        TORCH_CHECK(false, "no answer from the other ranks within ", timeout.count() / 1000, " s");
      }
    }
  }

  void start() { TORCH_CHECK(!aborted.load(), "aborted"); }
};

}  // namespace

extern "C" {

// `address` is a host name or IP address of this machine that the other ranks can reach.
char* octrain_gloo_new(Group** out, OctrainStore store, int rank, int size, const char* address, int64_t timeout_ms) {
  return octrain_guard([&] {
    auto group = std::make_unique<Group>();
    group->timeout = std::chrono::milliseconds(timeout_ms);
    auto options = c10d::ProcessGroupGloo::Options::create(group->timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    options->threads = 1;
    auto s = c10::make_intrusive<RustStore>(store, group->timeout);
    group->gloo = c10::make_intrusive<Connected>(s, rank, size, options);
    *out = group.release();
  });
}

// Makes the pending call and all later ones fail, whatever the other ranks do. For any thread.
char* octrain_gloo_abort(Group* group) {
  return octrain_guard([&] { group->cut(); });
}

// Drops the group; its threads are joined. None of them waits for another rank: calls end with their work, or by a cut.
void octrain_gloo_free(Group* group) { delete group; }

// `op`: 0 sum, 1 maximum.
char* octrain_gloo_all_reduce(Group* group, const at::Tensor* tensor, int op) {
  return octrain_guard([&] {
    group->start();
    std::vector<at::Tensor> list{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = op == 0 ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX;
    group->finish(group->gloo->allreduce(list, options));
  });
}

char* octrain_gloo_broadcast(Group* group, const at::Tensor* tensor, int root) {
  return octrain_guard([&] {
    group->start();
    std::vector<at::Tensor> list{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group->finish(group->gloo->broadcast(list, options));
  });
}

// `out` has one more dimension in front, of the world's size.
char* octrain_gloo_all_gather(Group* group, const at::Tensor* tensor, const at::Tensor* out) {
  return octrain_guard([&] {
    group->start();
    std::vector<std::vector<at::Tensor>> outputs{out->unbind(0)};
    std::vector<at::Tensor> inputs{*tensor};
    group->finish(group->gloo->allgather(outputs, inputs));
  });
}
}
