// opendir, readdir, readdirplus, releasedir, fsyncdir.
#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <sys/stat.h>

#include "fuse/ops/convert.h"
#include "fuse/ops/directory_offsets.h"
#include "fuse/ops/listing.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"

namespace reelfs::fuse {
namespace {

/// For "." and "..": the kernel must not take them for a name that was looked up (node 0 says so).
fuse_entry_param dot_entry(const client::Attributes& attributes) {
  fuse_entry_param entry{};
  entry.attr = to_stat(attributes);
  return entry;
}

/// How many entries to ask the index for: those that fit with short names, so that few are fetched in vain.
std::uint32_t limit_for(Detail detail, std::size_t room) {
  constexpr std::size_t kShortNameBytes = 16;
  constexpr std::size_t kNameEntryBytes = 24 + kShortNameBytes;        // fuse_dirent
  constexpr std::size_t kPlusEntryBytes = 128 + 24 + kShortNameBytes;  // fuse_direntplus
  constexpr std::size_t kMostPerAnswer = 1024;                         // the index's own limit
  const auto entry_bytes = detail == Detail::attributes ? kPlusEntryBytes : kNameEntryBytes;
  return static_cast<std::uint32_t>(std::clamp<std::size_t>(room / entry_bytes, 1, kMostPerAnswer));
}

struct Reading {
  InodeId inode;
  std::uint64_t offset = 0;
  std::size_t room = 0;
  Detail detail = Detail::names;
};

/// @return false: no room
Task<bool> add_dots(Mount& mount, InodeId inode, std::uint64_t offset, Listing& listing) {
  REELFS_CO_TRY(auto self, co_await mount.files.get_attributes(inode));
  if (offset == kDirectoryStart) mount.files.note_read(self);
  if (offset == kDirectoryStart && !listing.add(".", dot_entry(self), kAfterDot)) co_return false;
  auto parent = self;  // the root's parent, here, is the root
  if (inode != mount.nodes.root()) parent.inode = self.parent;
  co_return listing.add("..", dot_entry(parent), kAfterDotDot);
}

Task<std::string> list(Mount& mount, fuse_req_t raw, Reading reading) {
  Listing listing(raw, reading.detail, reading.room);
  if (reading.offset < kAfterDotDot) {
    REELFS_CO_TRY(auto room, co_await add_dots(mount, reading.inode, reading.offset, listing));
    if (!room) co_return listing.take();
  }
  const auto after = cookie_at_offset(reading.offset);
  const auto limit = limit_for(reading.detail, reading.room);
  REELFS_CO_TRY(auto page, co_await mount.files.read_directory(reading.inode, after, limit));
  for (const auto& entry : page.entries) {
    if (entry.cookie > kMaxCookie) co_return Error(Errc::protocol, "directory cookie out of range");
    const auto described = to_entry(mount.nodes, entry.attributes, page.lease);
    if (reading.detail == Detail::attributes) mount.known_acls.note(entry.attributes);
    if (!listing.add(entry.name.c_str(), described, offset_of_cookie(entry.cookie))) break;
  }
  co_return listing.take();
}

Operation read(Mount& mount, Request request, Reading reading) {
  const auto bytes = co_await list(mount, request.raw(), reading);
  if (!bytes) co_return request.fail(bytes.error());
  request.data(bytes.value());
}

Operation sync(Mount& mount, Request request, InodeId inode) {
  const BusyDirectories::Use use(mount.busy, inode);
  const auto done = co_await mount.files.sync_directory(inode);
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

void on_opendir(fuse_req_t raw, fuse_ino_t, fuse_file_info* info) {
  // Nothing to keep: each readdir says where it goes on. (ENOSYS instead would let the kernel cache
  // listings.)
  if (Request request(raw, "opendir"); !request.opened(*info)) return;
}

void start_reading(fuse_req_t raw, fuse_ino_t node, std::size_t room, off_t offset, Detail detail) {
  auto& mount = Mount::of(raw);
  Reading reading;
  reading.inode = mount.inode(node);
  reading.offset = static_cast<std::uint64_t>(offset);
  reading.room = room;
  reading.detail = detail;
  mount.start(raw, read(mount, Request(raw, "readdir"), reading));
}

void on_readdir(fuse_req_t raw, fuse_ino_t node, std::size_t room, off_t offset, fuse_file_info*) {
  start_reading(raw, node, room, offset, Detail::names);
}

void on_readdirplus(fuse_req_t raw, fuse_ino_t node, std::size_t room, off_t offset, fuse_file_info*) {
  start_reading(raw, node, room, offset, Detail::attributes);
}

void on_releasedir(fuse_req_t raw, fuse_ino_t, fuse_file_info*) { Request(raw, "releasedir").succeed(); }

void on_fsyncdir(fuse_req_t raw, fuse_ino_t node, int, fuse_file_info*) {
  auto& mount = Mount::of(raw);
  mount.start(raw, sync(mount, Request(raw, "fsyncdir"), mount.inode(node)));
}

}  // namespace

void add_directory_operations(fuse_lowlevel_ops& table) {
  table.opendir = on_opendir;
  table.readdir = on_readdir;
  table.readdirplus = on_readdirplus;
  table.releasedir = on_releasedir;
  table.fsyncdir = on_fsyncdir;
}

}  // namespace reelfs::fuse
