#include "indexd/service/sessions.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/tree/answers.h"
#include "indexd/tree/extents.h"

namespace reelfs::indexd {

namespace {

constexpr std::size_t kExtentsAtOnce = 1024;  // removed in one operation: other operations wait for no more
constexpr auto kReapRetry = std::chrono::seconds(1);
constexpr std::size_t kMaxOpenTold = 1u << 20;
constexpr auto kShort = std::chrono::seconds(10);  // whoever found no room may try again that long
constexpr std::size_t kMaxTold = 1u << 16;         // of one generation; beyond it an open may come too late

spdlog::logger& log() {
  static auto& instance = logger("indexd.sessions");
  return instance;
}

Error no_session(SessionId session) {
  return Error(Errc::no_session, fmt::format("session {} has ended; open another", session.value));
}

}  // namespace

Sessions::Sessions(asio::any_io_executor executor, const Clock& clock, Executor& index,
                   const ServiceOptions& options)
    : clock_(clock), index_(index), options_(options), group_(std::move(executor)) {}

Sessions::~Sessions() = default;

void Sessions::on_ended(std::function<void(SessionId)> callback) { ended_ = std::move(callback); }
void Sessions::on_emptied(std::function<void(const std::vector<SegmentId>&)> callback) {
  emptied_ = std::move(callback);
}

Task<void> Sessions::start() {
  auto load = [this](const View& view) -> Result<void> {
    REELFS_TRY(view.scan_table<SessionKey>([this](SessionKey key, SessionRow row) {
      if (row.opens_nothing == 0) unheard_.insert(key.session);
      sessions_[key.session] = {std::move(row), clock_.now(), {}, {}};
      return true;
    }));
    return view.scan_table<OrphanKey>([this](OrphanKey key, const OrphanRow&) {
      orphans_.insert(key.inode);
      return true;
    });
  };
  REELFS_CO_TRY(co_await index_.read(std::move(load)));
  log().info("sessions read sessions={} orphans={}", sessions_.size(), orphans_.size());
  if (unheard_.empty()) to_reap_ = orphans_;
  if (!to_reap_.empty()) reap_there_.set();
  group_.spawn(watch_leases());
  group_.spawn(reap());
  co_return ok();
}

asio::awaitable<void> Sessions::stop() { co_await group_.stop(); }

Task<SessionId> Sessions::open(wire::OpenSessionRequest request) {
  if (request.resume() != 0) {
    const SessionId session{request.resume()};
    const auto found = sessions_.find(session);
    if (found == sessions_.end()) co_return no_session(session);
    if (static_cast<std::size_t>(request.open_inodes_size()) > kMaxOpenTold) {
      co_return Error(Errc::invalid, "more open inodes than anyone has");
    }
    found->second.renewed = clock_.now();
    std::set<InodeId> before;
    std::swap(before, found->second.open);
    for (const auto inode : request.open_inodes()) {
      (void)opened(session, InodeId{inode});  // what is being removed already stays gone
    }
    for (const auto inode : before) drop_open(inode);
    found->second.written = found->second.open;
    log().info("session resumed session={} purpose=\"{}\" open={}", session.value, found->second.row.purpose,
               found->second.open.size());
    if (unheard_.erase(session) > 0 && unheard_.empty()) {
      for (const auto inode : std::set(orphans_)) reap_if_unused(inode);
    }
    co_return session;
  }
  const SessionRow row{request.host(), request.pid(), request.purpose(),
                       clock_.wall().time_since_epoch().count(), request.opens_nothing() ? 1u : 0u};
  auto make = [row](Transaction& txn) -> Result<SessionId> {
    REELFS_TRY(const auto number, txn.next(Counter::session));
    txn.put(SessionKey{SessionId{number}}, row);
    return SessionId{number};
  };
  REELFS_CO_TRY(const auto session, co_await index_.run(std::move(make)));
  sessions_[session] = {row, clock_.now(), {}, {}};
  // Its number must never be given again: it tells whose requests were carried out.
  REELFS_CO_TRY(co_await index_.sync());
  log().info("session opened session={} host={} pid={} purpose=\"{}\"", session.value, row.host, row.pid,
             row.purpose);
  co_return session;
}

Task<void> Sessions::close(SessionId session) {
  if (alive(session)) end(session, "closed");
  co_return ok();
}

Result<void> Sessions::renew(SessionId session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return no_session(session);
  found->second.renewed = clock_.now();
  return ok();
}

Result<void> Sessions::opened(SessionId session, InodeId inode) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return no_session(session);
  if (found->second.row.opens_nothing != 0)
    return Error(Errc::invalid, "a session that said it opens nothing cannot open an inode");
  if (to_reap_.contains(inode))
    return Error(Errc::stale_handle, fmt::format("inode {} is gone", inode.value));
  if (found->second.open.insert(inode).second) ++openers_[inode];
  return ok();
}

