#include "indexd/service/lock_service.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <prometheus/registry.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/counter.h"
#include "indexd/service/sessions.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

constexpr std::size_t kMaxListed = 1024;
/// Callers ask again after this long, so that a peer which is gone is noticed.
constexpr std::chrono::milliseconds kLongestWait{1000};

spdlog::logger& log() {
  static auto& instance = logger("indexd.locks");
  return instance;
}

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}
/// @errors invalid
Result<Lock> from_wire(SessionId session, const wire::Lock& message) {
  const bool posix = message.kind() == wire::LOCK_KIND_POSIX;
  if (!posix && message.kind() != wire::LOCK_KIND_FLOCK)
    return Error(Errc::invalid, "lock of an unknown kind");
  const bool unlock = message.type() == wire::LOCK_TYPE_NONE;
  if (!unlock && message.type() != wire::LOCK_TYPE_READ && message.type() != wire::LOCK_TYPE_WRITE) {
    return Error(Errc::invalid, "lock of an unknown type");
  }
  if (message.inode() == 0 || message.first() > message.last() || message.last() > kLastByte) {
    return Error(Errc::invalid, "lock of bytes that no file has");
  }
  Lock lock;
  lock.inode = InodeId{message.inode()};
  lock.owner = {posix ? LockKind::posix : LockKind::flock, session, message.owner()};
  lock.range = posix ? ByteRange{message.first(), message.last()} : kWholeFile;
  lock.type = message.type() == wire::LOCK_TYPE_WRITE ? LockType::write : LockType::read;
  lock.pid = message.pid();
  return lock;
}

void to_wire(const Lock& lock, wire::Lock& out) {
  out.set_inode(lock.inode.value);
  out.set_kind(lock.owner.kind == LockKind::posix ? wire::LOCK_KIND_POSIX : wire::LOCK_KIND_FLOCK);
  out.set_owner(lock.owner.id);
  out.set_first(lock.range.first);
  out.set_last(lock.range.last);
  out.set_type(lock.type == LockType::write ? wire::LOCK_TYPE_WRITE : wire::LOCK_TYPE_READ);
  out.set_pid(lock.pid);
}

wire::LockOutcome to_wire(LockTable::Outcome outcome) {
  switch (outcome) {
    case LockTable::Outcome::granted:
      return wire::LOCK_OUTCOME_GRANTED;
    case LockTable::Outcome::refused:
      return wire::LOCK_OUTCOME_REFUSED;
    case LockTable::Outcome::waiting:
    case LockTable::Outcome::grace:
      return wire::LOCK_OUTCOME_WAITING;
    case LockTable::Outcome::deadlock:
      return wire::LOCK_OUTCOME_DEADLOCK;
    case LockTable::Outcome::too_many:
      return wire::LOCK_OUTCOME_TOO_MANY;
  }
  return wire::LOCK_OUTCOME_UNKNOWN;
}

}  // namespace

/// A request that may have to wait, found by its wait from before it enters the table.
class LockService::Caller {
 public:
  Caller(LockService& service, WaitId wait)
      : service_(service), place_(service.callers_.emplace(wait, this)) {}
  ~Caller() { service_.callers_.erase(place_); }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  void wake() { woken_.set(); }
  /// @errors timed_out, cancelled
  Task<void> wait(Duration limit) {
    return with_timeout(service_.clock_, Deadline::after(service_.clock_, limit), wait_for(woken_));
  }

 private:
  LockService& service_;
  std::multimap<WaitId, Caller*>::iterator place_;
  Event woken_;
};

LockService::LockService(asio::any_io_executor executor, const Clock& clock, Executor& index,
                         Sessions& sessions, const ServiceOptions& options, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      sessions_(sessions),
      options_(options),
      group_(std::move(executor)),
      held_(gauge(registry, "reelfs_indexd_locks_held", "Locked ranges of files, whole files included.")),
      waiting_(gauge(registry, "reelfs_indexd_locks_waiting", "Callers that wait for a lock.")),
      served_(counter(registry, "reelfs_indexd_lock_waits_served_total",
                      "Waits for a lock that ended with the lock.")),
      deadlocks_(counter(registry, "reelfs_indexd_lock_deadlocks_total",
                         "Waits for a lock that were refused because they would never have ended.")),
      lost_(counter(registry, "reelfs_indexd_locks_lost_total",
                    "Locks that a mount still counted on and another had by then.")) {}

void LockService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::set_lock, *this, &LockService::set_lock);
  dispatcher.add(wire::Method::test_lock, *this, &LockService::test_lock);
  dispatcher.add(wire::Method::cancel_lock, *this, &LockService::cancel_lock);
  dispatcher.add(wire::Method::list_locks, *this, &LockService::list_locks);
}

