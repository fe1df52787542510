#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/byte_ranges.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "indexd/schema/keys.h"
#include "indexd/service/dispatcher.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;
class RepairLog;

/// Knows which copies are damaged, as nodes and clients say, and has each repaired in place from the others.
/// What is known is a row until it is repaired, or its segment is gone; what no copy has is never
/// overwritten, and told of as long as it is there.
///
/// Lives on one io_context; `stop()` before destroying. Design: docs/design/scrub.md
class ScrubKeeper {
 public:
  ScrubKeeper(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
              RepairLog& repair_log, prometheus::Registry& registry);
  ScrubKeeper(const ScrubKeeper&) = delete;
  ScrubKeeper& operator=(const ScrubKeeper&) = delete;

  void register_with(Dispatcher& dispatcher);
  /// Reads what is known, and goes on with it.
  Task<void> start();
  asio::awaitable<void> stop();
  void node_returned(NodeId node);

  Task<wire::ReportDamageReply> report_damage(wire::ReportDamageRequest request);
  Task<wire::StartScrubReply> start_scrub(wire::StartScrubRequest request);
  Task<wire::ScrubStatusReply> scrub_status(wire::ScrubStatusRequest request);
  std::vector<wire::Problem> problems() const;

 private:
  using CopyId = std::pair<SegmentId, NodeId>;
  struct Damaged {
    ByteRanges ranges;
    ByteRanges lost;  // of them: no copy has these
    WallNs since_ns = 0;
    bool under_way = false;
    TimePoint not_before;
    Duration pause{};
    std::string waits_for;
    DeviceId device;  // as far as it is known
    std::uint32_t block = 0;
    bool unrepairable() const;
  };
  struct Order;

  void log_event(RepairEvent event, CopyId copy, std::uint64_t bytes, std::string details);
  Task<void> add(CopyId copy, ByteRanges ranges, std::string why);
  asio::awaitable<void> work();
  asio::awaitable<void> repair(CopyId copy);
  Task<void> try_to_repair(CopyId copy);
  Task<void> conclude(CopyId copy, const Order& order, const wire::RewriteRangesReply& reply);
  void wait_for(CopyId copy, std::string what);
  Task<void> forget(CopyId copy);
  void take_row(CopyId copy, const DamageRow& row);
  void count();
  Task<void> name_files(wire::ScrubStatusReply& reply);

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  RepairLog& repair_log_;
  std::map<CopyId, Damaged> damaged_;  // the rows, and how far each is
  std::set<NodeId> busy_;              // with a repair
  prometheus::Counter& reported_;
  prometheus::Counter& repaired_;
  prometheus::Counter& repaired_bytes_;
  prometheus::Gauge& pending_;
  prometheus::Gauge& unrepairable_;
  Event work_there_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
