#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "client/file_state.h"
#include "client/releaser.h"
#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

class IndexClient;

/// Inodes whose last name was taken away here, and to which the caller may still come back. The index keeps
/// each for ten seconds on its own account, which nearly always is enough and costs nothing but to tell it
/// that it may go. What is needed for longer is opened. Lives on one loop; `stop()` before destroying.
class RemovedInodes {
 public:
  using Open = std::function<Task<void>(std::shared_ptr<FileState>)>;

  /// @param open  has the index note that the file is open here
  RemovedInodes(asio::any_io_executor executor, const Clock& clock, IndexClient& index, FileTable& files,
                Releaser& releaser, Open open, std::chrono::milliseconds timeout);

  /// Whether the index may be asked to keep another.
  bool has_room() const { return removed_.size() < kMax; }
  /// The index has taken its last name, and keeps it.
  void note(InodeId inode);
  /// It is needed no more; of no effect for others.
  void let_go(InodeId inode);
  /// The session is about to tell what it has open: all of these, from now on.
  void keep_open();
  /// Kept by another process, in whose place this one goes on.
  void adopt(const std::vector<InodeId>& inodes);
  std::vector<InodeId> all() const;

  /// Tells the index nothing more until resume(). @return once nothing is being told  @errors timed_out,
  /// cancelled
  Task<void> pause(Deadline deadline);
  void resume();
  /// Without telling the index: the session ends, or is another process's.
  asio::awaitable<void> stop();

  static constexpr std::size_t kMax = 1u << 16;

 private:
  using Use = std::unique_ptr<FileUse>;  // none: the index keeps it on its own account
  Use use_of(InodeId inode);
  void work_soon();
  asio::awaitable<void> work();
  asio::awaitable<void> tell_forgotten();
  asio::awaitable<void> open(InodeId inode);

  const Clock& clock_;
  IndexClient& index_;
  FileTable& files_;
  Releaser& releaser_;
  const Open open_;
  const std::chrono::milliseconds timeout_;
  std::map<InodeId, Use> removed_;
  std::deque<std::pair<TimePoint, InodeId>> young_;  // the oldest first; some may have been let go
  std::vector<InodeId> forgotten_;                   // the index is to be told
  bool working_ = false;
  bool paused_ = false;
  Condition there_is_more_;
  Condition idle_;
  TaskGroup group_;
};

}  // namespace reelfs::client
