#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/result.h"
#include "common/rpc/client.h"
#include "common/wire/node.pb.h"
#include "noded/leader/device_bring_up.h"
#include "noded/leader/node_identity.h"
#include "noded/segment/segment_store.h"

namespace reelfs::noded {

/// Keeps the index informed: registers this worker process, sends heartbeats, reports blocks when asked, and
/// frees those that the index does not know. While the index cannot be reached it tries for ever, and nothing
/// else waits for it.
class IndexLink {
 public:
  /// What is told of this process.
  struct Situation {
    rpc::Endpoint endpoint;
    bool leader = false;
    std::vector<DeviceStatus> devices;  // of the leader
    std::map<DeviceId, wire::ScrubProgress> scrubs;
  };
  struct Options {
    std::vector<rpc::Endpoint> indexes;
    std::string rack;
    rpc::ClientOptions client;
  };

  IndexLink(asio::io_context& context, const Clock& clock, NodeIdentity identity, Options options,
            SegmentStore& store, UnfilledTable& unfilled, std::function<Situation()> situation);
  ~IndexLink();
  IndexLink(const IndexLink&) = delete;
  IndexLink& operator=(const IndexLink&) = delete;

  /// Runs until it is cancelled.
  asio::awaitable<void> run();
  /// Something changed that the index should know now.
  void changed();
  /// Tells that a copy of this node is damaged. @errors unavailable, busy: later
  Task<void> report_damage(wire::Damage damage);
  /// Ends its connections and what it is freeing, when run() has ended.
  asio::awaitable<void> stop();

 private:
  Task<void> register_worker(rpc::Client& index);
  Task<void> heartbeat(rpc::Client& index);
  Task<void> report_blocks(rpc::Client& index);
  asio::awaitable<void> free_blocks(wire::ReportBlocksReply reply);
  Task<void> stay_in_touch(rpc::Client& index);
  asio::awaitable<void> pause(Duration duration);
  Result<void> learn_epoch(std::uint64_t epoch);
  Deadline call_deadline() const;

  const Clock& clock_;
  const NodeIdentity identity_;
  const Options options_;
  SegmentStore& store_;
  UnfilledTable& unfilled_;
  const std::function<Situation()> situation_;
  const Uuid incarnation_;  // of this process's life
  std::vector<std::unique_ptr<rpc::Client>> clients_;
  std::uint32_t node_ = 0;          // as the index numbers it
  rpc::Client* current_ = nullptr;  // the one with which it is registered
  std::chrono::milliseconds heartbeat_{500};
  SegmentId report_from_;  // where the next part of a block report begins
  bool freeing_ = false;   // what the last part's answer named
  Result<void> freed_ = ok();
  Event wake_;
  TaskGroup group_;
};

}  // namespace reelfs::noded
