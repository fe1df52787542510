#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "common/async/condition.h"
#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/schema/rows.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class Executor;

/// Mounts and other clients, known while their leases last, and which inodes they have open. A session
/// outlives a restart of this process: its row is kept, and it has a full lease to come back and say what it
/// has open.
///
/// Inodes without a name (orphans) are removed when no session has them open: in the background, in bounded
/// steps. Who was told of an inode and comes a moment later to open it finds it still there: see Kept. Lives
/// on one io_context; `stop()` before destroying.
class Sessions {
 public:
  Sessions(asio::any_io_executor executor, const Clock& clock, Executor& index,
           const ServiceOptions& options);
  ~Sessions();
  Sessions(const Sessions&) = delete;
  Sessions& operator=(const Sessions&) = delete;

  /// Reads the rows and begins to watch leases and to reap.
  Task<void> start();
  asio::awaitable<void> stop();

  /// Told when a session has ended, by close or by silence; from then on alive() is false for it.
  void on_ended(std::function<void(SessionId)> callback);
  /// Told which sealed segments hold nothing any more after an orphan went.
  void on_emptied(std::function<void(const std::vector<SegmentId>&)> callback);

  /// A new session, or with `resume` the one that is to go on. @errors no_session
  Task<SessionId> open(wire::OpenSessionRequest request);
  Task<void> close(SessionId session);
  /// Anything a session asks prolongs its lease. @errors no_session
  Result<void> renew(SessionId session);
  bool alive(SessionId session) const { return sessions_.contains(session); }

  /// From now on the inode stays though its last name may go. Repeating it changes nothing.
  /// @errors no_session; stale_handle: it is being removed; invalid: the session said it opens nothing
  Result<void> opened(SessionId session, InodeId inode);
  void released(SessionId session, InodeId inode);
  bool is_open(InodeId inode) const { return openers_.contains(inode); }
  /// It puts bytes into an inode that it has open.
  void wrote(SessionId session, InodeId inode);
  /// Inodes that somebody has open and has put bytes into since; after a restart all that are open may be.
  std::set<InodeId> being_written() const;
  /// Orphans that nobody has open, and that are still there.
  std::vector<InodeId> kept() const;
  /// Until what could be removed by now has been. @errors timed_out, cancelled
  Task<void> reaped(Deadline deadline);
  /// For whom an inode stays a while though nobody has it open.
  struct Kept {
    SessionId keeper;          // that took the last name, and said that it may open it; until forgotten()
    bool told_others = false;  // other sessions were told of it lately
  };
  /// It has lost its last name: to be removed when nobody has it open, or may come to open it.
  void orphaned(InodeId inode, Kept kept);
  /// The keeper will not open it.
  void forgotten(SessionId session, InodeId inode);
  /// There was no room for a new segment: what stays for those alone who might yet come goes now, and for a
  /// while what is removed does not stay for them.
  void space_is_short();
  bool is_orphan(InodeId inode) const { return orphans_.contains(inode); }
  /// A session was told of the inode by name, without a lease that would say so.
  void told(InodeId inode);
  /// Whether told() a moment ago.
  bool was_told(InodeId inode) const { return told_.contains(inode) || told_before_.contains(inode); }

  std::vector<wire::SessionInfo> list() const;

 private:
  struct Session {
    SessionRow row;
    TimePoint renewed;
    std::set<InodeId> open;
    std::set<InodeId> written;  // of those
  };
  struct Keeping {
    SessionId keeper;
    TimePoint keeper_until;
    TimePoint until;
  };
  void end_keeping(TimePoint now);
  void reap_if_unused(InodeId inode);
  void drop_open(InodeId inode);
  void end(SessionId session, const char* why);
  asio::awaitable<void> watch_leases();
  asio::awaitable<void> forget(SessionId session);
  asio::awaitable<void> reap();
  Task<void> reap_one(InodeId inode);

  const Clock& clock_;
  Executor& index_;
  const ServiceOptions& options_;
  TaskGroup group_;
  std::map<SessionId, Session> sessions_;
  std::unordered_map<InodeId, std::uint32_t> openers_;  // sessions that have it open
  std::set<InodeId> orphans_;                           // not yet removed
  std::unordered_map<InodeId, Keeping> kept_;           // orphans that stay for now
  std::unordered_set<InodeId> told_;                    // two generations, each of removed_grace
  std::unordered_set<InodeId> told_before_;
  TimePoint told_turned_;
  TimePoint short_until_;
  std::set<InodeId> to_reap_;  // those that nobody has open: cannot be opened any more
  Event reap_there_;
  Condition all_reaped_;
  std::set<SessionId> unheard_;  // since the restart: what they have open is not known yet
  std::function<void(SessionId)> ended_;
  std::function<void(const std::vector<SegmentId>&)> emptied_;
};

}  // namespace reelfs::indexd
