#pragma once

#include <optional>
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
/// it is set after.
/// @errors stale_handle, is_directory, invalid (size of neither), file_too_big
Result<Changed> set_attributes(Transaction& txn, const SetAttributesParams& params, WallNs now);

inline constexpr std::size_t kMaxXattrName = 255;
inline constexpr std::size_t kMaxXattrValue = 65536;
inline constexpr std::size_t kMaxXattrList =
    65536;  // names of one inode with their ends, as listxattr(2) limits it

struct SetXattrParams {
  InodeId inode;
  std::string name;
  std::string value;
  std::uint32_t flags = 0;  // XATTR_CREATE, XATTR_REPLACE
};
/// @errors exists, no_attribute (by the flags), unsupported (not of user, trusted or security), out_of_range
/// (name), too_big (value), no_space (names), invalid, stale_handle
Result<void> set_xattr(Transaction& txn, const SetXattrParams& params, WallNs now);
/// @errors no_attribute, unsupported, stale_handle
Result<void> remove_xattr(Transaction& txn, InodeId inode, const std::string& name, WallNs now);
/// @errors no_attribute, unsupported, stale_handle
Result<std::string> get_xattr(const Reader& reader, InodeId inode, const std::string& name);
/// Names in order. @errors stale_handle
Result<std::vector<std::string>> list_xattr(const Reader& reader, InodeId inode);

}  // namespace reelfs::indexd::tree
