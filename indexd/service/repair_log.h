#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/schema/rows.h"
#include "indexd/service/dispatcher.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;

/// What became of copies and of what they are on, and what was done about it: the newest kEntries events, in
/// the index, for `reelctl repair log`. docs/design/repair.md, "The log"
///
/// Entries are stored a moment after they are noted: an index server that is killed loses those of its last
/// instant. Lives on one io_context; `stop()` before destroying.
class RepairLog {
 public:
  static constexpr std::uint64_t kEntries = 100'000;

  /// @param kept  entries; older ones go
  RepairLog(asio::any_io_executor executor, const Clock& clock, Executor& index, const NodeRegistry& nodes,
            std::uint64_t kept = kEntries);
  RepairLog(const RepairLog&) = delete;
  RepairLog& operator=(const RepairLog&) = delete;

  void register_with(Dispatcher& dispatcher);
  /// Numbers go on where the last life of the index stopped. @errors io, corrupt
  Task<void> start();
  asio::awaitable<void> stop();

  /// Notes it with the time of now. That a copy is behind is noted once, until it was completed.
  void note(RepairLogRow event);
  /// A copy could not be made. The same reason for the same segment is noted once, until one was made.
  void note_failure(SegmentId segment, NodeId node, const Error& why);
  /// Notes which nodes and devices came or went since the last call.
  void situation_changed();

  /// Newest first, in pages. @errors not_found: there is no such node
  Task<wire::ReadRepairLogReply> read(wire::ReadRepairLogRequest request);

 private:
  asio::awaitable<void> write();
  Task<void> store(const std::vector<RepairLogRow>& events);

  const Clock& clock_;
  Executor& index_;
  const NodeRegistry& nodes_;
  const std::uint64_t kept_;
  std::uint64_t last_ = 0;  // number of the newest that is stored
  std::uint64_t oldest_ = 1;
  std::vector<RepairLogRow> waiting_;              // oldest first
  std::map<SegmentId, std::string> failures_;      // noted last, of segments without a copy made since
  std::set<std::pair<SegmentId, NodeId>> behind_;  // noted, and not completed since
  std::map<NodeId, bool> online_;                  // as noted last
  std::map<DeviceId, bool> serving_;
  std::set<NodeId> heard_;  // since start()
  TimePoint started_;
  Event work_there_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
