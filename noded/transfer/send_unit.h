#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "common/async/condition.h"
#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/wire/node.pb.h"
#include "noded/segment/segment_store.h"
#include "noded/transfer/change_log.h"
#include "noded/transfer/peers.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::noded {

/// Sends on what was appended to the first copies that this process writes: to each process of other nodes in
/// a lane of its own, with no more under way there than that one allows. A lane whose process does not answer
/// tries again and again and holds up no other; a copy that refuses holds up no other of its lane.
///
/// Lives on one io_context; `stop()` before destroying. Design: docs/design/async.md
class SendUnit {
 public:
  SendUnit(asio::io_context& context, const Clock& clock, SegmentStore& store,
           rpc::ClientOptions client_options);
  SendUnit(const SendUnit&) = delete;
  SendUnit& operator=(const SendUnit&) = delete;

  /// The unit was written here and acknowledged. @param others  the segment's other copies; none: nothing to
  /// do
  void appended(const ChangeSource& source, const std::vector<wire::WorkerAddress>& others,
                std::uint64_t offset, SharedBuffer unit);
  /// Sends on what the other copies lack, whoever appended it, and waits until all have every byte before the
  /// order's length, or for its patience.
  /// @return the end that every copy has reached
  /// @errors not_found, stale_generation (the segment is fenced here: nothing is sent on any more), invalid
  /// (it is shorter here, or no copy is named), io
  Task<std::uint64_t> await_copies(wire::AwaitCopiesRequest order);

  /// What is not on every copy yet, for each channel and for each node that lacks it.
  std::vector<ChangeLog::Lag> lag();
  std::uint64_t sent_bytes() const { return sent_bytes_; }

  asio::awaitable<void> stop();

 private:
  struct Lane {
    wire::WorkerAddress address;
    rpc::Endpoint process;
    std::uint64_t window = 0;     // bytes that may be under way
    std::uint64_t in_flight = 0;  // that are
    std::size_t requests = 0;
    TimePoint not_before{};  // nothing is sent until then: it did not answer
    Duration pause{};
    bool running = false;
    Event changed;
  };

  void wake(const wire::WorkerAddress& address);
  asio::awaitable<void> run(Lane& lane);
  asio::awaitable<void> send(Lane& lane, ChangeLog::Next next, SharedBuffer unit);
  asio::awaitable<void> derive(Lane& lane, ChangeLog::Next next);
  Task<std::uint64_t> end_of(Lane& lane, const ChangeLog::Next& next);
  Task<std::vector<Change>> changes_behind(const ChangeLog::Next& next, std::uint64_t end);
  Task<SharedBuffer> bytes_of(const ChangeLog::Next& next);
  void failed(Lane& lane, const ChangeLog::Next& next, const Error& error);
  void forget_ended();

  const Clock& clock_;
  SegmentStore& store_;
  ChangeLog log_;
  Condition progress_;
  std::uint64_t sent_bytes_ = 0;
  std::map<rpc::Endpoint, Lane> lanes_;  // entries stay: a running one is referred to
  Peers targets_;
  TaskGroup group_;
};

}  // namespace reelfs::noded
