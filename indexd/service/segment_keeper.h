#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "indexd/placement/placer.h"
#include "indexd/repair/pace.h"
#include "indexd/segments/life.h"
#include "indexd/service/options.h"
#include "indexd/tree/uncommitted.h"

namespace reelfs::indexd {

class CopyOrders;
class RepairLog;
class Executor;
class NodeRegistry;

/// A segment that was granted, as it is stored.
struct Granted {
  SegmentId segment;
  SegmentRow row;
};

struct OpenParams {
  SessionId session;
  InodeId channel;
  std::uint32_t copies = 0;
  std::uint32_t min_copies = 0;  // for what is wanted now, where fewer nodes are good
  std::uint32_t count = 0;       // grants wanted
  std::vector<NodeId> avoid;
  wire::GrantUse use = wire::GRANT_NOW;
  Duration allocate_limit{};  // open() sets it
};

/// Leads all segments through their lives: keeps a SegmentLife for each one to which something happens,
/// stores and calls what it asks for, and tells it the outcome. A segment to which nothing happens costs no
/// memory here, but for the few words of one that is open, or unfilled, or was closed a moment ago.
/// docs/design/segment-life.md
///
/// Lives on one io_context; `stop()` before destroying. What was begun is finished even where its caller is
/// cancelled.
class SegmentKeeper {
 public:
  SegmentKeeper(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
                CopyOrders& copies, RepairLog& repair_log, const ServiceOptions& options);
  ~SegmentKeeper();
  SegmentKeeper(const SegmentKeeper&) = delete;
  SegmentKeeper& operator=(const SegmentKeeper&) = delete;

  /// Reads all rows and goes on where the last life of this process stopped. @param alive  tells sessions
  /// that have not ended
  Task<void> start(std::function<bool(SessionId)> alive);
  asio::awaitable<void> stop();

  /// Told of each grant to a mount, once it is stored.
  void on_granted(std::function<void(const tree::Grant&)> callback) { granted_ = std::move(callback); }
  /// Asked whether records may stand in a segment that are to be committed yet: such a one is not freed.
  void keep_where(std::function<bool(SegmentId)> holds) { holds_ = std::move(holds); }

  /// Grants 1 .. count segments: unfilled ones of the channel where all their nodes answer, new ones
  /// otherwise. See Placer for what they may be on; the first that is wanted now comes first.
  /// @errors unavailable, no_space, and what the nodes answered
  Task<std::vector<Granted>> open(OpenParams params);
  /// @errors stale_generation, busy (another close is under way), invalid
  Task<void> close(SegmentId segment, Closing closing);

  /// Makes a copy of a sealed segment in this place, instead of another one or besides those it has; or moves
  /// one within its node, where both nodes are the same and the place names a device.
  /// @param use  for whom it is copied: what is only moved goes at its own pace
  /// @errors busy (something else is done with it), invalid (its copies are elsewhere by now), not_found,
  /// unavailable, and what the node answered
  Task<void> add_copy(SegmentId segment, CopyPlace place, NodeId instead_of, CopyUse use = CopyUse::repair);
  /// Of a sealed segment: see SegmentLife.
  bool is_behind(SegmentId segment, NodeId node) const;
  /// A block that a node was told to free, and listed when it did last, because it is no copy of its segment
  /// any more.
  struct StaleCopy {
    SegmentId segment;
    NodeId node;
    DeviceId device;
    std::uint32_t block = 0;
    std::uint64_t length = 0;
  };
  /// The first 4096 of each node.
  std::vector<StaleCopy> stale_copies() const;
  /// One that is unfilled, or open, is to be sealed soon: who writes it goes on elsewhere.
  void finish(SegmentId segment) { later(segment, Reason::finish); }
  /// Its open segments are fenced; what it has not committed is nobody's.
  void session_ended(SessionId session);
  void node_returned(NodeId node);
  /// Nothing lives any more in these sealed segments.
  void emptied(const std::vector<SegmentId>& segments);
  /// What a node said it has of the segments in [from, upto), upto none: of all from there on.
  /// @return what it is to free
  struct Report {
    NodeId node;
    SegmentId from;
    SegmentId upto;
    std::vector<wire::BlockReport> blocks;
  };
  Task<std::vector<wire::BlockReport>> report(Report report);

  /// All there are.
  std::uint64_t segments() const { return segments_; }
  /// Of them those in which nothing lives any more and whose nodes answer, and those that are gone but whose
  /// nodes may not have told yet that the blocks are free.
  std::uint64_t going();

