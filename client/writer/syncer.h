#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/node_pool.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/ids.h"

namespace reelfs::client {

class IndexClient;

/// Knows which segments hold bytes that may not be on stable storage yet, and flushes them on all their
/// nodes. Each worker process carries out one flush at a time for this client; who comes meanwhile shares the
/// next.
///
/// A copy that does not flush is waited for no longer than it takes to leave its segment: once the index has
/// ended the grant, the other copies decide how long the segment is, and it is enough that `needed` of them
/// have flushed. docs/design/seal-and-switch.md
///
/// Lives on one io_context.
class Syncer {
 public:
  struct Options {
    Duration flush_timeout = std::chrono::milliseconds(700);   // a copy that does not flush in it is sick
    Duration suspect_timeout = std::chrono::milliseconds(50);  // the same, where the node failed lately
    Duration suspicion = std::chrono::seconds(3);              // a node that failed is suspect for so long
  };
  Syncer(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes, Options options);
  Syncer(const Syncer&) = delete;
  Syncer& operator=(const Syncer&) = delete;

  /// Told of a copy that fails to flush, or does not: whoever writes there is to leave the segment.
  using SickCopy = std::function<void(SegmentId, NodeId, const Error&)>;
  void on_sick_copy(SickCopy callback) { on_sick_copy_ = std::move(callback); }

  struct Written {
    SegmentId segment;
    std::vector<WorkerAddress> copies;  // that wrote it
    std::size_t needed = 0;             // of them are to flush it where the others are sick
    std::uint64_t end = 0;              // of what they acknowledged, at least
  };
  /// Every copy has acknowledged further bytes of the segment.
  void written(const Written& write);
  /// The index has ended the grant under which the segment was written: nothing more comes.
  void left(SegmentId segment);
  /// An append failed there.
  void suspect(NodeId node);

  /// What was written before is on stable storage: of every copy, or of as many as are needed, see above.
  /// Segments not known here have nothing to be flushed. Where a worker process is gone, another one of its
  /// node is asked.
  /// @errors io: too few copies are left; timed_out, with what failed last: some of it may not be
  Task<void> sync(std::vector<SegmentId> segments, Deadline deadline);

  asio::awaitable<void> stop();

 private:
  struct Copy {
    WorkerAddress worker;        // that wrote last
    std::uint64_t asked = 0;     // a flush is under way, or next, that covers every write up to this number
    std::uint64_t synced = 0;    // every write up to this number is on stable storage
    std::optional<Error> error;  // of the last flush
    bool lost = false;           // another flush could not help
    TimePoint retry_at{};
  };
  struct Segment {
    std::vector<Copy> copies;
    std::size_t needed = 0;
    std::uint64_t written = 0;  // number of the latest write
    std::uint64_t end = 0;      // a flush that does not find as much says nothing
    bool left = false;
    std::size_t synced(std::uint64_t number) const;
  };
  struct Call;  // of sync()
  using CallPtr = std::shared_ptr<Call>;
  struct Lane {
    WorkerAddress worker;
    std::set<SegmentId> next;  // to be flushed together
    bool running = false;
  };
  struct Outlook {
    bool done = false;
    std::optional<Error> error;     // nothing that could still happen would help
    std::optional<TimePoint> next;  // when to look again though nothing happens
  };
  using Locations = std::map<SegmentId, std::vector<WorkerAddress>>;
  using Numbers = std::vector<std::pair<SegmentId, std::uint64_t>>;

  Outlook look(Call& call);
  void look_at(Call& call, SegmentId segment, std::uint64_t number, Outlook& outlook);
  bool is_suspect(NodeId node) const;
  void wake_calls();
  void join(Copy& copy, SegmentId segment, std::uint64_t number);
  asio::awaitable<void> run(Lane& lane);
  Task<void> flush(WorkerAddress worker, std::vector<SegmentId> segments);
  Task<void> flush_on(WorkerAddress worker, std::vector<SegmentId> segments);
  Task<void> flush_rest(WorkerAddress worker, std::vector<SegmentId> segments);
  /// Segments that the index does not know are not among them.
  Task<Locations> locate(std::vector<SegmentId> segments);
  static std::vector<WorkerAddress> of_node(const Locations& located, NodeId node);
  Numbers written_now(const std::set<SegmentId>& segments) const;
  void flushed(NodeId node, const Numbers& covered, const Result<void>& result);

  asio::io_context& context_;
  const Clock& clock_;
  IndexClient& index_;
  NodePool& nodes_;
  const Options options_;
  SickCopy on_sick_copy_;
  std::uint64_t writes_ = 0;
  std::unordered_map<SegmentId, Segment> unsynced_;
  std::map<NodeId, TimePoint> suspects_;  // until when
  std::set<CallPtr> calls_;
  std::map<rpc::Endpoint, Lane> lanes_;  // entries stay: a running one is referred to
  TaskGroup tasks_;
};

}  // namespace reelfs::client
