#pragma once

#include <cstddef>
#include <map>
#include <string>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/wire/index.pb.h"
#include "indexd/locks/lock_table.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class Executor;
class Sessions;
class Transaction;

/// Answers what is asked about locks, and keeps those who wait until they are served. docs/design/locks.md
/// Lives on one io_context; `stop()` before destroying.
class LockService {
 public:
  LockService(asio::any_io_executor executor, const Clock& clock, Executor& index, Sessions& sessions,
              const ServiceOptions& options, prometheus::Registry& registry);
  void register_with(Dispatcher& dispatcher);

  /// Reads the locks that the last life of this process gave. Sessions are known by then, and none has ended.
  Task<void> start();
  asio::awaitable<void> stop() { return group_.stop(); }

  /// The session has been opened or resumed: from now on it holds what the request says, and what of it
  /// others have the reply names. @errors invalid
  Task<void> opened(SessionId session, const wire::OpenSessionRequest& request,
                    wire::OpenSessionReply& reply);
  void session_ended(SessionId session) { group_.spawn(drop(session)); }

  Task<wire::SetLockReply> set_lock(wire::SetLockRequest request);
  Task<wire::TestLockReply> test_lock(wire::TestLockRequest request);
  Task<wire::CancelLockReply> cancel_lock(wire::CancelLockRequest request);
  Task<wire::ListLocksReply> list_locks(wire::ListLocksRequest request);

 private:
  class Caller;
  struct Seen {
    LockTable::Effect effect;
    std::size_t held = 0;
    std::size_t waiting = 0;
  };
  /// On the writer's thread: stores the effect's rows with the running operation.
  Seen store(Transaction& txn, LockTable::Effect effect) const;
  /// On the loop, when the operation is done: wakes those whom it concerns.
  void tell(const Seen& seen);
  /// None of its waits goes on as it was.
  void wake_all(SessionId session);
  asio::awaitable<void> drop(SessionId session);

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
  const ServiceOptions& options_;
  TaskGroup group_;
  LockTable table_;  // the writer's thread
  std::multimap<WaitId, Caller*> callers_;
  prometheus::Gauge& held_;
  prometheus::Gauge& waiting_;
  prometheus::Counter& served_;
  prometheus::Counter& deadlocks_;
  prometheus::Counter& lost_;
};

}  // namespace reelfs::indexd
