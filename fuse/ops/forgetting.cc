#include "fuse/ops/forgetting.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "common/async/event.h"
#include "fuse/ops/mount.h"

namespace reelfs::fuse {

namespace {

/// What a coroutine here waits for. Outlives it where it is cancelled.
struct Progress {
  bool done = false;
  Event event;
};

using Shared = std::shared_ptr<Progress>;

void finish(const Shared& progress) {
  progress->done = true;
  progress->event.set();
}

/// For the threads that tell the kernel.
std::function<void()> finish_from_thread(Mount& mount, const Shared& progress) {
  return [progress, &context = mount.operations.context()] {
    asio::post(context, [progress] { finish(progress); });
  };
}

asio::awaitable<void> wait(Shared progress) {
  while (!progress->done) {
    const bool woken = co_await progress->event.wait();
    if (!woken) co_return;
  }
}

asio::awaitable<void> forget_names(Mount& mount, std::vector<client::Change::Name> changed) {
  std::set<InodeId> directories;
  std::vector<Invalidator::Name> names;
  for (auto& name : changed) {
    if (name.parent == kRootInode) mount.last_known.forget_channel(name.name);
    directories.insert(name.parent);
    names.push_back({mount.nodes.node(name.parent), std::move(name.name)});
  }
  const bool is_busy = mount.invalidator.has_names_to_forget() ||
                       std::any_of(directories.begin(), directories.end(),
                                   [&mount](InodeId directory) { return mount.busy.contains(directory); });
  if (is_busy) {
    mount.invalidator.forget_names_later(std::move(names));
    co_return;
  }
  const auto progress = std::make_shared<Progress>();
  const BusyDirectories::Alarm alarm(mount.busy, std::move(directories), [progress] { finish(progress); });
  mount.invalidator.forget_names(std::move(names), finish_from_thread(mount, progress));
  co_await wait(progress);
}

asio::awaitable<void> forget_attributes(Mount& mount, const std::vector<InodeId>& inodes) {
  std::vector<fuse_ino_t> nodes;
  for (const auto inode : inodes) {
    mount.absent_capabilities.forget(inode);
    mount.last_known.changed(inode);
    mount.known_acls.forget(inode);
    if (mount.stale_pages.changed_elsewhere(inode))
      mount.invalidator.forget_pages(mount.nodes.node(inode), {});
    nodes.push_back(mount.nodes.node(inode));
  }
  const auto progress = std::make_shared<Progress>();
  mount.invalidator.forget_attributes(std::move(nodes), finish_from_thread(mount, progress));
  co_await wait(progress);
}

}  // namespace

asio::awaitable<void> forget_pages(Mount& mount, InodeId inode) {
  const auto progress = std::make_shared<Progress>();
  mount.invalidator.forget_pages(mount.nodes.node(inode), finish_from_thread(mount, progress));
  co_await wait(progress);
}

asio::awaitable<void> forget(Mount& mount, client::Change change) {
  if (change.everything) {
    mount.absent_capabilities.clear();
    mount.known_acls.clear();
    mount.stale_pages.anything_changed();
    mount.invalidator.forget_all_names();
  }
  // Names first: a name that still led to an inode which is gone would be answered with ESTALE.
  if (!change.names.empty()) co_await forget_names(mount, std::move(change.names));
  co_await forget_attributes(mount, change.inodes);
}

}  // namespace reelfs::fuse
