#include "indexd/repair/balance.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace reelfs::indexd {
namespace {

/// Left to those who record.
constexpr std::uint64_t kBlocksLeft = 1;
constexpr std::size_t kMostOffered = 1024;  // by bin

const SegmentCopy* copy_on(const MovableSegment& segment, NodeId node) {
  const auto found = std::find_if(segment.copies.begin(), segment.copies.end(),
                                  [&](const SegmentCopy& copy) { return copy.node == node; });
  return found == segment.copies.end() ? nullptr : &*found;
}

}  // namespace

double BalancePlan::Bin::level() const { return level_with(0); }

double BalancePlan::Bin::level_with(std::int64_t more) const {
  return static_cast<double>(static_cast<std::int64_t>(used) + more) / static_cast<double>(blocks);
}

std::vector<BalancePlan::Bin> BalancePlan::bins_of(std::span<const NodeLoad> nodes) {
  std::vector<Bin> bins;
  for (const auto& node : nodes) {
    if (!node.online() || node.blocks == 0) continue;
    Bin whole;
    whole.node = node.node;
    whole.name = node.name;
    whole.rack = node.rack;
    whole.blocks = node.blocks;
    whole.used = node.blocks - std::min(node.blocks, node.free_blocks);
    whole.takes = !node.suspect && !node.slow && node.free_blocks > kBlocksLeft;
    bins.push_back(whole);
    if (node.devices.size() < 2) continue;
    for (const auto& device : node.devices) {
      if (device.blocks == 0) continue;
      auto bin = whole;
      bin.device = device.device;
      bin.name = fmt::format("device {} of {}", device.device.value, node.name);
      bin.blocks = device.blocks;
      bin.used = device.blocks - std::min(device.blocks, device.free_blocks);
      bin.takes = !node.suspect && !device.slow && device.free_blocks > kBlocksLeft;
      bins.push_back(std::move(bin));
    }
  }
  return bins;
}

/// Two nodes, or two devices of one.
bool BalancePlan::are_peers(const Bin& a, const Bin& b) {
  if (!a.device || !b.device) return !a.device && !b.device && a.node != b.node;
  return a.node == b.node && a.device != b.device;
}

/// They are apart, and still in the same order after a move.
bool BalancePlan::may_move(const Bin& from, const Bin& to) {
  return to.takes && from.used > 0 && to.blocks - to.used > kBlocksLeft && from.level() - to.level() > kEnd &&
         from.level_with(-1) >= to.level_with(1);
}

BalancePlan::BalancePlan(std::span<const NodeLoad> nodes, bool active) : bins_(bins_of(nodes)) {
  for (const auto& node : nodes) racks_[node.node] = node.rack;
  for (std::size_t from = 0; from < bins_.size(); ++from) {
    for (std::size_t to = 0; to < bins_.size(); ++to) {
      if (!are_peers(bins_[from], bins_[to]) || !bins_[to].takes) continue;
      const auto apart = bins_[from].level() - bins_[to].level();
      if (apart <= spread_) continue;
      spread_ = apart;
      farthest_ = {from, to};
    }
  }
  wanted_ = spread_ > (active ? kEnd : kBegin) && may_move(bins_[farthest_.first], bins_[farthest_.second]);
}

std::string BalancePlan::describe() const {
  if (spread_ <= 0) return "all are equally full";
  const auto& [from, to] = farthest_;
  return fmt::format("{} is {:.0f} % full, {} {:.0f} %", bins_[from].name, 100 * bins_[from].level(),
                     bins_[to].name, 100 * bins_[to].level());
}

bool BalancePlan::fits(const Bin& from, const Bin& to, const MovableSegment& segment) const {
  const auto* leaves = copy_on(segment, from.node);
  if (leaves == nullptr || (from.device && leaves->device != from.device)) return false;
  if (from.device) return true;
  if (copy_on(segment, to.node) != nullptr) return false;
  // No rack more may end up with two copies.
  std::set<std::string_view> racks;
  for (const auto& copy : segment.copies) {
    const auto rack = racks_.find(copy.node);
    if (copy.node != from.node && rack != racks_.end() && !rack->second.empty()) racks.insert(rack->second);
  }
  return to.rack.empty() || !racks.contains(to.rack) || (!from.rack.empty() && racks.contains(from.rack));
}

