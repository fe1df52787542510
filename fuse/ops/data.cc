// read, write, fallocate, lseek, copy_file_range.
#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>
#include <utility>

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "common/base/buffer.h"
#include "common/base/units.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"

namespace reelfs::fuse {
namespace {

using Handle = std::shared_ptr<client::FileHandle>;

/// @param flags  of open(2)
Operation read(Mount& mount, Request request, Handle handle, int flags, std::uint64_t offset,
               std::size_t length) {
  const auto bytes = co_await handle->read(offset, length);
  if (!bytes) co_return request.fail(bytes.error());
  if ((flags & O_NOATIME) == 0) mount.files.note_read(*handle);
  request.data(bytes.value().span());
}

struct Writing {
  Mount& mount;
  Handle handle;
  std::uint64_t offset = 0;
  bool append = false;    // wherever the kernel takes the end to be
  fuse_ino_t mapped = 0;  // the node, where the kernel writes from a mapping
};

/// The kernel's idea of the end is as old as the attributes it was told last. Of a large direct write it
/// sends the parts at once, so these must stay where it has put them.
bool is_append(const fuse_file_info& info) {
  return (info.flags & O_APPEND) != 0 && (info.flags & O_DIRECT) == 0 && info.writepage == 0;
}

Task<std::size_t> put(const Writing& writing, Buffer bytes) {
  if (writing.append) return writing.mount.files.append(writing.handle, std::move(bytes));
  return writing.handle->write(writing.offset, std::move(bytes));
}

/// The kernel takes the size and times of what it writes from a mapping to be unchanged.
void forget_mapped(const Writing& writing) {
  if (writing.mapped != 0) writing.mount.invalidator.forget_attributes({writing.mapped}, {});
}

Operation write(Request request, Writing writing, Buffer bytes) {
  const auto written = co_await put(writing, std::move(bytes));
  forget_mapped(writing);
  if (!written) co_return request.fail(written.error());
  request.written(written.value());
}

/// With O_SYNC and O_DSYNC the kernel leaves it to us to have the bytes on stable storage before the answer.
Operation write_and_sync(Request request, Writing writing, Buffer bytes) {
  const auto handle = writing.handle;
  const auto written = co_await put(writing, std::move(bytes));
  forget_mapped(writing);
  if (!written) co_return request.fail(written.error());
  const auto synced = co_await handle->fsync();
  if (!synced) co_return request.fail(synced.error());
  request.written(written.value());
}

struct Range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

Task<void> change_allocation(Handle handle, int mode, Range range) {
  switch (mode) {
    case 0:
      co_return co_await handle->allocate(range.offset, range.length, false);
    case FALLOC_FL_KEEP_SIZE:
      co_return co_await handle->allocate(range.offset, range.length, true);
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
      co_return co_await handle->punch_hole(range.offset, range.length);
    case FALLOC_FL_ZERO_RANGE: {
      REELFS_CO_TRY(co_await handle->punch_hole(range.offset, range.length));
      co_return co_await handle->allocate(range.offset, range.length, false);
    }
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
      co_return co_await handle->punch_hole(range.offset, range.length);
    default:
      co_return Error(Errc::unsupported);
  }
}

Operation allocate(Request request, Handle handle, int mode, Range range) {
  const auto done = co_await change_allocation(std::move(handle), mode, range);
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

Operation seek(Request request, Handle handle, std::uint64_t offset, bool hole) {
  const auto found = co_await handle->seek(offset, hole);
  if (found) co_return request.position(found.value());
  if (found.error().code() == Errc::not_found)
    co_return request.fail_with(ENXIO);  // nothing at or after the offset
  request.fail(found.error());
}

struct Cloning {
  Handle source;
  std::uint64_t source_offset = 0;
  Handle target;
  std::uint64_t target_offset = 0;
  std::uint64_t length = 0;
};

/// Between channels (EXDEV) the kernel copies the bytes instead.
Operation clone(Request request, Cloning cloning) {
  const auto done = co_await cloning.target->clone_from(*cloning.source, cloning.source_offset,
                                                        cloning.target_offset, cloning.length);
  if (!done) co_return request.fail(done.error());
  request.written(done.value());
}

void on_read(fuse_req_t raw, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  mount.start(raw,
              read(mount, Request(raw, "read"), mount.open_files.find(info->fh), info->flags, offset, size));
}

void on_write(fuse_req_t raw, fuse_ino_t node, const char* data, std::size_t size, off_t offset,
              fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  Request request(raw, "write");
  const auto bytes = std::as_bytes(std::span(data, size));
  Writing writing{mount, mount.open_files.find(info->fh), static_cast<std::uint64_t>(offset),
                  is_append(*info), info->writepage != 0 ? node : 0};
  if ((info->flags & O_DSYNC) != 0)
    return mount.start(raw, write_and_sync(std::move(request), std::move(writing), Buffer::copy_of(bytes)));
  if (writing.append)
    return mount.start(raw, write(std::move(request), std::move(writing), Buffer::copy_of(bytes)));
  const auto taken = writing.handle->try_write(writing.offset, bytes);
  if (!taken) return request.fail(taken.error());
  if (!taken.value())
    return mount.start(raw, write(std::move(request), std::move(writing), Buffer::copy_of(bytes)));
  forget_mapped(writing);
  request.written(size);
}

void on_fallocate(fuse_req_t raw, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info* info) {
  Range range;
  range.offset = static_cast<std::uint64_t>(offset);
  range.length = static_cast<std::uint64_t>(length);
  auto& mount = Mount::of(raw);
  mount.start(raw, allocate(Request(raw, "fallocate"), mount.open_files.find(info->fh), mode, range));
}

void on_lseek(fuse_req_t raw, fuse_ino_t, off_t offset, int whence, fuse_file_info* info) {
  Request request(raw, "lseek");
  if (whence != SEEK_DATA && whence != SEEK_HOLE)
    return request.fail_with(EINVAL);  // the kernel answers the others
  auto& mount = Mount::of(raw);
  mount.start(raw, seek(std::move(request), mount.open_files.find(info->fh), offset, whence == SEEK_HOLE));
}

void on_copy_file_range(fuse_req_t raw, fuse_ino_t, off_t source_offset, fuse_file_info* source, fuse_ino_t,
                        off_t target_offset, fuse_file_info* target, std::size_t length, int) {
  auto& mount = Mount::of(raw);
  Request request(raw, "copy_file_range");
  // Within the 32 bits of the answer, and whole pages, so that what follows is aligned as before.
  constexpr std::size_t kMostAtOnce = 1 * kGiB;
  Cloning cloning;
  cloning.source = mount.open_files.find(source->fh);
  cloning.source_offset = static_cast<std::uint64_t>(source_offset);
  cloning.target = mount.open_files.find(target->fh);
  cloning.target_offset = static_cast<std::uint64_t>(target_offset);
  cloning.length = std::min(length, kMostAtOnce);
  mount.start(raw, clone(std::move(request), std::move(cloning)));
}

}  // namespace

void add_data_operations(fuse_lowlevel_ops& table) {
  table.read = on_read;
  table.write = on_write;
  table.fallocate = on_fallocate;
  table.lseek = on_lseek;
  table.copy_file_range = on_copy_file_range;
}

}  // namespace reelfs::fuse
