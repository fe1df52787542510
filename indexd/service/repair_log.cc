#include "indexd/service/repair_log.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/node_registry.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMostWaiting = 10'000;  // while the index cannot store them
constexpr std::size_t kStoredAtOnce = 1000;
constexpr std::size_t kMostKnown = 4096;  // segments of which something was noted that is not to be repeated
constexpr std::size_t kDetails = 300;     // bytes
constexpr std::size_t kLooked = 4096;     // entries in one page, of which few may be wanted
constexpr std::uint32_t kMostListed = 1024;
constexpr Duration kLookEvery = 1s;
/// After a start whoever lives has been heard by then.
constexpr Duration kPatience = 5s;

spdlog::logger& log() {
  static auto& instance = logger("indexd.repair");
  return instance;
}

RepairLogRow of_node(RepairEvent event, NodeId node) {
  RepairLogRow row;
  row.event = event;
  row.node = node;
  return row;
}

}  // namespace

RepairLog::RepairLog(asio::any_io_executor executor, const Clock& clock, Executor& index,
                     const NodeRegistry& nodes, std::uint64_t kept)
    : clock_(clock), index_(index), nodes_(nodes), kept_(kept), group_(std::move(executor)) {}

void RepairLog::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::read_repair_log, *this, &RepairLog::read);
}

Task<void> RepairLog::start() {
  struct Read {
    std::uint64_t last = 0;
    std::uint64_t oldest = 1;
    std::vector<RepairLogRow> newest;  // newest first
  };
  auto read = [](const View& view) -> Result<Read> {
    Read found;
    REELFS_TRY(view.scan_table<RepairLogKey>([&](const RepairLogKey& key, const RepairLogRow&) {
      found.oldest = key.number;
      return false;
    }));
    REELFS_TRY(view.scan_back(RepairLogKey{0}, RepairLogKey{UINT64_MAX},
                              [&](const RepairLogKey& key, RepairLogRow row) {
                                found.last = std::max(found.last, key.number);
                                found.newest.push_back(std::move(row));
                                return found.newest.size() < kLooked;
                              }));
    return found;
  };
  REELFS_CO_TRY(const auto found, co_await index_.read(std::move(read)));
  last_ = found.last;
  oldest_ = found.oldest;
  for (const auto& row : found.newest) {
    switch (row.event) {
      case RepairEvent::node_away:
      case RepairEvent::node_back:
        online_.emplace(row.node, row.event == RepairEvent::node_back);
        break;
      case RepairEvent::device_away:
      case RepairEvent::device_back:
        serving_.emplace(row.device, row.event == RepairEvent::device_back);
        break;
      default:
        break;
    }
  }
  started_ = clock_.now();
  group_.spawn(write());
  co_return ok();
}

asio::awaitable<void> RepairLog::stop() { co_await group_.stop(); }

void RepairLog::note(RepairLogRow event) {
  const std::pair copy(event.segment, event.node);
  if (event.event == RepairEvent::copy_made || event.event == RepairEvent::copy_completed) {
    failures_.erase(event.segment);
    behind_.erase(copy);
  } else if (event.event == RepairEvent::copy_behind) {
    if (behind_.size() >= kMostKnown) behind_.clear();
    if (!behind_.insert(copy).second) return;
  }
  if (waiting_.size() >= kMostWaiting) return;
  event.at_ns = clock_.wall().time_since_epoch().count();
  event.details.resize(std::min(event.details.size(), kDetails));
  waiting_.push_back(std::move(event));
  work_there_.set();
}

void RepairLog::note_failure(SegmentId segment, NodeId node, const Error& why) {
  auto reason = why.describe();
  const auto known = failures_.find(segment);
  if (known != failures_.end() && known->second == reason) return;
  if (known == failures_.end() && failures_.size() >= kMostKnown) failures_.clear();
  failures_[segment] = reason;
  auto row = of_node(RepairEvent::copy_failed, node);
  row.segment = segment;
  row.details = std::move(reason);
  note(std::move(row));
}

