#include "client/leased.h"

#include <cstdint>
#include <utility>

namespace reelfs::client {
namespace {

/// No lease is longer.
constexpr Duration kLongestLease = std::chrono::seconds(15);

}  // namespace

void Leased::turn() {
  const auto now = clock_.now();
  if (now - turned_ < kLongestLease) return;
  const bool is_old = now - turned_ >= 2 * kLongestLease;
  old_ = is_old ? Generation() : std::move(young_);
  young_ = {};
  turned_ = now;
}

void Leased::note(InodeId inode) {
  turn();
  if (young_.inodes.size() < kMax) {
    young_.inodes.insert(inode);
  } else {
    young_.full = true;
  }
}

void Leased::note(InodeId directory, const std::string& name) {
  turn();
  if (young_.names.size() < kMax) {
    young_.names.insert(std::to_string(directory.value) + '/' + name);
  } else {
    young_.full = true;
  }
}

Change Leased::all() const {
  Change change;
  change.everything = young_.full || old_.full;
  std::unordered_set<InodeId> inodes = young_.inodes;
  inodes.insert(old_.inodes.begin(), old_.inodes.end());
  change.inodes.assign(inodes.begin(), inodes.end());
  for (const auto* generation : {&young_, &old_}) {
    for (const auto& name : generation->names) {
      const auto slash = name.find('/');
      const InodeId directory{std::stoull(name)};
      change.names.push_back({directory, name.substr(slash + 1)});
    }
  }
  return change;
}

void Leased::clear() {
  young_ = {};
  old_ = {};
}

}  // namespace reelfs::client
