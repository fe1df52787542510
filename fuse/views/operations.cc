// Calls on views are answered here, all others as fuse/ops does.
#include "fuse/views/operations.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/view_names.h"
#include "fuse/ops/convert.h"
#include "fuse/ops/directory_offsets.h"
#include "fuse/ops/listing.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"
#include "fuse/session/newer_calls.h"
#include "fuse/views/content.h"
#include "fuse/views/node.h"

namespace reelfs::fuse {
namespace {

using Handle = OpenedViews::Handle;
using Text = std::shared_ptr<const std::string>;
using Table = fuse_lowlevel_ops;

// ---- names and attributes

/// What is not there now may be the next moment: the kernel is not to believe it.
void answer(Request& request, const Result<fuse_entry_param>& found) {
  if (!found) return request.fail(found.error());
  request.entry(found.value());
}

Operation lookup(Mount& mount, Request request, ViewNode directory, std::string name) {
  const auto found = co_await find_in_view(mount, directory, std::move(name));
  answer(request, found);
}

Operation lookup_itself(Mount& mount, Request request, ViewNode node) {
  const auto found = co_await describe(mount, node);
  answer(request, found);
}

/// Something else of the name is there since before mounts showed anything, or is below the channel.
Operation lookup_view(Mount& mount, Request request, InodeId parent, std::string name) {
  const auto kept = co_await mount.files.find(parent, name);
  if (!kept) co_return request.fail(kept.error());
  if (const auto& attributes = kept.value().attributes) {
    mount.known_acls.note(*attributes);
    co_return request.entry(to_entry(mount.nodes, *attributes, kept.value().lease));
  }
  const auto found = co_await find_view(mount, parent, std::move(name));
  answer(request, found);
}

void on_lookup(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  auto& mount = Mount::of(raw);
  const std::string_view wanted(name);
  if (!is_view(parent)) {
    if (!is_view_name(wanted)) return operations().lookup(raw, parent, name);
    return mount.start(raw, lookup_view(mount, Request(raw, "lookup"), mount.inode(parent), name));
  }
  auto node = view_node(parent);
  if (!node) return Request(raw, "lookup").fail_with(ESTALE);
  if (wanted == "..") {
    if (!is_directory(*node)) return Request(raw, "lookup").fail_with(ENOTDIR);
    if (is_top(*node)) return operations().lookup(raw, mount.nodes.node(node->inode), ".");
    node = parent_of(*node);
  }
  if (wanted == "." || wanted == "..")
    return mount.start(raw, lookup_itself(mount, Request(raw, "lookup"), *node));
  mount.start(raw, lookup(mount, Request(raw, "lookup"), *node, name));
}

Operation get_attributes(Mount& mount, Request request, ViewNode node, bool asks_birth) {
  const auto found = co_await describe(mount, node);
  if (!found) co_return request.fail(found.error());
  const auto& [attributes, valid] = std::pair(found.value().attr, found.value().attr_timeout);
  if (asks_birth) co_return request.attributes(attributes, attributes.st_ctim, valid);
  request.attributes(attributes, valid);
}

/// Of an open file, what was made for it.
Operation get_open_attributes(Mount& mount, Request request, Handle handle, ViewNode node, bool asks_birth) {
  auto found = co_await describe(mount, node);
  if (!found) co_return request.fail(found.error());
  auto& attributes = found.value().attr;
  if (const auto content = mount.views.files.find(handle))
    attributes.st_size = static_cast<off_t>(content->size());
  if (asks_birth) co_return request.attributes(attributes, attributes.st_ctim, 0);
  request.attributes(attributes, 0);
}

void on_getattr(fuse_req_t raw, const ViewNode& node, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  const bool asks_birth = NewerCalls::current().asks_birth;
  Request request(raw, "getattr");
  if (info == nullptr || is_directory(node))
    return mount.start(raw, get_attributes(mount, std::move(request), node, asks_birth));
  const Handle handle{to_number(node).value_or(0), info->fh};
  mount.start(raw, get_open_attributes(mount, std::move(request), handle, node, asks_birth));
}

Operation read_link(Mount& mount, Request request, ViewNode link) {
  const auto target = co_await target_of(mount, link);
  if (!target) co_return request.fail(target.error());
  request.target(target.value());
}

void on_readlink(fuse_req_t raw, const ViewNode& link) {
  auto& mount = Mount::of(raw);
  mount.start(raw, read_link(mount, Request(raw, "readlink"), link));
}

void on_statfs(fuse_req_t raw, const ViewNode& node) {
  operations().statfs(raw, Mount::of(raw).nodes.node(node.inode));
}

void on_getxattr(fuse_req_t raw, const ViewNode&, const char*, std::size_t) {
  Request(raw, "getxattr").fail_with(ENODATA);
}

void on_listxattr(fuse_req_t raw, const ViewNode&, std::size_t room) {
  Request request(raw, "listxattr");
  if (room == 0) return request.xattr_size(0);
  request.data(std::string());
}

/// Names come and go in both directories, and views have no part in that.
void on_rename(fuse_req_t raw, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
               const char* new_name, unsigned int flags) {
  if (is_view(parent) || is_view(new_parent)) return Request(raw, "rename").fail_with(EROFS);
  operations().rename(raw, parent, name, new_parent, new_name, flags);
}

void on_link(fuse_req_t raw, fuse_ino_t node, fuse_ino_t new_parent, const char* new_name) {
  if (is_view(new_parent)) return Request(raw, "link").fail_with(EROFS);
  if (is_view(node)) return Request(raw, "link").fail_with(EPERM);
  operations().link(raw, node, new_parent, new_name);
}

void on_symlink(fuse_req_t raw, const char* target, fuse_ino_t parent, const char* name) {
  if (is_view(parent)) return Request(raw, "symlink").fail_with(EROFS);
  operations().symlink(raw, target, parent, name);
}

// ---- files

/// What was made when it was opened; made now, where an earlier process did and has not told.
Task<Text> content_of(Mount& mount, Handle handle, ViewNode file) {
  if (auto content = mount.views.files.find(handle)) co_return content;
  REELFS_CO_TRY(auto content, co_await generate(mount, file));
  mount.views.files.put(handle, content);
  co_return content;
}

Operation open(Mount& mount, Request request, ViewNode file, fuse_file_info info) {
  const auto content = co_await generate(mount, file);
  if (!content) co_return request.fail(content.error());
  info.fh = mount.views.new_number();
  info.direct_io = 1;  // so that it is read to its end, whatever size the kernel believes in
  const Handle handle{to_number(file).value_or(0), info.fh};
  mount.views.files.put(handle, content.value());
  if (!request.opened(info)) mount.views.files.erase(handle);
}

void on_open(fuse_req_t raw, const ViewNode& file, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  Request request(raw, "open");
  const bool changes = (info->flags & O_ACCMODE) != O_RDONLY || (info->flags & O_TRUNC) != 0;
  if (changes) return request.fail_with(EROFS);
  mount.start(raw, open(mount, std::move(request), file, *info));
}

struct Range {
  std::size_t offset = 0;
  std::size_t length = 0;
};

Operation read(Mount& mount, Request request, Handle handle, ViewNode file, Range range) {
  const auto content = co_await content_of(mount, handle, file);
  if (!content) co_return request.fail(content.error());
  const auto bytes = std::as_bytes(std::span(*content.value()));
  const auto from = std::min(range.offset, bytes.size());
  request.data(bytes.subspan(from, std::min(range.length, bytes.size() - from)));
}

void on_read(fuse_req_t raw, const ViewNode& file, std::size_t size, off_t offset, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  const Handle handle{to_number(file).value_or(0), info->fh};
  mount.start(raw,
              read(mount, Request(raw, "read"), handle, file, Range{static_cast<std::size_t>(offset), size}));
}

Operation seek(Mount& mount, Request request, Handle handle, ViewNode file, Range from, bool hole) {
  const auto content = co_await content_of(mount, handle, file);
  if (!content) co_return request.fail(content.error());
  const auto size = content.value()->size();
  if (from.offset >= size) co_return request.fail_with(ENXIO);
  request.position(hole ? size : from.offset);
}

void on_lseek(fuse_req_t raw, const ViewNode& file, off_t offset, int whence, fuse_file_info* info) {
  Request request(raw, "lseek");
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return request.fail_with(EINVAL);
  auto& mount = Mount::of(raw);
  const Handle handle{to_number(file).value_or(0), info->fh};
  mount.start(raw, seek(mount, std::move(request), handle, file, Range{static_cast<std::size_t>(offset), 0},
                        whence == SEEK_HOLE));
}

void on_flush(fuse_req_t raw, const ViewNode&, fuse_file_info*) { Request(raw, "flush").succeed(); }
void on_fsync(fuse_req_t raw, const ViewNode&, int, fuse_file_info*) { Request(raw, "fsync").succeed(); }

Operation release(Mount& mount, Request request, Handle handle) {
  mount.views.files.erase(handle);
  mount.views.directories.erase(handle);
  request.succeed();
  co_return;
}

void on_release(fuse_req_t raw, const ViewNode& node, fuse_file_info* info) {
  auto& mount = Mount::of(raw);
  const Handle handle{to_number(node).value_or(0), info->fh};
  mount.start(raw, release(mount, Request(raw, "release"), handle));
}

// ---- directories

void on_opendir(fuse_req_t raw, const ViewNode&, fuse_file_info* info) {
  info->fh = Mount::of(raw).views.new_number();
  // Where the caller is gone there is nothing to take back.
  if (Request request(raw, "opendir"); !request.opened(*info)) return;
}

struct Reading {
  Handle handle;
  ViewNode directory;
  std::uint64_t offset = 0;
  std::size_t room = 0;
  Detail detail = Detail::names;
};

/// As it was when this handle began to be read, so that its pages fit together.
Task<std::shared_ptr<const ViewEntries>> entries_of(Mount& mount, Reading reading) {
  auto known = mount.views.directories.find(reading.handle);
  if (known && reading.offset > kAfterDotDot) co_return known;
  REELFS_CO_TRY(auto entries, co_await list_view(mount, reading.directory));
  auto shared = std::make_shared<const ViewEntries>(std::move(entries));
  mount.views.directories.put(reading.handle, shared);
  co_return shared;
}

/// For "." and "..": the kernel must not take them for names that were looked up (node 0 says so).
fuse_entry_param dot_entry(InodeId inode, fuse_ino_t number) {
  fuse_entry_param entry{};
  entry.attr.st_mode = S_IFDIR;
  entry.attr.st_ino = number != 0 ? number : inode.value;
  return entry;
}

/// @return false: no room
bool add_dots(const Reading& reading, Listing& listing) {
  const auto& directory = reading.directory;
  const auto number = [](const ViewNode& node) { return to_number(node).value_or(0); };
  if (reading.offset == kDirectoryStart &&
      !listing.add(".", dot_entry(directory.inode, number(directory)), kAfterDot))
    return false;
  if (reading.offset >= kAfterDotDot) return true;
  const auto above = is_top(directory) ? 0 : number(parent_of(directory));
  return listing.add("..", dot_entry(directory.inode, above), kAfterDotDot);
}

Operation read_directory(Mount& mount, Request request, Reading reading) {
  const auto entries = co_await entries_of(mount, reading);
  if (!entries) co_return request.fail(entries.error());
  Listing listing(request.raw(), reading.detail, reading.room);
  if (!add_dots(reading, listing)) co_return request.data(listing.take());
  const auto after = cookie_at_offset(reading.offset);
  for (const auto& entry : *entries.value()) {
    if (entry.cookie <= after) continue;
    if (!listing.add(entry.name.c_str(), entry.entry, offset_of_cookie(entry.cookie))) break;
  }
  request.data(listing.take());
}

void start_reading(fuse_req_t raw, const ViewNode& directory, const Reading& asked, const char* name) {
  auto& mount = Mount::of(raw);
  Request request(raw, name);
  if (!is_directory(directory)) return request.fail_with(ENOTDIR);
  mount.start(raw, read_directory(mount, std::move(request), asked));
}

Reading describe_reading(const ViewNode& directory, std::size_t room, off_t offset, Detail detail,
                         const fuse_file_info& info) {
  Reading reading;
  reading.handle = {to_number(directory).value_or(0), info.fh};
  reading.directory = directory;
  reading.offset = static_cast<std::uint64_t>(offset);
  reading.room = room;
  reading.detail = detail;
  return reading;
}

void on_readdir(fuse_req_t raw, const ViewNode& directory, std::size_t room, off_t offset,
                fuse_file_info* info) {
  start_reading(raw, directory, describe_reading(directory, room, offset, Detail::names, *info), "readdir");
}

void on_readdirplus(fuse_req_t raw, const ViewNode& directory, std::size_t room, off_t offset,
                    fuse_file_info* info) {
  start_reading(raw, directory, describe_reading(directory, room, offset, Detail::attributes, *info),
                "readdirplus");
}

// ---- which is which

/// Of a call whose first argument is the node: what answers it for views.
template <auto Call, auto OnView, class = decltype(Call)>
struct Shown;
template <auto Call, auto OnView, class... Arguments>
struct Shown<Call, OnView, void (*Table::*)(fuse_req_t, fuse_ino_t, Arguments...)> {
  static void answer(fuse_req_t raw, fuse_ino_t node, Arguments... arguments) {
    if (!is_view(node)) return (operations().*Call)(raw, node, arguments...);
    const auto shown = view_node(node);
    if (!shown) return Request(raw, "view").fail_with(ESTALE);
    OnView(raw, *shown, arguments...);
  }
};

/// The same, where views refuse the call.
template <auto Call, int kErrno, class = decltype(Call)>
struct Refused;
template <auto Call, int kErrno, class... Arguments>
struct Refused<Call, kErrno, void (*Table::*)(fuse_req_t, fuse_ino_t, Arguments...)> {
  static void answer(fuse_req_t raw, fuse_ino_t node, Arguments... arguments) {
    if (is_view(node)) return Request(raw, "view").fail_with(kErrno);
    (operations().*Call)(raw, node, arguments...);
  }
};

template <auto Call, auto OnView>
void show(Table& table) {
  table.*Call = Shown<Call, OnView>::answer;
}

template <auto Call, int kErrno = EROFS>
void refuse(Table& table) {
  table.*Call = Refused<Call, kErrno>::answer;
}

Table make_table() {
  auto table = operations();
  table.lookup = on_lookup;
  table.rename = on_rename;
  table.link = on_link;
  table.symlink = on_symlink;
  show<&Table::getattr, on_getattr>(table);
  show<&Table::readlink, on_readlink>(table);
  show<&Table::statfs, on_statfs>(table);
  show<&Table::getxattr, on_getxattr>(table);
  show<&Table::listxattr, on_listxattr>(table);
  show<&Table::open, on_open>(table);
  show<&Table::read, on_read>(table);
  show<&Table::lseek, on_lseek>(table);
  show<&Table::flush, on_flush>(table);
  show<&Table::fsync, on_fsync>(table);
  show<&Table::release, on_release>(table);
  show<&Table::opendir, on_opendir>(table);
  show<&Table::readdir, on_readdir>(table);
  show<&Table::readdirplus, on_readdirplus>(table);
  show<&Table::fsyncdir, on_fsync>(table);
  show<&Table::releasedir, on_release>(table);
  refuse<&Table::setattr>(table);
  refuse<&Table::mknod>(table);
  refuse<&Table::mkdir>(table);
  refuse<&Table::create>(table);
  refuse<&Table::unlink>(table);
  refuse<&Table::rmdir>(table);
  refuse<&Table::write>(table);
  refuse<&Table::fallocate>(table);
  refuse<&Table::setxattr>(table);
  refuse<&Table::removexattr>(table);
  refuse<&Table::getlk, EOPNOTSUPP>(table);
  refuse<&Table::setlk, EOPNOTSUPP>(table);
  refuse<&Table::flock, EOPNOTSUPP>(table);
  refuse<&Table::copy_file_range, EXDEV>(table);  // out of a view: the kernel then copies the bytes itself
  return table;
}

}  // namespace

const fuse_lowlevel_ops& operations_with_views() {
  static const Table table = make_table();
  return table;
}

}  // namespace reelfs::fuse