void RepairLog::situation_changed() {
  const bool all_heard = clock_.now() - started_ >= kPatience;
  for (const auto& node : nodes_.list()) {
    const NodeId id{node.node()};
    const bool is_online = node.state() != wire::STATE_OFFLINE;
    const auto was_online = online_.emplace(id, true).first;
    // A node that is on its way after the index's start did not go away.
    if (is_online) heard_.insert(id);
    const bool is_sure = is_online || all_heard || heard_.contains(id);
    if (is_sure && std::exchange(was_online->second, is_online) != is_online)
      note(of_node(is_online ? RepairEvent::node_back : RepairEvent::node_away, id));
    // What its devices do is known only of a node that answers.
    if (!is_online) continue;
    for (const auto& device : node.devices()) {
      if (device.device() == 0 || device.state() == wire::STATE_BLANK) continue;
      const bool serves = device.state() == wire::STATE_ONLINE;
      const auto served = serving_.emplace(DeviceId{device.device()}, true).first;
      if (std::exchange(served->second, serves) == serves) continue;
      auto row = of_node(serves ? RepairEvent::device_back : RepairEvent::device_away, id);
      row.device = served->first;
      row.details = serves ? device.path() : device.path() + ": " + device.reason();
      note(std::move(row));
    }
  }
}

// ---- storing

asio::awaitable<void> RepairLog::write() {
  for (;;) {
    (void)co_await with_timeout(clock_, Deadline::after(clock_, kLookEvery), wait_for(work_there_));
    situation_changed();
    if (waiting_.empty()) continue;
    const auto count = std::min(waiting_.size(), kStoredAtOnce);
    const std::vector<RepairLogRow> events(waiting_.begin(),
                                           waiting_.begin() + static_cast<std::ptrdiff_t>(count));
    if (const auto stored = co_await store(events); !stored) {
      log().warn("repair log not written why=\"{}\"", stored.error().describe());
      continue;
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(count));
    if (!waiting_.empty()) work_there_.set();
  }
}

Task<void> RepairLog::store(const std::vector<RepairLogRow>& events) {
  const auto last = last_ + events.size();
  const auto oldest = std::max(oldest_, last >= kept_ ? last - kept_ + 1 : 1);
  auto change = [first = last_ + 1, from = oldest_, oldest, events](Transaction& txn) -> Result<void> {
    for (std::size_t i = 0; i < events.size(); ++i) txn.put(RepairLogKey{first + i}, events[i]);
    for (auto number = from; number < oldest; ++number) txn.erase(RepairLogKey{number});
    return ok();
  };
  REELFS_CO_TRY(co_await index_.run(std::move(change)));
  last_ = last;
  oldest_ = oldest;
  co_return ok();
}

// ---- reading

Task<wire::ReadRepairLogReply> RepairLog::read(wire::ReadRepairLogRequest request) {
  NodeId wanted;
  if (!request.node().empty()) {
    REELFS_CO_TRY(wanted, nodes_.find(request.node()));
  }
  struct Found {
    std::vector<std::pair<std::uint64_t, RepairLogRow>> entries;
    std::uint64_t next_below = 0;
  };
  const auto limit = request.limit() == 0 ? kMostListed : std::min(request.limit(), kMostListed);
  const auto below = request.below() == 0 ? UINT64_MAX : request.below();
  auto read = [segment = SegmentId{request.segment()}, since = request.since_ns(), limit, below,
               wanted](const View& view) -> Result<Found> {
    Found found;
    std::size_t looked = 0;
    REELFS_TRY(
        view.scan_back(RepairLogKey{0}, RepairLogKey{below}, [&](const RepairLogKey& key, RepairLogRow row) {
          if (row.at_ns < since) {
            found.next_below = 0;
            return false;
          }
          found.next_below = key.number;
          const bool of_node = !wanted || row.node == wanted || row.other == wanted;
          if (of_node && (!segment || row.segment == segment))
            found.entries.emplace_back(key.number, std::move(row));
          return found.entries.size() < limit && ++looked < kLooked;
        }));
    if (looked < kLooked && found.entries.size() < limit) found.next_below = 0;
    return found;
  };
  REELFS_CO_TRY(const auto found, co_await index_.read(std::move(read)));
  wire::ReadRepairLogReply reply;
  reply.set_next_below(found.next_below);
  for (const auto& [number, row] : found.entries) {
    auto& entry = *reply.add_entries();
    entry.set_number(number);
    entry.set_at_ns(row.at_ns);
    entry.set_event(static_cast<wire::RepairEvent>(row.event));
    entry.set_segment(row.segment.value);
    entry.set_node(row.node.value);
    if (row.node) entry.set_node_name(nodes_.name(row.node));
    entry.set_other(row.other.value);
    if (row.other) entry.set_other_name(nodes_.name(row.other));
    entry.set_device(row.device.value);
    entry.set_bytes(row.bytes);
    entry.set_details(row.details);
  }
  co_return reply;
}

}  // namespace reelfs::indexd
