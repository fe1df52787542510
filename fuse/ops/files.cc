// open, create, release, flush, fsync: the life of an open file.
#include <memory>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "client/locks/locks.h"
#include "fuse/ops/convert.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"

namespace reelfs::fuse {
namespace {

Operation release_handle(Mount& mount, std::shared_ptr<client::FileHandle> handle) {
  // An error here has been told by flush, or is the index's to notice: the session's end releases everything.
  [[maybe_unused]] const auto released = co_await mount.files.release(std::move(handle));
}

/// Gives the handle back unless the kernel has taken it, on whatever path the operation ends.
class Opening {
 public:
  Opening(Mount& mount, std::shared_ptr<client::FileHandle> handle, int flags) : mount_(mount) {
    if (access(flags) == OpenFiles::Access::writable) handle->will_write();
    number_ = mount.open_files.add(std::move(handle), access(flags));
  }
  ~Opening() {
    if (number_ != 0)
      mount_.operations.start_background(release_handle(mount_, mount_.open_files.take(number_)));
  }
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;

  std::uint64_t number() const { return number_; }
  void taken_by_kernel() { number_ = 0; }

 private:
  static OpenFiles::Access access(int flags) {
    return (flags & O_ACCMODE) == O_RDONLY ? OpenFiles::Access::read_only : OpenFiles::Access::writable;
  }

  Mount& mount_;
  std::uint64_t number_;
};

/// O_TRUNC of open(2), after which only root's files keep their set-user-id bits.
Task<client::Attributes> empty(Mount& mount, InodeId inode, Caller caller) {
  client::AttributeChanges changes;
  changes.size = 0;
  changes.clear_suid = caller.uid != 0;
  co_return co_await mount.files.set_attributes(inode, std::move(changes));
}

Operation open(Mount& mount, Request request, InodeId inode, fuse_file_info info) {
  auto opened = co_await mount.files.open(inode);
  if (!opened) co_return request.fail(opened.error());
  auto attributes = opened.value().attributes;
  Opening opening(mount, std::move(opened.value().handle), info.flags);
  if ((info.flags & O_TRUNC) != 0) {
    auto emptied = co_await empty(mount, inode, request.caller());
    if (!emptied) co_return request.fail(emptied.error());
    attributes = emptied.value();
  }
  info.fh = opening.number();
  info.keep_cache = mount.versions.keep(inode, attributes.version);
  if (request.opened(info)) opening.taken_by_kernel();
}

Operation create(Mount& mount, Request request, client::CreateOptions options, fuse_file_info info) {
  const auto parent = options.parent;
  const auto name = options.name;
  const BusyDirectories::Use use(mount.busy, parent);
  const auto changes = mount.absent_capabilities.changes();
  mount.last_known.changed(parent);
  auto created = co_await mount.files.create_file(std::move(options));
  if (!created) {
    if (parent == kRootInode && created.error().code() == Errc::not_permitted) mount.refused_names.note(name);
    co_return request.fail(created.error());
  }
  auto attributes = created.value().attributes;
  Opening opening(mount, std::move(created.value().handle), info.flags);
  mount.known_acls.note(attributes);
  // What has not changed since it was made has no extended attributes, and the first write need not ask.
  if (attributes.version == client::kFirstVersion)
    mount.absent_capabilities.insert(attributes.inode, changes);
  if ((info.flags & O_TRUNC) != 0 && attributes.size > 0) {  // another mount made it just before
    auto emptied = co_await empty(mount, attributes.inode, request.caller());
    if (!emptied) co_return request.fail(emptied.error());
    attributes = emptied.value();
  }
  info.fh = opening.number();
  info.keep_cache = mount.versions.keep(attributes.inode, attributes.version);
  if (request.created(to_entry(mount.nodes, attributes), info)) opening.taken_by_kernel();
}

/// close(2) of any descriptor. It drops the locks that the process has on the file by fcntl(2).
Operation flush(Mount& mount, Request request, std::uint64_t number, std::uint64_t lock_owner) {
  const auto handle = mount.open_files.find(number);
  auto stored = Result<void>(ok());
  if (OpenFiles::is_writable(number)) stored = co_await handle->flush();
  if (!stored && stored.error().code() == Errc::cancelled) {
    mount.files.locks().abandon(handle->inode(), lock_owner);
    co_return request.fail(stored.error());
  }
  const auto unlocked = co_await mount.files.locks().closed(handle->inode(), lock_owner);
  if (!stored) co_return request.fail(stored.error());
  if (!unlocked) co_return request.fail(unlocked.error());
  request.succeed();
}

Operation fsync(Request request, std::shared_ptr<client::FileHandle> handle) {
  const auto done = co_await handle->fsync();
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

Operation release(Mount& mount, Request request, std::uint64_t number) {
  auto handle = mount.open_files.take(number);
  // What cannot be unlocked now is so for this mount, and soon for the index.
  (void)co_await mount.files.locks().released(handle->inode(), number);
  const auto done = co_await mount.files.release(std::move(handle));
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

void on_open(fuse_req_t raw, fuse_ino_t node, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  mount.start(raw, open(mount, Request(raw, "open"), mount.inode(node), *info));
}

void on_create(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  Request request(raw, "create");
  const auto caller = request.caller();
  client::CreateOptions options;
  options.parent = mount.inode(parent);
  options.name = name;
  options.mode = S_IFREG | (mode & ~static_cast<mode_t>(S_IFMT));
  options.uid = caller.uid;
  options.gid = caller.gid;
  options.umask = caller.umask;
  options.exclusive = (info->flags & O_EXCL) != 0;
  mount.start(raw, create(mount, std::move(request), std::move(options), *info));
}

void on_flush(fuse_req_t raw, fuse_ino_t, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  Request request(raw, "flush");
  if (!OpenFiles::is_writable(info->fh) && mount.files.locks().idle()) return request.succeed();
  mount.start(raw, flush(mount, std::move(request), info->fh, info->lock_owner));
}

// fdatasync is answered like fsync: times and size travel together with the extents that the data needs
// anyway.
void on_fsync(fuse_req_t raw, fuse_ino_t, int, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  mount.start(raw, fsync(Request(raw, "fsync"), mount.open_files.find(info->fh)));
}

void on_release(fuse_req_t raw, fuse_ino_t, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  mount.start(raw, release(mount, Request(raw, "release"), info->fh));
}

}  // namespace

void add_file_operations(fuse_lowlevel_ops& table) {
  table.open = on_open;
  table.create = on_create;
  table.flush = on_flush;
  table.fsync = on_fsync;
  table.release = on_release;
}

}  // namespace reelfs::fuse
