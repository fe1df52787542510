// setxattr, getxattr, listxattr, removexattr.
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"
#include "fuse/ops/recall.h"
#include "fuse/session/newer_calls.h"

namespace reelfs::fuse {
namespace {

/// The rule of getxattr(2) and listxattr(2): room of 0 asks for the size, too little room is ERANGE.
void answer(Request& request, const std::string& bytes, std::size_t room) {
  if (room == 0) return request.xattr_size(bytes.size());
  if (bytes.size() > room) return request.fail_with(ERANGE);
  request.data(bytes);
}

Operation get(Mount& mount, Request request, InodeId inode, std::string name, std::size_t room) {
  const bool is_capability = name == AbsentCapabilities::kName;
  if (KnownAcls::is_list(name) && !mount.known_acls.has(inode, name)) {
    // Most have none, and from the attributes that is known for the next time.
    const auto found = co_await find_attributes(mount, inode);
    if (!found) co_return request.fail(found.error());
    mount.known_acls.note(found.value());
    if (mount.known_acls.has(inode, name) == false) co_return request.fail_with(ENODATA);
  }
  const auto changes = mount.absent_capabilities.changes();
  const auto value = co_await mount.files.get_xattr(inode, std::move(name));
  if (value) co_return answer(request, value.value(), room);
  if (is_capability && value.error().code() == Errc::no_attribute)
    mount.absent_capabilities.insert(inode, changes);
  request.fail(value.error());
}

/// Asks what was answered from memory. Where the index does not say, the next write asks.
Operation look_again(Mount& mount, InodeId inode) {
  const auto changes = mount.absent_capabilities.changes();
  const auto value = co_await mount.files.get_xattr(inode, AbsentCapabilities::kName);
  if (value) co_return mount.absent_capabilities.forget(inode);
  if (value.error().code() == Errc::no_attribute) mount.absent_capabilities.insert(inode, changes);
}

Operation list(Mount& mount, Request request, InodeId inode, std::size_t room) {
  const auto names = co_await mount.files.list_xattr(inode);
  if (!names) co_return request.fail(names.error());
  std::string joined;
  const bool sees_trusted = request.caller().uid == 0;
  for (const auto& name : names.value()) {
    if (sees_trusted || !name.starts_with("trusted.")) joined.append(name).push_back('\0');
  }
  answer(request, joined, room);
}

Operation set(Mount& mount, Request request, client::XattrSetting setting) {
  const bool is_capability = setting.name == AbsentCapabilities::kName;
  const auto inode = setting.inode;
  const BusyDirectories::Use use(mount.busy, inode);
  mount.last_known.changed(inode);
  const auto done = co_await mount.files.set_xattr(std::move(setting));
  if (is_capability) mount.absent_capabilities.forget(inode);
  mount.known_acls.forget(inode);
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

Operation remove(Mount& mount, Request request, client::XattrRemoval removal) {
  const auto inode = removal.inode;
  const BusyDirectories::Use use(mount.busy, inode);
  mount.last_known.changed(inode);
  const auto done = co_await mount.files.remove_xattr(std::move(removal));
  mount.known_acls.forget(inode);
  if (!done) co_return request.fail(done.error());
  request.succeed();
}

void on_getxattr(fuse_req_t raw, fuse_ino_t node, const char* name, std::size_t room) {
  auto& mount = Mount::of(raw);
  Request request(raw, "getxattr");
  const auto inode = mount.inode(node);
  if (std::string_view(name) == AbsentCapabilities::kName) {
    const auto known = mount.absent_capabilities.look_up(inode);
    if (known == AbsentCapabilities::Known::ask_again)
      mount.operations.start_background(look_again(mount, inode));
    if (known != AbsentCapabilities::Known::no) return request.fail_with(ENODATA);
  }
  if (mount.known_acls.has(inode, name) == false) return request.fail_with(ENODATA);
  mount.start(raw, get(mount, std::move(request), inode, name, room));
}

void on_listxattr(fuse_req_t raw, fuse_ino_t node, std::size_t room) {
  auto& mount = Mount::of(raw);
  mount.start(raw, list(mount, Request(raw, "listxattr"), mount.inode(node), room));
}

void on_setxattr(fuse_req_t raw, fuse_ino_t node, const char* name, const char* value, std::size_t size,
                 int flags) {
  auto& mount = Mount::of(raw);
  client::XattrSetting setting;
  setting.inode = mount.inode(node);
  setting.name = name;
  setting.value.assign(value, size);
  setting.flags = static_cast<std::uint32_t>(flags);
  setting.clear_sgid = NewerCalls::current().clear_sgid;
  Request request(raw, "setxattr");
  setting.uid = request.caller().uid;
  mount.start(raw, set(mount, std::move(request), std::move(setting)));
}

void on_removexattr(fuse_req_t raw, fuse_ino_t node, const char* name) {
  auto& mount = Mount::of(raw);
  Request request(raw, "removexattr");
  client::XattrRemoval removal;
  removal.inode = mount.inode(node);
  removal.name = name;
  removal.uid = request.caller().uid;
  mount.start(raw, remove(mount, std::move(request), std::move(removal)));
}

}  // namespace

void add_xattr_operations(fuse_lowlevel_ops& table) {
  table.getxattr = on_getxattr;
  table.listxattr = on_listxattr;
  table.setxattr = on_setxattr;
  table.removexattr = on_removexattr;
}

}  // namespace reelfs::fuse
