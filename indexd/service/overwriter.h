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
#include <prometheus/registry.h>

#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/retention/plan.h"
#include "indexd/retention/victims.h"
#include "indexd/service/options.h"
#include "indexd/tree/holds.h"

namespace reelfs::indexd {

class Executor;
class Leases;
class NodeRegistry;
class SegmentKeeper;
class Sessions;

/// Keeps channels within their quotas and ages, and the cluster's reserve free, by removing the oldest
/// recordings of channels that allow it. docs/design/retention.md
///
/// Lives on one io_context; `stop()` before destroying.
class Overwriter {
 public:
  /// Where more must not be put into a channel: its quota.
  using Limits = std::map<InodeId, std::uint64_t>;

  Overwriter(asio::any_io_executor executor, const Clock& clock, Executor& index, Sessions& sessions,
             NodeRegistry& nodes, SegmentKeeper& segments, Leases& leases, const ServiceOptions& options,
             prometheus::Registry& registry);
  Overwriter(const Overwriter&) = delete;
  Overwriter& operator=(const Overwriter&) = delete;

  void start();
  asio::awaitable<void> stop();

  /// Looks at all channels now rather than soon: a policy has changed, and is in force when this returns.
  /// @errors timed_out, cancelled
  Task<void> look_now(Deadline deadline);
  /// So much was put into the channel.
  void note_ingest(InodeId channel, std::uint64_t bytes);
  /// Whether any channel has a quota that so many more bytes may go beyond.
  bool may_be_full(std::uint64_t bytes) const;
  /// Makes room for so many bytes within the channel's quota, where it may be full and anything may go.
  /// @errors timed_out, cancelled
  Task<void> make_room(InodeId channel, std::uint64_t bytes, Deadline deadline);
  /// Of channels that overwrite nothing, or in which nothing may go now.
  std::shared_ptr<const Limits> limits() const { return limits_; }
  /// There was no block for a new segment. @return it may be worth another try: something is on its way out
  Task<bool> free_a_block(Deadline deadline);
  /// Of a channel, or of all (the root): what new recordings could have by overwriting old ones.
  std::uint64_t reclaimable(InodeId channel) const;
  /// What is to be free in the cluster: there is less only where nothing may go.
  std::uint64_t reserve_bytes() const { return reserve_bytes_; }
  std::vector<wire::Problem> problems() const;

 private:
  struct Seen;
  struct Room {
    std::uint64_t quota_bytes = 0;
    std::uint64_t used_bytes = 0;  // at the last look, and what was put in since
    bool holds(std::uint64_t bytes) const { return used_bytes + bytes <= quota_bytes; }
  };
  struct Going {
    TimePoint until;  // then the nodes have told that it is gone
    std::uint64_t bytes = 0;
  };

  asio::awaitable<void> run();
  Task<void> wait_for_look(Deadline deadline);
  Task<void> look();
  Task<void> add_up_holds();
  Task<Seen> see();
  Task<void> keep_within_policies(Seen& seen);
  Task<void> keep_reserve(Seen& seen);
  /// @return false: nothing may go from it
  Task<bool> remove(ChannelUse& channel, std::uint64_t bytes, const char* why);
  Task<Victims> remove_step(VictimsWanted wanted, const char* why);
  asio::awaitable<void> tell(std::vector<Victim> victims);
  VictimsWanted wanted_of(const ChannelUse& channel) const;
  /// Of what was removed here.
  std::uint64_t removed_going();
  /// What will be free without anything more being removed. @param orphans  bytes of those that go
  std::uint64_t going(std::uint64_t orphans = 0);
  WallNs trusted_now();

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  Leases& leases_;
  const ServiceOptions& options_;
  prometheus::Counter& removed_;
  prometheus::Counter& removed_bytes_;

  std::map<InodeId, Room> rooms_;              // of channels with a quota
  std::map<InodeId, std::uint64_t> coming_;    // bytes that the next look is to make room for
  std::map<InodeId, std::uint64_t> ingested_;  // since the last look
  std::map<InodeId, double> ingest_;           // bytes per second
  TimePoint looked_at_;
  SteadySpace space_;
  std::shared_ptr<const Limits> limits_ = std::make_shared<const Limits>();
  std::map<InodeId, std::uint64_t> reclaimable_;
  tree::HeldBytes held_;  // as of the last time it was added up
  std::uint64_t holds_ = 0;
  TimePoint held_until_;
  std::map<InodeId, std::string> stuck_;  // channels that are over their quota, by name
  std::uint64_t reserve_bytes_ = 0;
  bool short_of_space_ = false;  // and nothing may go
  std::optional<WallTime> stuck_since_;
  std::deque<Going> going_;
  bool urgent_ = false;      // somebody waits for a block
  std::uint64_t looks_ = 0;  // that have ended
  bool looking_ = false;
  bool look_again_ = false;  // at once
  Condition wake_;
  Condition looked_;
  const TimePoint started_at_;
  const WallTime started_wall_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
