#pragma once

#include <chrono>

#include <boost/asio/any_io_executor.hpp>

#include "client/file_state.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"

namespace reelfs::client {

class IndexClient;

/// Tells the index when files were read, those of a second in one call. Here their new atime is seen at once
/// (FileTable). A time that cannot be told is dropped: nobody waits for it, and the next read has a newer
/// one. Lives on one loop; `stop()` before destroying.
class ReadTimes {
 public:
  ReadTimes(asio::any_io_executor executor, const Clock& clock, IndexClient& index, FileTable& files);

  /// The file or directory with these attributes has been read.
  void note(const Attributes& known);
  /// Tells what is left, where the index answers at once, and joins.
  asio::awaitable<void> stop();

 private:
  asio::awaitable<void> tell_later();
  Task<void> tell(Deadline deadline);

  const Clock& clock_;
  IndexClient& index_;
  FileTable& files_;
  bool telling_ = false;
  TaskGroup group_;
};

}  // namespace reelfs::client
