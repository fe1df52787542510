#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/base/byte_ranges.h"
#include "common/base/ids.h"
#include "common/base/units.h"
#include "common/wire/record.h"

namespace reelfs::noded {

/// Verifies every record of a stretch of a segment, fed with its bytes piece by piece, and goes on behind
/// what is bad. What it says is exact to the byte: a chunk whose checksum is wrong is bad and no other, and
/// where a header is, everything up to the next record.
///
/// Two things are not called bad. Zeros behind a unit's last record are its padding. And what was never
/// acknowledged may lie in the last page of a copy that was cut there, or of one that was written on under a
/// later generation.
class RecordScan {
 public:
  struct Rules {
    SegmentId segment{};
    std::uint64_t length = 0;  // of the copy, page-aligned: what lies behind it is not looked at
    std::uint64_t start = 0;   // page-aligned
    bool in_midst = false;     // a record may begin before the start: what is seen of it is called bad
  };
  explicit RecordScan(Rules rules);

  /// Bytes that a step must see from `position()` rounded down to a page on, so that it always gets on.
  static constexpr std::uint64_t kLookahead =
      round_up(2 * kPageBytes + wire::kMaxHeaderBytes + wire::kMaxRecordPayload, kPageBytes);

  /// Where the next record is looked for.
  std::uint64_t position() const { return position_; }
  /// @param base   offset in the segment of the first byte, page-aligned, at most position()
  /// @param bytes  at least kLookahead of them, or up to the length
  void feed(std::uint64_t base, std::span<const std::byte> bytes);
  bool done() const { return done_; }

  const ByteRanges& bad() const { return bad_; }
  /// Headers and chunks that verified.
  const ByteRanges& records() const { return records_; }

 private:
  void take(const wire::Record& record, std::span<const std::byte> bytes);
  bool overwritten(const wire::Record& record, std::span<const std::byte> bytes) const;
  void end_gap(std::uint64_t upto, bool before_later_generation);

  const Rules rules_;
  std::uint64_t position_;
  bool done_ = false;
  std::uint64_t generation_ = 0;             // of the last record
  std::optional<std::uint64_t> padding_at_;  // the padding, if it was that, which ended at position_
  std::optional<std::uint64_t> gap_at_;      // since there no record was found
  ByteRanges bad_;
  ByteRanges records_;
};

}  // namespace reelfs::noded
