#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "indexd/tree/extents.h"

namespace reelfs::indexd::tree {

// Moving what lives in a segment into others: docs/design/compaction.md

/// Where a look for a segment's extents goes on.
struct LiveCursor {
  InodeId inode;
  std::uint64_t file_offset = 0;
  std::uint64_t found_bytes = 0;  // of that file, before this place
};
/// Some extents that point into a segment, by their files.
struct LiveExtents {
  struct Of {
    InodeId inode;
    Extent extent;
  };
  std::vector<Of> extents;
  std::optional<LiveCursor> next;  // none: these were the last
};
/// Finds extents that point into the segment. One call looks at so many extents at most, whosever they are.
Result<LiveExtents> live_extents(const Reader& reader, SegmentId segment, const LiveCursor& from,
                                 std::size_t most_looked_at);

/// A part of a record, as it is needed by files.
struct RecordPart {
  std::uint32_t record_offset = 0;
  std::uint32_t payload_offset = 0;
  std::uint32_t length = 0;
  InodeId inode;                  // that the record names, and
  std::uint64_t file_offset = 0;  // where in it the record's first payload byte is
  std::uint32_t end() const { return payload_offset + length; }
  friend bool operator==(const RecordPart&, const RecordPart&) = default;
};
/// What of which records the extents need, each byte once though clones share it, in the order of the
/// segment.
std::vector<RecordPart> parts_of(std::span<const LiveExtents::Of> extents);

/// Parts of a segment's records that now stand as records of their own in another one.
struct Moved {
  SegmentId source;
  SegmentId target;
  struct Part {
    std::uint32_t payload_offset = 0;
    std::uint32_t length = 0;
    std::uint32_t new_record_offset = 0;
  };
  std::multimap<std::uint32_t, Part> parts;  // by the old record's offset
};
struct Relocated {
  std::uint64_t bytes = 0;         // that now live in the target
  std::vector<SegmentId> emptied;  // sealed segments in which nothing lives any more
};
/// Makes extents point at the new places, each where it still points into the source and all of it was moved:
/// what was overwritten, cut or removed since stays so, and what was added stays where it is. Files do not
/// change by it: neither their version nor their times.
/// @param extents  as they were found: where to look
/// @errors invalid, stale_generation: the target does not hold so much
Result<Relocated> relocate(Transaction& txn, const Moved& moved, std::span<const LiveExtents::Of> extents);

}  // namespace reelfs::indexd::tree
