#include "indexd/tree/names.h"

#include <algorithm>
#include <utility>

#include <fcntl.h>
#include <linux/fs.h>

#include "common/base/view_names.h"
#include "indexd/tree/extents.h"
#include "indexd/tree/gaps.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/permissions.h"
#include "indexd/tree/policy.h"
#include "indexd/tree/recordings.h"

namespace reelfs::indexd::tree {
namespace {

/// Stores a name in its three tables.
void put_name(Transaction& txn, InodeId parent, const std::string& name, const DirentRow& entry) {
  txn.put(DirentKey{parent, name}, entry);
  txn.put(DirectoryOrderKey{parent, entry.cookie}, DirectoryOrderRow{entry.inode, name});
  txn.put(NameKey{entry.inode, parent, name}, NameRow{});
}

void erase_name(Transaction& txn, InodeId parent, const std::string& name, const DirentRow& entry) {
  txn.erase(DirentKey{parent, name});
  txn.erase(DirectoryOrderKey{parent, entry.cookie});
  txn.erase(NameKey{entry.inode, parent, name});
}

/// A directory whose entries have changed.
void touch(Inode& directory, WallNs now) {
  directory.row.mtime_ns = directory.row.ctime_ns = now;
  directory.row.size = directory.row.entries * kDirectoryEntryBytes;
}

/// A directory that a name can be put into. @errors not_found (it has been removed)
Result<Inode> get_live_directory(const Reader& reader, InodeId id) {
  REELFS_TRY(auto directory, get_directory(reader, id));
  if (directory.row.nlink == 0) return Error(Errc::not_found, "the directory has been removed");
  return directory;
}

/// A name that mounts give to what they show in every channel.
bool is_reserved(const Inode& parent, const std::string& name) {
  return parent.id == parent.row.channel && is_view_name(name);
}

/// Why there is no such name to take away or to rename.
Error absence(const Inode& parent, const std::string& name) {
  if (!is_reserved(parent, name)) return Error(Errc::not_found);
  return Error(Errc::not_permitted, name + " of a channel is shown by mounts, and not kept");
}

bool is_known_type(std::uint32_t mode) {
  return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISFIFO(mode) || S_ISSOCK(mode) ||
         S_ISCHR(mode) || S_ISBLK(mode);
}

/// What happens to an inode, whose row is up to date, when a name of it goes.
Result<void> drop_link(Transaction& txn, Inode& inode, WallNs now) {
  inode.row.ctime_ns = now;
  inode.row.nlink = inode.is_directory() ? 0 : inode.row.nlink - 1;
  if (inode.row.nlink == 0) {
    make_orphan(txn, inode.id, now);
    forget_recording(txn, inode);
    const bool is_channel = inode.id == inode.row.channel;
    if (is_channel) {
      txn.erase(ChannelKey{inode.id});
      txn.erase(PolicyKey{inode.id});
      REELFS_TRY(forget_gaps(txn, inode.id));
    } else {
      REELFS_TRY(count(txn, inode.row.channel, {.files = -1}));
    }
  }
  put_inode(txn, inode);
  return ok();
}

/// @errors invalid: `inode` is `start` or lies above it
Result<void> check_not_above(const Reader& reader, InodeId inode, const Inode& start) {
  auto at = start;
  for (;;) {
    if (at.id == inode) return Error(Errc::invalid, "a directory cannot be moved into itself");
    if (at.is_root()) return ok();
    REELFS_TRY(auto above, get_inode(reader, at.row.parent));
    at = std::move(above);
  }
}

Result<void> rename_channel(Transaction& txn, InodeId inode, const std::string& name) {
  const ChannelKey key{inode};
  REELFS_TRY(auto channel, txn.get(key));
  channel.name = name;
  txn.put(key, channel);
  return ok();
}

/// One rename, its rows read and checked.
struct Rename {
  Transaction& txn;
  const RenameParams& params;
  WallNs now;
  Inode parent;
  Inode new_parent;  // not used where it is the same
  Inode moved;
  DirentRow entry;
  std::optional<Inode> target;
  DirentRow target_entry;

  bool within_one() const { return params.parent == params.new_parent; }
  Inode& destination() { return within_one() ? parent : new_parent; }

  void put_directories() {
    touch(parent, now);
    put_inode(txn, parent);
    if (within_one()) return;
    touch(new_parent, now);
    put_inode(txn, new_parent);
  }

