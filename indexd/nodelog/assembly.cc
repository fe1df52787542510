#include "indexd/nodelog/assembly.h"

#include <algorithm>
#include <compare>
#include <map>
#include <tuple>
#include <utility>

namespace reelfs::indexd {

namespace {

struct Checkpoint {
  std::map<std::uint64_t, std::size_t> pieces;  // by their numbers
  std::uint64_t total = 0;                      // 0: its last piece is missing
  std::uint64_t needed_index = 0;
  bool whole() const { return total != 0 && pieces.size() == total; }
};

struct Group {
  std::uint64_t last_index = 0;
  std::map<std::uint64_t, std::size_t> pieces;  // by their offsets
};

struct GroupKey {
  std::uint64_t first_index;
  std::uint64_t last_index;
  std::uint64_t total;
  friend auto operator<=>(const GroupKey&, const GroupKey&) = default;
};

/// What is there of one journal.
struct Journal {
  /// By epoch, index and number.
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>, Checkpoint> checkpoints;
  std::map<std::uint64_t, std::map<GroupKey, Group>> collected;    // by epoch
  std::map<std::uint64_t, std::map<std::uint64_t, Group>> groups;  // whole, by epoch and first index
};

bool is_whole(const Group& group, std::uint64_t total, std::span<const PieceHeader> pieces) {
  std::uint64_t reached = 0;
  for (const auto& [offset, piece] : group.pieces) {
    if (offset != reached) return false;
    reached += pieces[piece].bytes;
  }
  return reached == total;
}

/// The group that has this entry: of the latest reign that has any entry up to it, or none.
struct Found {
  const Group* group = nullptr;
  std::uint64_t upto = 0;
};
Found find_entry(const Journal& journal, std::uint64_t from_epoch, std::uint64_t index) {
  std::uint64_t before = UINT64_MAX;  // the first entry of a later reign
  for (auto reign = journal.groups.rbegin(); reign != journal.groups.rend() && reign->first >= from_epoch;
       ++reign) {
    const auto& groups = reign->second;
    if (groups.empty()) continue;
    const auto next = groups.upper_bound(index);
    if (next != groups.begin()) {
      const auto& group = std::prev(next)->second;
      if (group.last_index < index)
        return {};  // a gap; what earlier reigns have of it does not count any more
      return {&group, std::min(group.last_index, before - 1)};
    }
    before = std::min(before, next->first);
  }
  return {};
}

}  // namespace

std::optional<RebuildPlan> plan_rebuild(std::span<const PieceHeader> pieces) {
  std::map<std::uint32_t, Journal> journals;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto& piece = pieces[i];
    auto& journal = journals[piece.salt];
    if (static_cast<PieceKind>(piece.kind) == PieceKind::checkpoint) {
      auto& checkpoint = journal.checkpoints[{piece.epoch, piece.first_index, piece.number}];
      if (piece.total != 0) {
        checkpoint.total = piece.total;
        checkpoint.needed_index = piece.last_index;
      }
      checkpoint.pieces.emplace(piece.offset, i);
    } else {
      auto& group = journal.collected[piece.epoch][{piece.first_index, piece.last_index, piece.total}];
      group.last_index = piece.last_index;
      group.pieces.emplace(piece.offset, i);
    }
  }
  std::optional<RebuildPlan> best;
  for (auto& [salt, journal] : journals) {
    for (const auto& [epoch, collected] : journal.collected) {
      for (const auto& [key, group] : collected) {
        if (!is_whole(group, key.total, pieces)) continue;
        auto& kept = journal.groups[epoch][key.first_index];
        if (group.last_index > kept.last_index) kept = group;
      }
    }
    for (auto at = journal.checkpoints.rbegin(); at != journal.checkpoints.rend(); ++at) {
      const auto& [key, checkpoint] = *at;
      const auto epoch = std::get<0>(key);
      if (!checkpoint.whole()) continue;
      RebuildPlan plan;
      plan.salt = salt;
      plan.checkpoint = {Epoch{epoch}, std::get<1>(key)};
      plan.needed_index = checkpoint.needed_index;
      plan.last_index = plan.checkpoint.index;
      for (const auto& [number, piece] : checkpoint.pieces) plan.rows.push_back(piece);
      for (;;) {
        const auto found = find_entry(journal, epoch, plan.last_index + 1);
        if (found.group == nullptr) break;
        RebuildPlan::Entries entries;
        entries.first_index = plan.last_index + 1;
        entries.last_index = found.upto;
        for (const auto& [offset, piece] : found.group->pieces) entries.pieces.push_back(piece);
        plan.last_index = found.upto;
        plan.entries.push_back(std::move(entries));
      }
      if (plan.last_index < plan.needed_index) continue;
      if (!journal.groups.empty() && !journal.groups.rbegin()->second.empty()) {
        const auto newest = std::prev(journal.groups.rbegin()->second.end())->second.last_index;
        if (newest > plan.last_index) plan.behind_gap_index = newest;
      }
      const auto rank = [](const RebuildPlan& of) {
        return std::pair(of.checkpoint.epoch, of.checkpoint.index);
      };
      if (!best || rank(plan) > rank(*best)) best = std::move(plan);
      break;  // of this journal there is no better one
    }
  }
  return best;
}

}  // namespace reelfs::indexd