LockService::Seen LockService::store(Transaction& txn, LockTable::Effect effect) const {
  for (const auto& change : effect.changes) {
    if (change.row) {
      txn.put(change.key, *change.row);
    } else {
      txn.erase(change.key);
    }
  }
  return {std::move(effect), table_.held(), table_.waiting()};
}

void LockService::tell(const Seen& seen) {
  held_.Set(static_cast<double>(seen.held));
  waiting_.Set(static_cast<double>(seen.waiting));
  for (const auto& wait : seen.effect.granted) {
    served_.Increment();
    const auto [begin, end] = callers_.equal_range(wait);
    for (auto at = begin; at != end; ++at) at->second->wake();
  }
  if (seen.effect.grace_ended) {
    log().info("every session of before has been heard");
    for (const auto& [wait, caller] : callers_) caller->wake();
  }
}

void LockService::wake_all(SessionId session) {
  for (auto at = callers_.lower_bound({session, 0}); at != callers_.end() && at->first.session == session;
       ++at) {
    at->second->wake();
  }
}

Task<void> LockService::start() {
  struct Begun {
    LockTable::Loss loss = LockTable::Loss::none;
    Seen seen;
  };
  auto load = [this](Transaction& txn) -> Result<Begun> {
    REELFS_TRY(txn.scan_table<SessionKey>([this](const SessionKey& key, const SessionRow&) {
      table_.load(key.session);
      return true;
    }));
    REELFS_TRY(txn.scan_table<LockKey>([this](const LockKey& key, const LockRow& row) {
      table_.load(key, row);
      return true;
    }));
    // A process that ends loses nothing; a machine that ends loses what was not synced.
    REELFS_TRY(const auto before, txn.find(BootKey{}));
    Begun begun;
    if (!before || before->boot_id != options_.boot_id || options_.boot_id.empty())
      begun.loss = LockTable::Loss::possible;
    txn.put(BootKey{}, BootRow{options_.boot_id});
    begun.seen = store(txn, table_.begin(begun.loss));
    return begun;
  };
  REELFS_CO_TRY(const auto begun, co_await index_.run(std::move(load)));
  log().info("locks read locks={} machine_restarted={}", begun.seen.held,
             begun.loss == LockTable::Loss::possible);
  tell(begun.seen);
  co_return ok();
}

Task<void> LockService::opened(SessionId session, const wire::OpenSessionRequest& request,
                               wire::OpenSessionReply& reply) {
  std::vector<Lock> held;
  if (static_cast<std::size_t>(request.locks_size()) > LockTable::kMaxLocks)
    co_return Error(Errc::invalid, "more locks than one session may hold");
  for (const auto& message : request.locks()) {
    REELFS_CO_TRY(auto lock, from_wire(session, message));
    if (message.type() != wire::LOCK_TYPE_NONE) held.push_back(lock);
  }
  struct Asserted {
    std::vector<Lock> lost;
    Seen seen;
  };
  auto assert_them = [&](Transaction& txn) -> Result<Asserted> {
    auto asserted = table_.assert_locks(session, request.lock_assertion(), held);
    return Asserted{std::move(asserted.lost), store(txn, std::move(asserted.effect))};
  };
  REELFS_CO_TRY(const auto asserted, co_await index_.run(std::move(assert_them)));
  tell(asserted.seen);
  wake_all(session);
  lost_.Increment(static_cast<double>(asserted.lost.size()));
  for (const auto& lock : asserted.lost) {
    log().warn("lock lost session={} inode={} first={} last={}", session.value, lock.inode.value,
               lock.range.first, lock.range.last);
    to_wire(lock, *reply.add_lost_locks());
  }
  co_return ok();
}

asio::awaitable<void> LockService::drop(SessionId session) {
  auto end = [this, session](Transaction& txn) -> Result<Seen> { return store(txn, table_.end(session)); };
  const auto ended = co_await index_.run(std::move(end));
  if (ended) {
    tell(ended.value());
    wake_all(session);
  } else {
    log().error("locks not dropped session={} why=\"{}\"", session.value, ended.error().describe());
  }
}