  Result<void> check() {
    const bool exchanges = (params.flags & RENAME_EXCHANGE) != 0;
    if (target && (params.flags & RENAME_NOREPLACE) != 0) return Error(Errc::exists);
    if (!target && exchanges) return Error(Errc::not_found);
    if (moved.is_directory() && !within_one()) {
      REELFS_TRY(check_not_above(txn, moved.id, new_parent));
    }
    if (!target || target->id == moved.id) return ok();
    if (exchanges) {
      if (target->is_directory() && !within_one()) {
        REELFS_TRY(check_not_above(txn, target->id, parent));
      }
      return ok();
    }
    if (moved.is_directory() && !target->is_directory()) return Error(Errc::not_directory);
    if (!moved.is_directory() && target->is_directory()) return Error(Errc::is_directory);
    if (target->is_directory() && target->row.entries > 0) return Error(Errc::not_empty);
    return ok();
  }

  /// @errors not_permitted
  Result<void> check_holds() {
    if ((params.flags & RENAME_EXCHANGE) != 0) {
      REELFS_TRY(check_not_held(txn, moved.id));
    }
    if (target) {
      REELFS_TRY(check_not_held(txn, target->id));
    }
    return check_stays_held(txn, moved.id, params.parent, params.new_parent);
  }

  Result<void> exchange() {
    erase_name(txn, params.parent, params.name, entry);
    erase_name(txn, params.new_parent, params.new_name, target_entry);
    put_name(txn, params.parent, params.name,
             {.inode = target->id, .type = target->type(), .cookie = entry.cookie});
    put_name(txn, params.new_parent, params.new_name,
             {.inode = moved.id, .type = moved.type(), .cookie = target_entry.cookie});
    if (!within_one()) {
      if (moved.is_directory())
        moved.row.parent = params.new_parent, --parent.row.nlink, ++new_parent.row.nlink;
      if (target->is_directory())
        target->row.parent = params.parent, ++parent.row.nlink, --new_parent.row.nlink;
    }
    if (parent.is_root()) {
      REELFS_TRY(rename_channel(txn, moved.id, params.new_name));
      REELFS_TRY(rename_channel(txn, target->id, params.name));
    }
    moved.row.ctime_ns = target->row.ctime_ns = now;
    put_inode(txn, moved);
    put_inode(txn, *target);
    put_directories();
    return ok();
  }

