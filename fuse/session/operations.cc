#include "fuse/session/operations.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <future>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <utility>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/system/system_error.hpp>
#include <pthread.h>

#include "common/base/assert.h"
#include "common/observe/log.h"

namespace reelfs::fuse {
namespace {

/// "At once" for a person; long for a call to a healthy store.
constexpr std::chrono::milliseconds kInterruptGrace{200};

/// Whether the thread will never see an answer: the kernel turns every deadly signal into a pending SIGKILL
/// (proc(5), SigPnd).
bool is_dying(pid_t thread) {
  std::ifstream status("/proc/" + std::to_string(thread) + "/status");
  constexpr std::string_view kKey = "SigPnd:";
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(kKey)) continue;
    constexpr int kHexadecimal = 16;
    const auto pending = std::strtoull(line.c_str() + kKey.size(), nullptr, kHexadecimal);
    return (pending >> (SIGKILL - 1) & 1) != 0;
  }
  return false;
}

/// An operation under way. Lives until its coroutine has ended; all of it belongs to the loop.
class Running : public std::enable_shared_from_this<Running> {
 public:
  Running(asio::io_context& context, Operation operation, Interruption interruption)
      : context_(context), operation_(std::move(operation)), interruption_(interruption), grace_(context) {}

  /// Enters the coroutine. @param ended  called when it has ended
  template <class Ended>
  void enter(fuse_req_t raw, Ended ended) {
    if (raw != nullptr) fuse_req_interrupt_func(raw, &Running::on_interrupt, this);
    asio::co_spawn(context_, std::move(*operation_),
                   asio::bind_cancellation_slot(
                       cancel_.slot(), [self = shared_from_this(), ended](std::exception_ptr failure) {
                         self->grace_.cancel();
                         check_ending(failure);
                         ended(self);
                       }));
    operation_.reset();
  }

  void cancel() { cancel_.emit(asio::cancellation_type::all); }

 private:
  /// libfuse calls this on a FUSE thread, or inside enter(), holding the request: it exists, and so does the
  /// operation.
  static void on_interrupt(fuse_req_t raw, void* data) {
    auto self = static_cast<Running*>(data)->shared_from_this();
    auto& context = self->context_;
    const bool at_once = self->interruption_ == Interruption::at_once || is_dying(fuse_req_ctx(raw)->pid);
    asio::post(context, [self = std::move(self), at_once] { self->interrupt(at_once); });
  }

  void interrupt(bool at_once) {
    if (at_once) return cancel();
    grace_.expires_after(kInterruptGrace);
    grace_.async_wait([self = shared_from_this()](boost::system::error_code error) {
      if (!error) self->cancel();
    });
  }

  static void check_ending(const std::exception_ptr& failure) {
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const boost::system::system_error& error) {
      if (error.code() == asio::error::operation_aborted) return;  // the request's destructor has answered
      logger("fuse").critical("operation ended with {}", error.what());
    } catch (const std::exception& error) {
      logger("fuse").critical("operation ended with {}", error.what());
    }
    std::terminate();
  }

  asio::io_context& context_;
  std::optional<Operation> operation_;
  const Interruption interruption_;
  asio::cancellation_signal cancel_;
  asio::steady_timer grace_;
};

/// co_spawn wants results that can be made from nothing.
asio::awaitable<std::optional<Result<void>>> wrap(Task<void> task) { co_return co_await std::move(task); }

}  // namespace

struct Operations::State {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  // The loop's.
  std::unordered_set<std::shared_ptr<Running>> running;
  bool stopping = false;
  std::promise<void> stopped;
  bool stop_began = false;  // the caller's of stop()
  // Last: it uses the above.
  std::thread thread;

  void enter(fuse_req_t raw, Operation operation, Interruption interruption) {
    auto state = std::make_shared<Running>(context, std::move(operation), interruption);
    running.insert(state);
    state->enter(raw, [this](const std::shared_ptr<Running>& ended) {
      running.erase(ended);
      if (stopping && running.empty()) stopped.set_value();
    });
  }
};

Operations::Operations() : state_(std::make_unique<State>()) {
  state_->thread = std::thread([&context = state_->context] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "client");
    context.run();
  });
}

Operations::~Operations() {
  state_->work.reset();
  state_->context.stop();
  state_->thread.join();
  REELFS_ASSERT(state_->running.empty());
}

asio::io_context& Operations::context() { return state_->context; }

void Operations::start(fuse_req_t raw, Operation operation, Interruption interruption) {
  asio::post(state_->context,
             [state = state_.get(), raw, interruption, operation = std::move(operation)]() mutable {
               if (!state->stopping) state->enter(raw, std::move(operation), interruption);
             });
}

void Operations::start_background(Operation operation) { start(nullptr, std::move(operation)); }

Result<void> Operations::run(Task<void> task) {
  return asio::co_spawn(state_->context, wrap(std::move(task)), asio::use_future).get().value();
}

void Operations::run(asio::awaitable<void> coroutine) {
  asio::co_spawn(state_->context, std::move(coroutine), asio::use_future).get();
}

void Operations::stop() {
  if (std::exchange(state_->stop_began, true)) return;
  auto stopped = state_->stopped.get_future();
  asio::post(state_->context, [state = state_.get()] {
    state->stopping = true;
    if (state->running.empty()) state->stopped.set_value();
    const auto running = state->running;  // one that ends meanwhile leaves the set
    for (const auto& operation : running) operation->cancel();
  });
  stopped.wait();
}

}  // namespace reelfs::fuse
