#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"

namespace prometheus {
class Counter;
class Registry;
}  // namespace prometheus

namespace reelfs::indexd {

/// What a change has made untrue.
struct Touched {
  struct Name {
    InodeId parent;
    std::string name;
  };
  std::vector<InodeId> inodes;  // their attributes, extended attributes or data
  std::vector<Name> names;      // they came, went, or lead elsewhere
};

/// Leases on what was read, after C. Gray and D. Cheriton, "Leases: an efficient fault-tolerant mechanism for
/// distributed file cache consistency" (SOSP 1989): for `term` after an answer a session may believe the
/// attributes of an inode, and for a directory also its names and those that are not in it, because it is
/// told when another session changes them, before that change is answered.
///
/// Differs from the paper in that nobody waits for a holder that is away: a session that does not confirm
/// within kPatience is waited for no more, and gets no leases until it is back. It may then believe what is
/// old for as long as its term. Nothing of this is kept over a restart: each session is then first told that
/// everything may have changed. Lives on one loop.
class Leases {
 public:
  Leases(const Clock& clock, Duration term, prometheus::Registry& registry);
  ~Leases();
  Leases(const Leases&) = delete;
  Leases& operator=(const Leases&) = delete;

  /// To be taken before reading what is to be leased.
  std::uint64_t mark() const { return changes_; }
  /// Notes that the session has read these. @param mark  where one of them has changed since then, that may
  /// have been after the reading, and is not told to this session any more: no lease
  /// @return how long they may be believed, in milliseconds; 0: not at all
  std::uint32_t grant(SessionId session, std::initializer_list<InodeId> inodes, std::uint64_t mark);
  std::uint32_t grant(SessionId session, const std::vector<InodeId>& inodes, std::uint64_t mark);

  /// Whether a session besides `but` was told of the inode with a lease, not longer ago than two terms.
  bool is_known_to_others(InodeId inode, SessionId but);

  /// Something was changed by `by`, and is in the store: tells all others that hold a lease on it, at once
  /// and not only when it is awaited: whoever asked for the change may have given up. To be called without
  /// awaiting anything after the change.
  /// @return ends when they have confirmed
  asio::awaitable<void> changed(SessionId by, const Touched& touched);

  /// What the session is to forget; waits for it at most kLongestWatch. Asking confirms what was told before.
  Task<wire::WatchChangesReply> watch(wire::WatchChangesRequest request);
  void session_ended(SessionId session);

  /// Changes wait no longer than this for a session to confirm.
  static constexpr std::chrono::milliseconds kPatience{500};
  /// A session that watches asks at least this often.
  static constexpr std::chrono::milliseconds kLongestWatch{1000};

 private:
  struct Watcher;
  /// Leases of some inodes. Two generations, of which the older goes when it is older than a term, so that no
  /// lease needs a time of its own.
  struct Shard {
    std::unordered_multimap<InodeId, SessionId> young;
    std::unordered_multimap<InodeId, SessionId> old;
    TimePoint turned;
  };
  static constexpr std::size_t kShards = 64;  // one is given up at a time: not long
  static constexpr std::size_t kMaxLeasesOfShard = 1u << 14;
  static constexpr std::size_t kMaxRecent = 1u << 12;

  Shard& shard_of(InodeId inode);
  bool note(InodeId inode, SessionId session);
  template <class F>
  void for_each_holder(InodeId inode, SessionId but, F&& f);
  template <class Inodes>
  std::uint32_t grant_all(SessionId session, const Inodes& inodes, std::uint64_t mark);
  using Told = std::map<std::shared_ptr<Watcher>, std::uint64_t>;  // up to which number
  asio::awaitable<void> confirmed_by(Told told);

  const Clock& clock_;
  const Duration term_;
  struct Change {
    InodeId inode;
    std::uint64_t number = 0;
  };
  void remember(InodeId inode);
  /// Also where that is not remembered.
  bool changed_since(InodeId inode, std::uint64_t mark) const;

  std::uint64_t changes_ = 0;
  std::deque<Change> recent_;                               // the newest last
  std::unordered_map<InodeId, std::uint64_t> last_change_;  // of each in recent_
  std::uint64_t forgotten_upto_ = 0;
  std::uint64_t last_stream_;
  std::array<Shard, kShards> shards_;
  std::map<SessionId, std::shared_ptr<Watcher>> watchers_;
  prometheus::Counter& told_;
  prometheus::Counter& unconfirmed_;
};

}  // namespace reelfs::indexd
