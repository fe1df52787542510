// lookup, mknod, mkdir, symlink, link, unlink, rmdir, rename, readlink: what changes and follows names.
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <linux/fs.h>
#include <sys/stat.h>

#include "fuse/ops/convert.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"
#include "fuse/ops/recall.h"

namespace reelfs::fuse {
namespace {

void answer(Mount& mount, Request& request, const Result<client::Attributes>& found) {
  if (!found) return request.fail(found.error());
  mount.known_acls.note(found.value());
  request.entry(to_entry(mount.nodes, found.value()));
}

void note_unnamed(Mount& mount, const client::Attributes& told) {
  if (told.nlink == 0) mount.removed.note(told.inode);
}

void answer_removal(Mount& mount, Request& request, const Result<client::Attributes>& removed) {
  if (!removed) return request.fail(removed.error());
  note_unnamed(mount, removed.value());
  request.succeed();
}

/// "." and ".." come from NFS servers and open_by_handle_at(2), which know an inode and nothing else.
Task<client::Attributes> find_dots(Mount& mount, InodeId inode, bool parent) {
  REELFS_CO_TRY(auto self, co_await mount.files.get_attributes(inode));
  // The kernel asks for what it does not hold, so nobody here has it open, and it is gone for good.
  if (self.nlink == 0) co_return Error(Errc::stale_handle);
  if (!parent || inode == mount.nodes.root()) co_return self;
  co_return co_await mount.files.get_attributes(self.parent);
}

Operation lookup_dots(Mount& mount, Request request, InodeId inode, bool parent) {
  const auto found = co_await find_dots(mount, inode, parent);
  answer(mount, request, found);
}

/// Channels are found though the index is away.
Task<client::Found> find(Mount& mount, InodeId parent, std::string name) {
  if (parent != kRootInode) co_return co_await mount.files.find(parent, std::move(name));
  auto known = mount.last_known.channel(name);
  auto question = ask_channel(mount, std::move(name));
  co_return co_await ask_or_recall(mount, std::move(question), LastKnown::kSilence, std::move(known));
}

Operation lookup(Mount& mount, Request request, InodeId parent, std::string name) {
  const auto found = co_await find(mount, parent, std::move(name));
  if (!found) co_return request.fail(found.error());
  const auto& [attributes, lease] = found.value();
  if (attributes) {
    mount.known_acls.note(*attributes);
    co_return request.entry(to_entry(mount.nodes, *attributes, lease));
  }
  if (lease.count() == 0) co_return request.fail_with(ENOENT);
  fuse_entry_param absent{};  // node 0: the kernel may believe that there is none
  absent.entry_timeout = to_seconds(lease);
  request.entry(absent);
}

Operation create(Mount& mount, Request request, client::CreateOptions options) {
  const auto parent = options.parent;
  const auto name = options.name;
  const BusyDirectories::Use use(mount.busy, parent);
  mount.last_known.changed(parent);
  const auto created = co_await mount.files.create(std::move(options));
  if (!created && parent == kRootInode && created.error().code() == Errc::not_permitted)
    mount.refused_names.note(name);
  answer(mount, request, created);
}

Operation link(Mount& mount, Request request, InodeId inode, InodeId parent, std::string name) {
  const BusyDirectories::Use use(mount.busy, parent);
  mount.last_known.changed(parent);
  const auto linked = co_await mount.files.link(inode, parent, std::move(name));
  answer(mount, request, linked);
}

Operation unlink(Mount& mount, Request request, InodeId parent, std::string name) {
  const BusyDirectories::Use use(mount.busy, parent);
  mount.last_known.changed(parent);
  const auto removed = co_await mount.files.unlink(parent, std::move(name));
  answer_removal(mount, request, removed);
}

Operation remove_directory(Mount& mount, Request request, InodeId parent, std::string name) {
  const BusyDirectories::Use use(mount.busy, BusyDirectories::kAny);  // what is removed is locked, too
  mount.last_known.changed(parent);
  if (parent == kRootInode) mount.last_known.forget_channel(name);
  const auto removed = co_await mount.files.remove_directory(parent, std::move(name));
  answer_removal(mount, request, removed);
}

struct Renaming {
  InodeId parent;
  std::string name;
  InodeId new_parent;
  std::string new_name;
  std::uint32_t flags = 0;
};

Operation rename(Mount& mount, Request request, Renaming names) {
  const bool moves = names.parent != names.new_parent;
  const BusyDirectories::Use use(mount.busy, moves ? BusyDirectories::kAny : names.parent);
  mount.last_known.changed(names.parent);
  mount.last_known.changed(names.new_parent);
  if (names.parent == kRootInode) mount.last_known.forget_channel(names.name);
  if (names.new_parent == kRootInode) mount.last_known.forget_channel(names.new_name);
  const auto done = co_await mount.files.rename(names.parent, std::move(names.name), names.new_parent,
                                                std::move(names.new_name), names.flags);
  if (!done) co_return request.fail(done.error());
  if (done.value()) note_unnamed(mount, *done.value());
  request.succeed();
}

Operation read_link(Mount& mount, Request request, InodeId inode) {
  const auto target = co_await mount.files.read_link(inode);
  if (!target) co_return request.fail(target.error());
  request.target(target.value());
}

client::CreateOptions options_for(const Mount& mount, const Request& request, fuse_ino_t parent,
                                  const char* name) {
  const auto caller = request.caller();
  client::CreateOptions options;
  options.parent = mount.inode(parent);
  options.name = name;
  options.uid = caller.uid;
  options.gid = caller.gid;
  options.umask = caller.umask;
  return options;
}

void on_lookup(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  auto& mount = Mount::of(raw);
  const std::string_view wanted(name);
  const bool is_parent = wanted == "..";
  if (is_parent || wanted == ".")
    return mount.start(raw, lookup_dots(mount, Request(raw, "lookup"), mount.inode(parent), is_parent));
  mount.start(raw, lookup(mount, Request(raw, "lookup"), mount.inode(parent), name));
}

void on_mknod(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  auto& mount = Mount::of(raw);
  Request request(raw, "mknod");
  auto options = options_for(mount, request, parent, name);
  options.mode = (mode & S_IFMT) == 0 ? (mode | S_IFREG) : mode;
  options.rdev = rdev;
  mount.start(raw, create(mount, std::move(request), std::move(options)));
}

void on_mkdir(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode) {
  auto& mount = Mount::of(raw);
  Request request(raw, "mkdir");
  auto options = options_for(mount, request, parent, name);
  options.mode = S_IFDIR | (mode & ~static_cast<mode_t>(S_IFMT));
  mount.start(raw, create(mount, std::move(request), std::move(options)));
}

void on_symlink(fuse_req_t raw, const char* target, fuse_ino_t parent, const char* name) {
  auto& mount = Mount::of(raw);
  Request request(raw, "symlink");
  auto options = options_for(mount, request, parent, name);
  options.mode = S_IFLNK | 0777;
  options.symlink_target = target;
  mount.start(raw, create(mount, std::move(request), std::move(options)));
}

void on_link(fuse_req_t raw, fuse_ino_t node, fuse_ino_t new_parent, const char* new_name) {
  auto& mount = Mount::of(raw);
  mount.start(raw, link(mount, Request(raw, "link"), mount.inode(node), mount.inode(new_parent), new_name));
}

void on_unlink(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  auto& mount = Mount::of(raw);
  mount.start(raw, unlink(mount, Request(raw, "unlink"), mount.inode(parent), name));
}

void on_rmdir(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  auto& mount = Mount::of(raw);
  mount.start(raw, remove_directory(mount, Request(raw, "rmdir"), mount.inode(parent), name));
}

void on_rename(fuse_req_t raw, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
               const char* new_name, unsigned int flags) {
  auto& mount = Mount::of(raw);
  Request request(raw, "rename");
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) return request.fail_with(EINVAL);
  Renaming names;
  names.parent = mount.inode(parent);
  names.name = name;
  names.new_parent = mount.inode(new_parent);
  names.new_name = new_name;
  names.flags = flags;
  mount.start(raw, rename(mount, std::move(request), std::move(names)));
}

void on_readlink(fuse_req_t raw, fuse_ino_t node) {
  auto& mount = Mount::of(raw);
  mount.start(raw, read_link(mount, Request(raw, "readlink"), mount.inode(node)));
}

}  // namespace

void add_name_operations(fuse_lowlevel_ops& table) {
  table.lookup = on_lookup;
  table.mknod = on_mknod;
  table.mkdir = on_mkdir;
  table.symlink = on_symlink;
  table.link = on_link;
  table.unlink = on_unlink;
  table.rmdir = on_rmdir;
  table.rename = on_rename;
  table.readlink = on_readlink;
}

}  // namespace reelfs::fuse
