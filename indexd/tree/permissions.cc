#include "indexd/tree/permissions.h"

#include <string>
#include <utility>

namespace reelfs::indexd::tree {

Result<std::optional<Acl>> find_acl(const Reader& reader, const Inode& inode, std::string_view name) {
  const auto flag = name == kAccessAcl ? kInodeHasAccessAcl : kInodeHasDefaultAcl;
  if ((inode.row.flags & flag) == 0) return std::optional<Acl>();
  REELFS_TRY(const auto row, reader.get(XattrKey{inode.id, std::string(name)}));
  auto acl = decode_acl(row.value);
  if (!acl) return Error(Errc::corrupt, acl.error().message());
  return std::optional(std::move(acl.value()));
}

void put_access_acl(Transaction& txn, Inode& inode, const Acl& acl) {
  inode.row.mode = (inode.row.mode & ~kPermissionBits) | permission_bits(acl);
  if (says_no_more_than_bits(acl)) return erase_access_acl(txn, inode);
  txn.put(XattrKey{inode.id, std::string(kAccessAcl)}, XattrRow{encode_acl(acl)});
  inode.row.flags |= kInodeHasAccessAcl;
}

void erase_access_acl(Transaction& txn, Inode& inode) {
  if ((inode.row.flags & kInodeHasAccessAcl) == 0) return;
  txn.erase(XattrKey{inode.id, std::string(kAccessAcl)});
  inode.row.flags &= ~kInodeHasAccessAcl;
}

void put_default_acl(Transaction& txn, Inode& inode, const std::optional<Acl>& acl) {
  const XattrKey key{inode.id, std::string(kDefaultAcl)};
  if (acl) {
    txn.put(key, XattrRow{encode_acl(*acl)});
    inode.row.flags |= kInodeHasDefaultAcl;
  } else if ((inode.row.flags & kInodeHasDefaultAcl) != 0) {
    txn.erase(key);
    inode.row.flags &= ~kInodeHasDefaultAcl;
  }
}

Result<void> set_first_permissions(Transaction& txn, const Inode& parent, Inode& inode, std::uint32_t umask) {
  if (S_ISLNK(inode.row.mode)) return ok();  // always lrwxrwxrwx
  REELFS_TRY(const auto inherited, find_acl(txn, parent, kDefaultAcl));
  if (!inherited) {
    inode.row.mode &= ~(umask & kPermissionBits);
    return ok();
  }
  auto access = *inherited;
  inherit(access, inode.row.mode);
  put_access_acl(txn, inode, access);
  if (inode.is_directory()) put_default_acl(txn, inode, *inherited);
  return ok();
}

}  // namespace reelfs::indexd::tree
