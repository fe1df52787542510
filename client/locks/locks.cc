#include "client/locks/locks.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <boost/asio/this_coro.hpp>

#include "client/index_client.h"
#include "common/observe/log.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

/// The index answers a wait after this long: well before anyone takes it for dead.
constexpr std::chrono::milliseconds kPatience = 1s;
/// How long somebody who was interrupted while he waited is kept until the index has told whether he got it.
constexpr Duration kInterruptedPatience = 200ms;

spdlog::logger& log() { return logger("client.locks"); }

wire::Lock to_wire(const LockOwner& owner, const LockRanges::Piece& piece) {
  wire::Lock lock;
  lock.set_inode(owner.inode.value);
  lock.set_kind(owner.kind == LockKind::posix ? wire::LOCK_KIND_POSIX : wire::LOCK_KIND_FLOCK);
  lock.set_owner(owner.id);
  lock.set_first(piece.range.first);
  lock.set_last(piece.range.last);
  lock.set_type(piece.type == LockType::write ? wire::LOCK_TYPE_WRITE : wire::LOCK_TYPE_READ);
  lock.set_pid(piece.pid);
  return lock;
}

LockOwner owner_of(const wire::Lock& lock) {
  return {InodeId{lock.inode()}, lock.kind() == wire::LOCK_KIND_POSIX ? LockKind::posix : LockKind::flock,
          lock.owner()};
}

}  // namespace

