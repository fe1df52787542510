#include "indexd/service/leases.h"

#include <algorithm>
#include <random>
#include <utility>

#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include "common/observe/log.h"
#include "indexd/service/counter.h"

namespace reelfs::indexd {

namespace {

/// A session that has asked within this time is there.
constexpr Duration kWatching = 3 * Leases::kLongestWatch;
/// Holders count a lease from when they asked; this is what their clocks may be late.
constexpr Duration kSlack = std::chrono::seconds(1);
/// Not yet confirmed by one session; beyond it the session forgets everything instead.
constexpr std::size_t kMaxQueued = 1u << 14;

spdlog::logger& log() {
  static auto& instance = logger("indexd.leases");
  return instance;
}

}  // namespace

/// A session that asks what has changed. Its changes are numbered within a stream; what it has not confirmed
/// is told again when it asks again.
struct Leases::Watcher {
  struct Change {
    InodeId inode;     // its attributes, or the directory of the name
    std::string name;  // empty: the attributes
  };
  std::uint64_t stream = 0;
  std::deque<Change> queue;  // the newest has the number `last`
  std::uint64_t last = 0;
  std::uint64_t confirmed = 0;  // all up to this number
  bool everything = true;       // to be forgotten, whatever the queue says
  bool late = false;            // has not confirmed in time
  bool ended = false;
  std::uint64_t asked = 0;  // times
  TimePoint asked_at;
  Condition there_is_more;
  Condition has_confirmed;

  bool watches(TimePoint now) const { return !everything && !late && now - asked_at < kWatching; }

  void tell(InodeId inode, std::string name) {
    ++last;
    if (everything) return;
    if (queue.size() == kMaxQueued) return forget_everything();
    queue.push_back({inode, std::move(name)});
    there_is_more.notify_all();
  }

  void confirm(std::uint64_t upto) {
    upto = std::min(upto, last);
    if (upto <= confirmed) return;
    confirmed = upto;
    late = false;
    if (everything && confirmed == last) everything = false;
    const auto left = static_cast<std::size_t>(last - confirmed);
    while (queue.size() > left) queue.pop_front();
    has_confirmed.notify_all();
  }

  void forget_everything() {
    ++last;
    everything = true;
    queue.clear();
    there_is_more.notify_all();
  }

  bool has_news() const { return everything || !queue.empty(); }

  wire::WatchChangesReply news() const {
    wire::WatchChangesReply reply;
    reply.set_stream(stream);
    reply.set_upto(last);
    reply.set_everything(everything);
    for (const auto& change : queue) {
      if (change.name.empty()) {
        reply.add_inodes(change.inode.value);
      } else {
        auto& name = *reply.add_names();
        name.set_parent(change.inode.value);
        name.set_name(change.name);
      }
    }
    return reply;
  }
};

Leases::Leases(const Clock& clock, Duration term, prometheus::Registry& registry)
    : clock_(clock),
      term_(term),
      last_stream_(std::random_device()()),
      told_(counter(registry, "reelfs_indexd_lease_changes_told_total",
                    "Changes told to sessions that held a lease on what was changed.")),
      unconfirmed_(counter(registry, "reelfs_indexd_lease_changes_unconfirmed_total",
                           "Times that a session did not confirm a change in time.")) {}

Leases::~Leases() = default;

Leases::Shard& Leases::shard_of(InodeId inode) {
  auto& shard = shards_[inode.value % kShards];
  const auto now = clock_.now();
  if (now - shard.turned > term_ + kSlack) {
    shard.old = std::exchange(shard.young, {});
    if (now - shard.turned > 2 * (term_ + kSlack)) shard.old.clear();
    shard.turned = now;
  }
  return shard;
}

bool Leases::note(InodeId inode, SessionId session) {
  auto& young = shard_of(inode).young;
  const auto [begin, end] = young.equal_range(inode);
  if (std::any_of(begin, end, [session](const auto& lease) { return lease.second == session; })) return true;
  if (young.size() >= kMaxLeasesOfShard) return false;
  young.emplace(inode, session);
  return true;
}

template <class F>
void Leases::for_each_holder(InodeId inode, SessionId but, F&& f) {
  const auto& shard = shard_of(inode);
  std::vector<SessionId> found;
  for (const auto* leases : {&shard.young, &shard.old}) {
    const auto [begin, end] = leases->equal_range(inode);
    for (auto lease = begin; lease != end; ++lease) {
      if (lease->second == but || std::find(found.begin(), found.end(), lease->second) != found.end())
        continue;
      found.push_back(lease->second);
    }
  }
  for (const auto session : found) {
    const auto watcher = watchers_.find(session);
    if (watcher != watchers_.end()) f(watcher->second);
  }
}

template <class Inodes>
std::uint32_t Leases::grant_all(SessionId session, const Inodes& inodes, std::uint64_t mark) {
  const auto watcher = watchers_.find(session);
  if (watcher == watchers_.end() || !watcher->second->watches(clock_.now())) return 0;
  for (const auto inode : inodes) {
    if (changed_since(inode, mark) || !note(inode, session)) return 0;
  }
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(term_).count());
}