void Sessions::released(SessionId session, InodeId inode) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || found->second.open.erase(inode) == 0) return;
  found->second.written.erase(inode);
  drop_open(inode);
}

void Sessions::wrote(SessionId session, InodeId inode) {
  const auto found = sessions_.find(session);
  if (found != sessions_.end() && found->second.open.contains(inode)) found->second.written.insert(inode);
}

std::set<InodeId> Sessions::being_written() const {
  std::set<InodeId> inodes;
  for (const auto& [id, session] : sessions_) inodes.insert(session.written.begin(), session.written.end());
  return inodes;
}

std::vector<InodeId> Sessions::kept() const {
  std::vector<InodeId> inodes;
  for (const auto& [inode, keeping] : kept_) {
    if (!is_open(inode)) inodes.push_back(inode);
  }
  return inodes;
}

Task<void> Sessions::reaped(Deadline deadline) {
  while (!to_reap_.empty()) {
    REELFS_CO_TRY(co_await all_reaped_.wait(clock_, deadline));
  }
  co_return ok();
}

void Sessions::drop_open(InodeId inode) {
  const auto found = openers_.find(inode);
  if (found == openers_.end()) return;
  if (--found->second == 0) openers_.erase(found);
  reap_if_unused(inode);
}

void Sessions::orphaned(InodeId inode, Kept kept) {
  orphans_.insert(inode);
  const auto now = clock_.now();
  Keeping keeping{kept.keeper, now, now};
  if (alive(kept.keeper)) keeping.keeper_until = now + options_.removed_keep;
  if (kept.told_others && now >= short_until_) keeping.until = now + options_.removed_grace;
  if (std::max(keeping.keeper_until, keeping.until) > now) kept_[inode] = keeping;
  reap_if_unused(inode);
}

void Sessions::forgotten(SessionId session, InodeId inode) {
  const auto found = kept_.find(inode);
  if (found == kept_.end() || found->second.keeper != session) return;
  found->second.keeper_until = found->second.until;
  if (found->second.until > clock_.now()) return;
  kept_.erase(found);
  reap_if_unused(inode);
}

void Sessions::space_is_short() {
  const auto now = clock_.now();
  short_until_ = now + kShort;
  for (auto& [inode, keeping] : kept_) keeping.until = std::min(keeping.until, now);
  end_keeping(now);
}

void Sessions::told(InodeId inode) {
  if (told_.size() < kMaxTold) told_.insert(inode);
}

void Sessions::end_keeping(TimePoint now) {
  if (now - told_turned_ > options_.removed_grace) {
    told_before_ = std::exchange(told_, {});
    told_turned_ = now;
  }
  std::vector<InodeId> over;
  for (const auto& [inode, keeping] : kept_) {
    const auto until = alive(keeping.keeper) ? std::max(keeping.keeper_until, keeping.until) : keeping.until;
    if (now >= until) over.push_back(inode);
  }
  for (const auto inode : over) {
    kept_.erase(inode);
    reap_if_unused(inode);
  }
}

