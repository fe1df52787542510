#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "client/file_state.h"
#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"

namespace reelfs::client {

class IndexClient;

class Releaser;

/// One of those who need a file's state. Whoever is the last gives the file back to the index, be it a
/// handle, a change of attributes under way when the handle was closed, or an open whose caller gave up.
class FileUse {
 public:
  FileUse(FileTable& files, Releaser& releaser, std::shared_ptr<FileState> file);
  ~FileUse();
  FileUse(const FileUse&) = delete;
  FileUse& operator=(const FileUse&) = delete;

  const std::shared_ptr<FileState>& file() const { return file_; }
  /// The use goes on without this object.
  void keep() { file_ = nullptr; }

 private:
  FileTable& files_;
  Releaser& releaser_;
  std::shared_ptr<FileState> file_;
};

/// Tells the index which files nobody here has open any more: those of a short while in one call, for a
/// copied tree is a file opened and given back every millisecond. A file that is opened again meanwhile is
/// not told. Lives on one loop; `stop()` before destroying.
class Releaser {
 public:
  Releaser(asio::any_io_executor executor, const Clock& clock, IndexClient& index, FileTable& files,
           std::chrono::milliseconds timeout);

  /// Where nobody uses the file, it has nothing left to be committed and the index holds it open.
  void give_back(std::shared_ptr<FileState> file);
  /// Tells nothing more until resume(). @return once nothing is being told  @errors timed_out, cancelled
  Task<void> pause(Deadline deadline);
  void resume();
  /// Times that the index was told anything.
  std::uint64_t told() const { return told_; }
  asio::awaitable<void> stop() { return group_.stop(); }

 private:
  void tell_soon();
  asio::awaitable<void> tell_all();
  asio::awaitable<void> tell(std::vector<std::shared_ptr<FileState>> files);
  static bool is_due(FileState& file);

  const Clock& clock_;
  IndexClient& index_;
  FileTable& files_;
  const std::chrono::milliseconds timeout_;
  std::vector<std::shared_ptr<FileState>> waiting_;
  bool telling_ = false;
  bool paused_ = false;
  Condition told_all_;
  std::uint64_t told_ = 0;
  TaskGroup group_;
};

}  // namespace reelfs::client
