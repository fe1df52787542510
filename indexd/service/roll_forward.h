#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/node.pb.h"
#include "indexd/service/leases.h"
#include "indexd/service/options.h"
#include "indexd/tree/uncommitted.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;
class Overwriter;

/// Commits in the place of mounts that are gone what they had placed on the nodes and not committed: reads
/// the records of the segments that they were granted, in the order in which they were written. Until that is
/// done no such segment is freed. docs/design/roll-forward.md
///
/// Lives on one io_context; `stop()` before destroying.
class RollForward {
 public:
  RollForward(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
              Leases& leases, Overwriter& overwriter, const ServiceOptions& options,
              prometheus::Registry& registry);
  RollForward(const RollForward&) = delete;
  RollForward& operator=(const RollForward&) = delete;

  /// Reads which grants are not settled, and goes on with those of sessions that are gone.
  /// @param alive  tells sessions that have not ended
  Task<void> start(std::function<bool(SessionId)> alive);
  asio::awaitable<void> stop();
  /// Told which segments hold nothing any more after others took the place of their bytes.
  void on_emptied(std::function<void(const std::vector<SegmentId>&)> callback) {
    emptied_ = std::move(callback);
  }

  /// A mount was granted the segment: noted in the row's own transaction.
  void granted(const tree::Grant& grant);
  /// The writer is done with the segment. @errors io
  Task<void> closed(tree::Grant grant);
  /// The session's commits have got so far, which is stored.
  void settled(SessionId session, std::uint64_t sequence);
  /// From now on nothing more is committed by it.
  void session_ended(SessionId session);

  /// Whether records may stand in the segment that are to be committed yet.
  bool holds(SegmentId segment) const { return held_.contains(segment); }
  /// Sessions whose records are being rolled forward.
  std::size_t under_way() const { return ended_.size(); }

 private:
  /// Of one grant: what is to be committed, once it is known.
  struct Listed {
    tree::Grant grant;
    InodeId channel;
    std::vector<tree::PlacedRecord> records;
  };
  struct Looked {
    std::vector<Listed> listed;
    std::size_t not_ready = 0;
  };

  asio::awaitable<void> run(SessionId session);
  Task<bool> round(SessionId session, bool wait_for_all);
  Task<Looked> look(SessionId session, bool wait_for_all);
  Task<std::optional<Listed>> list(tree::Grant grant, std::uint64_t settled, bool wait_for_all);
  Task<bool> list_copy(const SegmentCopy& copy, const SegmentRow& row, const tree::Grant& grant,
                       std::map<std::uint32_t, tree::PlacedRecord>& records);
  Task<void> commit(SessionId session, const std::vector<Listed>& listed);
  asio::awaitable<void> forget(std::vector<tree::Grant> grants);
  void release(const tree::Grant& grant);

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  Leases& leases_;
  Overwriter& overwriter_;
  const ServiceOptions& options_;
  prometheus::Counter& records_;
  prometheus::Counter& bytes_;
  prometheus::Counter& left_out_;
  prometheus::Gauge& sessions_;
  std::function<void(const std::vector<SegmentId>&)> emptied_;

  std::function<bool(SessionId)> alive_;
  std::unordered_map<SegmentId, std::set<std::pair<SessionId, Generation>>> held_;  // by these grants
  std::map<SessionId, std::multimap<std::uint64_t, tree::Grant>> closed_;           // by last sequence
  std::set<SessionId> ended_;
  std::set<SessionId> again_;  // of those: something was granted to them while they ended
  TaskGroup group_;
};

}  // namespace reelfs::indexd