std::uint32_t Leases::grant(SessionId session, std::initializer_list<InodeId> inodes, std::uint64_t mark) {
  return grant_all(session, inodes, mark);
}
std::uint32_t Leases::grant(SessionId session, const std::vector<InodeId>& inodes, std::uint64_t mark) {
  return grant_all(session, inodes, mark);
}

bool Leases::is_known_to_others(InodeId inode, SessionId but) {
  bool known = false;
  for_each_holder(inode, but, [&known](const std::shared_ptr<Watcher>&) { known = true; });
  return known;
}

void Leases::remember(InodeId inode) {
  recent_.push_back({inode, changes_});
  last_change_[inode] = changes_;
  if (recent_.size() <= kMaxRecent) return;
  const auto oldest = recent_.front();
  recent_.pop_front();
  forgotten_upto_ = oldest.number;
  const auto last = last_change_.find(oldest.inode);
  if (last != last_change_.end() && last->second == oldest.number) last_change_.erase(last);
}

bool Leases::changed_since(InodeId inode, std::uint64_t mark) const {
  if (mark < forgotten_upto_) return true;
  const auto last = last_change_.find(inode);
  return last != last_change_.end() && last->second > mark;
}

asio::awaitable<void> Leases::changed(SessionId by, const Touched& touched) {
  ++changes_;
  Told told;
  const auto tell = [this, &told, by](InodeId inode, const std::string& name) {
    remember(inode);
    for_each_holder(inode, by, [&](const std::shared_ptr<Watcher>& watcher) {
      watcher->tell(inode, name);
      told_.Increment();
      told[watcher] = watcher->last;
    });
  };
  for (const auto inode : touched.inodes) tell(inode, {});
  for (const auto& name : touched.names) tell(name.parent, name.name);
  return confirmed_by(std::move(told));
}

asio::awaitable<void> Leases::confirmed_by(Told told) {
  if (told.empty()) co_return;
  const auto until = Deadline::after(clock_, kPatience);
  for (const auto& [watcher, number] : told) {
    while (watcher->confirmed < number && !watcher->late && !watcher->ended) {
      const auto waited = co_await watcher->has_confirmed.wait(clock_, until);
      if (waited) continue;
      if (waited.error().code() == Errc::cancelled) co_return;
      watcher->late = true;
      log().info("a session does not say that it has forgotten what was changed stream={}", watcher->stream);
      unconfirmed_.Increment();
      watcher->has_confirmed.notify_all();
    }
  }
}

Task<wire::WatchChangesReply> Leases::watch(wire::WatchChangesRequest request) {
  auto& place = watchers_[SessionId{request.session()}];
  if (!place) {
    place = std::make_shared<Watcher>();
    place->stream = ++last_stream_;
  }
  const auto watcher = place;
  if (request.stream() == watcher->stream) {
    watcher->confirm(request.confirmed());
  } else {
    watcher->forget_everything();
  }
  const auto asked = ++watcher->asked;  // one that asked before is answered
  watcher->there_is_more.notify_all();
  watcher->asked_at = clock_.now();
  const auto until = Deadline::after(clock_, kLongestWatch);
  while (!watcher->has_news() && asked == watcher->asked && !watcher->ended) {
    const auto waited = co_await watcher->there_is_more.wait(clock_, until);
    if (waited) continue;
    if (waited.error().code() == Errc::cancelled) co_return waited.error();
    break;
  }
  watcher->asked_at = clock_.now();
  co_return watcher->news();
}

void Leases::session_ended(SessionId session) {
  const auto found = watchers_.find(session);
  if (found == watchers_.end()) return;
  const auto watcher = found->second;
  watchers_.erase(found);
  watcher->ended = true;
  watcher->there_is_more.notify_all();
  watcher->has_confirmed.notify_all();
  log().debug("leases ended session={}", session.value);
}

}  // namespace reelfs::indexd
