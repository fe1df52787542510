#include "indexd/repair/plan.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <tuple>

namespace reelfs::indexd {
namespace {

/// Left to those who record.
constexpr std::uint64_t kBlocksLeft = 1;

bool is_within_reach(CopyStanding standing) {
  return standing == CopyStanding::whole || standing == CopyStanding::leaving;
}

NodeId first_that(const SegmentStanding& segment, CopyStanding standing) {
  const auto found = std::find_if(segment.copies.begin(), segment.copies.end(),
                                  [&](const auto& copy) { return copy.standing == standing; });
  return found == segment.copies.end() ? NodeId() : found->node;
}

}  // namespace

std::uint32_t SegmentStanding::within_reach() const {
  return static_cast<std::uint32_t>(std::count_if(
      copies.begin(), copies.end(), [](const Copy& copy) { return is_within_reach(copy.standing); }));
}

RepairStep RepairPlan::next_step(const SegmentStanding& segment) {
  RepairStep step;
  if (segment.within_reach() == 0) return step;
  auto goes = first_that(segment, CopyStanding::lost);
  if (!goes) goes = first_that(segment, CopyStanding::leaving);
  const bool too_few = segment.copies.size() < segment.wanted;
  if (!goes && !too_few) return step;
  switch (segment.state) {
    case SegmentState::sealed:
      step.kind = RepairStep::Kind::add;
      step.instead_of = goes;
      return step;
    case SegmentState::open:  // where it is too few, its writer goes on: it could get no more
      if (goes) step.kind = RepairStep::Kind::finish;
      return step;
    case SegmentState::unfilled:
      step.kind = RepairStep::Kind::finish;
      return step;
    case SegmentState::allocating:
    case SegmentState::freeing:
      return step;
  }
  return step;
}

bool RepairPlan::is_more_urgent(const RepairNeed& a, const RepairNeed& b) {
  const auto rank = [](const RepairNeed& need) {
    return std::tuple(need.leaving_only, need.within_reach, need.sealed_ns, need.segment);
  };
  return rank(a) < rank(b);
}

std::optional<CopyPlace> RepairPlan::choose_place(const SegmentStanding& segment, NodeId instead_of,
                                                  std::span<const NodeLoad> nodes,
                                                  const std::map<NodeId, std::uint32_t>& making) {
  std::set<std::string_view> racks;
  for (const auto& copy : segment.copies) {
    if (copy.node == instead_of) continue;
    const auto load =
        std::find_if(nodes.begin(), nodes.end(), [&](const auto& node) { return node.node == copy.node; });
    if (load != nodes.end() && !load->rack.empty()) racks.insert(load->rack);
  }
  const auto rank = [&](const NodeLoad& node) {
    const auto made = making.find(node.node);
    const auto at_work = made == making.end() ? 0 : made->second;
    return std::tuple(racks.contains(node.rack), at_work, UINT64_MAX - node.free_blocks, node.node);
  };
  const NodeLoad* best = nullptr;
  for (const auto& node : nodes) {
    const bool has_one = std::any_of(segment.copies.begin(), segment.copies.end(),
                                     [&](const auto& copy) { return copy.node == node.node; });
    if (has_one || !node.online() || node.suspect || node.free_blocks <= kBlocksLeft) continue;
    if (best == nullptr || rank(node) < rank(*best)) best = &node;
  }
  if (best == nullptr) return std::nullopt;
  const auto worker = std::min_element(
      best->workers.begin(), best->workers.end(),
      [](const auto& a, const auto& b) { return a.appends_in_flight < b.appends_in_flight; });
  return CopyPlace{best->node, worker->worker};
}

}  // namespace reelfs::indexd
