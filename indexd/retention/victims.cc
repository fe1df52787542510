#include "indexd/retention/victims.h"

#include "indexd/tree/holds.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

constexpr std::size_t kVictimsAtOnce = 64;
constexpr std::size_t kLooksAtOnce = 4096;  // that step over what must stay

}  // namespace

Result<Victims> remove_victims(Transaction& txn, const VictimsWanted& wanted, WallNs now) {
  Victims found;
  std::vector<Victim> candidates;
  std::size_t looks = 0;
  std::uint64_t bytes = 0;
  Result<void> failed = ok();
  const auto consider = [&](const tree::Recording& recording) -> Result<bool> {
    const bool is_too_old = wanted.older_than_ns && recording.last_ns < *wanted.older_than_ns;
    if (recording.last_ns >= wanted.young_from_ns || (bytes >= wanted.bytes && !is_too_old)) return false;
    if (++looks > kLooksAtOnce || candidates.size() == kVictimsAtOnce) {
      found.more = true;
      return false;
    }
    if (wanted.being_written.contains(recording.inode)) return true;
    REELFS_TRY(const auto inode, tree::get_inode(txn, recording.inode));
    if (inode.row.stored_bytes == 0 && !is_too_old) return true;
    REELFS_TRY(const auto hold, tree::held_by(txn, recording.inode));
    if (hold) return true;
    REELFS_TRY(auto path, tree::path_of(txn, recording.inode));
    bytes += inode.row.stored_bytes;
    candidates.push_back({recording.inode, std::move(path), inode.row.stored_bytes, recording.last_ns, {}});
    return true;
  };
  REELFS_TRY(tree::for_each_recording(txn, wanted.channel, [&](const tree::Recording& recording) {
    auto goes_on = consider(recording);
    if (!goes_on) failed = goes_on.error();
    return goes_on && goes_on.value();
  }));
  REELFS_TRY(std::move(failed));
  for (auto& victim : candidates) {
    REELFS_TRY(auto removed, tree::remove_recording(txn, victim.inode, now));
    victim.removed = std::move(removed);
    found.bytes += victim.bytes;
    found.victims.push_back(std::move(victim));
  }
  return found;
}

}  // namespace reelfs::indexd
