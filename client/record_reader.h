#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/damage_reporter.h"
#include "client/extent_cache.h"
#include "client/node_pool.h"
#include "client/segment_locations.h"
#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::wire {
class SegmentLocation;
}

namespace reelfs::client {

class IndexClient;

/// A run of one record's chunks: on its way, or here and verified, or failed.
class RecordRead {
 public:
  bool ended() const { return result_.has_value(); }

 private:
  friend class RecordReader;
  struct Chunks {
    Buffer reply;
    std::size_t data_at = 0;  // in reply, of the first chunk
  };
  /// What a record says it is.
  struct Name {
    InodeId inode;
    std::uint64_t file_offset = 0;
    friend bool operator==(const Name&, const Name&) = default;
  };
  InodeId inode_;  // of the reader
  Extent extent_;
  Name name_;
  std::uint32_t first_chunk_ = 0;
  std::uint32_t last_chunk_ = 0;
  std::optional<Result<Chunks>> result_;
  Condition progress_;
  std::size_t attempts_ = 0;  // under way
  std::vector<Error> failures_;
  bool cached_ = false;
  std::list<std::shared_ptr<RecordRead>>::iterator place_;  // in the cache, where cached_
};

struct RecordReaderOptions {
  std::size_t cache_bytes = 64u << 20;        // of verified chunks
  std::chrono::milliseconds timeout{30'000};  // until a read fails that no copy answers
  std::chrono::milliseconds attempt_timeout{1000};
  std::chrono::milliseconds hedge_after{300};  // no answer by then: another copy is asked as well
};

/// Reads records from the copies of their segments, verifies them, and keeps the newest. What several readers
/// want is fetched once. A copy that fails, is silent or answers wrong bytes is passed over for the next, and
/// wrong bytes are reported.
/// Lives on one io_context.
class RecordReader {
 public:
  RecordReader(const asio::any_io_executor& executor, const Clock& clock, IndexClient& index, NodePool& nodes,
               RecordReaderOptions options);
  RecordReader(const RecordReader&) = delete;
  RecordReader& operator=(const RecordReader&) = delete;

  /// What the index says of where segments lie.
  void learn(const wire::SegmentLocation& location);

  /// Begins to read the chunks that hold this part of a file, unless they are here or on their way.
  std::shared_ptr<RecordRead> start(InodeId inode, const Extent& part);

  /// @errors not_found (no copy has the record any more), corrupt, io, unavailable, timed_out; cancelled
  Task<void> wait(const std::shared_ptr<RecordRead>& read, Deadline deadline);

  /// Copies payload bytes from payload_offset on. @pre the read has ended well
  /// @errors corrupt: the record is shorter
  static Result<void> copy(const RecordRead& read, std::uint32_t payload_offset, std::span<std::byte> into);

  /// Ends what is under way with `cancelled`, joins.
  asio::awaitable<void> stop();

 private:
  using Key = std::pair<SegmentId, std::uint32_t>;
  using Read = std::shared_ptr<RecordRead>;

  asio::awaitable<void> fetch(Read read);
  Task<void> ask_all(const Read& read, Deadline deadline);
  Task<void> locate(SegmentId segment, Deadline deadline);
  void report(const Read& read, const WorkerAddress& worker, const Error& error);
  asio::awaitable<void> attempt(Read read, WorkerAddress worker, Deadline deadline);
  Task<RecordRead::Chunks> ask(const RecordRead& read, const WorkerAddress& worker, Deadline deadline);
  void end(const Read& read, Result<RecordRead::Chunks> result);
  void drop(const Read& read);

  const Clock& clock_;
  IndexClient& index_;
  NodePool& nodes_;
  const RecordReaderOptions options_;
  SegmentLocations locations_;
  DamageReporter damage_;
  std::multimap<Key, Read> reads_;  // under way and cached
  std::list<Read> cache_;           // most recently used first
  std::size_t cached_bytes_ = 0;
  TaskGroup background_;
};

}  // namespace reelfs::client
