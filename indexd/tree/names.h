#pragma once

#include <optional>
#include <string>
#include <vector>

#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

/// The inode of a name; "." and ".." as well. @errors not_found, stale_handle, not_directory, name_too_long
Result<Inode> lookup(const Reader& reader, InodeId parent, const std::string& name);

struct CreateParams {
  InodeId parent;
  std::string name;
  std::uint32_t mode = 0;  // S_IFMT tells what is made: file, directory, symlink, fifo, socket, device
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t rdev = 0;
  std::uint32_t umask = 0;  // taken from the mode where the parent has no default access control list
  std::string symlink_target;
  bool exclusive = true;             // false: an existing regular file is answered instead
  std::uint32_t channel_copies = 2;  // for a directory at the root, which is a channel
};
/// Makes an inode and its name. A directory with S_ISGID hands down its group, and to directories the bit;
/// one with a default access control list hands that down.
/// @errors exists (view names of a channel too), not_permitted (not a directory, at the root), not_directory,
/// stale_handle, not_found (the parent has been removed), invalid, name_too_long, too_many_links
Result<Inode> create(Transaction& txn, const CreateParams& params, WallNs now);

struct LinkParams {
  InodeId inode;
  InodeId parent;
  std::string name;
};
/// Gives a file another name. @errors exists, not_permitted (a directory), cross_channel, not_found (has no
/// name any more), not_directory, stale_handle, invalid, name_too_long, too_many_links
Result<Inode> link(Transaction& txn, const LinkParams& params, WallNs now);

struct UnlinkParams {
  InodeId parent;
  std::string name;
  bool directory = false;  // rmdir
};
/// Takes a name away. What has lost its last name (nlink 0) is an orphan from then on: reap_orphan.
/// @return what lost its name
/// @errors not_found, is_directory, not_directory, not_empty, stale_handle, invalid, not_permitted (held; a
/// view name of a channel)
Result<Inode> unlink(Transaction& txn, const UnlinkParams& params, WallNs now);

struct RenameParams {
  InodeId parent;
  std::string name;
  InodeId new_parent;
  std::string new_name;
  std::uint32_t flags = 0;  // RENAME_NOREPLACE, RENAME_EXCHANGE of renameat2(2)
};
struct Renamed {
  Inode moved;
  std::optional<Inode> replaced;   // lost the new name; an orphan where nlink is 0
  std::optional<Inode> exchanged;  // has the old name now
};
/// As renameat2(2). @errors not_found, exists, cross_channel, invalid (into itself, flags), not_directory,
/// is_directory, not_empty, stale_handle, name_too_long, not_permitted (held: what is replaced or exchanged,
/// what has a hold of its own, or what would leave a held directory; a view name of a channel)
Result<Renamed> rename(Transaction& txn, const RenameParams& params, WallNs now);

/// @errors invalid (not a symlink), stale_handle
Result<std::string> read_link(const Reader& reader, InodeId id);

struct DirectoryEntry {
  std::string name;
  std::uint64_t cookie = 0;
  Inode inode;
};
struct DirectoryPage {
  std::vector<DirectoryEntry> entries;
  bool end = false;  // nothing follows
};
/// Names in the order in which they came, after a cookie (0: from the start), without "." and "..". A name
/// keeps its cookie and a new one gets a higher one, so a listing in pages misses and repeats nothing that
/// stays.
/// @errors stale_handle, not_directory
Result<DirectoryPage> read_directory(const Reader& reader, InodeId id, std::uint64_t after,
                                     std::size_t limit);

/// A path from the root, without a leading slash; for a file with several names one of them. Empty: has none.
/// @errors stale_handle
Result<std::string> path_of(const Reader& reader, InodeId id);

}  // namespace reelfs::indexd::tree