 private:
  struct Tracked {
    SegmentLife life;
    std::uint64_t serial;                        // tells outcomes meant for an earlier life from its own
    SessionId session;                           // that it is being opened for
    std::function<void(Result<void>)> answered;  // who waits for the Answer
    std::function<void(Result<void>)> repaired;  // who waits for Repaired
    std::vector<NodeId> failed;                  // nodes that could not take a block
    Duration allocate_limit{};
    CopyUse copy_use = CopyUse::repair;  // of the copy that is added
  };
  struct Batch;
  struct Ended {  // a closed segment that its writer may yet commit to
    SessionId session;
    TimePoint since;
  };
  enum class Reason : std::uint8_t { resume, session_died, free_dead, finish };
  struct Work {
    SegmentId segment;
    Reason reason;
  };

  Task<Tracked*> track(SegmentId segment);
  Tracked& add(SegmentId segment, SegmentRow row);
  void perform(SegmentId segment, Actions actions);
  void settle(SegmentId segment);
  template <class Event>
  void tell(SegmentId segment, std::uint64_t serial, Event event);

  asio::awaitable<void> store(SegmentId segment, std::uint64_t serial, Persist action);
  asio::awaitable<void> erase(SegmentId segment, std::uint64_t serial);
  asio::awaitable<void> allocate(SegmentId segment, std::uint64_t serial, Allocate action, InodeId channel);
  asio::awaitable<void> fence(SegmentId segment, std::uint64_t serial, Fence action);
  asio::awaitable<void> seal(SegmentId segment, std::uint64_t serial, Seal action);
  asio::awaitable<void> free(SegmentId segment, std::uint64_t serial, Free action);
  void note(RepairEvent event, SegmentId segment, NodeId node, std::uint64_t bytes);
  asio::awaitable<void> complete(SegmentId segment, std::uint64_t serial, Complete action, InodeId channel);
  asio::awaitable<void> release(SegmentId segment, Release action);

  Task<SegmentId> next_segment();
  std::vector<SegmentId> claim_unfilled(const OpenParams& params);
  asio::awaitable<void> open_new(std::shared_ptr<Batch> batch, OpenParams params, SegmentPlace place);
  asio::awaitable<void> open_again(std::shared_ptr<Batch> batch, OpenParams params, SegmentId segment);
  Task<void> run_batch(std::shared_ptr<Batch> batch, const OpenParams& params, std::vector<SegmentId> again,
                       std::vector<SegmentPlace> places);
  void expect_answer(Tracked& tracked, const std::shared_ptr<Batch>& batch, SessionId session);
  void finish(Batch& batch, SegmentId segment, Result<void> result);
  asio::awaitable<void> give_back(Granted granted);
  void note_row(SegmentId segment, const SegmentRow& row);
  void forget_row(SegmentId segment);

  asio::awaitable<void> sweep();
  Task<bool> look_at_rows(std::size_t limit, bool first_time);
  void look_at(SegmentId segment, const SegmentRow& row);
  asio::awaitable<void> work();
  Task<void> begin(Work work);
  std::size_t busy() const;
  void later(SegmentId segment, Reason reason);
  /// Whether a node that it waits for answers.
  bool can_go_on(SegmentId waiting) const;
  void retry_waiting();
  bool may_free(SegmentId segment) const;
  bool serves_copy(const SegmentRow& row, NodeId node) const;
  bool grace_is_over(TimePoint since) const;
  void look_after_stale();
  void forget_ended();

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  CopyOrders& copies_;
  RepairLog& repair_log_;
  const ServiceOptions& options_;
  Placer placer_;
  TaskGroup group_;
  std::unordered_map<SegmentId, std::unique_ptr<Tracked>> lives_;
  std::size_t reports_read_ = 0;    // rows are being read for
  std::set<SegmentId> new_copies_;  // stored meanwhile, which those rows may not name
  struct Stale {
    std::vector<StaleCopy> copies;  // as the node's last listing had them, or the part of it so far
    TimePoint listed;
  };
  std::map<NodeId, Stale> stale_;
  std::set<SegmentId> waiting_;  // lives that go on when a node is back: while one is away there may be many
  std::uint64_t last_serial_ = 0;
  std::uint64_t segments_ = 0;
  std::uint64_t stored_ = 0;  // changes of rows so far: whoever read a row before one reads again

  std::map<SessionId, std::set<SegmentId>> open_;                              // granted to it
  std::map<InodeId, std::map<SegmentId, std::vector<SegmentCopy>>> unfilled_;  // by channel
  std::unordered_map<SegmentId, SessionId> writer_;                            // of open ones
  std::unordered_map<SegmentId, Ended> ended_;
  std::set<SegmentId> dead_;
  std::deque<TimePoint> gone_;  // when they did
  std::function<bool(SessionId)> alive_;
  std::function<void(const tree::Grant&)> granted_;
  std::function<bool(SegmentId)> holds_;

  std::uint64_t next_segment_ = 0, reserved_below_ = 0;  // numbers that may be given without asking

  std::deque<Work> backlog_;
  std::set<SegmentId> in_backlog_;
  Event work_there_;
  SegmentId sweep_from_;
  TimePoint started_;
};

}  // namespace reelfs::indexd
