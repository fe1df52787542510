#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "indexd/tree/acl.h"
#include "indexd/tree/inode.h"

/// Access control lists of inodes. Each is an extended attribute and a flag of the inode; the access list and
/// the permission bits say the same.
namespace reelfs::indexd::tree {

/// The inode's list. @param name  kAccessAcl or kDefaultAcl
Result<std::optional<Acl>> find_acl(const Reader& reader, const Inode& inode, std::string_view name);

/// Makes `acl` the inode's access list and its permission bits the inode's; a list that says no more is kept
/// as bits alone. The inode's row is the caller's to store, here and below.
void put_access_acl(Transaction& txn, Inode& inode, const Acl& acl);
void erase_access_acl(Transaction& txn, Inode& inode);
/// @param acl  none: removes it
void put_default_acl(Transaction& txn, Inode& inode, const std::optional<Acl>& acl);

/// Permissions of an inode that is being made in `parent`: what the parent's default list grants, else the
/// mode without the bits of umask.
Result<void> set_first_permissions(Transaction& txn, const Inode& parent, Inode& inode, std::uint32_t umask);

}  // namespace reelfs::indexd::tree