/// A request under way.
class Locks::Use {
 public:
  Use(Locks& locks, std::uint64_t wait) : locks_(locks), wait_(wait) {
    ++locks_.in_use_;
    if (wait_ != 0) locks_.waits_.insert(wait_);
  }
  ~Use() {
    --locks_.in_use_;
    locks_.waits_.erase(wait_);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  Locks& locks_;
  const std::uint64_t wait_;
};

Locks::Locks(const Clock& clock, IndexClient& index, std::chrono::milliseconds timeout,
             std::function<Task<void>(InodeId)> flush)
    : clock_(clock), index_(index), timeout_(timeout), flush_(std::move(flush)) {
  IndexClient::LockCallbacks callbacks;
  callbacks.tell = [this](wire::OpenSessionRequest& request) { tell(request); };
  callbacks.told = [this](const wire::OpenSessionReply& reply) { told(reply); };
  callbacks.session_lost = [this] { session_lost(); };
  index_.on_locks(std::move(callbacks));
}

// ---- what is known to be held

void Locks::note(const LockRequest& wanted) {
  const auto [found, is_new] = held_.try_emplace(wanted.owner);
  if (is_new) ++in_use_;
  (void)found->second.ranges.lock({wanted.range, wanted.type, wanted.pid});
  if (wanted.handle != 0) found->second.handles.insert(wanted.handle);
}

/// @return whether anything was known to be locked
bool Locks::forget(const LockOwner& owner, ByteRange range) {
  const auto found = held_.find(owner);
  if (found == held_.end()) return false;
  (void)found->second.ranges.unlock(range);
  if (found->second.ranges.empty()) {
    held_.erase(found);
    --in_use_;
  }
  return true;
}

bool Locks::is_lost(const LockOwner& owner) const {
  const auto found = held_.find(owner);
  return found != held_.end() && found->second.lost;
}

std::vector<CarriedLocks> Locks::carry() const {
  std::vector<CarriedLocks> all;
  for (const auto& [owner, held] : held_) {
    all.push_back({owner, held.ranges.pieces(), {held.handles.begin(), held.handles.end()}, held.lost});
  }
  return all;
}

void Locks::adopt(const std::vector<CarriedLocks>& all) {
  for (const auto& carried : all) {
    auto& held = held_[carried.owner];
    for (const auto& piece : carried.pieces) {
      const bool sound = piece.range.first <= piece.range.last && piece.range.last <= kLastByte;
      if (sound) (void)held.ranges.lock(piece);  // it comes from another process
    }
    held.handles.insert(carried.handles.begin(), carried.handles.end());
    held.lost = carried.lost;
  }
  in_use_ = held_.size();
}

void Locks::tell(wire::OpenSessionRequest& request) const {
  for (const auto& [owner, held] : held_) {
    if (held.lost) continue;
    for (const auto& piece : held.ranges.pieces()) *request.add_locks() = to_wire(owner, piece);
  }
}

void Locks::told(const wire::OpenSessionReply& reply) {
  for (const auto& lock : reply.lost_locks()) {
    const auto found = held_.find(owner_of(lock));
    if (found == held_.end()) continue;
    found->second.lost = true;
    log().error("lock lost: another mount has it inode={} first={} last={} pid={}", lock.inode(),
                lock.first(), lock.last(), lock.pid());
  }
}

void Locks::session_lost() {
  for (auto& [owner, held] : held_) {
    if (std::exchange(held.lost, true)) continue;
    log().error("locks lost with the session inode={} ranges={}", owner.inode.value, held.ranges.size());
  }
}

// ---- locking

Task<LockOutcome> Locks::try_lock(LockRequest wanted) { return set(wanted, 0); }
Task<LockOutcome> Locks::lock(LockRequest wanted) { return set(wanted, ++last_wait_); }

Task<LockOutcome> Locks::set(LockRequest wanted, std::uint64_t wait) {
  const Use use(*this, wait);
  if (is_lost(wanted.owner)) co_return LockOutcome::lost;
  const auto until = Deadline::after(clock_, timeout_);
  for (;;) {
    const auto held = held_.find(wanted.owner);
    if (wanted.owner.kind == LockKind::flock && held != held_.end()) {
      // A conversion gives the old lock up, whatever becomes of the new one.
      const auto type = held->second.ranges.pieces().front().type;
      if (type != wanted.type) forget(wanted.owner, kWholeFile);
    }
    wire::SetLockRequest request;
    *request.mutable_lock() = to_wire(wanted.owner, {wanted.range, wanted.type, wanted.pid});
    request.set_wait(wait);
    request.set_settled_below(waits_.empty() ? last_wait_ + 1 : *waits_.begin());
    request.set_patience_ms(static_cast<std::uint32_t>(std::min(kPatience, timeout_ / 2).count()));
    const auto reply = co_await index_.call<wire::SetLockReply>(wire::Method::set_lock, std::move(request));
    if (!reply) {
      if (reply.error().code() == Errc::cancelled && wait != 0) {
        co_await boost::asio::this_coro::reset_cancellation_state();  // there is something left to ask
        co_return co_await end_wait(wanted, wait);
      }
      index_.assert_locks();  // it may have been granted
      co_return reply.error();
    }
    // What was granted before the index was last told what we hold was not among that, and is not ours.
    if (reply.value().assertion() != index_.assertion()) continue;
    switch (reply.value().outcome()) {
      case wire::LOCK_OUTCOME_GRANTED:
        note(wanted);
        co_return LockOutcome::granted;
      case wire::LOCK_OUTCOME_REFUSED:
        co_return LockOutcome::refused;
      case wire::LOCK_OUTCOME_DEADLOCK:
        co_return LockOutcome::deadlock;
      case wire::LOCK_OUTCOME_TOO_MANY:
        co_return LockOutcome::too_many;
      case wire::LOCK_OUTCOME_WAITING:
        break;
      default:
        co_return Error(Errc::protocol, "unknown outcome of a lock");
    }
    if (wait == 0 && until.left(clock_) <= Duration::zero()) {
      co_return Error(Errc::timed_out, "the index waits for mounts that it knew before it was restarted");
    }
  }
}

/// After an interruption: not held, or held after all.
Task<LockOutcome> Locks::end_wait(LockRequest wanted, std::uint64_t wait) {
  wire::CancelLockRequest request;
  request.set_wait(wait);
  const auto reply = co_await index_.call<wire::CancelLockReply>(
      wire::Method::cancel_lock, std::move(request), Deadline::after(clock_, kInterruptedPatience));
  if (!reply) {
    index_.assert_locks();
  } else if (reply.value().granted() && reply.value().assertion() == index_.assertion()) {
    note(wanted);
    co_return LockOutcome::granted;
  }
  co_return Error(Errc::cancelled, "interrupted while waiting for a lock");
}

Task<void> Locks::unlock(LockOwner owner, ByteRange range) {
  const Use use(*this, 0);
  // Whoever locks it next is to read what was written under this lock. What cannot be stored, fsync and close
  // tell.
  auto stored = Result<void>(ok());
  if (held_.contains(owner)) stored = co_await flush_(owner.inode);
  const bool lost = is_lost(owner);
  forget(owner, range);
  if (lost) co_return ok();
  if (!stored && stored.error().code() == Errc::cancelled) {
    index_.assert_locks();
    co_return stored.error();
  }
  wire::SetLockRequest request;
  *request.mutable_lock() = to_wire(owner, {range, LockType::read, 0});
  request.mutable_lock()->set_type(wire::LOCK_TYPE_NONE);
  request.set_settled_below(waits_.empty() ? last_wait_ + 1 : *waits_.begin());
  const auto reply = co_await index_.call<wire::SetLockReply>(wire::Method::set_lock, std::move(request));
  if (reply) co_return ok();
  index_.assert_locks();  // what we hold is without it
  co_return reply.error();
}

Task<std::optional<Locks::Conflict>> Locks::test(LockRequest wanted) {
  wire::TestLockRequest request;
  *request.mutable_lock() = to_wire(wanted.owner, {wanted.range, wanted.type, wanted.pid});
  REELFS_CO_TRY(const auto reply,
                co_await index_.call<wire::TestLockReply>(wire::Method::test_lock, std::move(request)));
  std::optional<Conflict> conflict;
  if (reply.has_conflict()) {
    const auto& lock = reply.conflict();
    conflict = Conflict{{lock.first(), lock.last()},
                        lock.type() == wire::LOCK_TYPE_WRITE ? LockType::write : LockType::read,
                        reply.session() == index_.session().value ? lock.pid() : 0};
  }
  co_return conflict;
}

Task<void> Locks::closed(InodeId inode, std::uint64_t owner) {
  const LockOwner process{inode, LockKind::posix, owner};
  if (!held_.contains(process)) co_return ok();
  co_return co_await unlock(process, kWholeFile);
}

void Locks::abandon(InodeId inode, std::uint64_t owner) {
  if (forget({inode, LockKind::posix, owner}, kWholeFile)) index_.assert_locks();
}

Task<void> Locks::released(InodeId inode, std::uint64_t handle) {
  std::vector<LockOwner> owners;
  for (auto at = held_.lower_bound({inode, LockKind::posix, 0});
       at != held_.end() && at->first.inode == inode; ++at) {
    if (at->second.handles.contains(handle)) owners.push_back(at->first);
  }
  Result<void> outcome = ok();
  for (const auto& owner : owners) {
    auto unlocked = co_await unlock(owner, kWholeFile);
    if (!unlocked) outcome = std::move(unlocked);
  }
  co_return outcome;
}

}  // namespace reelfs::client
