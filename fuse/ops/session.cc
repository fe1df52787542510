// init, forget: what the kernel and we agree on.
#include <span>
#include <vector>

#include "common/base/units.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"
#include "fuse/ops/removing.h"

namespace reelfs::fuse {
namespace {

constexpr unsigned kMaxWriteBytes = 1 * kMiB;  // the most libfuse 3.14 has room for
constexpr unsigned kMaxReadaheadBytes =
    4 * kMiB;  // the kernel's own bound is lower until KernelChannel raises it
/// Readahead and asynchronous direct reads under way: enough to keep several nodes busy with several players.
constexpr unsigned kMaxBackground = 128;

void on_init(void*, fuse_conn_info* connection) {
  constexpr unsigned kWanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC |
                               FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS |
                               FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK |
                               FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS;
  // Not wanted: READDIRPLUS_AUTO (a program that lists many names before it asks for the first one's
  // attributes, as find and ls do, then waits for each; the index knows them anyway when it lists),
  // HANDLE_KILLPRIV (the kernel, which knows who may keep set-user-id bits, then drops them through setattr),
  // WRITEBACK_CACHE (write(2) must reach the nodes in 200 ms and other mounts in a second), SPLICE_* (bytes
  // are checksummed here, so they must be mapped here anyway).
  connection->want = kWanted & connection->capable;
  connection->max_write = kMaxWriteBytes;
  connection->max_readahead = kMaxReadaheadBytes;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground / 4 * 3;
  connection->time_gran = 1;
}

// Node ids are inode numbers and nothing is counted.
void on_forget(fuse_req_t raw, fuse_ino_t node, std::uint64_t) {
  auto& mount = Mount::of(raw);
  if (const auto inode = mount.inode(node); mount.removed.contains(inode))
    let_go_of_forgotten(mount, {inode});
  Request(raw, "forget").none();
}

void on_forget_multi(fuse_req_t raw, std::size_t count, fuse_forget_data* forgotten) {
  auto& mount = Mount::of(raw);
  std::vector<InodeId> removed;
  for (const auto& one : std::span(forgotten, count)) {
    if (const auto inode = mount.inode(one.ino); mount.removed.contains(inode)) removed.push_back(inode);
  }
  if (!removed.empty()) let_go_of_forgotten(mount, removed);
  Request(raw, "forget").none();
}

fuse_lowlevel_ops make_table() {
  fuse_lowlevel_ops table{};
  add_session_operations(table);
  add_name_operations(table);
  add_attribute_operations(table);
  add_file_operations(table);
  add_data_operations(table);
  add_lock_operations(table);
  add_xattr_operations(table);
  add_directory_operations(table);
  return table;
}

}  // namespace

void add_session_operations(fuse_lowlevel_ops& table) {
  table.init = on_init;
  table.forget = on_forget;
  table.forget_multi = on_forget_multi;
}

const fuse_lowlevel_ops& operations() {
  static const fuse_lowlevel_ops table = make_table();
  return table;
}

}  // namespace reelfs::fuse
