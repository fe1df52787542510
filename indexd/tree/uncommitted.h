#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "indexd/tree/extents.h"
#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

// What sessions have placed on nodes and not committed, and how it is committed once the session is gone:
// docs/design/roll-forward.md

/// A segment as a session was granted it.
struct Grant {
  SessionId session;
  SegmentId segment;
  Generation generation;
  std::uint64_t last_sequence = 0;  // of the records appended under it; 0: not known
};

/// Notes a grant to a mount. @return false: the session is none of a mount, and nothing is noted
Result<bool> note_grant(Transaction& txn, const Grant& grant);

/// The writer is done with the segment and has appended nothing behind `last_sequence`.
/// @return true: all that was appended under the grant is settled, and it is forgotten
Result<bool> note_grant_closed(Transaction& txn, const Grant& grant);

/// Forgets grants of which nothing is left to be committed.
void forget_grants(Transaction& txn, std::span<const Grant> grants);

/// Those of one session.
Result<std::vector<Grant>> grants_of(const Reader& reader, SessionId session);
Result<std::vector<Grant>> all_grants(const Reader& reader);

/// What a commit settles of one file.
struct FileProgress {
  InodeId inode;
  std::uint64_t sequence = 0;  // of the last record that was committed, or refused
  WallNs mtime_ns = 0;         // of the file now
  bool more = false;           // further records of it are under way
};
/// @param settled  no record of the session up to this one is left to be committed, of any file
Result<void> note_progress(Transaction& txn, SessionId session, std::uint64_t settled,
                           std::span<const FileProgress> files);

/// The session changed the file, and had committed all that it had written there before.
Result<void> note_changed(Transaction& txn, SessionId session, const Inode& inode);

/// A record that stands on the nodes, as it says of itself.
struct PlacedRecord {
  InodeId inode;
  std::uint64_t file_offset = 0;
  std::uint32_t length = 0;
  SegmentId segment;
  std::uint32_t record_offset = 0;
  std::uint64_t sequence = 0;
  WallNs written_at_ns = 0;
};
struct RolledForward {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;
  std::uint64_t left_out =
      0;  // records: of files that were changed by others since, are gone, or may not grow
  std::vector<InodeId> inodes;     // that were changed
  std::vector<SegmentId> emptied;  // sealed segments in which nothing lives any more
};
/// Commits in the place of a session that is gone what it had placed and not settled; the others of the
/// records are passed over. @param records  in the order of their sequences
Result<RolledForward> roll_forward(Transaction& txn, SessionId session, std::span<const PlacedRecord> records,
                                   const ChannelLimits& limits, WallNs now);

/// Forgets what is known of the session's commits, at most so many rows. @return true: that was all
Result<bool> forget_progress(Transaction& txn, SessionId session, std::size_t most);

}  // namespace reelfs::indexd::tree