void BalancePlan::offer(MovableSegment segment) {
  if (!wanted_) return;
  for (std::size_t from = 0; from < bins_.size(); ++from) {
    const bool is_useful = std::any_of(bins_.begin(), bins_.end(), [&](const Bin& to) {
      return are_peers(bins_[from], to) && may_move(bins_[from], to) && fits(bins_[from], to, segment);
    });
    if (!is_useful) continue;
    auto& offered = offered_[from];
    offered.emplace(std::pair(segment.sealed_ns, segment.segment), segment);
    if (offered.size() > kMostOffered) offered.erase(offered.begin());
  }
}

std::optional<std::size_t> BalancePlan::find(NodeId node, DeviceId device) const {
  for (std::size_t i = 0; i < bins_.size(); ++i) {
    if (bins_[i].node == node && bins_[i].device == device) return i;
  }
  return std::nullopt;
}

/// Counts a move as done, and withdraws the segment.
void BalancePlan::take(const MovableSegment& segment, std::size_t from, std::size_t to) {
  --bins_[from].used;
  ++bins_[to].used;
  if (!bins_[from].device) {
    const auto* leaves = copy_on(segment, bins_[from].node);
    if (const auto device = find(bins_[from].node, leaves->device); device && leaves->device)
      bins_[*device].used -= std::min<std::uint64_t>(bins_[*device].used, 1);
    // The node puts it where most room is.
    std::optional<std::size_t> roomiest;
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      if (bins_[i].node != bins_[to].node || !bins_[i].device) continue;
      const auto room = [&](std::size_t bin) { return bins_[bin].blocks - bins_[bin].used; };
      if (!roomiest || room(i) > room(*roomiest)) roomiest = i;
    }
    if (roomiest && bins_[*roomiest].used < bins_[*roomiest].blocks) ++bins_[*roomiest].used;
  }
  const std::pair key(segment.sealed_ns, segment.segment);
  for (auto& [bin, offered] : offered_) offered.erase(key);
}

std::vector<CopyMove> BalancePlan::choose(std::size_t most) {
  std::vector<CopyMove> moves;
  std::set<Pair> exhausted;  // no segment fits: nor will one later
  while (wanted_ && moves.size() < most) {
    std::optional<Pair> best;
    double farthest = 0;
    for (std::size_t from = 0; from < bins_.size(); ++from) {
      if (!offered_.contains(from)) continue;
      for (std::size_t to = 0; to < bins_.size(); ++to) {
        if (!are_peers(bins_[from], bins_[to]) || exhausted.contains({from, to})) continue;
        const auto apart = bins_[from].level() - bins_[to].level();
        if (apart <= farthest || !may_move(bins_[from], bins_[to])) continue;
        farthest = apart;
        best = {from, to};
      }
    }
    if (!best) break;
    const auto [from, to] = *best;
    const auto& offered = offered_[from];
    // Of a node's devices the fuller ones first.
    const auto find_one = [&](bool of_full_device) {
      return std::find_if(offered.rbegin(), offered.rend(), [&](const auto& entry) {
        if (!fits(bins_[from], bins_[to], entry.second)) return false;
        const auto device = find(bins_[from].node, copy_on(entry.second, bins_[from].node)->device);
        return !of_full_device || !device || bins_[*device].level() >= bins_[from].level();
      });
    };
    auto found = find_one(true);
    if (found == offered.rend()) found = find_one(false);
    if (found == offered.rend()) {
      exhausted.insert(*best);
      continue;
    }
    const auto segment = found->second;
    CopyMove move;
    move.segment = segment.segment;
    move.length = segment.length;
    move.from = bins_[from].node;
    move.to = bins_[to].node;
    move.device = bins_[to].device;
    take(segment, from, to);
    moves.push_back(move);
  }
  return moves;
}

bool BalancePlan::is_useful(const CopyMove& move, const MovableSegment& segment,
                            std::span<const NodeLoad> nodes) {
  const BalancePlan now(nodes, true);
  const auto* leaves = copy_on(segment, move.from);
  if (leaves == nullptr) return false;
  const auto from = now.find(move.from, move.device ? leaves->device : DeviceId());
  const auto to = now.find(move.to, move.device);
  return from && to && may_move(now.bins_[*from], now.bins_[*to]) &&
         are_peers(now.bins_[*from], now.bins_[*to]) && now.fits(now.bins_[*from], now.bins_[*to], segment);
}

}  // namespace reelfs::indexd