Task<wire::SetLockReply> LockService::set_lock(wire::SetLockRequest request) {
  const SessionId session{request.session()};
  REELFS_CO_TRY(const auto lock, from_wire(session, request.lock()));
  REELFS_CO_TRY(sessions_.renew(session));
  LockTable::Request wanted;
  wanted.lock = lock;
  wanted.unlock = request.lock().type() == wire::LOCK_TYPE_NONE;
  wanted.assertion = request.assertion();
  wanted.wait = request.wait();
  wanted.settled_below = request.settled_below();
  const std::chrono::milliseconds patience{request.patience_ms()};
  const auto until = Deadline::after(clock_, std::min(patience, kLongestWait));
  Caller caller(*this, WaitId{session, request.wait()});
  struct Asked {
    LockTable::Outcome outcome = LockTable::Outcome::granted;
    Seen seen;
  };
  for (;;) {
    auto ask = [this, &wanted](Transaction& txn) -> Result<Asked> {
      REELFS_TRY(auto answer, table_.set(wanted));
      return Asked{answer.outcome, store(txn, std::move(answer.effect))};
    };
    REELFS_CO_TRY(const auto asked, co_await index_.run(std::move(ask)));
    tell(asked.seen);
    if (asked.outcome == LockTable::Outcome::deadlock) deadlocks_.Increment();
    const bool waits =
        asked.outcome == LockTable::Outcome::waiting || asked.outcome == LockTable::Outcome::grace;
    const auto left = until.left(clock_);
    if (!waits || left <= Duration::zero()) {
      wire::SetLockReply reply;
      reply.set_outcome(to_wire(asked.outcome));
      reply.set_assertion(request.assertion());
      co_return std::move(reply);
    }
    // Woken or not: the table knows.
    const auto woken = co_await caller.wait(left);
    if (!woken && woken.error().code() == Errc::cancelled) co_return woken.error();
  }
}

Task<wire::TestLockReply> LockService::test_lock(wire::TestLockRequest request) {
  const SessionId session{request.session()};
  REELFS_CO_TRY(const auto lock, from_wire(session, request.lock()));
  REELFS_CO_TRY(sessions_.renew(session));
  auto ask = [this, &lock, assertion = request.assertion()](Transaction&) {
    return table_.test(lock, assertion);
  };
  REELFS_CO_TRY(const auto blocking, co_await index_.run(std::move(ask)));
  wire::TestLockReply reply;
  if (blocking) {
    to_wire(*blocking, *reply.mutable_conflict());
    reply.set_session(blocking->owner.session.value);
  }
  co_return std::move(reply);
}

Task<wire::CancelLockReply> LockService::cancel_lock(wire::CancelLockRequest request) {
  const WaitId wait{SessionId{request.session()}, request.wait()};
  REELFS_CO_TRY(sessions_.renew(wait.session));
  auto cancel = [this, wait, assertion = request.assertion()](Transaction&) {
    return table_.cancel(wait, assertion);
  };
  REELFS_CO_TRY(const auto cancelled, co_await index_.run(std::move(cancel)));
  wire::CancelLockReply reply;
  reply.set_granted(cancelled == LockTable::Wait::had_been_granted);
  reply.set_assertion(request.assertion());
  co_return std::move(reply);
}

Task<wire::ListLocksReply> LockService::list_locks(wire::ListLocksRequest request) {
  const auto limit = std::clamp<std::size_t>(request.limit(), 1, kMaxListed);
  auto read = [this, &request, limit](Transaction& txn) -> Result<wire::ListLocksReply> {
    wire::ListLocksReply reply;
    const auto listed = table_.list(InodeId{request.after()}, limit);
    reply.set_end(listed.size() < limit);
    InodeId inode;
    std::string path;
    for (const auto& [lock, waiting] : listed) {
      if (lock.inode != inode) {
        inode = lock.inode;
        auto found = tree::path_of(txn, inode);
        path = found ? std::move(found).value() : std::string();
      }
      auto& info = *reply.add_locks();
      to_wire(lock, *info.mutable_lock());
      info.set_session(lock.owner.session.value);
      info.set_waiting(waiting);
      info.set_path(path);
    }
    return reply;
  };
  REELFS_CO_TRY(auto reply, co_await index_.run(std::move(read)));
  std::map<std::uint64_t, wire::SessionInfo> sessions;
  for (auto& session : sessions_.list()) sessions.emplace(session.session(), std::move(session));
  for (auto& info : *reply.mutable_locks()) {
    const auto session = sessions.find(info.session());
    if (session == sessions.end()) continue;
    info.set_host(session->second.host());
    info.set_purpose(session->second.purpose());
  }
  co_return std::move(reply);
}

}  // namespace reelfs::indexd
