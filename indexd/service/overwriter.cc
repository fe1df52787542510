#include "indexd/service/overwriter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/counter.h"
#include "indexd/service/leases.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/segment_keeper.h"
#include "indexd/service/sessions.h"

namespace reelfs::indexd {

namespace {

using namespace std::chrono_literals;

constexpr Duration kIngestMemory = 5s;
/// From the removal of recordings until the nodes have told that their blocks are free.
constexpr Duration kGoing = 2s;
/// A clock that was set forward makes everything old: this much of it is believed until the next start.
constexpr Duration kClockSlack = 60s;
/// Somebody waits for a block: with less time left than this, not for what others have removed.
constexpr Duration kWaitForTheDead = 750ms;
/// After a start nothing is freed before the grace of dead segments is over: to remove more would give no
/// block sooner.
constexpr Duration kFirstFreed = 500ms;
constexpr int kStepsAtOnce = 64;
constexpr std::size_t kYoungAtOnce = 4096;  // recordings looked at for what is protected by its age
/// What is held is added up anew where holds came or went, and as often as this: held files may still grow.
constexpr Duration kHeldInterval = 5s;
constexpr std::size_t kHeldAtOnce = 1u << 16;  // inodes

spdlog::logger& log() {
  static auto& instance = logger("indexd.overwriter");
  return instance;
}

WallNs nanoseconds(std::chrono::seconds seconds) { return std::chrono::nanoseconds(seconds).count(); }

}  // namespace

struct Overwriter::Seen {
  std::vector<ChannelUse> channels;
  std::map<InodeId, std::string> names;
  std::map<InodeId, WallNs> oldest_ns;
  std::map<InodeId, std::uint64_t> kept_bytes;  // too young, or being written; what is held is not among it
  struct Orphan {
    InodeId inode;
    std::uint64_t bytes = 0;
  };
  std::vector<Orphan> orphans;
  std::map<InodeId, std::uint64_t> orphan_bytes;  // by channel
  std::uint64_t going_bytes = 0;                  // of orphans that nobody has open
  std::uint32_t most_copies = 0;
};

Overwriter::Overwriter(asio::any_io_executor executor, const Clock& clock, Executor& index,
                       Sessions& sessions, NodeRegistry& nodes, SegmentKeeper& segments, Leases& leases,
                       const ServiceOptions& options, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      sessions_(sessions),
      nodes_(nodes),
      segments_(segments),
      leases_(leases),
      options_(options),
      removed_(counter(registry, "reelfs_indexd_overwritten_recordings_total",
                       "Recordings removed for new ones, or because of their age.")),
      removed_bytes_(counter(registry, "reelfs_indexd_overwritten_bytes_total",
                             "Bytes of recordings removed for new ones, or because of their age.")),
      looked_at_(clock.now()),
      space_(clock.now()),
      started_at_(clock.now()),
      started_wall_(clock.wall()),
      group_(std::move(executor)) {}

void Overwriter::start() { group_.spawn(run()); }

asio::awaitable<void> Overwriter::stop() { co_await group_.stop(); }

asio::awaitable<void> Overwriter::run() {
  for (;;) {
    looking_ = true;
    look_again_ = false;
    const auto looked = co_await look();
    looking_ = false;
    if (!looked) log().error("channels not looked at why=\"{}\"", looked.error().describe());
    ++looks_;
    looked_.notify_all();
    if (look_again_) continue;
    const auto woken = co_await wake_.wait(clock_, Deadline::after(clock_, options_.sweep_interval));
    if (!woken && woken.error().code() == Errc::cancelled) co_return;
  }
}

WallNs Overwriter::trusted_now() {
  const auto latest = started_wall_ + std::chrono::duration_cast<WallTime::duration>(
                                          clock_.now() - started_at_ + kClockSlack);
  return std::min(clock_.wall(), latest).time_since_epoch().count();
}

std::uint64_t Overwriter::removed_going() {
  while (!going_.empty() && going_.front().until <= clock_.now()) going_.pop_front();
  std::uint64_t bytes = 0;
  for (const auto& each : going_) bytes += each.bytes;
  return bytes;
}

std::uint64_t Overwriter::going(std::uint64_t orphans) {
  // What was removed is first an orphan, then makes segments dead.
  return std::max(removed_going(), orphans + segments_.going() * options_.block_bytes);
}

Task<void> Overwriter::look() {
  REELFS_CO_TRY(auto seen, co_await see());
  REELFS_CO_TRY(co_await keep_within_policies(seen));
  REELFS_CO_TRY(co_await keep_reserve(seen));
  auto limits = std::make_shared<Limits>();
  const bool was_stuck = short_of_space_ || !stuck_.empty();
  stuck_.clear();
  reclaimable_.clear();
  rooms_.clear();
  for (const auto& channel : seen.channels) {
    const auto& quota = channel.policy.quota_bytes;
    const bool keeps_all = !channel.policy.overwrite || channel.nothing_may_go;
    if (quota && keeps_all) limits->emplace(channel.channel, *quota + seen.orphan_bytes[channel.channel]);
    if (quota) rooms_[channel.channel] = {*quota, channel.used_bytes + ingested_[channel.channel]};
    if (quota && keeps_all && channel.used_bytes >= *quota)
      stuck_.emplace(channel.channel, seen.names[channel.channel]);
    auto may_go = keeps_all ? 0 : channel.used_bytes;
    may_go -= std::min(may_go, seen.kept_bytes[channel.channel]);
    const auto held = held_.channels.find(channel.channel);
    if (held != held_.channels.end()) may_go -= std::min(may_go, held->second);
    reclaimable_[channel.channel] = may_go;
  }
  limits_ = std::move(limits);
  const bool is_stuck = short_of_space_ || !stuck_.empty();
  if (is_stuck && !was_stuck) stuck_since_ = clock_.wall();
  co_return ok();
}

Task<void> Overwriter::add_up_holds() {
  auto count = [](const View& view) { return tree::count_holds(view); };
  REELFS_CO_TRY(const auto holds, co_await index_.read(std::move(count)));
  if (holds == holds_ && (holds == 0 || clock_.now() < held_until_)) co_return ok();
  auto add_up = [](const View& view) { return tree::held_bytes(view, kHeldAtOnce); };
  REELFS_CO_TRY(held_, co_await index_.read(std::move(add_up)));
  holds_ = holds;
  held_until_ = clock_.now() + kHeldInterval;
  co_return ok();
}

Task<Overwriter::Seen> Overwriter::see() {
  REELFS_CO_TRY(co_await add_up_holds());
  const auto now = trusted_now();
  const auto ingested = std::exchange(ingested_, {});
  const auto coming = std::exchange(coming_, {});
  auto read = [written = sessions_.being_written(), now,
               &held = held_.files](const View& view) -> Result<Seen> {
    Seen seen;
    REELFS_TRY(view.scan_table<ChannelKey>([&](const ChannelKey& key, const ChannelRow& row) {
      seen.names.emplace(key.inode, row.name);
      seen.channels.push_back({key.inode, {}, row.live_bytes, 0, 0, false});
      seen.most_copies = std::max(seen.most_copies, row.copies);
      return true;
    }));
    for (auto& channel : seen.channels) {
      REELFS_TRY(auto policy, tree::policy_of(view, channel.channel));
      channel.policy = policy;
      REELFS_TRY(tree::for_each_recording(view, channel.channel, [&](const tree::Recording& oldest) {
        seen.oldest_ns[channel.channel] = oldest.last_ns;
        return false;
      }));
      if (policy.min_age.count() == 0) continue;
      std::vector<InodeId> young;
      REELFS_TRY(tree::for_each_recording_back(view, channel.channel, [&](const tree::Recording& newest) {
        if (newest.last_ns < now - nanoseconds(policy.min_age)) return false;
        young.push_back(newest.inode);
        return young.size() < kYoungAtOnce;
      }));
      for (const auto inode : young) {
        REELFS_TRY(const auto row, view.find(InodeKey{inode}));
        if (row && !written.contains(inode) && !held.contains(inode))
          seen.kept_bytes[channel.channel] += row->stored_bytes;
      }
    }
    std::vector<InodeId> orphans;
    REELFS_TRY(view.scan_table<OrphanKey>([&](const OrphanKey& key, const OrphanRow&) {
      orphans.push_back(key.inode);
      return true;
    }));
    for (const auto inode : orphans) {
      REELFS_TRY(const auto row, view.find(InodeKey{inode}));
      if (!row) continue;
      seen.orphans.push_back({inode, row->stored_bytes});
      seen.orphan_bytes[row->channel] += row->stored_bytes;
    }
    for (const auto inode : written) {
      REELFS_TRY(const auto row, view.find(InodeKey{inode}));
      if (row && !held.contains(inode)) seen.kept_bytes[row->channel] += row->stored_bytes;
    }
    return seen;
  };
  REELFS_CO_TRY(auto seen, co_await index_.read(std::move(read)));
  const auto passed = std::chrono::duration<double>(clock_.now() - std::exchange(looked_at_, clock_.now()));
  const auto weight = std::exp(-passed / std::chrono::duration<double>(kIngestMemory));
  std::map<InodeId, double> ingest;
  for (auto& channel : seen.channels) {
    const auto put_in = ingested.find(channel.channel);
    const auto bytes = put_in == ingested.end() ? 0.0 : static_cast<double>(put_in->second);
    const auto awaited = coming.find(channel.channel);
    if (awaited != coming.end()) channel.coming_bytes = awaited->second;
    // What was removed must not be removed once more, in the shape of another recording.
    channel.used_bytes -= std::min(channel.used_bytes, seen.orphan_bytes[channel.channel]);
    const auto now_rate = passed.count() > 0 ? bytes / passed.count() : 0;
    auto rate = weight * ingest_[channel.channel] + (1 - weight) * now_rate;
    if (rate < 1) rate = 0;
    ingest[channel.channel] = rate;
    channel.ingest = static_cast<std::uint64_t>(rate);
  }
  ingest_ = std::move(ingest);
  for (const auto& orphan : seen.orphans) {
    if (!sessions_.is_open(orphan.inode)) seen.going_bytes += orphan.bytes;
  }
  co_return std::move(seen);
}

VictimsWanted Overwriter::wanted_of(const ChannelUse& channel) const {
  VictimsWanted wanted;
  wanted.channel = channel.channel;
  wanted.being_written = sessions_.being_written();
  return wanted;
}

Task<Victims> Overwriter::remove_step(VictimsWanted wanted, const char* why) {
  const auto now = clock_.wall().time_since_epoch().count();
  auto step = [&wanted, now](Transaction& txn) { return remove_victims(txn, wanted, now); };
  REELFS_CO_TRY(auto gone, co_await index_.run(std::move(step)));
  for (const auto& victim : gone.victims) {
    if (victim.removed.orphan) sessions_.orphaned(victim.inode, {});
    log().info("recording removed path=\"{}\" bytes={} last_byte_ns={} why={}", victim.path, victim.bytes,
               victim.last_ns, why);
  }
  removed_.Increment(static_cast<double>(gone.victims.size()));
  removed_bytes_.Increment(static_cast<double>(gone.bytes));
  if (gone.bytes > 0) going_.push_back({clock_.now() + kGoing, gone.bytes});
  if (!gone.victims.empty()) group_.spawn(tell(gone.victims));
  co_return std::move(gone);
}

asio::awaitable<void> Overwriter::tell(std::vector<Victim> victims) {
  Touched touched;
  for (auto& victim : victims) {
    touched.inodes.push_back(victim.inode);
    for (auto& [parent, name] : victim.removed.names) {
      touched.inodes.push_back(parent);
      touched.names.push_back({parent, std::move(name)});
    }
  }
  co_await leases_.changed(SessionId{}, touched);
}

Task<bool> Overwriter::remove(ChannelUse& channel, std::uint64_t bytes, const char* why) {
  std::uint64_t gone = 0;
  for (int steps = 0; gone < bytes && steps < kStepsAtOnce; ++steps) {
    auto wanted = wanted_of(channel);
    wanted.bytes = bytes - gone;
    wanted.young_from_ns = trusted_now() - nanoseconds(channel.policy.min_age);
    REELFS_CO_TRY(const auto removed, co_await remove_step(std::move(wanted), why));
    gone += removed.bytes;
    channel.used_bytes -= std::min(channel.used_bytes, removed.bytes);
    if (!removed.more) co_return gone >= bytes;
  }
  co_return true;
}

Task<void> Overwriter::keep_within_policies(Seen& seen) {
  for (auto& channel : seen.channels) {
    const auto now = trusted_now();
    const auto oldest = seen.oldest_ns.find(channel.channel);
    if (oldest == seen.oldest_ns.end()) continue;
    if (channel.policy.max_age && oldest->second < now - nanoseconds(*channel.policy.max_age)) {
      auto wanted = wanted_of(channel);
      wanted.older_than_ns = now - nanoseconds(*channel.policy.max_age);
      wanted.young_from_ns = now - nanoseconds(channel.policy.min_age);
      REELFS_CO_TRY(const auto removed, co_await remove_step(std::move(wanted), "age"));
      channel.used_bytes -= std::min(channel.used_bytes, removed.bytes);
    }
    const auto over = RetentionPlan::over_quota(channel);
    if (over == 0) continue;
    REELFS_CO_TRY(const bool enough, co_await remove(channel, over, "quota"));
    channel.nothing_may_go = !enough;
  }
  co_return ok();
}

Task<void> Overwriter::keep_reserve(Seen& seen) {
  const auto net = nodes_.net_space(seen.most_copies);
  SpaceUse space{net.present_bytes, net.free_bytes + going(seen.going_bytes), options_.block_bytes};
  const bool is_steady = space_.is_steady(net.blocks, net.present_blocks, clock_.now());
  auto wanted = reserve_bytes_ = is_steady ? RetentionPlan::reserve(space, seen.channels) : 0;
  if (std::exchange(urgent_, false)) wanted = std::max(wanted, space.free_bytes + options_.block_bytes);
  short_of_space_ = false;
  for (int steps = 0; space.free_bytes < wanted && steps < kStepsAtOnce; ++steps) {
    const auto next = RetentionPlan::next(space, seen.channels);
    if (!next) {
      short_of_space_ = net.free_bytes == 0 && net.present_bytes > 0;
      co_return ok();
    }
    auto& channel = seen.channels[*next];
    const auto bytes = std::min(wanted - space.free_bytes, options_.block_bytes);
    const auto before = channel.used_bytes;
    REELFS_CO_TRY(const bool enough, co_await remove(channel, bytes, "space"));
    channel.nothing_may_go = !enough;
    space.free_bytes += before - channel.used_bytes;
  }
  co_return ok();
}

Task<void> Overwriter::look_now(Deadline deadline) {
  look_again_ = true;
  wake_.notify_all();
  return wait_for_look(deadline);
}

void Overwriter::note_ingest(InodeId channel, std::uint64_t bytes) {
  ingested_[channel] += bytes;
  const auto room = rooms_.find(channel);
  if (room != rooms_.end()) room->second.used_bytes += bytes;
}

bool Overwriter::may_be_full(std::uint64_t bytes) const {
  return std::any_of(rooms_.begin(), rooms_.end(),
                     [bytes](const auto& room) { return !room.second.holds(bytes); });
}

Task<void> Overwriter::make_room(InodeId channel, std::uint64_t bytes, Deadline deadline) {
  const auto room = rooms_.find(channel);
  if (room == rooms_.end() || room->second.holds(bytes)) co_return ok();
  coming_[channel] += bytes;
  co_return co_await look_now(deadline);
}

Task<void> Overwriter::wait_for_look(Deadline deadline) {
  const auto wanted = looks_ + (looking_ ? 2 : 1);  // one under way may have seen what was before
  while (looks_ < wanted) {
    REELFS_CO_TRY(co_await looked_.wait(clock_, deadline));
  }
  co_return ok();
}

Task<bool> Overwriter::free_a_block(Deadline deadline) {
  const bool may_have_freed = clock_.now() - started_at_ >= options_.dead_segment_grace + kFirstFreed;
  const bool is_late = may_have_freed && deadline.left(clock_) < kWaitForTheDead;
  if (removed_going() == 0 && (is_late || segments_.going() == 0)) {
    urgent_ = look_again_ = true;
    wake_.notify_all();
  }
  REELFS_CO_TRY(co_await wait_for_look(deadline));
  co_return going() > 0;
}

std::uint64_t Overwriter::reclaimable(InodeId channel) const {
  if (channel && channel != kRootInode) {
    const auto found = reclaimable_.find(channel);
    return found == reclaimable_.end() ? 0 : found->second;
  }
  std::uint64_t bytes = 0;
  for (const auto& [id, each] : reclaimable_) bytes += each;
  return bytes;
}

std::vector<wire::Problem> Overwriter::problems() const {
  std::vector<wire::Problem> problems;
  const auto add = [&](std::string what, std::string advice) {
    auto& problem = problems.emplace_back();
    problem.set_what(std::move(what));
    problem.set_advice(std::move(advice));
    if (stuck_since_) problem.set_since_ns(stuck_since_->time_since_epoch().count());
  };
  for (const auto& [channel, name] : stuck_)
    add(fmt::format("channel {} is full: its quota is reached, and nothing in it may be overwritten", name),
        fmt::format("raise the quota (reelctl channel set {} --quota), or allow overwriting", name));
  if (short_of_space_)
    add("the cluster is full, and nothing may be overwritten", "add devices, or delete recordings");
  return problems;
}

}  // namespace reelfs::indexd
