#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/condition.h"
#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/repair/plan.h"
#include "indexd/schema/rows.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class CopyOrders;
class Executor;
class NodeRegistry;
class RepairLog;
class SegmentKeeper;

/// Sees to it that segments have the copies they are to have: looks through all of them when nodes and
/// devices came or went, or from time to time, and has the copies of those that have too few made again, the
/// most endangered first, several at once. docs/design/repair.md
///
/// Lives on one io_context; `stop()` before destroying.
class Repairer {
 public:
  Repairer(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
           SegmentKeeper& segments, CopyOrders& copies, RepairLog& repair_log, const ServiceOptions& options,
           prometheus::Registry& registry);
  Repairer(const Repairer&) = delete;
  Repairer& operator=(const Repairer&) = delete;

  void start();
  asio::awaitable<void> stop();

  /// Nodes or devices came or went, or are to be drained.
  void situation_changed() { wake_.set(); }
  /// What is away now is made again without waiting for it to come back.
  void hurry();
  wire::RepairStatus status() const;

 private:
  struct AtRisk {
    std::uint64_t segments = 0;
    std::uint64_t bytes = 0;
  };
  /// What one look found.
  struct Seen {
    std::vector<RepairNeed> needs;
    std::map<std::uint32_t, AtRisk> at_risk;  // by copies within reach
    std::map<NodeId, AtRisk> leaving;         // by node that is being drained
    std::uint64_t rest = 0;                   // that did not fit into `needs`
  };
  using Page = std::vector<std::pair<SegmentId, SegmentRow>>;

  asio::awaitable<void> run();
  asio::awaitable<void> pause(Duration duration);
  Task<Seen> look();
  void note(SegmentId segment, const SegmentRow& row, Seen& seen) const;
  SegmentStanding standing(SegmentId segment, const SegmentRow& row) const;
  CopyStanding standing(const SegmentCopy& copy) const;
  void take(Seen seen);
  asio::awaitable<void> work_through();
  asio::awaitable<void> repair(RepairNeed need);
  Task<void> step(RepairNeed need);
  std::string waits_for() const;

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  CopyOrders& copies_;
  RepairLog& repair_log_;
  const ServiceOptions& options_;
  std::vector<prometheus::Gauge*> at_risk_bytes_;  // by copies within reach

  std::map<std::uint32_t, AtRisk> at_risk_;
  std::map<NodeId, AtRisk> leaving_;
  std::vector<RepairNeed> queue_;  // the most urgent last
  std::uint64_t rest_ = 0;
  std::set<NodeId> hurried_;                   // not waited for, until they are back
  std::map<SegmentId, TimePoint> not_before_;  // that could not be repaired
  std::map<NodeId, std::uint32_t> making_;     // copies that are being made
  std::size_t under_way_ = 0;
  bool no_place_ = false;  // for some segment, since the last look
  bool changed_ = false;   // something was done since the last look
  Condition ended_;
  Event wake_;
  /// How fast it goes: what had been copied a while ago.
  TimePoint measured_;
  std::uint64_t measured_bytes_ = 0;
  double rate_ = 0;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
