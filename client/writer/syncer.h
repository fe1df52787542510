#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "client/node_pool.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

class IndexClient;

/// Knows which segments hold bytes that may not be on stable storage yet, and flushes them on all their
/// nodes. Each worker process carries out one flush at a time for this client; who comes meanwhile shares the
/// next. Lives on one io_context.
class Syncer {
 public:
  Syncer(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes);
  Syncer(const Syncer&) = delete;
  Syncer& operator=(const Syncer&) = delete;

  /// Every copy has acknowledged further bytes of the segment.
  void written(SegmentId segment, const std::vector<WorkerAddress>& copies);

  /// What was written before is on stable storage of every copy. Segments not known here have nothing to be
  /// flushed. Where a worker process is gone, another one of its node is asked.
  /// @errors io, unavailable, timed_out: some of it may not be
  Task<void> sync(std::vector<SegmentId> segments, Deadline deadline);

  asio::awaitable<void> stop();

 private:
  struct Copy {
    WorkerAddress worker;       // that wrote last
    std::uint64_t written = 0;  // number of the latest write
    std::uint64_t synced = 0;   // every write up to this number is on stable storage
  };
  struct Call;   // of sync()
  struct Flush;  // one request to one worker
  struct Lane {
    WorkerAddress worker;
    std::shared_ptr<Flush> next;
    bool running = false;
  };
  using Locations = std::map<SegmentId, std::vector<WorkerAddress>>;
  using Written = std::vector<std::pair<SegmentId, std::uint64_t>>;

  void join(const WorkerAddress& worker, SegmentId segment, const std::shared_ptr<Call>& call,
            Deadline deadline);
  asio::awaitable<void> run(Lane& lane);
  Task<void> flush(WorkerAddress worker, std::vector<SegmentId> segments, Deadline deadline);
  Task<void> flush_on(WorkerAddress worker, std::vector<SegmentId> segments, Deadline deadline);
  Task<void> flush_rest(WorkerAddress worker, std::vector<SegmentId> segments, Deadline deadline);
  /// Segments that the index does not know are not among them.
  Task<Locations> locate(std::vector<SegmentId> segments, Deadline deadline);
  static std::vector<WorkerAddress> of_node(const Locations& located, NodeId node);
  Written written_on(NodeId node, const std::set<SegmentId>& segments) const;
  void synced(NodeId node, const Written& written);

  asio::io_context& context_;
  const Clock& clock_;
  IndexClient& index_;
  NodePool& nodes_;
  std::uint64_t writes_ = 0;
  std::unordered_map<SegmentId, std::vector<Copy>> unsynced_;
  std::map<rpc::Endpoint, Lane> lanes_;  // entries stay: a running one is referred to
  TaskGroup tasks_;
};

}  // namespace reelfs::client
