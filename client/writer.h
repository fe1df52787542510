#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::client {

class IndexClient;
class NodePool;

/// A piece of a file to be stored: at most wire::kMaxRecordPayload bytes.
struct Piece {
  InodeId inode;
  std::uint64_t file_offset = 0;
  SharedBuffer bytes;
  std::uint64_t sequence = 0;  // of two pieces for the same bytes, the later one's is greater
};

/// Where a piece came to lie, as the index's extents say it.
struct Placed {
  SegmentId segment;
  std::uint32_t record_offset = 0;
};

struct WriterOptions {
  std::uint32_t spares = 1;                       // grants held ahead of need
  std::uint64_t window_bytes = 16u << 20;         // appended to a segment and not yet acknowledged
  std::chrono::milliseconds timeout{30'000};      // a piece that cannot be placed by then fails
  std::chrono::milliseconds switch_timeout{300};  // see WriterCoreOptions
  std::chrono::milliseconds append_timeout{700};
  std::chrono::milliseconds idle_timeout{60'000};  // grants unused for so long are given back
};

/// Stores pieces in a channel's segments: takes grants ahead of need, packs pieces that wait together into
/// one append unit, sends it to every copy in parallel and pipelined, rolls over to the next grant when a
/// block is full. A piece is placed when every copy has acknowledged it and all before it. When a copy fails,
/// pieces not acknowledged go to the next grant and the failed segment is reported to the index to be sealed.
///
/// The decisions are those of WriterCore (client/writer/core.h), which knows no clock, socket or coroutine.
/// Lives on one io_context.
class Writer {
 public:
  Writer(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes,
         WriterOptions options);
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  /// @errors no_space, unavailable, timed_out, io, cancelled
  Task<Placed> append(InodeId channel, Piece piece);

  /// All placed pieces of these segments on stable storage of every copy, or of the channel's minimum where
  /// the other copies are sick and their segment was left. Calls that wait together share one flush.
  /// @errors io, timed_out: some may not be
  Task<void> sync(std::vector<SegmentId> segments);

  /// Waits for what is under way, gives all grants back to the index, joins.
  asio::awaitable<void> stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::client
