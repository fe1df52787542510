#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/locks/lock_ranges.h"
#include "indexd/schema/keys.h"

namespace reelfs::indexd {

/// Who holds locks or waits for them: what its session says is one owner.
struct LockOwner {
  LockKind kind = LockKind::posix;
  SessionId session;
  std::uint64_t id = 0;
  friend auto operator<=>(const LockOwner&, const LockOwner&) = default;
};

struct Lock {
  InodeId inode;
  LockOwner owner;
  ByteRange range;
  LockType type = LockType::read;
  std::uint32_t pid = 0;
  friend bool operator==(const Lock&, const Lock&) = default;
};

/// A wait for a lock, as the session that waits knows it.
struct WaitId {
  SessionId session;
  std::uint64_t number = 0;
  friend auto operator<=>(const WaitId&, const WaitId&) = default;
};

/// Locks of every file, held and waited for. Rows of the index are its image of what is held; what it holds
/// itself is as good as its caller's care to store each Effect before anyone hears of the outcome.
///
/// Locks conflict where they are of one kind, of two owners, overlap, and one of them is a write lock. A
/// conversion of an fcntl lock keeps the old one until the new one is there; that of an flock gives it up
/// first, as Linux does. Whoever waits is served in the order of arrival, as far as what it asks for is free.
///
/// A session says what it holds whenever it has lost touch ("asserts"), and numbers these assertions. What it
/// asked for under an earlier number is refused, so nothing can be granted to it that its assertion has not
/// counted. docs/design/locks.md
class LockTable {
 public:
  static constexpr std::size_t kMaxLocks = 65536;  // pieces of one session
  static constexpr std::size_t kMaxWaits = 4096;   // of one session

  struct Change {
    LockKey key;
    std::optional<LockRow> row;  // none: erased
  };
  struct Effect {
    std::vector<Change> changes;
    std::vector<WaitId> granted;  // waits that have what they waited for
    bool grace_ended = false;     // those who were put off may ask again
  };

  /// What the last life of the index left, before anything else. Locks of sessions that are not there are
  /// erased by the Effect of begin().
  void load(SessionId session);
  void load(const LockKey& key, const LockRow& row);
  enum class Loss {
    none,
    possible  // the newest rows may be missing: until all sessions are heard nobody gets a lock
  };
  Effect begin(Loss loss);

  struct Asserted {
    Effect effect;
    std::vector<Lock> lost;  // others have these meanwhile
  };
  /// A session begins, or says what it holds; nothing else is held by it from now on, and none of its waits
  /// goes on.
  /// @param assertion  above every earlier one of the session
  Asserted assert_locks(SessionId session, std::uint64_t assertion, std::span<const Lock> held);
  Effect end(SessionId session);

  struct Request {
    Lock lock;
    bool unlock = false;  // the lock's type is of no matter
    std::uint64_t assertion = 0;
    std::uint64_t wait = 0;           // the wait's number; 0: do not wait
    std::uint64_t settled_below = 0;  // waits with lower numbers are of no more interest to the session
  };
  enum class Outcome {
    granted,
    refused,   // somebody else has it
    waiting,   // the wait is noted, or goes on
    grace,     // not now, and nothing is noted
    deadlock,  // everyone who could release it waits, in the end, for this owner
    too_many,
  };
  struct Answer {
    Outcome outcome = Outcome::granted;
    Effect effect;
  };
  /// Asking again for the same wait keeps its place, and tells of its grant again.
  /// @errors no_session: it has ended, or the assertion is not its newest
  Result<Answer> set(const Request& request);

  enum class Wait { ended, had_been_granted };
  /// The session does not want to wait any more. What had been granted stays.
  /// @errors no_session
  Result<Wait> cancel(WaitId wait, std::uint64_t assertion);

  /// The first lock that is in the way. @errors no_session
  Result<std::optional<Lock>> test(const Lock& wanted, std::uint64_t assertion);

  struct Listed {
    Lock lock;
    bool waiting = false;
  };
  /// Of the files after this one, whole files until there are `limit`.
  std::vector<Listed> list(InodeId after, std::size_t limit) const;
  std::size_t held() const { return held_; }
  std::size_t waiting() const { return waits_.size(); }

 private:
  struct Waiting {
    WaitId id;
    Lock wanted;
  };
  struct File {
    std::map<LockOwner, LockRanges> held;
    std::list<Waiting> waiting;  // in the order of arrival
    bool empty() const { return held.empty() && waiting.empty(); }
  };
  struct Session {
    std::optional<std::uint64_t> assertion;  // none: not heard since the index began
    std::set<std::uint64_t> granted;         // waits that are over and may be asked for again
    std::size_t locks = 0;
    std::size_t waits = 0;
  };
  using Files = std::map<InodeId, File>;
  using Waits = std::map<WaitId, std::pair<InodeId, std::list<Waiting>::iterator>>;

  Result<Session*> heard(SessionId session, std::uint64_t assertion);
  static void note(InodeId inode, const LockOwner& owner, const LockRanges::Changes& changes, Effect& effect);
  void lock(const Lock& lock, Effect& effect);
  void unlock(InodeId inode, const LockOwner& owner, ByteRange range, Effect& effect);
  void erase_locks(SessionId session, Effect& effect);
  void erase_waits(SessionId session);
  void erase_wait(Waits::iterator wait);
  std::optional<Lock> blocking(const Lock& wanted) const;
  std::vector<LockOwner> blockers(const Lock& wanted) const;
  bool would_deadlock(const Lock& wanted) const;
  bool claim(Lock lock, Effect& effect);
  bool converts(const Lock& lock) const;
  void serve(InodeId inode, Effect& effect);
  void serve_all(Effect& effect);
  void now_heard(Effect& effect);

  Files files_;
  std::map<SessionId, Session> sessions_;
  Waits waits_;
  std::multimap<LockOwner, WaitId> waits_of_;  // the same by owner
  std::size_t held_ = 0;
  std::size_t unheard_ = 0;  // sessions
  bool grace_ = false;
};

}  // namespace reelfs::indexd
