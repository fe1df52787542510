#include "indexd/tree/attributes.h"

#include <algorithm>
#include <utility>

#include <linux/xattr.h>

#include "indexd/tree/extents.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/permissions.h"
#include "indexd/tree/policy.h"
#include "indexd/tree/times.h"

namespace reelfs::indexd::tree {
namespace {

void drop_suid(InodeRow& row) {
  row.mode &= ~static_cast<std::uint32_t>(S_ISUID);
  if ((row.mode & S_IXGRP) != 0) row.mode &= ~static_cast<std::uint32_t>(S_ISGID);
}

bool is_acl(std::string_view name) { return name == kAccessAcl || name == kDefaultAcl; }

Result<void> check_xattr_name(std::string_view name) {
  if (name.size() > kMaxXattrName) return Error(Errc::out_of_range, "name of an extended attribute");
  if (is_acl(name)) return ok();
  for (const std::string_view prefix : {"user.", "trusted.", "security."}) {
    if (!name.starts_with(prefix)) continue;
    if (name.size() == prefix.size() || name.find('\0') != name.npos) return Error(Errc::invalid);
    return ok();
  }
  return Error(Errc::unsupported, "only user, trusted and security attributes are kept");
}

Result<void> check_room(const Reader& reader, InodeId inode, const std::string& new_name) {
  REELFS_TRY(const auto names, list_xattr(reader, inode));
  auto list_bytes = new_name.size() + 1;
  for (const auto& name : names) list_bytes += name.size() + 1;
  if (list_bytes > kMaxXattrList) return Error(Errc::no_space, "the file has too many extended attributes");
  return ok();
}

Result<void> set_acl(Transaction& txn, Inode& inode, const SetXattrParams& params) {
  const bool is_default = params.name == kDefaultAcl;
  if (S_ISLNK(inode.row.mode)) return Error(Errc::unsupported, "a symbolic link has no permissions");
  if (is_default && !inode.is_directory())
    return Error(Errc::access_denied, "only a directory hands down permissions");
  REELFS_TRY(const auto acl, decode_acl(params.value));
  if (is_default) {
    put_default_acl(txn, inode, acl);
    return ok();
  }
  put_access_acl(txn, inode, acl);
  if (params.clear_sgid) inode.row.mode &= ~static_cast<std::uint32_t>(S_ISGID);
  return ok();
}

Result<void> set_mode(Transaction& txn, Inode& inode, std::uint32_t mode) {
  inode.row.mode = (inode.row.mode & S_IFMT) | (mode & 07777U);
  REELFS_TRY(auto acl, find_acl(txn, inode, kAccessAcl));
  if (!acl) return ok();
  apply_mode(*acl, mode);
  put_access_acl(txn, inode, *acl);
  return ok();
}

Error read_only_xattr() { return Error(Errc::not_permitted, "when bytes came is not to be set"); }

Result<bool> has_xattr(const Reader& reader, InodeId inode, const std::string& name) {
  return name == kHoldXattr ? reader.has(HoldKey{inode}) : reader.has(XattrKey{inode, name});
}

/// The file's attributes with one added or removed: its row as well has changed.
Result<void> note_xattr_change(Transaction& txn, Inode inode, WallNs now) {
  inode.row.ctime_ns = now;
  put_inode(txn, inode);
  return ok();
}

Result<void> resize(Transaction& txn, Inode& inode, std::uint64_t size, std::vector<SegmentId>& emptied) {
  if (inode.is_directory()) return Error(Errc::is_directory);
  if (!inode.is_regular()) return Error(Errc::invalid, "only files have a size to set");
  if (size > kMaxFileSize) return Error(Errc::file_too_big);
  if (size < inode.row.size) {
    REELFS_TRY(check_not_held(txn, inode.id));
    ExtentEditor editor(txn, inode);
    REELFS_TRY(editor.clear(size, kMaxFileSize));
    REELFS_TRY(auto now_empty, editor.finish());
    emptied = std::move(now_empty);
  }
  inode.row.size = size;
  return ok();
}

}  // namespace

Result<Changed> set_attributes(Transaction& txn, const SetAttributesParams& params, WallNs now) {
  REELFS_TRY(auto inode, get_inode(txn, params.inode));
  auto& row = inode.row;
  std::vector<SegmentId> emptied;
  if (params.size) {
    REELFS_TRY(resize(txn, inode, *params.size, emptied));
    row.mtime_ns = now;
  }
  const bool changes_owner = params.uid || params.gid;
  if (changes_owner && !inode.is_directory()) drop_suid(row);
  if (params.clear_suid) drop_suid(row);
  row.uid = params.uid.value_or(row.uid);
  row.gid = params.gid.value_or(row.gid);
  if (params.mode) {
    REELFS_TRY(set_mode(txn, inode, *params.mode));
  }
  row.atime_ns = params.atime_now ? now : params.atime_ns.value_or(row.atime_ns);
  row.mtime_ns = params.mtime_now ? now : params.mtime_ns.value_or(row.mtime_ns);
  row.ctime_ns = params.ctime_ns.value_or(now);
  put_inode(txn, inode);
  return Changed{.inode = std::move(inode), .emptied = std::move(emptied)};
}

Result<void> note_reads(Transaction& txn, std::span<const FileRead> reads) {
  for (const auto& read : reads) {
    REELFS_TRY(auto row, txn.find(InodeKey{read.inode}));
    if (!row || read.read_ns <= row->atime_ns || read.read_ns < row->ctime_ns) continue;
    row->atime_ns = read.read_ns;
    txn.put(InodeKey{read.inode}, *row);
  }
  return ok();
}

Result<void> set_xattr(Transaction& txn, const SetXattrParams& params, WallNs now) {
  REELFS_TRY(check_xattr_name(params.name));
  constexpr std::uint32_t kBoth = XATTR_CREATE | XATTR_REPLACE;
  if ((params.flags & ~kBoth) != 0) return Error(Errc::invalid, "flags of setxattr");
  if (params.value.size() > kMaxXattrValue) return Error(Errc::too_big);
  REELFS_TRY(auto inode, get_inode(txn, params.inode));
  if (is_time_xattr(params.name)) return read_only_xattr();
  if (is_policy(params.name)) {
    REELFS_TRY(set_policy(txn, inode, params.name, params.value));
    return note_xattr_change(txn, std::move(inode), now);
  }
  REELFS_TRY(const auto is_there, has_xattr(txn, params.inode, params.name));
  if (is_there && (params.flags & XATTR_CREATE) != 0) return Error(Errc::exists);
  if (!is_there && (params.flags & XATTR_REPLACE) != 0) return Error(Errc::no_attribute);
  if (!is_there) {
    REELFS_TRY(check_room(txn, params.inode, params.name));
  }
  if (is_acl(params.name)) {
    REELFS_TRY(set_acl(txn, inode, params));
  } else if (params.name == kHoldXattr) {
    REELFS_TRY(hold(txn, {.inode = params.inode, .reason = params.value, .who = params.who}, now));
  } else {
    txn.put(XattrKey{params.inode, params.name}, XattrRow{params.value});
  }
  return note_xattr_change(txn, std::move(inode), now);
}

Result<void> remove_xattr(Transaction& txn, InodeId id, const std::string& name, WallNs now) {
  REELFS_TRY(check_xattr_name(name));
  REELFS_TRY(auto inode, get_inode(txn, id));
  if (is_time_xattr(name)) return read_only_xattr();
  if (is_policy(name)) {
    REELFS_TRY(reset_policy(txn, inode, name));
    return note_xattr_change(txn, std::move(inode), now);
  }
  REELFS_TRY(const auto is_there, has_xattr(txn, id, name));
  if (!is_there && is_acl(name)) return ok();  // every file has permissions, list or not
  if (!is_there) return Error(Errc::no_attribute);
  if (name == kAccessAcl) {
    erase_access_acl(txn, inode);
  } else if (name == kDefaultAcl) {
    put_default_acl(txn, inode, std::nullopt);
  } else if (name == kHoldXattr) {
    REELFS_TRY(release(txn, id));
  } else {
    txn.erase(XattrKey{id, name});
  }
  return note_xattr_change(txn, std::move(inode), now);
}

Result<std::string> get_xattr(const Reader& reader, InodeId id, const std::string& name) {
  REELFS_TRY(check_xattr_name(name));
  if (name == kHoldXattr) {
    REELFS_TRY(auto held, reader.find(HoldKey{id}));
    if (held) return std::move(held->reason);
  }
  REELFS_TRY(auto row, reader.find(XattrKey{id, name}));
  if (row) return std::move(row->value);
  REELFS_TRY(const auto inode, get_inode(reader, id));
  if (is_time_xattr(name)) return show_time(inode, name);
  if (is_policy(name)) return show_policy(reader, inode, name);
  return Error(Errc::no_attribute);
}

Result<std::vector<std::string>> list_xattr(const Reader& reader, InodeId id) {
  REELFS_TRY(get_inode(reader, id));
  REELFS_TRY(auto names, decided_policies(reader, id));
  REELFS_TRY(reader.scan(XattrKey{id, {}}, XattrKey{InodeId{id.value + 1}, {}},
                         [&](const XattrKey& key, const XattrRow&) {
                           names.push_back(key.name);
                           return true;
                         }));
  REELFS_TRY(const auto is_held, reader.has(HoldKey{id}));
  const std::string held(kHoldXattr);
  if (is_held) names.insert(std::lower_bound(names.begin(), names.end(), held), held);
  return names;
}

}  // namespace reelfs::indexd::tree
