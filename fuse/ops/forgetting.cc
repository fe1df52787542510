#include "fuse/ops/forgetting.h"

#include <algorithm>
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

/// What forget() waits for. Outlives it where it is cancelled.
struct Progress {
  bool attributes = false;  // are forgotten
  bool names = false;       // are forgotten, or need not be waited for
  Event event;
};

}  // namespace

asio::awaitable<void> forget(Mount& mount, client::Change change) {
  const auto progress = std::make_shared<Progress>();
  const auto set = [progress](bool Progress::*what) {
    (*progress).*what = true;
    progress->event.set();
  };
  const auto set_from_thread = [set, &context = mount.operations.context()](bool Progress::*what) {
    return [set, what, &context] { asio::post(context, [set, what] { set(what); }); };
  };

  if (change.everything) {
    mount.absent_capabilities.clear();
    mount.known_acls.clear();
    mount.invalidator.forget_all_names();
  }
  std::vector<fuse_ino_t> nodes;
  for (const auto inode : change.inodes) {
    mount.absent_capabilities.forget(inode);
    mount.last_known.changed(inode);
    mount.known_acls.forget(inode);
    nodes.push_back(mount.nodes.node(inode));
  }
  mount.invalidator.forget_attributes(std::move(nodes), set_from_thread(&Progress::attributes));

  std::set<InodeId> directories;
  std::vector<Invalidator::Name> names;
  for (auto& name : change.names) {
    if (name.parent == kRootInode) mount.last_known.forget_channel(name.name);
    directories.insert(name.parent);
    names.push_back({mount.nodes.node(name.parent), std::move(name.name)});
  }
  const bool is_busy = mount.invalidator.has_names_to_forget() ||
                       std::any_of(directories.begin(), directories.end(),
                                   [&mount](InodeId directory) { return mount.busy.contains(directory); });
  progress->names = names.empty() || is_busy;
  if (is_busy) {
    mount.invalidator.forget_names_later(std::move(names));
  } else if (!names.empty()) {
    mount.busy.watch(std::move(directories), [set] { set(&Progress::names); });
    mount.invalidator.forget_names(std::move(names), set_from_thread(&Progress::names));
  }

  while (!progress->attributes || !progress->names) {
    const bool woken = co_await progress->event.wait();
    if (!woken) break;
  }
  mount.busy.stop_watching();
}

}  // namespace reelfs::fuse
