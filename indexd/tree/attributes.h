#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

struct SetAttributesParams {
  InodeId inode;
  std::optional<std::uint32_t> mode;  // permission bits
  std::optional<std::uint32_t> uid;
  std::optional<std::uint32_t> gid;
  std::optional<std::uint64_t> size;
  std::optional<WallNs> atime_ns;
  std::optional<WallNs> mtime_ns;
  bool atime_now = false;
  bool mtime_now = false;
  std::optional<WallNs> ctime_ns;  // otherwise now
  bool clear_suid = false;         // drop S_ISUID, and S_ISGID where group-executable
};
struct Changed {
  Inode inode;
  std::vector<SegmentId> emptied;  // sealed segments in which nothing lives any more
};
/// A change of owner drops S_ISUID and S_ISGID from what is not a directory, as chown(2); a mode given with
/// it is set after, and in the access control list too.
/// @errors stale_handle, is_directory, invalid (size of neither), file_too_big, not_permitted (a held file
/// would lose bytes)
Result<Changed> set_attributes(Transaction& txn, const SetAttributesParams& params, WallNs now);

struct FileRead {
  InodeId inode;
  WallNs read_ns = 0;
};
/// Notes when inodes were last read, and nothing else: neither their ctime nor their version, by which mounts
/// know what they have cached. Ignored where it is not news, where the inode has changed since (utimensat(2)
/// may have set its times back), and for an inode that is gone.
Result<void> note_reads(Transaction& txn, std::span<const FileRead> reads);

inline constexpr std::size_t kMaxXattrName = 255;
inline constexpr std::size_t kMaxXattrValue = 65536;
inline constexpr std::size_t kMaxXattrList =
    65536;  // names of one inode with their ends, as listxattr(2) limits it

struct SetXattrParams {
  InodeId inode;
  std::string name;
  std::string value;
  std::uint32_t flags = 0;  // XATTR_CREATE, XATTR_REPLACE
  bool clear_sgid = false;  // with an access control list: who sets it is not of the file's group
  std::string who;          // with a hold: who puts it, in words
};
/// One name, kHoldXattr, stands for a hold on the inode itself. An access control list also sets the
/// permission bits, and one that says no more than they do is kept as bits alone.
/// @errors exists, no_attribute (by the flags), unsupported (not of user, trusted or security, nor a list),
/// out_of_range (name), too_big (value), no_space (names), invalid, access_denied (a default list for what is
/// no directory), stale_handle, those of hold()
Result<void> set_xattr(Transaction& txn, const SetXattrParams& params, WallNs now);
/// An access control list may be missing already. @errors no_attribute, unsupported, stale_handle
Result<void> remove_xattr(Transaction& txn, InodeId inode, const std::string& name, WallNs now);
/// @errors no_attribute, unsupported, stale_handle
Result<std::string> get_xattr(const Reader& reader, InodeId inode, const std::string& name);
/// Names in order. @errors stale_handle
Result<std::vector<std::string>> list_xattr(const Reader& reader, InodeId inode);

}  // namespace reelfs::indexd::tree
