#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/service/dispatcher.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;
class SegmentKeeper;

/// What acknowledged bytes are not on every copy, or on none any more: being sent on (as nodes say), only on
/// nodes that are away, and lost (as the extents say). docs/design/async.md
///
/// Lives on one io_context; `stop()` before destroying.
class LagService {
 public:
  LagService(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
             SegmentKeeper& segments, prometheus::Registry& registry);
  LagService(const LagService&) = delete;
  LagService& operator=(const LagService&) = delete;

  void register_with(Dispatcher& dispatcher);
  void start();
  asio::awaitable<void> stop();

  struct Lags {
    wire::Lag total;
    std::map<InodeId, wire::Lag> channels;  // that have any
  };
  /// As things are now. @errors those of reading rows
  Task<Lags> lags() const;
  /// Sets NodeInfo's lags.
  void describe(std::vector<wire::NodeInfo>& nodes) const;
  /// What an operator should know of it.
  static std::vector<wire::Problem> problems(const Lags& lags);

  Task<wire::ListLostReply> list_lost(wire::ListLostRequest request);

 private:
  asio::awaitable<void> measure();

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  prometheus::Gauge& lag_bytes_;
  prometheus::Gauge& lag_seconds_;
  prometheus::Gauge& away_bytes_;
  prometheus::Gauge& lost_bytes_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
