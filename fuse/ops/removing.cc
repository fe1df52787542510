#include "fuse/ops/removing.h"

#include <chrono>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "common/async/timeout.h"
#include "fuse/ops/mount.h"

namespace reelfs::fuse {
namespace {

/// Nearly all are forgotten by then. The client opens what is needed for longer.
constexpr std::chrono::seconds kInterval{1};

}  // namespace

void let_go_of_forgotten(Mount& mount, const std::vector<InodeId>& inodes) {
  std::vector<fuse_ino_t> nodes;
  nodes.reserve(inodes.size());
  for (const auto inode : inodes) nodes.push_back(mount.nodes.node(inode));
  mount.invalidator.find_unknown(std::move(nodes), [&mount](fuse_ino_t unknown) {
    asio::post(mount.operations.context(), [&mount, inode = mount.inode(unknown)] {
      mount.removed.forget(inode);
      mount.files.let_go(inode);
    });
  });
}

Operation look_after_removed(Mount& mount) {
  for (;;) {
    co_await sleep_for(kInterval);
    const auto unasked = mount.removed.take_unasked();
    if (!unasked.empty()) let_go_of_forgotten(mount, unasked);
  }
}

}  // namespace reelfs::fuse
