#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "client/arrivals/arrivals.h"
#include "client/file_state.h"
#include "client/filesystem.h"
#include "client/reader.h"
#include "client/write_back.h"

namespace reelfs::client {

class IndexClient;

/// One handle on a file. FileSystem::release gives it back; destroying it gives nothing back.
class OpenFile final : public FileHandle {
 public:
  struct Parts {
    const Clock& clock;
    IndexClient& index;
    FileTable& files;
    Reader& reader;
    std::shared_ptr<WriteBack> write_back;
    Arrivals& arrivals;
    std::chrono::milliseconds timeout;
  };
  OpenFile(Parts parts, std::shared_ptr<FileState> file);

  InodeId inode() const override { return file_->inode; }
  Result<bool> try_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  Task<std::size_t> write(std::uint64_t offset, Buffer bytes) override;
  Task<Buffer> read(std::uint64_t offset, std::size_t length) override;
  Task<void> flush() override;
  Task<void> fsync() override;
  Task<std::uint64_t> seek(std::uint64_t offset, bool hole) override;
  Task<std::uint64_t> clone_from(FileHandle& source, std::uint64_t source_offset, std::uint64_t offset,
                                 std::uint64_t length) override;
  Task<void> punch_hole(std::uint64_t offset, std::uint64_t length) override;
  Task<void> allocate(std::uint64_t offset, std::uint64_t length, bool keep_size) override;
  void will_write() override;
  Carried carry() override;

  const std::shared_ptr<FileState>& file() const { return file_; }
  /// The file's failures have not been told here.
  void owe_failures();
  /// True the first time: the handle is given back once.
  bool give_back();

 private:
  Deadline deadline() const { return Deadline::after(parts_.clock, parts_.timeout); }
  Result<void> failed_before_write();
  bool would_overwrite_held(std::uint64_t offset);
  Task<void> check_hold(std::uint64_t offset, std::uint64_t length, Deadline until);
  Result<void> unreported();
  Result<void> tell_unreported();

  const Parts parts_;
  const std::shared_ptr<FileState> file_;
  const std::shared_ptr<ReadAhead> ahead_;
  // Failures reported here so far, as counted by FileState::errors; guarded by file_->mutex. A write tells
  // what is new, and so does the next fsync, because programs look at either. A flush tells what no fsync has
  // told, and leaves it to be told again: every process that closes its copy of the descriptor flushes, also
  // one that was forked and knows nothing of the file, and the recorder's own fsync or close must not succeed
  // after it.
  std::uint64_t told_by_write_ = 0;
  std::uint64_t told_by_fsync_ = 0;
  bool given_back_ = false;
  bool will_write_ = false;
};

}  // namespace reelfs::client
