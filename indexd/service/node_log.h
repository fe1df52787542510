#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "common/wire/rebuild.pb.h"
#include "indexd/journal/mirror.h"
#include "indexd/nodelog/piece.h"
#include "indexd/schema/rows.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;
class SegmentKeeper;

/// Stores the journal on storage nodes too, so that the index can be made again of it: appends its entries to
/// a segment of a hidden channel and has every copy flush them while others sync the file, goes on in another
/// segment where a copy fails, and from time to time stores all rows, so that older segments can go.
/// docs/design/rebuild.md
///
/// Lives on one io_context; `stop()` before destroying.
class NodeLog final : public JournalMirror {
 public:
  NodeLog(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
          SegmentKeeper& segments, const ServiceOptions& options, prometheus::Registry& registry);
  ~NodeLog() override;
  NodeLog(const NodeLog&) = delete;
  NodeLog& operator=(const NodeLog&) = delete;

  /// Learns which segments hold the log of earlier lives, and begins. Before SegmentKeeper::start.
  Task<void> start();
  /// Nobody waits for nodes any more.
  asio::awaitable<void> stop();

  /// Whether it is its own session, which no mount renews.
  bool is_own(SessionId session) const { return session_ && session == session_; }
  /// Whether the segment has what a rebuild needs.
  bool holds(SegmentId segment) const { return held_.contains(segment); }
  wire::NodeLogStatus status() const;
  std::vector<wire::Problem> problems() const;

  void written(std::uint64_t first_index, std::uint64_t last_index, std::string entries) override;
  void want(std::uint64_t index) override;
  asio::awaitable<void> stored(std::uint64_t index) override;

 private:
  struct Queue;
  struct Round;
  /// A piece that is not stored yet.
  struct Waiting {
    PieceHeader header;
    std::string encoded;
    std::uint64_t stores_index = 0;  // entries up to this one are stored with it; 0: it ends none
  };
  struct Target {
    SegmentId segment;
    SegmentRow row;
    std::uint64_t offset = 0;
    std::uint64_t room() const { return row.block_bytes - offset; }
  };
  /// A segment that holds a part of the log.
  struct Held {
    std::uint64_t last_index = UINT64_MAX;  // of the newest entry in it; of an earlier life: not known
    std::vector<SegmentCopy> copies;
    bool of_this_life = false;
  };
  /// A checkpoint that is being made.
  struct Making {
    std::uint64_t first_index = 0;
    std::uint64_t pieces = 0;
    std::uint64_t bytes = 0;
    std::string next_key;
    bool read_all = false;
    std::set<SegmentId> segments;  // that its pieces are in
  };

  asio::awaitable<void> run();
  asio::awaitable<void> wait_for_work();
  /// Takes what is to be stored next. @return whether there is anything
  Task<bool> gather();
  void take_queue();
  Task<void> read_rows();
  Task<void> ship();
  Task<void> begin_target(std::uint64_t bytes);
  enum class Ending { clean, failed };
  void end_target(Ending ending);
  asio::awaitable<void> close(Target target, Ending ending);
  asio::awaitable<void> send(std::shared_ptr<Round> round, std::size_t copy);
  Task<void> await_copies(std::shared_ptr<Round> round);
  void stored_pieces(std::size_t count);
  void checkpoint_stored();
  void begin_checkpoint();
  void look_at_copies();
  void fall_behind(std::string why);
  void catch_up();
  std::uint32_t copies_to_have() const;
  std::vector<NodeId> to_avoid() const;

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  const ServiceOptions& options_;
  prometheus::Counter& shipped_bytes_;
  prometheus::Counter& switches_;
  prometheus::Counter& unwaited_;
  prometheus::Gauge& behind_gauge_;

  const std::shared_ptr<Queue> queue_;  // shared with the journal's thread
  SessionId session_;
  std::deque<Waiting> waiting_;
  std::uint64_t waiting_bytes_ = 0;
  std::uint64_t stored_index_ = 0;
  std::optional<Target> target_;
  std::map<SegmentId, Held> held_;
  std::map<NodeId, TimePoint> avoid_;  // until then
  std::optional<Making> making_;
  bool wants_checkpoint_ = true;
  std::uint32_t checkpoints_ = 0;           // of this reign that were begun
  std::optional<TimePoint> lacking_since_;  // a segment of the log has fewer copies than it could have
  Duration lacking_patience_;
  TimePoint looked_at_{};
  int failures_ = 0;          // in a row
  bool has_segments_ = true;  // when it last asked for one

  bool stopped_ = false;
  bool behind_ = true;  // until the first checkpoint is stored
  WallTime behind_since_;
  std::string why_ = "the index server has begun";
  std::string last_trouble_;
  wire::NodeLogStatus status_;
  Condition progress_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
