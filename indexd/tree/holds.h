#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>

#include "indexd/schema/reader.h"
#include "indexd/schema/transaction.h"

/// Holds: what must stay as it is until somebody releases it. A hold on a file concerns the file, one on a
/// directory everything below it, also what comes later. Held bytes may neither go nor be overwritten, and
/// held names may not go; bytes may be added, and attributes changed.
namespace reelfs::indexd::tree {

/// The extended attribute that shows a hold; setting it holds, and removing it releases.
inline constexpr std::string_view kHoldXattr = "user.reel.hold";
inline constexpr std::size_t kMaxHoldText = 1024;

struct HoldParams {
  InodeId inode;
  std::string reason;
  std::string who;
};
/// Takes the place of an earlier hold on the same inode, but for one with the same reason by the same person.
/// @errors invalid (reason or who is empty, or not one line of text), too_big, stale_handle, not_found (has
/// no name any more)
Result<void> hold(Transaction& txn, const HoldParams& params, WallNs now);
/// @errors no_attribute: there is no hold on this inode itself
Result<void> release(Transaction& txn, InodeId inode);
/// How many there are.
Result<std::uint64_t> count_holds(const Reader& reader);

struct Hold {
  InodeId inode;  // that it was put on
  HoldRow row;
};
/// The hold in force: on the inode, or on a directory above one of its names. Cheap where there are no holds.
Result<std::optional<Hold>> held_by(const Reader& reader, InodeId inode);

/// Bytes that holds keep from going.
struct HeldBytes {
  std::map<InodeId, std::uint64_t>
      channels;                       // no entry: none. Of one that is held itself, as much as there can be
  std::unordered_set<InodeId> files;  // that these are of, of channels that are not held themselves
};
/// Looks at `most` inodes at most: a channel in which there are more to look at counts as held itself.
Result<HeldBytes> held_bytes(const Reader& reader, std::size_t most);

/// @errors not_permitted: it is held, by whom and why
Result<void> check_not_held(const Reader& reader, InodeId inode);
/// For a name that moves to another directory. @errors not_permitted: the inode is held itself, or would
/// leave a directory that is
Result<void> check_stays_held(const Reader& reader, InodeId inode, InodeId from, InodeId into);

}  // namespace reelfs::indexd::tree
