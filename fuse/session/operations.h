#pragma once

#include <memory>

#include <boost/asio/awaitable.hpp>

#include "common/async/task.h"
#include "fuse/session/request.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::fuse {

/// What answers one call. Owns its Request.
using Operation = asio::awaitable<void>;

/// When an interrupted call that is not about to die is given up: a call that waits for another process
/// rather than for the store has no grace.
enum class Interruption { after_grace, at_once };

/// The client's loop on a thread of its own, and the operations that run there.
///
/// A caller that is interrupted gets EINTR: its operation is cancelled, at once where the signal kills it, so
/// that the mount is not busy with the dead; else once a grace of 200 ms has passed, so that a timer signal
/// does not break a call which a healthy store answers in milliseconds.
class Operations {
 public:
  Operations();
  ~Operations();  // after stop()
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

  asio::io_context& context();

  /// Runs the operation that owns the request `raw`. Any thread. After stop() began it is destroyed
  /// unstarted, which answers it.
  void start(fuse_req_t raw, Operation operation, Interruption interruption = Interruption::after_grace);
  /// Runs what answers nobody. Any thread.
  void start_background(Operation operation);

  /// Runs a task on the loop, from another thread, and waits for it.
  Result<void> run(Task<void> task);
  void run(asio::awaitable<void> coroutine);

  /// Cancels all operations and waits for them; once. From another thread than the loop's.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::fuse
