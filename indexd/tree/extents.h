#pragma once

#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "indexd/tree/attributes.h"
#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

/// A piece of a file and where it is.
struct Extent {
  std::uint64_t file_offset = 0;
  ExtentRow row;
  std::uint64_t end() const { return file_offset + row.length; }
  friend bool operator==(const Extent&, const Extent&) = default;
};

struct FileCommit {
  InodeId inode;
  std::vector<Extent> extents;        // in this order: a later one shadows an earlier one
  std::optional<std::uint64_t> size;  // grows the file to at least this
  std::optional<WallNs> mtime_ns;     // otherwise now
  bool clear_suid = false;
};
/// What channels may hold at most, in live bytes.
using ChannelLimits = std::map<InodeId, std::uint64_t>;
struct RefusedFile {
  std::size_t file = 0;  // of the commit's
  Error error;           // file_too_big, not_permitted (held bytes would be overwritten), quota_exceeded
};
struct Committed {
  std::vector<Inode> inodes;         // in the order of the files; id none for one that is gone
  std::vector<RefusedFile> refused;  // nothing of these was committed
  std::vector<SegmentId> emptied;    // sealed segments in which nothing lives any more
};
/// Makes appended records part of files. A file grows to hold its extents. One that may not have them is
/// refused alone; its version grows, so that nobody goes on showing what was written and is not to be.
/// @errors invalid (no such segment, an extent that cannot be, not a regular file), stale_generation (beyond
/// the end of a segment that was sealed or is being freed)
Result<Committed> commit(Transaction& txn, std::span<const FileCommit> files, const ChannelLimits& limits,
                         WallNs now);

struct HoleParams {
  InodeId inode;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::size_t max_extents = std::numeric_limits<std::size_t>::max();  // removed, from the front
};
/// @errors stale_handle, is_directory, invalid, not_permitted (held)
Result<Changed> punch_hole(Transaction& txn, const HoleParams& params, WallNs now);

struct CloneParams {
  InodeId source;
  std::uint64_t source_offset = 0;
  InodeId target;
  std::uint64_t target_offset = 0;
  std::uint64_t length = 0;
  std::size_t max_extents = std::numeric_limits<std::size_t>::max();  // of the source, and of the target
};
struct Cloned {
  Inode target;
  std::uint64_t length = 0;  // done, from the front
  std::vector<SegmentId> emptied;
};
/// Puts a range of the source in the place of one of the target, by pointing at the same records; holes
/// become holes. Ends at the source's end, or where there are more extents than asked for.
/// @errors stale_handle, is_directory, invalid (no files, or ranges of one file that overlap), cross_channel,
/// file_too_big, not_permitted (held bytes of the target would be overwritten)
Result<Cloned> clone_range(Transaction& txn, const CloneParams& params, WallNs now);

struct ExtentRange {
  InodeId inode;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::size_t limit = 0;
};
struct Extents {
  Inode inode;
  std::vector<Extent> extents;  // ascending, not overlapping, not cut to the range
  bool more = false;            // the limit cut the answer
};
/// @errors stale_handle, is_directory, invalid
Result<Extents> get_extents(const Reader& reader, const ExtentRange& range);

/// Extents that touch [from, upto), ascending, whole, at most `limit`.
Result<std::vector<Extent>> find_extents(const Reader& reader, InodeId inode, std::uint64_t from,
                                         std::uint64_t upto, std::size_t limit);

/// Notes that what has no name (nlink 0) is to be reaped.
void make_orphan(Transaction& txn, InodeId inode, WallNs now);

struct Reaped {
  bool done = false;  // the inode is gone
  std::vector<SegmentId> emptied;
};
/// Removes an orphan that nobody has open, at most so many extents at a time: call again until done. Done for
/// what is no orphan. The first try of a small file is done.
Result<Reaped> reap_orphan(Transaction& txn, InodeId inode, std::size_t max_extents);

/// Changes one file's extents and keeps the sums: the file's stored bytes, the segments' and the channel's
/// live bytes. finish() writes the sums; the inode's row is the caller's to store, before or after.
class ExtentEditor {
 public:
  ExtentEditor(Transaction& txn, Inode& inode) : txn_(txn), inode_(inode) {}

  /// Removes what lies in [from, upto), cutting extents at the edges, at most so many extents.
  /// @return false where the limit ended it early
  Result<bool> clear(std::uint64_t from, std::uint64_t upto,
                     std::size_t max_extents = std::numeric_limits<std::size_t>::max());
  /// Puts the extent in the place of what is there.
  Result<void> put(const Extent& extent);
  /// @return sealed segments in which nothing lives any more
  Result<std::vector<SegmentId>> finish();

 private:
  void add(const Extent& extent);
  void remove(const Extent& extent);
  Transaction& txn_;
  Inode& inode_;
  std::map<SegmentId, std::int64_t> live_bytes_;  // change of each segment's
  std::map<SegmentId, std::uint64_t> committed_;  // end of the farthest record part put into each
};

}  // namespace reelfs::indexd::tree