void Sessions::reap_if_unused(InodeId inode) {
  if (is_open(inode) || kept_.contains(inode) || !unheard_.empty() || !orphans_.contains(inode)) return;
  to_reap_.insert(inode);
  reap_there_.set();
}

void Sessions::end(SessionId session, const char* why) {
  const auto found = sessions_.find(session);
  log().info("session ended session={} purpose=\"{}\" why=\"{}\"", session.value, found->second.row.purpose,
             why);
  const auto open = std::move(found->second.open);
  sessions_.erase(found);
  const bool all_heard = unheard_.erase(session) > 0 && unheard_.empty();
  for (const auto inode : open) drop_open(inode);
  if (all_heard) {
    for (const auto inode : std::set(orphans_)) reap_if_unused(inode);
  }
  if (ended_) ended_(session);
  group_.spawn(forget(session));
}

asio::awaitable<void> Sessions::forget(SessionId session) {
  auto erase = [session](Transaction& txn) -> Result<void> {
    txn.erase(SessionKey{session});
    return tree::forget_answers(txn, session);
  };
  const auto erased = co_await index_.run(std::move(erase));
  if (!erased)
    log().error("session not forgotten session={} why=\"{}\"", session.value, erased.error().describe());
}

asio::awaitable<void> Sessions::watch_leases() {
  auto before = clock_.now();
  for (;;) {
    co_await sleep_for(options_.sweep_interval);
    const auto now = clock_.now();
    // Where this process was stopped for a while, nobody could renew.
    const auto slept = now - before - options_.sweep_interval;
    before = now;
    if (slept > options_.sweep_interval) {
      for (auto& [inode, keeping] : kept_) keeping.keeper_until += slept, keeping.until += slept;
    }
    end_keeping(now);
    std::vector<SessionId> over;
    for (auto& [id, session] : sessions_) {
      if (slept > options_.sweep_interval) session.renewed += slept;
      if (now - session.renewed > options_.lease) over.push_back(id);
    }
    for (const auto session : over) end(session, "its lease ran out");
  }
}

asio::awaitable<void> Sessions::reap() {
  for (;;) {
    while (to_reap_.empty()) {
      const bool woken = co_await reap_there_.wait();
      if (!woken) co_return;
    }
    const auto inode = *to_reap_.begin();
    const auto reaped = co_await reap_one(inode);
    if (reaped) {
      orphans_.erase(inode);
      to_reap_.erase(inode);
      if (to_reap_.empty()) all_reaped_.notify_all();
      continue;
    }
    log().error("orphan not removed inode={} why=\"{}\"", inode.value, reaped.error().describe());
    co_await sleep_for(kReapRetry);
  }
}

Task<void> Sessions::reap_one(InodeId inode) {
  for (;;) {
    auto step = [inode](Transaction& txn) { return tree::reap_orphan(txn, inode, kExtentsAtOnce); };
    REELFS_CO_TRY(const auto reaped, co_await index_.run(std::move(step)));
    if (emptied_ && !reaped.emptied.empty()) emptied_(reaped.emptied);
    if (reaped.done) co_return ok();
  }
}

std::vector<wire::SessionInfo> Sessions::list() const {
  std::vector<wire::SessionInfo> infos;
  for (const auto& [id, session] : sessions_) {
    wire::SessionInfo info;
    info.set_session(id.value);
    info.set_host(session.row.host);
    info.set_pid(session.row.pid);
    info.set_purpose(session.row.purpose);
    info.set_silent_ms(static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(clock_.now() - session.renewed).count()));
    info.set_open_inodes(static_cast<std::uint32_t>(session.open.size()));
    infos.push_back(std::move(info));
  }
  return infos;
}

}  // namespace reelfs::indexd
