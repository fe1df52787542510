#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "indexd/compaction/pace.h"
#include "indexd/compaction/plan.h"
#include "indexd/schema/rows.h"
#include "indexd/service/options.h"
#include "indexd/tree/relocation.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;
class Overwriter;
class SegmentKeeper;

/// Gives back the space of segments that are mostly dead: has nodes copy what lives in them into other
/// segments, makes the extents point there, and lets SegmentKeeper free the old ones. One segment at a time,
/// slowly, and not at all while a node is not well. docs/design/compaction.md
///
/// Lives on one io_context; `stop()` before destroying.
class Compactor {
 public:
  Compactor(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
            SegmentKeeper& segments, const Overwriter& overwriter, const ServiceOptions& options,
            prometheus::Registry& registry);
  Compactor(const Compactor&) = delete;
  Compactor& operator=(const Compactor&) = delete;

  /// Takes the session under which it writes: another one in each life, so that what the last life had open
  /// is fenced.
  Task<void> start();
  asio::awaitable<void> stop();

  /// Whether it is its own, which no mount renews.
  bool is_own(SessionId session) const { return session_ && session == session_; }
  wire::CompactionStatus status() const;

 private:
  struct Seen {
    std::vector<SegmentUse> uses;
    std::map<CompactionGroup, std::uint64_t> room;
    std::uint64_t mostly_dead = 0;
    std::uint64_t dead_bytes = 0;
    std::uint32_t most_copies = 0;
  };
  struct Page;
  /// What is being written: granted to this, and maybe not yet on stable storage.
  struct Target {
    CompactionGroup group;
    SegmentId segment;
    SegmentRow row;
    std::uint64_t offset = 0;
    std::uint64_t room() const { return row.block_bytes - offset; }
  };
  /// What one segment's emptying is about.
  struct Source {
    SegmentId segment;
    CompactionGroup group;
    SegmentRow row;
    std::vector<tree::LiveExtents::Of> extents;
    std::vector<tree::RecordPart> parts;
    std::vector<tree::Moved> moved;
  };

  asio::awaitable<void> run();
  /// @return whether anything was done
  Task<bool> round();
  Task<Seen> look();
  std::string waits_for() const;
  CompactionSpace space() const;

  Task<void> empty(SegmentUse use);
  Task<std::optional<Source>> find_source(SegmentUse use);
  Task<void> copy_all(Source& source);
  Task<std::size_t> copy_unit(Source& source, std::size_t first);
  Task<std::uint64_t> copy_by_any(const Source& source, wire::CopyRecordsRequest request);
  Task<void> relocate(const Source& source);

  Task<void> begin_target(const CompactionGroup& group, std::uint64_t bytes);
  Task<void> sync_target();
  enum class Ending { clean, failed };
  Task<void> end_target(Ending ending);
  Task<void> finish_target();
  std::uint32_t appends_waiting(const Source& source) const;

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  const Overwriter& overwriter_;
  const ServiceOptions& options_;
  prometheus::Counter& freed_segments_;
  prometheus::Counter& freed_bytes_;
  prometheus::Counter& copied_bytes_;
  prometheus::Gauge& mostly_dead_;

  SessionId session_;
  std::optional<Target> target_;
  std::set<NodeId> avoid_;                             // took no data: not in the next targets of this round
  std::map<SegmentId, std::uint64_t> not_worth_;       // that were looked at: live bytes then
  std::map<CompactionGroup, std::uint64_t> has_room_;  // when it last looked
  std::uint32_t most_copies_ = 0;
  wire::CompactionStatus status_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
