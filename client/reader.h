#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "client/file_state.h"
#include "client/record_reader.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"

namespace reelfs::client {

class IndexClient;

/// What one handle has been reading, to see what it will want next.
struct ReadAhead {
  std::uint64_t expected = 0;     // where a sequential reader goes on
  std::uint64_t fetched_to = 0;   // begun ahead
  std::uint32_t in_sequence = 0;  // reads that went on where the one before ended
};

/// Reads files: extents from the index, kept per file; bytes through RecordReader; and over them what was
/// written here. Lives on one io_context.
class Reader {
 public:
  using File = std::shared_ptr<FileState>;

  Reader(const asio::any_io_executor& executor, const Clock& clock, IndexClient& index, FileTable& files,
         RecordReader& records);

  /// At most `length` bytes; fewer at the end of the file alone. Begins to read ahead for a sequential
  /// reader.
  Task<Buffer> read(File file, std::shared_ptr<ReadAhead> ahead, std::uint64_t offset, std::size_t length,
                    Deadline deadline);
  /// SEEK_DATA and SEEK_HOLE among what is committed. @errors not_found: nothing such up to the end
  Task<std::uint64_t> seek(File file, std::uint64_t offset, bool hole, Deadline deadline);

  asio::awaitable<void> stop();

 private:
  Task<std::vector<Extent>> extents(File file, std::uint64_t begin, std::uint64_t end, Deadline deadline);
  Task<void> fetch_extents(File file, std::uint64_t begin, std::uint64_t end, Deadline deadline);
  Task<void> confirm(File file, Deadline deadline);
  Task<void> read_committed(File file, std::uint64_t offset, std::span<std::byte> into, bool whole_records,
                            Deadline deadline);
  Task<void> read_extents(File file, const std::vector<Extent>& extents, std::uint64_t offset,
                          std::span<std::byte> into, bool whole_records, Deadline deadline);
  Task<void> read_by_chunks(File file, Extent part, std::span<std::byte> into, Deadline deadline);
  void read_ahead(const File& file, const std::shared_ptr<ReadAhead>& ahead, std::uint64_t end);
  asio::awaitable<void> fetch_ahead(File file, std::uint64_t begin, std::uint64_t end);

  const Clock& clock_;
  IndexClient& index_;
  FileTable& files_;
  RecordReader& records_;
  TaskGroup background_;
};

}  // namespace reelfs::client
