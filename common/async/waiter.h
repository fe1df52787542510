#pragma once

#include <memory>
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>

namespace reelfs {

namespace asio = boost::asio;

/// A suspended coroutine, kept until what it waits for is there. For .cc files: it brings in Asio.
/// (asio::any_completion_handler of Boost 1.81 calls itself without end when copied.)
template <class... Args>
class Waiter {
 public:
  Waiter() = default;
  /// @param executor  of the coroutine; counts as having work until it resumes
  template <class Handler>
  Waiter(const asio::any_io_executor& executor, Handler handler)
      : held_(std::make_unique<Held<Handler>>(executor, std::move(handler))) {}

  explicit operator bool() const { return held_ != nullptr; }
  /// Resumes it from its loop. From any thread.
  void resume(Args... args) { std::exchange(held_, nullptr)->resume(args...); }

 private:
  struct HeldBase {
    virtual ~HeldBase() = default;
    virtual void resume(Args... args) = 0;
  };
  template <class Handler>
  struct Held final : HeldBase {
    Held(const asio::any_io_executor& on, Handler resumes)
        : executor(asio::prefer(on, asio::execution::outstanding_work.untracked)),
          work(asio::prefer(on, asio::execution::outstanding_work.tracked)),
          handler(std::move(resumes)) {}
    void resume(Args... args) override {
      // The work travels with the handler and ends on the loop: ended here, after the handler may have run,
      // it could stop a loop that has gone on to something else.
      asio::post(executor, [work = std::move(work), handler = std::move(handler), args...]() mutable {
        std::move(handler)(args...);
      });
    }
    asio::any_io_executor executor;
    asio::any_io_executor work;
    Handler handler;
  };
  std::unique_ptr<HeldBase> held_;
};

}  // namespace reelfs
