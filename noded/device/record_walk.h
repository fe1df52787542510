#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/ids.h"
#include "common/base/units.h"
#include "common/wire/record.h"

namespace reelfs::noded {

/// Finds the true end of an open block by walking its records, fed with the block's bytes piece by piece.
///
/// A record counts where its checksums are right, all chunks included, it names this segment and the place
/// where it stands, its generation is not below that of the record before, and it is not a leftover from
/// behind a fence. The first that does not count ends the walk; the end is the page boundary behind the last
/// that does.
class RecordWalk {
 public:
  struct Rules {
    SegmentId segment{};
    std::uint64_t block_bytes = 0;
    std::uint64_t start = 0;  // page-aligned; what lies before is known to be valid
    Generation fence_generation{};
    std::uint64_t fence_length = 0;
  };

  explicit RecordWalk(Rules rules)
      : rules_(rules), position_(rules.start), end_(rules.start), boundary_(rules.start) {}

  /// Bytes of the block that a step must see from `position()` rounded down to a page on, so that it always
  /// gets on.
  static constexpr std::uint64_t kLookahead =
      round_up(2 * kPageBytes + wire::kMaxHeaderBytes + wire::kMaxRecordPayload, kPageBytes);

  /// Where the next record is looked for.
  std::uint64_t position() const { return position_; }
  /// @param base   block offset of the first byte, page-aligned, at most position()
  /// @param bytes  at least kLookahead of them, or up to the block's end
  void feed(std::uint64_t base, std::span<const std::byte> bytes);
  bool done() const { return done_; }
  /// Page-aligned end of the valid bytes so far.
  std::uint64_t end() const { return end_; }
  /// The last page boundary at which a record that counts begins, or the start: a whole append unit, or
  /// several, lie before it. The last record may have others behind it in its last page; from here on they
  /// are read whole.
  std::uint64_t boundary() const { return boundary_; }
  /// Highest generation seen; 0 when there was no record.
  Generation generation() const { return generation_; }
  std::uint64_t channel() const { return channel_; }
  std::uint64_t records() const { return records_; }

 private:
  std::uint64_t valid_record_at(std::span<const std::byte> bytes);

  const Rules rules_;
  std::uint64_t position_;
  std::uint64_t end_;
  std::uint64_t boundary_;
  Generation generation_;
  std::uint64_t channel_ = 0;
  std::uint64_t records_ = 0;
  bool done_ = false;
};

}  // namespace reelfs::noded
