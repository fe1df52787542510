// getattr, setattr, statfs.
#include <chrono>
#include <utility>

#include "fuse/ops/convert.h"
#include "fuse/ops/forgetting.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"
#include "fuse/ops/recall.h"
#include "fuse/session/newer_calls.h"

namespace reelfs::fuse {
namespace {

constexpr unsigned long kSpaceUnitBytes = 4096;
constexpr std::chrono::milliseconds kPatienceForUnknownSpace{1000};
constexpr unsigned long kNameMax = 255;

void answer(Request& request, const Result<client::Attributes>& found) {
  if (!found) return request.fail(found.error());
  request.attributes(to_stat(found.value()), to_seconds(found.value().lease));
}

Operation get_attributes(Mount& mount, Request request, InodeId inode, bool asks_birth) {
  const auto found = co_await find_attributes(mount, inode);
  if (found) mount.known_acls.note(found.value());
  if (!found || !asks_birth) co_return answer(request, found);
  const auto& attributes = found.value();
  request.attributes(to_stat(attributes), birth(attributes), to_seconds(attributes.lease));
}

Operation set_attributes(Mount& mount, Request request, InodeId inode, client::AttributeChanges changes) {
  const BusyDirectories::Use use(mount.busy, inode);
  mount.last_known.changed(inode);
  auto changed = co_await mount.files.set_attributes(inode, changes);
  if (!changed) co_return answer(request, changed);
  mount.known_acls.note(changed.value());
  const bool has_stale_pages = mount.stale_pages.attributes_set(inode);
  // While a file's length is being set the kernel writes none of its pages: to wait for that would be for
  // ever.
  if (has_stale_pages && !changes.size) co_await forget_pages(mount, inode);
  answer(request, changed);
  if (has_stale_pages && changes.size) mount.invalidator.forget_pages(mount.nodes.node(inode), {});
}

Operation space(Mount& mount, Request request, InodeId inode) {
  auto known = mount.last_known.space(inode);
  // The room of all is another's than that of a channel with a quota: rather a slow answer than that one.
  const auto patience = known ? LastKnown::kSilence : kPatienceForUnknownSpace;
  if (!known) known = mount.last_known.whole_space();
  const auto space = co_await ask_or_recall(mount, ask_space(mount, inode), patience, std::move(known));
  if (!space) co_return request.fail(space.error());
  struct statvfs answer {};
  answer.f_bsize = kSpaceUnitBytes;
  answer.f_frsize = kSpaceUnitBytes;
  answer.f_blocks = space.value().total_bytes / kSpaceUnitBytes;
  answer.f_bfree = space.value().free_bytes / kSpaceUnitBytes;
  answer.f_bavail = space.value().available_bytes / kSpaceUnitBytes;
  // Inodes are not a resource of their own: each takes space, and as many are free as there is space for.
  answer.f_ffree = answer.f_bavail;
  answer.f_favail = answer.f_bavail;
  answer.f_files = space.value().files + answer.f_ffree;
  answer.f_namemax = kNameMax;
  request.space(answer);
}

void on_getattr(fuse_req_t raw, fuse_ino_t node, fuse_file_info*) {
  auto& mount = Mount::of(raw);
  mount.start(raw, get_attributes(mount, Request(raw, "getattr"), mount.inode(node),
                                  NewerCalls::current().asks_birth));
}

// A truncation through a handle needs nothing of it: all handles of an inode share its written data.
void on_setattr(fuse_req_t raw, fuse_ino_t node, struct stat* wanted, int to_set, fuse_file_info*) {
  auto& mount = Mount::of(raw);
  // chown(-1, -1), which changes nothing, not even the ctime.
  if (to_set == 0)
    return mount.start(raw, get_attributes(mount, Request(raw, "setattr"), mount.inode(node), false));
  mount.start(raw,
              set_attributes(mount, Request(raw, "setattr"), mount.inode(node), to_changes(*wanted, to_set)));
}

void on_statfs(fuse_req_t raw, fuse_ino_t node) {
  auto& mount = Mount::of(raw);
  mount.start(raw, space(mount, Request(raw, "statfs"), mount.inode(node)));
}

}  // namespace

void add_attribute_operations(fuse_lowlevel_ops& table) {
  table.getattr = on_getattr;
  table.setattr = on_setattr;
  table.statfs = on_statfs;
}

}  // namespace reelfs::fuse
