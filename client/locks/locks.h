#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "client/locks/carried.h"
#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/locks/lock_ranges.h"

namespace reelfs::wire {
class OpenSessionReply;
class OpenSessionRequest;
}  // namespace reelfs::wire

namespace reelfs::client {

class IndexClient;

struct LockRequest {
  LockOwner owner;
  ByteRange range;
  LockType type = LockType::read;
  std::uint32_t pid = 0;
  std::uint64_t handle = 0;  // through which it is asked for: a number never given again; 0: none
};

enum class LockOutcome { granted, refused, deadlock, too_many, lost };

/// Locks on files of one FileSystem, on behalf of its programs. Lives on the FileSystem's loop.
///
/// A session that runs out takes its locks with it, and others may have had them since. An owner who held
/// some is then told `lost` until it has unlocked them.
class Locks {
 public:
  /// @param flush  stores what was written to a file, so that the next who locks it reads that
  Locks(const Clock& clock, IndexClient& index, std::chrono::milliseconds timeout,
        std::function<Task<void>(InodeId)> flush);
  Locks(const Locks&) = delete;
  Locks& operator=(const Locks&) = delete;

  /// Locks at once or not at all. @errors timed_out, unavailable, cancelled: it is not held
  Task<LockOutcome> try_lock(LockRequest wanted);
  /// Waits for the lock, for as long as the index answers. A cancelled wait that had the lock by then ends
  /// with it. @errors as try_lock
  Task<LockOutcome> lock(LockRequest wanted);
  /// @errors timed_out, unavailable, cancelled: it is not held here any more, and the index will learn of it
  Task<void> unlock(LockOwner owner, ByteRange range);

  /// The first lock that is in the way; its pid is 0 where that is a process of another mount.
  struct Conflict {
    ByteRange range;
    LockType type = LockType::read;
    std::uint32_t pid = 0;
  };
  Task<std::optional<Conflict>> test(LockRequest wanted);

  /// A process has closed a descriptor of the file: unlocks all it has locked there by fcntl(2).
  Task<void> closed(InodeId inode, std::uint64_t owner);
  /// The same without waiting: it is not held here any more, and the index will learn of it.
  void abandon(InodeId inode, std::uint64_t owner);
  /// The last descriptor of the handle is closed: unlocks what was locked through it and is not unlocked yet.
  Task<void> released(InodeId inode, std::uint64_t handle);
  /// For another process to go on with, in adopt(), before it tells the index.
  std::vector<CarriedLocks> carry() const;
  void adopt(const std::vector<CarriedLocks>& all);

  /// Nobody here has locked anything, or is about to: closed() has nothing to do. Any thread.
  bool idle() const { return in_use_.load() == 0; }

 private:
  struct Held {
    LockRanges ranges;
    std::set<std::uint64_t> handles;  // through which they were taken
    bool lost = false;
  };
  using HeldMap = std::map<LockOwner, Held>;
  class Use;

  Task<LockOutcome> set(LockRequest wanted, std::uint64_t wait);
  Task<LockOutcome> end_wait(LockRequest wanted, std::uint64_t wait);
  void note(const LockRequest& wanted);
  bool forget(const LockOwner& owner, ByteRange range);
  bool is_lost(const LockOwner& owner) const;
  void tell(wire::OpenSessionRequest& request) const;
  void told(const wire::OpenSessionReply& reply);
  void session_lost();

  const Clock& clock_;
  IndexClient& index_;
  const std::chrono::milliseconds timeout_;
  const std::function<Task<void>(InodeId)> flush_;
  HeldMap held_;
  std::uint64_t last_wait_ = 0;
  std::set<std::uint64_t> waits_;       // under way
  std::atomic<std::size_t> in_use_{0};  // owners in held_, and requests under way
};

}  // namespace reelfs::client
