#include "indexd/tree/inode.h"

#include <fmt/format.h>

#include "common/base/assert.h"

namespace reelfs::indexd::tree {

Result<void> make_root(Transaction& txn, WallNs now) {
  REELFS_TRY(const auto exists, txn.has(InodeKey{kRootInode}));
  if (exists) return ok();
  Inode root{.id = kRootInode, .row = {}};
  root.row.mode = S_IFDIR | 0755;
  root.row.nlink = 2;
  root.row.atime_ns = root.row.mtime_ns = root.row.ctime_ns = root.row.btime_ns = now;
  root.row.parent = kRootInode;
  put_inode(txn, root);
  return ok();
}

Result<Inode> get_inode(const Reader& reader, InodeId id) {
  REELFS_TRY(auto row, reader.find(InodeKey{id}));
  if (!row) return Error(Errc::stale_handle, fmt::format("inode {} is gone", id.value));
  return Inode{.id = id, .row = *row};
}

Result<Inode> get_directory(const Reader& reader, InodeId id) {
  REELFS_TRY(auto inode, get_inode(reader, id));
  if (!inode.is_directory()) return Error(Errc::not_directory);
  return inode;
}

void put_inode(Transaction& txn, Inode& inode) {
  ++inode.row.version;
  txn.put(InodeKey{inode.id}, inode.row);
}

Result<void> check_name(std::string_view name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos) {
    return Error(Errc::invalid, "not a name");
  }
  if (name.size() > kMaxName) return Error(Errc::name_too_long);
  return ok();
}

Result<void> count(Transaction& txn, InodeId channel, ChannelDelta delta) {
  if (delta.files == 0 && delta.live_bytes == 0) return ok();
  const ChannelKey key{channel};
  REELFS_TRY(auto row, txn.find(key));
  if (!row) return ok();
  row->files += static_cast<std::uint64_t>(delta.files);
  row->live_bytes += static_cast<std::uint64_t>(delta.live_bytes);
  txn.put(key, *row);
  return ok();
}

}  // namespace reelfs::indexd::tree
