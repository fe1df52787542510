#include "client/segment_locations.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

namespace reelfs::client {
namespace {
constexpr std::size_t kMaxSegments = 16 * 1024;
constexpr Duration kSuspicion = std::chrono::seconds(5);
}  // namespace

void SegmentLocations::learn(SegmentId segment, std::vector<WorkerAddress> workers) {
  if (workers.empty()) return;
  if (segments_.size() >= kMaxSegments && !segments_.contains(segment)) segments_.clear();
  segments_[segment].workers = std::move(workers);
}

void SegmentLocations::forget(SegmentId segment) { segments_.erase(segment); }

std::vector<WorkerAddress> SegmentLocations::order(SegmentId segment, TimePoint now) {
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return {};
  const auto& [workers, last_good] = found->second;
  std::vector<NodeId> nodes;
  for (const auto& worker : workers) {
    if (std::find(nodes.begin(), nodes.end(), worker.node) == nodes.end()) nodes.push_back(worker.node);
  }
  ++turn_;
  struct Rank {
    std::size_t round;  // how many workers of the same node come before
    bool suspect;
    bool not_last_good;
    std::size_t place;
    WorkerAddress worker;
  };
  std::vector<Rank> ranks;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    std::vector<WorkerAddress> mine;
    std::copy_if(workers.begin(), workers.end(), std::back_inserter(mine),
                 [&](const WorkerAddress& worker) { return worker.node == nodes[n]; });
    std::rotate(mine.begin(), mine.begin() + static_cast<std::ptrdiff_t>(turn_ % mine.size()), mine.end());
    const auto failure = failures_.find(nodes[n]);
    const bool suspect = failure != failures_.end() && now - failure->second < kSuspicion;
    const auto place = (n + turn_ / 2) % nodes.size();
    for (std::size_t i = 0; i < mine.size(); ++i) {
      ranks.push_back({i, suspect, nodes[n] != last_good, place, std::move(mine[i])});
    }
  }
  std::sort(ranks.begin(), ranks.end(), [](const Rank& a, const Rank& b) {
    return std::tie(a.suspect, a.round, a.not_last_good, a.place) <
           std::tie(b.suspect, b.round, b.not_last_good, b.place);
  });
  std::vector<WorkerAddress> ordered;
  for (auto& rank : ranks) ordered.push_back(std::move(rank.worker));
  return ordered;
}

void SegmentLocations::succeeded(SegmentId segment, NodeId node) {
  const auto found = segments_.find(segment);
  if (found != segments_.end()) found->second.last_good = node;
  failures_.erase(node);
}

void SegmentLocations::failed(NodeId node, TimePoint now) { failures_[node] = now; }

}  // namespace reelfs::client
