#include "indexd/placement/placer.h"

#include <algorithm>
#include <bit>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "common/base/assert.h"

namespace reelfs::indexd {

namespace {

std::string names_of(const std::vector<const NodeLoad*>& nodes) {
  constexpr std::size_t kMost = 8;
  std::string text;
  for (std::size_t i = 0; i < nodes.size() && i < kMost; ++i) {
    if (i > 0) text += ", ";
    text += nodes[i]->name;
  }
  if (nodes.size() > kMost) text += fmt::format(" and {} more", nodes.size() - kMost);
  return text;
}

Error too_few_online(std::span<const NodeLoad> nodes, std::uint32_t copies) {
  std::vector<const NodeLoad*> offline;
  for (const auto& node : nodes) {
    if (!node.online()) offline.push_back(&node);
  }
  if (nodes.empty()) return Error(Errc::unavailable, "no storage node is online: none has registered yet");
  const auto online = nodes.size() - offline.size();
  if (online == 0) {
    return Error(Errc::unavailable, fmt::format("no storage node is online: {} of {} silent ({})",
                                                offline.size(), nodes.size(), names_of(offline)));
  }
  auto text = fmt::format("{} copies need as many storage nodes, and {} of {} {} online", copies, online,
                          nodes.size(), online == 1 ? "is" : "are");
  if (!offline.empty()) text += fmt::format("; silent: {}", names_of(offline));
  return Error(Errc::unavailable, std::move(text));
}

}  // namespace

struct Placer::Candidate {
  const NodeLoad* node;
  double weight;
  std::uint64_t free_blocks;  // less those planned here
  bool avoided;
  bool used_before;  // by a segment of the same request
};

Result<std::vector<SegmentPlace>> Placer::place(std::span<const NodeLoad> nodes,
                                                const PlacementRequest& request) {
  REELFS_ASSERT(request.copies >= 1 && request.grants >= 1);
  const auto least = request.min_copies == 0 ? request.copies : std::min(request.min_copies, request.copies);
  std::vector<Candidate> candidates;
  std::vector<const NodeLoad*> full;
  std::uint32_t good = 0, good_and_full = 0;
  for (const auto& node : nodes) {
    if (!node.online()) continue;
    const bool avoided = node.suspect || std::find(request.avoid.begin(), request.avoid.end(), node.node) !=
                                             request.avoid.end();
    if (node.free_blocks == 0) {
      full.push_back(&node);
      good_and_full += avoided ? 0 : 1;
      continue;
    }
    good += avoided ? 0 : 1;
    std::uint64_t waiting = 0;
    for (const auto& worker : node.workers) waiting += worker.appends_in_flight;
    const auto per_worker = static_cast<double>(waiting) / static_cast<double>(node.workers.size());
    const auto weight = static_cast<double>(node.free_blocks) / (1.0 + per_worker / 16.0);
    candidates.push_back({&node, weight, node.free_blocks, avoided, false});
  }
  if (candidates.size() + full.size() < least) return too_few_online(nodes, least);
  const bool is_full = good < request.copies && good + good_and_full >= request.copies;
  if (candidates.size() < (is_full ? request.copies : least)) {
    return Error(
        Errc::no_space,
        fmt::format("{} copies need as many nodes with a free block, and {} of {} online have one; full: {}",
                    request.copies, candidates.size(), candidates.size() + full.size(), names_of(full)));
  }
  const auto of_spare = std::min(request.copies, good);
  const bool may_be_spare = of_spare >= std::max(least, std::min(2u, request.copies));
  if (request.ahead && !may_be_spare)
    return Error(Errc::unavailable, fmt::format("{} nodes are good: too few for a spare", good));
  // Credit of nodes that are gone must not pile up.
  std::erase_if(credit_, [&](const auto& entry) {
    return std::none_of(nodes.begin(), nodes.end(), [&](const NodeLoad& n) { return n.node == entry.first; });
  });
  std::erase_if(turn_, [&](const auto& entry) { return !credit_.contains(entry.first); });

  std::vector<SegmentPlace> places;
  while (places.size() < request.grants) {
    const bool is_spare = request.ahead || !places.empty();
    if (is_spare && !may_be_spare) break;
    const bool good_only = is_spare || (good >= least && !is_full);
    const auto copies = good_only ? of_spare : std::min<std::size_t>(request.copies, candidates.size());
    double total = 0;
    for (const auto& candidate : candidates) total += candidate.weight;
    for (const auto& candidate : candidates) {
      auto& credit = credit_[candidate.node->node];
      // Bounded, so that a node which was avoided for long is not flooded afterwards.
      credit = std::clamp(credit + candidate.weight * request.copies, -4 * total, 4 * total);
    }
    std::vector<Candidate*> chosen;
    std::set<std::string_view> racks;
    while (chosen.size() < copies) {
      Candidate* best = nullptr;
      const auto rank = [&](const Candidate& c) {
        const bool same_rack = !c.node->rack.empty() && racks.contains(c.node->rack);
        return std::tuple(c.avoided, same_rack, c.used_before, -credit_[c.node->node], c.node->node);
      };
      for (auto& candidate : candidates) {
        if (candidate.free_blocks == 0 || (good_only && candidate.avoided)) continue;
        if (std::find(chosen.begin(), chosen.end(), &candidate) != chosen.end()) continue;
        if (best == nullptr || rank(candidate) < rank(*best)) best = &candidate;
      }
      if (best == nullptr) break;
      chosen.push_back(best);
      racks.insert(best->node->rack);
    }
    if (chosen.size() < copies) break;  // space ran out: those before are given all the same
    SegmentPlace place;
    for (auto* candidate : chosen) {
      credit_[candidate->node->node] -= total;
      candidate->used_before = true;
      --candidate->free_blocks;
      place.push_back({candidate->node->node, next_worker(*candidate->node)});
    }
    places.push_back(std::move(place));
  }
  return places;
}

WorkerId Placer::next_worker(const NodeLoad& node) {
  // Queues of about the same length (within a factor of two) count as equal: the figures are a heartbeat old.
  const auto busy = [](const WorkerLoad& worker) { return std::bit_width(worker.appends_in_flight); };
  const auto least = busy(*std::min_element(node.workers.begin(), node.workers.end(),
                                            [&](const auto& a, const auto& b) { return busy(a) < busy(b); }));
  std::vector<WorkerId> equal;
  for (const auto& worker : node.workers) {
    if (busy(worker) == least) equal.push_back(worker.worker);
  }
  return equal[turn_[node.node]++ % equal.size()];
}

}  // namespace reelfs::indexd
