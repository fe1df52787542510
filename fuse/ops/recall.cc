#include "fuse/ops/recall.h"

#include <string>

#include "common/async/timeout.h"

namespace reelfs::fuse {
namespace {

using namespace std::chrono_literals;

/// What df shows without asking is no older while the index answers.
constexpr auto kInterval = 1s;
/// How long the last known attributes are held back where nothing suggests that they have changed.
constexpr auto kShortPatience = 3ms;
/// Channels come and go rarely; those that are used here are remembered anyway.
constexpr unsigned kIntervalsPerListing = 10;
constexpr std::uint32_t kMostChannels = 1024;  // of one answer

Task<client::DirectoryPage> ask_channels(Mount& mount) {
  REELFS_CO_TRY(auto page, co_await mount.files.read_directory(mount.nodes.root(), 0, kMostChannels));
  for (const auto& entry : page.entries) mount.last_known.note_channel(entry.name, entry.attributes);
  co_return std::move(page);
}

}  // namespace

Task<client::Space> ask_space(Mount& mount, InodeId inode) {
  REELFS_CO_TRY(const auto space, co_await mount.files.statfs(inode));
  mount.last_known.note_space(inode, mount.nodes.root(), space);
  co_return space;
}

Task<client::Attributes> ask_attributes(Mount& mount, InodeId inode) {
  REELFS_CO_TRY(const auto attributes, co_await mount.files.get_attributes(inode));
  if (inode == mount.nodes.root() || attributes.channel == inode) mount.last_known.note(attributes);
  co_return attributes;
}

Task<client::Found> ask_channel(Mount& mount, std::string name) {
  auto found = co_await mount.files.find(kRootInode, name);
  if (!found) co_return std::move(found);
  if (const auto& attributes = found.value().attributes) {
    mount.last_known.note_channel(name, *attributes);
  } else {
    mount.last_known.forget_channel(name);
  }
  co_return std::move(found);
}

Task<client::Attributes> find_attributes(Mount& mount, InodeId inode) {
  auto known = mount.last_known.attributes(inode);
  if (!known) co_return co_await ask_attributes(mount, inode);
  const bool is_likely = inode == mount.nodes.root() && mount.last_known.is_current(inode);
  const auto patience = is_likely ? kShortPatience : LastKnown::kSilence;
  co_return co_await ask_or_recall(mount, ask_attributes(mount, inode), patience, std::move(known));
}

Operation keep_asking(Mount& mount) {
  for (unsigned count = 0;; ++count) {
    const auto root = mount.nodes.root();
    // Whoever asks for either tells of an error, and it is asked again.
    [[maybe_unused]] const auto space = co_await ask(mount, ask_space(mount, root));
    [[maybe_unused]] const auto attributes = co_await ask(mount, ask_attributes(mount, root));
    if (root == kRootInode && count % kIntervalsPerListing == 0) {
      [[maybe_unused]] const auto channels = co_await ask(mount, ask_channels(mount));
    }
    co_await sleep_for(kInterval);
  }
}

}  // namespace reelfs::fuse
