#pragma once

#include <atomic>

#include "common/base/ids.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// The kernel's node ids. They are the inode numbers, so there is nothing to count or forget; but node 1 is
/// whatever is mounted as root, which with -o channel= is a channel. Any thread.
class NodeIds {
 public:
  /// @param root  what is mounted
  void set_root(InodeId root) { root_ = root.value; }
  InodeId root() const { return InodeId(root_); }

  InodeId inode(fuse_ino_t node) const { return InodeId(node == FUSE_ROOT_ID ? root_.load() : node); }
  fuse_ino_t node(InodeId inode) const { return inode.value == root_ ? FUSE_ROOT_ID : inode.value; }

 private:
  std::atomic<std::uint64_t> root_{kRootInode.value};
};

}  // namespace reelfs::fuse
