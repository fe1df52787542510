#include "fuse/session/invalidator.h"

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include <pthread.h>

#include "fuse/session/kernel_channel.h"

namespace reelfs::fuse {

namespace {

using SteadyClock = std::chrono::steady_clock;
using Names = std::vector<Invalidator::Name>;

/// A name is forgotten once more after this time: a process that was just told by us where it leads, and has
/// not run since, notes it for the whole lease, whatever the kernel was told in between.
constexpr std::chrono::milliseconds kAgain{50};

/// Jobs one after the other on a thread.
class Lane {
 public:
  using Job = std::function<void()>;

  explicit Lane(const char* name) : thread_([this] { run(); }) {
    pthread_setname_np(thread_.native_handle(), name);
  }
  ~Lane() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void add(Job job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    changed_.notify_all();
  }
  void add_after(std::chrono::milliseconds delay, Job job) {
    const std::lock_guard lock(mutex_);
    later_.push_back({SteadyClock::now() + delay, std::move(job)});
    changed_.notify_all();
  }
  bool wait_until_idle(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, patience, [this] { return jobs_.empty() && !running_; });
  }

 private:
  struct Later {
    SteadyClock::time_point due;
    Job job;
  };

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!jobs_.empty()) {
        const auto job = std::move(jobs_.front());
        jobs_.pop_front();
        running_ = true;
        lock.unlock();
        job();
        lock.lock();
        running_ = false;
        changed_.notify_all();
      } else if (ending_) {
        return;
      } else if (later_.empty()) {
        changed_.wait(lock);
      } else if (later_.front().due > SteadyClock::now()) {
        changed_.wait_until(lock, later_.front().due);
      } else {
        jobs_.push_back(std::move(later_.front().job));
        later_.pop_front();
      }
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Job> jobs_;
  std::deque<Later> later_;  // all with one delay
  bool running_ = false;
  bool ending_ = false;
  std::thread thread_;  // last: it uses the above
};

}  // namespace

struct Invalidator::State {
  mutable std::mutex mutex;
  KernelChannel* channel = nullptr;  // guarded by mutex
  std::atomic<int> names_under_way{0};
  Lane attributes{"attributes"};
  Lane pages{"pages"};
  Lane later_names{"later names"};
  Lane names{"names"};  // after later_names, which it uses

  KernelChannel* kernel() const {
    const std::lock_guard lock(mutex);
    return channel;
  }
  void forget_now(const Names& gone) const {
    auto* const channel_now = kernel();
    if (channel_now == nullptr) return;
    for (const auto& name : gone) channel_now->forget_name(name.directory, name.name);
  }
  void forget_again(Names gone) {
    later_names.add_after(kAgain, [this, gone = std::move(gone)] { forget_now(gone); });
  }
};

Invalidator::Invalidator() : state_(std::make_unique<State>()) {}
Invalidator::~Invalidator() = default;

void Invalidator::attach(KernelChannel& channel) {
  const std::lock_guard lock(state_->mutex);
  state_->channel = &channel;
}

bool Invalidator::detach(std::chrono::milliseconds patience) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->channel = nullptr;
  }
  return state_->attributes.wait_until_idle(patience) && state_->pages.wait_until_idle(patience) &&
         state_->names.wait_until_idle(patience) && state_->later_names.wait_until_idle(patience);
}

void Invalidator::forget_attributes(std::vector<fuse_ino_t> nodes, std::function<void()> done) {
  state_->attributes.add([state = state_.get(), nodes = std::move(nodes), done = std::move(done)] {
    auto* const kernel = state->kernel();
    for (const auto node : nodes) {
      if (kernel != nullptr) kernel->forget_attributes(node);
    }
    if (done) done();
  });
}

void Invalidator::forget_pages(fuse_ino_t node, std::function<void()> done) {
  state_->pages.add([state = state_.get(), node, done = std::move(done)] {
    if (auto* const kernel = state->kernel()) kernel->forget_pages(node);
    if (done) done();
  });
}

void Invalidator::find_unknown(std::vector<fuse_ino_t> nodes, std::function<void(fuse_ino_t)> unknown) {
  state_->attributes.add([state = state_.get(), nodes = std::move(nodes), unknown = std::move(unknown)] {
    auto* const kernel = state->kernel();
    if (kernel == nullptr) return;
    for (const auto node : nodes) {
      if (!kernel->knows(node)) unknown(node);
    }
  });
}

void Invalidator::forget_names(std::vector<Name> names, std::function<void()> done) {
  ++state_->names_under_way;
  state_->names.add([state = state_.get(), names = std::move(names), done = std::move(done)]() mutable {
    state->forget_now(names);
    --state->names_under_way;
    if (done) done();
    state->forget_again(std::move(names));
  });
}

bool Invalidator::has_names_to_forget() const { return state_->names_under_way > 0; }

void Invalidator::forget_names_later(std::vector<Name> names) {
  state_->later_names.add([state = state_.get(), names = std::move(names)]() mutable {
    state->forget_now(names);
    state->forget_again(std::move(names));
  });
}

void Invalidator::forget_all_names() {
  state_->attributes.add([state = state_.get()] {
    if (auto* const kernel = state->kernel()) kernel->forget_all_names();
  });
}

}  // namespace reelfs::fuse
