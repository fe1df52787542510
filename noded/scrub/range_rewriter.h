#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/byte_ranges.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/node.pb.h"
#include "noded/segment/segment_store.h"

namespace reelfs::noded {

/// Repairs ranges of a copy in place from other copies. A byte is taken from another copy where it is bad
/// here and a record that verifies has it there, so that copies that are damaged in different places make
/// each other whole; what verifies is never overwritten, and nothing is written that does not verify.
///
/// One order at a time. Lives on the store's loop. Design: docs/design/scrub.md, "Rewriting"
class RangeRewriter {
 public:
  /// Reads bytes of a segment's copy as they stand on another node; fewer where the copy ends.
  struct Wanted {
    wire::WorkerAddress source;
    SegmentId segment;
    ByteSpan range;  // page-aligned
  };
  using Fetch = std::function<Task<std::shared_ptr<Buffer>>(Wanted wanted, Deadline deadline)>;

  RangeRewriter(SegmentStore& store, WorkerId worker, Fetch fetch);
  RangeRewriter(const RangeRewriter&) = delete;
  RangeRewriter& operator=(const RangeRewriter&) = delete;

  /// Repeating an order is safe, and cheap where nothing is bad any more. What was written is on stable
  /// storage and has been read again. Where the device takes it otherwise, it is taken out of service.
  /// @errors not_found, busy (another order is under way, or the block is in use so), invalid, io
  Task<wire::RewriteRangesReply> rewrite(wire::RewriteRangesRequest order, Deadline deadline);

  struct Raw {
    wire::RewriteRangesReply reply;
    std::shared_ptr<Buffer> bytes;  // of the first range, at most 1 MiB, and less where the copy ends
  };
  /// An order that names no sources: what is bad here, and the bytes as they stand on the device. Any number
  /// at a time, so that nodes that repair each other's copies do not wait for each other.
  /// @errors not_found, invalid, io
  Task<Raw> look(wire::RewriteRangesRequest order);

 private:
  struct Job;
  struct Piece;
  class InPlace;
  Task<Job> begin(wire::RewriteRangesRequest order, Deadline deadline);
  static Task<Piece> read_piece(const Job& job, ByteSpan range);
  static wire::RewriteRangesReply reply_of(const Job& job);
  Task<void> rewrite_range(Job& job, ByteSpan range);
  Task<void> ask_sources(Job& job, ByteSpan range, Piece& piece);
  Task<void> write(Job& job, const Piece& piece);

  SegmentStore& store_;
  const WorkerId worker_;
  const Fetch fetch_;
  bool under_way_ = false;
};

}  // namespace reelfs::noded
