#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

/// Files of channels by when their newest bytes came. Times are those of the index server's clock when it
/// learnt of the bytes; utimensat(2) changes none of them.

/// A file was made, or bytes were put into it. Sets the times of the row, which the caller stores. Does
/// nothing for what is no file, or has no name.
void note_bytes(Transaction& txn, Inode& inode, WallNs now, bool has_bytes);
/// It has lost its last name.
void forget_recording(Transaction& txn, const Inode& inode);

struct Recording {
  InodeId inode;
  WallNs last_ns = 0;
};
/// Recordings of a channel, the one whose newest bytes are oldest first, until visit(recording) is false.
Result<void> for_each_recording(const Reader& reader, InodeId channel,
                                const std::function<bool(const Recording&)>& visit);
/// The same, the newest first.
Result<void> for_each_recording_back(const Reader& reader, InodeId channel,
                                     const std::function<bool(const Recording&)>& visit);

/// Lists the files of an index that was kept by a program without this table: at most `limit` inodes from
/// `from` on are looked at. @return where to go on; none: all have been
Result<std::optional<InodeId>> list_recordings(Transaction& txn, InodeId from, std::size_t limit);

struct Removed {
  std::vector<std::pair<InodeId, std::string>> names;  // parent and name
  bool orphan = false;                                 // nobody but those who have it open keeps it
};
/// Takes all names of a file away. @errors stale_handle
Result<Removed> remove_recording(Transaction& txn, InodeId inode, WallNs now);

}  // namespace reelfs::indexd::tree
