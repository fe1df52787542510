// getlk, setlk, flock. What close(2) drops: files.cc.
#include "client/locks/locks.h"

#include <cerrno>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>

#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"

namespace reelfs::fuse {
namespace {

int to_errno(client::LockOutcome outcome) {
  switch (outcome) {
    case client::LockOutcome::granted:
      return 0;
    case client::LockOutcome::refused:
      return EAGAIN;
    case client::LockOutcome::deadlock:
      return EDEADLK;
    case client::LockOutcome::too_many:
      return ENOLCK;
    case client::LockOutcome::lost:
      return EIO;
  }
  return EIO;
}

/// The kernel has made the range absolute: l_len is 0 where it goes on to the end.
ByteRange range_of(const struct flock& lock) {
  ByteRange range;
  range.first = static_cast<std::uint64_t>(lock.l_start);
  range.last = lock.l_len == 0 ? kLastByte : range.first + static_cast<std::uint64_t>(lock.l_len) - 1;
  return range;
}

Operation try_lock(Mount& mount, Request request, client::LockRequest wanted) {
  const auto outcome = co_await mount.files.locks().try_lock(wanted);
  if (!outcome) co_return request.fail(outcome.error());
  request.fail_with(to_errno(outcome.value()));
}

Operation lock(Mount& mount, Request request, client::LockRequest wanted) {
  const auto outcome = co_await mount.files.locks().lock(wanted);
  if (!outcome) co_return request.fail(outcome.error());
  request.fail_with(to_errno(outcome.value()));
}

Operation unlock(Mount& mount, Request request, client::LockOwner owner, ByteRange range) {
  const auto done = co_await mount.files.locks().unlock(owner, range);
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

Operation test(Mount& mount, Request request, client::LockRequest wanted, struct flock answer) {
  const auto tested = co_await mount.files.locks().test(wanted);
  if (!tested) co_return request.fail(tested.error());
  const auto& conflict = tested.value();
  if (!conflict) {
    answer.l_type = F_UNLCK;
    co_return request.lock(answer);
  }
  answer.l_type = conflict->type == LockType::write ? F_WRLCK : F_RDLCK;
  answer.l_whence = SEEK_SET;
  answer.l_start = static_cast<off_t>(conflict->range.first);
  const bool to_end = conflict->range.last == kLastByte;
  answer.l_len = to_end ? 0 : static_cast<off_t>(conflict->range.last - conflict->range.first + 1);
  answer.l_pid = static_cast<pid_t>(conflict->pid);
  request.lock(answer);
}

client::LockRequest describe(Mount& mount, fuse_ino_t node, const fuse_file_info& info,
                             client::LockKind kind) {
  client::LockRequest wanted;
  wanted.owner.inode = mount.inode(node);
  wanted.owner.kind = kind;
  wanted.owner.id = info.lock_owner;
  wanted.handle = info.fh;
  return wanted;
}

enum class Patience { none, endless };

void start(Mount& mount, fuse_req_t raw, const client::LockRequest& wanted, Patience patience) {
  if (patience == Patience::endless) {
    return mount.start(raw, lock(mount, Request(raw, "lock"), wanted), Interruption::at_once);
  }
  mount.start(raw, try_lock(mount, Request(raw, "lock"), wanted));
}

void on_getlk(fuse_req_t raw, fuse_ino_t node, fuse_file_info* info, struct flock* lock) {
  auto& mount = Mount::of(raw);
  auto wanted = describe(mount, node, *info, client::LockKind::posix);
  wanted.range = range_of(*lock);
  wanted.type = lock->l_type == F_WRLCK ? LockType::write : LockType::read;
  mount.start(raw, test(mount, Request(raw, "getlk"), wanted, *lock));
}

void on_setlk(fuse_req_t raw, fuse_ino_t node, fuse_file_info* info, struct flock* lock, int sleep) {
  auto& mount = Mount::of(raw);
  auto wanted = describe(mount, node, *info, client::LockKind::posix);
  wanted.range = range_of(*lock);
  if (lock->l_type == F_UNLCK) {
    return mount.start(raw, unlock(mount, Request(raw, "unlock"), wanted.owner, wanted.range));
  }
  wanted.type = lock->l_type == F_WRLCK ? LockType::write : LockType::read;
  wanted.pid = static_cast<std::uint32_t>(lock->l_pid);
  start(mount, raw, wanted, sleep != 0 ? Patience::endless : Patience::none);
}

void on_flock(fuse_req_t raw, fuse_ino_t node, fuse_file_info* info, int operation) {
  auto& mount = Mount::of(raw);
  auto wanted = describe(mount, node, *info, client::LockKind::flock);
  wanted.range = kWholeFile;
  if ((operation & LOCK_UN) != 0) {
    return mount.start(raw, unlock(mount, Request(raw, "unlock"), wanted.owner, wanted.range));
  }
  wanted.type = (operation & LOCK_EX) != 0 ? LockType::write : LockType::read;
  wanted.pid = static_cast<std::uint32_t>(fuse_req_ctx(raw)->pid);
  start(mount, raw, wanted, (operation & LOCK_NB) == 0 ? Patience::endless : Patience::none);
}

}  // namespace

void add_lock_operations(fuse_lowlevel_ops& table) {
  table.getlk = on_getlk;
  table.setlk = on_setlk;
  table.flock = on_flock;
}

}  // namespace reelfs::fuse
