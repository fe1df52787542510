#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include <sys/stat.h>

#include "indexd/schema/reader.h"
#include "indexd/schema/transaction.h"

/// Names, attributes and extents: what a filesystem is, as functions on rows. Each either does all of what it
/// says or returns an error, upon which the caller undoes the transaction. Permissions are the kernel's
/// business.
namespace reelfs::indexd::tree {

inline constexpr std::size_t kMaxName = 255;
inline constexpr std::size_t kMaxSymlink = 4095;
inline constexpr std::uint32_t kMaxLinks = 2'000'000'000;
inline constexpr std::uint64_t kMaxFileSize = std::numeric_limits<std::int64_t>::max();
inline constexpr std::uint64_t kDirectoryEntryBytes = 32;  // a directory's size is this for every name

/// An inode and its number. As an answer: the state after the operation. id none: there is none.
struct Inode {
  InodeId id;
  InodeRow row;

  bool is_directory() const { return S_ISDIR(row.mode); }
  bool is_regular() const { return S_ISREG(row.mode); }
  bool is_root() const { return id == kRootInode; }
  std::uint32_t type() const { return row.mode & S_IFMT; }
};

/// Makes the root directory where it is missing.
Result<void> make_root(Transaction& txn, WallNs now);

/// @errors stale_handle
Result<Inode> get_inode(const Reader& reader, InodeId id);
/// @errors stale_handle, not_directory
Result<Inode> get_directory(const Reader& reader, InodeId id);

/// Stores the inode with its version grown.
void put_inode(Transaction& txn, Inode& inode);

/// @errors invalid (empty, ".", "..", with '/' or NUL), name_too_long
Result<void> check_name(std::string_view name);

/// Adds to what is counted for a channel. Does nothing for a channel that is gone: its last files may outlive
/// it, open.
struct ChannelDelta {
  std::int64_t files = 0;
  std::int64_t live_bytes = 0;
};
Result<void> count(Transaction& txn, InodeId channel, ChannelDelta delta);

}  // namespace reelfs::indexd::tree
