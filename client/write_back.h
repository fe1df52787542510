#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "client/file_state.h"
#include "client/write_buffer.h"
#include "common/async/condition.h"
#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"

namespace boost::asio {
class io_context;
}
namespace reelfs::wire {
class CommitRequest;
}

namespace reelfs::client {

class IndexClient;
class Writer;

struct WriteBackOptions {
  std::uint64_t max_dirty_bytes = 256u << 20;
  std::chrono::milliseconds collect_for{150};   // and a tick more until the nodes are sent it: 200 ms
  std::chrono::milliseconds commit_after{400};  // age of a byte; a tick and the round trip come on top
  std::chrono::milliseconds tick{50};           // only while something is dirty
  std::chrono::milliseconds sync_after{
      1000};  // what nobody syncs goes to stable storage then: 2 s at most are lost
  std::size_t commit_placed_bytes = 32u << 20;  // of one file: are committed at once
};

/// Carries what was written from the files' buffers to the nodes and the index: stores pieces as they fill or
/// grow old, many at a time, and commits them in write order, many files in one request and one request at a
/// time.
///
/// Lives on one io_context; try_write alone may be called from any thread. Held by a shared_ptr, because a
/// write from another thread may still be on its way to the loop when everything else is gone.
class WriteBack : public std::enable_shared_from_this<WriteBack> {
 public:
  using Piece = WriteBuffer::PieceNumber;
  using File = std::shared_ptr<FileState>;

  WriteBack(asio::io_context& context, const Clock& clock, IndexClient& index, Writer& writer,
            FileTable& files, WriteBackOptions options);
  ~WriteBack();

  void start();
  /// Told, perhaps repeatedly, when a file that was dirty has nothing left to commit.
  void on_clean(std::function<void(const File&)> callback) { clean_callback_ = std::move(callback); }

  /// Collects the bytes where there is room. From any thread. @errors file_too_big, cancelled (after stop)
  Result<bool> try_write(const File& file, std::uint64_t offset, std::span<const std::byte> bytes);
  /// Until there may be room for so many bytes. @errors timed_out, cancelled
  Task<void> wait_for_room(std::size_t bytes, Deadline deadline);

  /// Stores and commits all that the file holds now. Failures of pieces are left in FileState::last_error.
  /// @errors timed_out, cancelled
  Task<void> flush(File file, Deadline deadline);
  /// The same, and on stable storage. @errors also those of syncing
  Task<void> fsync(File file, Deadline deadline);
  /// What was stored for `source` is the target's, too: an fsync of either brings it to stable storage.
  void share_unsynced(const FileState& source, const File& target);
  /// fsync of all files together.
  Task<void> sync_all(Deadline deadline);
  /// The index's journal is on stable storage up to what it answered before.
  Task<void> sync_journal(Deadline deadline);

  /// While it lives no commit of the file begins.
  class Barrier {
   public:
    Barrier(WriteBack& owner, File file);
    ~Barrier();
    Barrier(const Barrier&) = delete;
    Barrier& operator=(const Barrier&) = delete;

   private:
    WriteBack& owner_;
    File file_;
  };
  /// Until no commit of the file is under way. @pre a Barrier is held
  Task<void> wait_for_commit(File file, Deadline deadline);

  /// Flushes all files. @errors timed_out
  Task<void> drain(Deadline deadline);
  /// Ends the background work; what is not committed by now is lost.
  asio::awaitable<void> stop();

 private:
  struct Batch {
    std::set<File> files;
    bool sync = false;
    bool ended = false;
    Result<void> result = ok();
    Condition end;
  };
  struct Committing {
    File file;
    WriteBuffer::CommitBatch pieces;
    std::optional<Error> refused;  // by the index: this file's alone
  };

  // Runs `body` with the buffer locked, and accounts for the memory it takes or gives.
  template <class F>
  auto change(FileState& file, F&& body);

  void touched(const File& file);
  void send_ready(const File& file);
  void seal_and_send(const File& file);
  void look_after(const File& file, TimePoint now);
  void relieve();
  asio::awaitable<void> store(File file, WriteBuffer::Ready piece);
  asio::awaitable<void> watch_dirty();

  struct Upto {
    File file;
    Piece piece;
  };
  Task<std::vector<Upto>> settle_all(Deadline deadline);
  Task<void> commit_all(std::vector<Upto> all, Deadline deadline);
  Task<void> settle(File file, Piece through, Deadline deadline);
  Task<void> commit(File file, Piece through, bool sync, Deadline deadline);
  Task<void> sync_segments(std::vector<File> files);
  asio::awaitable<void> sync_old(std::vector<File> files);
  std::shared_ptr<Batch> join(const File& file, bool sync);
  asio::awaitable<void> run_batches();
  asio::awaitable<void> run(Batch& batch);
  Piece settled_with(const std::vector<Committing>& files) const;
  Task<void> send(std::vector<Committing>& files, bool sync);
  void finish(const std::vector<Committing>& files, const Result<void>& outcome);

  asio::io_context& context_;
  const Clock& clock_;
  IndexClient& index_;
  Writer& writer_;
  FileTable& files_;
  const WriteBackOptions options_;
  std::function<void(const File&)> clean_callback_;

  std::atomic<std::uint64_t> held_bytes_ = 0;
  std::atomic<bool> stopped_ = false;

  std::set<File> dirty_;  // hold pieces or unsynced segments
  std::uint64_t placements_ = 0;
  TimePoint last_sync_;
  bool syncing_old_ = false;
  Event became_dirty_;
  Condition room_;
  std::shared_ptr<Batch> next_batch_;
  Event batch_waits_;
  TaskGroup background_;
};

}  // namespace reelfs::client