  Result<void> move() {
    erase_name(txn, params.parent, params.name, entry);
    if (target) erase_name(txn, params.new_parent, params.new_name, target_entry);
    // Within its directory a name keeps its place, so that whoever lists and renames does not meet it again.
    const auto cookie = within_one() ? entry.cookie
                        : target     ? target_entry.cookie
                                     : ++new_parent.row.last_cookie;
    put_name(txn, params.new_parent, params.new_name,
             {.inode = moved.id, .type = moved.type(), .cookie = cookie});

    auto& into = destination();
    --parent.row.entries;
    if (!target) ++into.row.entries;
    if (moved.is_directory()) {
      --parent.row.nlink;
      if (!target) ++into.row.nlink;
      moved.row.parent = params.new_parent;
    }
    if (parent.is_root()) {
      REELFS_TRY(rename_channel(txn, moved.id, params.new_name));
    }
    moved.row.ctime_ns = now;
    put_inode(txn, moved);
    if (target) {
      REELFS_TRY(drop_link(txn, *target, now));
    }
    put_directories();
    return ok();
  }
};

}  // namespace

Result<Inode> lookup(const Reader& reader, InodeId parent, const std::string& name) {
  REELFS_TRY(auto directory, get_directory(reader, parent));
  if (name == ".") return directory;
  if (name == "..") return get_inode(reader, directory.row.parent);
  if (name.size() > kMaxName) return Error(Errc::name_too_long);
  REELFS_TRY(const auto entry, reader.find(DirentKey{parent, name}));
  if (!entry) return Error(Errc::not_found);
  return get_inode(reader, entry->inode);
}

Result<Inode> create(Transaction& txn, const CreateParams& params, WallNs now) {
  REELFS_TRY(check_name(params.name));
  REELFS_TRY(auto parent, get_live_directory(txn, params.parent));
  REELFS_TRY(const auto existing, txn.find(DirentKey{parent.id, params.name}));
  if (existing) {
    if (params.exclusive || existing->type != S_IFREG) return Error(Errc::exists);
    return get_inode(txn, existing->inode);
  }
  if (is_reserved(parent, params.name)) return Error(Errc::exists, "mounts show something of this name");
  const bool is_directory = S_ISDIR(params.mode);
  const bool is_symlink = S_ISLNK(params.mode);
  if (!is_known_type(params.mode) || is_symlink == params.symlink_target.empty()) return Error(Errc::invalid);
  if (params.symlink_target.size() > kMaxSymlink) return Error(Errc::name_too_long);
  if (parent.is_root() && !is_directory) {
    return Error(Errc::not_permitted, "only channels, which are directories, can be made at the root");
  }
  if (is_directory && parent.row.nlink >= kMaxLinks) return Error(Errc::too_many_links);

  REELFS_TRY(const auto number, txn.next(Counter::inode));
  Inode inode{.id = InodeId{number}, .row = {}};
  auto& row = inode.row;
  row.mode = params.mode & (S_IFMT | 07777U);
  row.uid = params.uid;
  row.gid = params.gid;
  if ((parent.row.mode & S_ISGID) != 0) {
    row.gid = parent.row.gid;
    if (is_directory) row.mode |= S_ISGID;
  }
  row.nlink = is_directory ? 2 : 1;
  if (S_ISCHR(params.mode) || S_ISBLK(params.mode)) row.rdev = params.rdev;
  row.size = params.symlink_target.size();
  row.atime_ns = row.mtime_ns = row.ctime_ns = row.btime_ns = now;
  row.channel = parent.is_root() ? inode.id : parent.row.channel;
  if (is_directory) row.parent = parent.id;
  row.generation = 1;  // numbers are not used again
  REELFS_TRY(set_first_permissions(txn, parent, inode, params.umask));
  note_bytes(txn, inode, now, false);
  put_inode(txn, inode);
  if (is_symlink) txn.put(SymlinkKey{inode.id}, SymlinkRow{params.symlink_target});
  if (parent.is_root()) {
    REELFS_TRY(const auto copies, copies_of_new_channels(txn));
    txn.put(ChannelKey{inode.id},
            ChannelRow{.name = params.name, .copies = copies.value_or(params.channel_copies)});
  } else {
    REELFS_TRY(count(txn, row.channel, {.files = 1}));
  }

  put_name(txn, parent.id, params.name,
           {.inode = inode.id, .type = inode.type(), .cookie = ++parent.row.last_cookie});
  ++parent.row.entries;
  if (is_directory) ++parent.row.nlink;
  touch(parent, now);
  put_inode(txn, parent);
  return inode;
}

Result<Inode> link(Transaction& txn, const LinkParams& params, WallNs now) {
  REELFS_TRY(check_name(params.name));
  REELFS_TRY(auto inode, get_inode(txn, params.inode));
  if (inode.is_directory()) return Error(Errc::not_permitted, "directories have one name");
  REELFS_TRY(auto parent, get_live_directory(txn, params.parent));
  REELFS_TRY(const auto taken, txn.has(DirentKey{parent.id, params.name}));
  if (taken || is_reserved(parent, params.name)) return Error(Errc::exists);
  if (inode.row.nlink == 0) return Error(Errc::not_found, "the file has been removed");
  if (parent.row.channel != inode.row.channel) return Error(Errc::cross_channel);
  if (inode.row.nlink >= kMaxLinks) return Error(Errc::too_many_links);

  ++inode.row.nlink;
  inode.row.ctime_ns = now;
  put_inode(txn, inode);
  put_name(txn, parent.id, params.name,
           {.inode = inode.id, .type = inode.type(), .cookie = ++parent.row.last_cookie});
  ++parent.row.entries;
  touch(parent, now);
  put_inode(txn, parent);
  return inode;
}

Result<Inode> unlink(Transaction& txn, const UnlinkParams& params, WallNs now) {
  REELFS_TRY(check_name(params.name));
  REELFS_TRY(auto parent, get_directory(txn, params.parent));
  REELFS_TRY(const auto entry, txn.find(DirentKey{parent.id, params.name}));
  if (!entry) return absence(parent, params.name);
  REELFS_TRY(auto inode, get_inode(txn, entry->inode));
  if (params.directory && !inode.is_directory()) return Error(Errc::not_directory);
  if (!params.directory && inode.is_directory()) return Error(Errc::is_directory);
  if (inode.is_directory() && inode.row.entries > 0) return Error(Errc::not_empty);
  REELFS_TRY(check_not_held(txn, inode.id));

  erase_name(txn, parent.id, params.name, *entry);
  --parent.row.entries;
  if (inode.is_directory()) --parent.row.nlink;
  touch(parent, now);
  put_inode(txn, parent);
  REELFS_TRY(drop_link(txn, inode, now));
  return inode;
}

Result<Renamed> rename(Transaction& txn, const RenameParams& params, WallNs now) {
  constexpr std::uint32_t kBoth = RENAME_NOREPLACE | RENAME_EXCHANGE;
  if ((params.flags & ~kBoth) != 0 || params.flags == kBoth) return Error(Errc::invalid, "flags of rename");
  REELFS_TRY(check_name(params.name));
  REELFS_TRY(check_name(params.new_name));
  Rename step{.txn = txn,
              .params = params,
              .now = now,
              .parent = {},
              .new_parent = {},
              .moved = {},
              .entry = {},
              .target = {},
              .target_entry = {}};
  REELFS_TRY(auto parent, get_directory(txn, params.parent));
  step.parent = std::move(parent);
  REELFS_TRY(auto new_parent, get_live_directory(txn, params.new_parent));
  step.new_parent = std::move(new_parent);
  REELFS_TRY(const auto entry, txn.find(DirentKey{params.parent, params.name}));
  if (!entry) return absence(step.parent, params.name);
  step.entry = *entry;
  // A channel's directory and what is in it have the same channel; the root has none. So this covers moves
  // into and out of the root, too.
  if (step.parent.row.channel != step.new_parent.row.channel) return Error(Errc::cross_channel);
  REELFS_TRY(auto moved, get_inode(txn, entry->inode));
  step.moved = std::move(moved);
  REELFS_TRY(const auto target_entry, txn.find(DirentKey{params.new_parent, params.new_name}));
  if (target_entry) {
    step.target_entry = *target_entry;
    REELFS_TRY(auto target, get_inode(txn, target_entry->inode));
    step.target = std::move(target);
  } else if (is_reserved(step.new_parent, params.new_name)) {
    return absence(step.new_parent, params.new_name);
  }
  REELFS_TRY(step.check());
  // Two names of one file: nothing is to be done, says rename(2).
  if (step.target && step.target->id == step.moved.id)
    return Renamed{.moved = step.moved, .replaced = {}, .exchanged = {}};
  REELFS_TRY(step.check_holds());
  if ((params.flags & RENAME_EXCHANGE) != 0) {
    REELFS_TRY(step.exchange());
    return Renamed{.moved = std::move(step.moved), .replaced = {}, .exchanged = std::move(step.target)};
  }
  REELFS_TRY(step.move());
  return Renamed{.moved = std::move(step.moved), .replaced = std::move(step.target), .exchanged = {}};
}

Result<std::string> read_link(const Reader& reader, InodeId id) {
  REELFS_TRY(const auto inode, get_inode(reader, id));
  if (!S_ISLNK(inode.row.mode)) return Error(Errc::invalid, "not a symbolic link");
  REELFS_TRY(auto row, reader.get(SymlinkKey{id}));
  return std::move(row.target);
}

Result<DirectoryPage> read_directory(const Reader& reader, InodeId id, std::uint64_t after,
                                     std::size_t limit) {
  REELFS_TRY(get_directory(reader, id));
  DirectoryPage page;
  page.end = true;
  if (after == std::numeric_limits<std::uint64_t>::max()) return page;
  REELFS_TRY(reader.scan(DirectoryOrderKey{id, after + 1}, DirectoryOrderKey{InodeId{id.value + 1}, 0},
                         [&](const DirectoryOrderKey& key, DirectoryOrderRow row) {
                           if (page.entries.size() == limit) {
                             page.end = false;
                             return false;
                           }
                           page.entries.push_back({.name = std::move(row.name),
                                                   .cookie = key.cookie,
                                                   .inode = {.id = row.inode, .row = {}}});
                           return true;
                         }));
  for (auto& entry : page.entries) {
    REELFS_TRY(auto inode, get_inode(reader, entry.inode.id));
    entry.inode = std::move(inode);
  }
  return page;
}

Result<std::string> path_of(const Reader& reader, InodeId id) {
  REELFS_TRY(get_inode(reader, id));
  std::vector<std::string> names;
  for (auto at = id; at != kRootInode;) {
    std::optional<NameKey> found;
    REELFS_TRY(reader.scan(NameKey{at, {}, {}}, NameKey{InodeId{at.value + 1}, {}, {}},
                           [&](const NameKey& key, const NameRow&) {
                             found = key;
                             return false;
                           }));
    if (!found) return std::string();
    at = found->parent;
    names.push_back(std::move(found->name));
  }
  std::string path;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    if (!path.empty()) path += '/';
    path += *name;
  }
  return path;
}

}  // namespace reelfs::indexd::tree
