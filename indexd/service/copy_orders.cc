#include "indexd/service/copy_orders.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/base/units.h"
#include "common/observe/log.h"
#include "indexd/service/counter.h"
#include "indexd/service/node_registry.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

/// Of one order: a recorder's append that comes meanwhile waits for no more than some of it.
constexpr std::uint64_t kPieceBytes = 8 * kMiB;
constexpr std::size_t kMostAtOnce = 4;
constexpr int kMostTries = 4;  // without getting on
constexpr Duration kPause = 100ms;
/// So many times as long a piece takes where recorders' appends queue up.
constexpr int kRepairSlower = 4;
constexpr int kBalanceSlower = 16;
constexpr Duration kSlotLook = 1s;  // nodes come and go while one waits for a slot

spdlog::logger& log() {
  static auto& instance = logger("indexd.repair");
  return instance;
}

/// Whether the same order may succeed in a moment.
bool passes(Errc code) { return code == Errc::busy || code == Errc::timed_out || code == Errc::unavailable; }

}  // namespace

/// One of those that are made at once, until it goes out of scope.
class CopyOrders::Slot {
 public:
  Slot(CopyOrders& orders, CopyOrder order, WorkerId worker)
      : orders_(orders),
        at_(orders.under_way_.insert(orders.under_way_.end(),
                                     UnderWay{std::move(order), worker, 0, orders.clock_.now()})) {}
  ~Slot() {
    orders_.under_way_.erase(at_);
    orders_.slot_free_.notify_all();
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  UnderWay& copy() { return *at_; }

 private:
  CopyOrders& orders_;
  const std::list<UnderWay>::iterator at_;
};

CopyOrders::CopyOrders(const Clock& clock, NodeRegistry& nodes, const ServiceOptions& options,
                       prometheus::Registry& registry)
    : clock_(clock),
      nodes_(nodes),
      pace_(options.repair_rate, kRepairSlower),
      balance_pace_(std::max<std::uint64_t>(options.rebalance_rate, 1), kBalanceSlower),
      copied_bytes_(counter(registry, "reelfs_indexd_repair_copied_bytes_total",
                            "Bytes that nodes wrote to make copies of segments whole.")),
      copies_(
          counter(registry, "reelfs_indexd_repair_copies_total", "Copies of segments that were made whole.")),
      failures_(counter(registry, "reelfs_indexd_repair_failures_total",
                        "Attempts to make a copy of a segment whole that failed.")) {}

/// None: all that answer are making one.
WorkerId CopyOrders::free_worker(const CopyOrder& order) const {
  for (const auto& address : nodes_.workers(order.node, order.worker)) {
    const WorkerId worker{address.worker()};
    const bool busy = std::any_of(under_way_.begin(), under_way_.end(), [&](const UnderWay& copy) {
      return copy.order.node == order.node && copy.worker == worker;
    });
    if (!busy) return worker;
  }
  return {};
}

std::uint32_t CopyOrders::appends_waiting(const CopyOrder& order) const {
  std::uint32_t most = 0;
  for (const auto& load : nodes_.loads()) {
    const bool takes_part = load.node == order.node ||
                            std::any_of(order.sources.begin(), order.sources.end(),
                                        [&](const SegmentCopy& source) { return source.node == load.node; });
    if (!takes_part) continue;
    for (const auto& worker : load.workers) most = std::max(most, worker.appends_in_flight);
  }
  return most;
}

/// One piece.
Task<wire::CopySegmentReply> CopyOrders::give(UnderWay& copy) {
  const auto& order = copy.order;
  auto request = std::make_shared<wire::CopySegmentRequest>();
  request->set_segment(order.segment.value);
  request->set_generation(order.generation.value);
  request->set_channel(order.channel.value);
  request->set_length(order.length);
  request->set_most_bytes(kPieceBytes);
  request->set_device(order.device.value);
  for (const auto& source : order.sources) {
    if (!nodes_.reachable(source.node, source.device)) continue;
    auto addresses = nodes_.workers(source.node, source.worker);
    if (!addresses.empty()) *request->add_sources() = std::move(addresses.front());
  }
  if (request->sources().empty()) co_return Error(Errc::unavailable, "no copy is within reach to copy from");
  const auto reply = co_await nodes_.call(order.node, copy.worker, wire::Method::copy_segment, request);
  if (!reply) co_return reply.error();
  wire::CopySegmentReply message;
  if (!message.ParseFromString(reply.value().message))
    co_return Error(Errc::protocol, "reply does not parse");
  co_return std::move(message);
}

Task<BlockPlace> CopyOrders::carry_out(CopyOrder order) {
  WorkerId worker;
  for (;;) {
    if (!nodes_.online(order.node))
      co_return Error(Errc::unavailable, fmt::format("node {} is offline", nodes_.name(order.node)));
    if (under_way_.size() < kMostAtOnce) worker = free_worker(order);
    if (worker) break;
    const auto changed = co_await slot_free_.wait(clock_, Deadline::after(clock_, kSlotLook));
    if (!changed && changed.error().code() == Errc::cancelled) co_return changed.error();
  }
  Slot slot(*this, std::move(order), worker);
  auto& copy = slot.copy();
  for (int tries = 0; tries < kMostTries; ++tries) {
    auto reply = co_await give(copy);
    if (!reply) {
      if (passes(reply.error().code()) && tries + 1 < kMostTries) {
        co_await sleep_for(kPause);
        continue;
      }
      failures_.Increment();
      log().warn("copy not made segment={} node={} why=\"{}\"", copy.order.segment.value,
                 nodes_.name(copy.order.node), reply.error().describe());
      co_return std::move(reply).error();
    }
    const auto& done = reply.value();
    copied_bytes_.Increment(static_cast<double>(done.copied_bytes()));
    copy.valid = done.valid();
    if (done.valid() == copy.order.length) {
      copies_.Increment();
      nodes_.block_taken(copy.order.node);
      log().info("copy made segment={} node={} length={}", copy.order.segment.value,
                 nodes_.name(copy.order.node), copy.order.length);
      co_return BlockPlace{DeviceId{done.device()}, done.block()};
    }
    if (done.copied_bytes() > 0) tries = -1;  // it gets on
    const auto rested = pace_.after(clock_.now(), done.copied_bytes(), appends_waiting(copy.order));
    co_await sleep_for(rested - clock_.now());
  }
  failures_.Increment();
  co_return Error(Errc::unavailable, fmt::format("node {} does not get on with the copy of segment {}",
                                                 nodes_.name(copy.order.node), copy.order.segment.value));
}

}  // namespace reelfs::indexd
