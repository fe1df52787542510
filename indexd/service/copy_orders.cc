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
constexpr std::size_t kMostAtOnce = 4;  // of those that are repaired
constexpr std::size_t kMostMoves = 2;
constexpr int kMostTries = 4;  // without getting on
constexpr Duration kPause = 100ms;
constexpr Duration kMovePatience = 2s;  // of what is moved, while something is repaired
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
                                     UnderWay{std::move(order), worker, 0, orders.clock_.now(), false})) {}
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
      repairs_{
          counter(registry, "reelfs_indexd_repair_copied_bytes_total",
                  "Bytes that nodes wrote to make copies of segments whole."),
          counter(registry, "reelfs_indexd_repair_copies_total", "Copies of segments that were made whole."),
          counter(registry, "reelfs_indexd_repair_failures_total",
                  "Attempts to make a copy of a segment whole that failed.")},
      moves_{counter(registry, "reelfs_indexd_rebalance_copied_bytes_total",
                     "Bytes that nodes wrote to move copies, so that all are about equally full."),
             counter(registry, "reelfs_indexd_rebalance_copies_total",
                     "Copies that were made where they are to be instead."),
             counter(registry, "reelfs_indexd_rebalance_failures_total",
                     "Attempts to move a copy that failed, or gave way to repair.")} {}

CopyOrders::Done CopyOrders::done(CopyUse use) const {
  const auto& counted = counters(use);
  return {static_cast<std::uint64_t>(counted.copies.Value()),
          static_cast<std::uint64_t>(counted.failures.Value()),
          static_cast<std::uint64_t>(counted.bytes.Value())};
}

std::size_t CopyOrders::repairs_under_way() const {
  return static_cast<std::size_t>(
      std::count_if(under_way_.begin(), under_way_.end(),
                    [](const UnderWay& copy) { return copy.order.use == CopyUse::repair; }));
}

/// None: all that answer are making one.
WorkerId CopyOrders::free_worker(const CopyOrder& order) const {
  for (const auto& address : nodes_.workers(order.node, order.worker)) {
    const WorkerId worker{address.worker()};
    const bool busy = std::any_of(under_way_.begin(), under_way_.end(), [&](const UnderWay& copy) {
      const bool gives_way = copy.rests && order.use == CopyUse::repair;
      return copy.order.node == order.node && copy.worker == worker && !gives_way;
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

Task<WorkerId> CopyOrders::wait_for_slot(const CopyOrder& order) {
  struct Waiting {
    std::size_t& count;
    explicit Waiting(std::size_t& of) : count(of) { ++count; }
    ~Waiting() { --count; }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
  };
  std::optional<Waiting> waiting;
  if (order.use == CopyUse::repair) waiting.emplace(repairs_waiting_);
  for (;;) {
    if (!nodes_.online(order.node))
      co_return Error(Errc::unavailable, fmt::format("node {} is offline", nodes_.name(order.node)));
    const auto repairs = repairs_under_way();
    const bool is_turn = order.use == CopyUse::repair
                             ? repairs < kMostAtOnce
                             : repairs + repairs_waiting_ == 0 && under_way_.size() < kMostMoves;
    if (is_turn) {
      if (const auto worker = free_worker(order)) co_return worker;
    }
    const auto changed = co_await slot_free_.wait(clock_, Deadline::after(clock_, kSlotLook));
    if (!changed && changed.error().code() == Errc::cancelled) co_return changed.error();
  }
}

/// Between two pieces. What is only moved lets those go first that are repaired, and ends where that lasts:
/// it may be of a segment that is to be repaired itself.
Task<void> CopyOrders::rest(UnderWay& copy, std::uint64_t copied_bytes) {
  const bool is_move = copy.order.use == CopyUse::balance;
  auto& pace = is_move ? balance_pace_ : pace_;
  const auto rested = pace.after(clock_.now(), copied_bytes, appends_waiting(copy.order));
  copy.rests = is_move;
  co_await sleep_for(rested - clock_.now());
  const auto patience = Deadline::after(clock_, kMovePatience);
  while (is_move && repairs_under_way() + repairs_waiting_ > 0) {
    if (patience.left(clock_) <= Duration::zero()) co_return Error(Errc::busy, "it gives way to repair");
    const auto changed = co_await slot_free_.wait(clock_, patience);
    if (!changed && changed.error().code() == Errc::cancelled) co_return changed.error();
  }
  copy.rests = false;
  co_return ok();
}

Task<BlockPlace> CopyOrders::carry_out(CopyOrder order) {
  if (order.use == CopyUse::balance) co_await sleep_for(balance_pace_.free_at() - clock_.now());
  REELFS_CO_TRY(const auto worker, co_await wait_for_slot(order));
  const auto& counted = counters(order.use);
  Slot slot(*this, std::move(order), worker);
  auto& copy = slot.copy();
  auto made = co_await make(copy);
  if (made) {
    counted.copies.Increment();
    nodes_.block_taken(copy.order.node);
    log().info("copy made segment={} node={} length={}", copy.order.segment.value,
               nodes_.name(copy.order.node), copy.order.length);
  } else {
    counted.failures.Increment();
    log().warn("copy not made segment={} node={} why=\"{}\"", copy.order.segment.value,
               nodes_.name(copy.order.node), made.error().describe());
  }
  co_return std::move(made);
}

Task<BlockPlace> CopyOrders::make(UnderWay& copy) {
  const auto use = copy.order.use;
  for (int tries = 0; tries < kMostTries; ++tries) {
    auto reply = co_await give(copy);
    if (!reply) {
      if (!passes(reply.error().code()) || tries + 1 >= kMostTries) co_return std::move(reply).error();
      co_await sleep_for(kPause);
      continue;
    }
    const auto& done = reply.value();
    counters(use).bytes.Increment(static_cast<double>(done.copied_bytes()));
    copy.valid = done.valid();
    if (done.valid() == copy.order.length) {
      // The next one that is moved waits for it.
      if (use == CopyUse::balance)
        (void)balance_pace_.after(clock_.now(), done.copied_bytes(), appends_waiting(copy.order));
      co_return BlockPlace{DeviceId{done.device()}, done.block()};
    }
    if (done.copied_bytes() > 0) tries = -1;  // it gets on
    REELFS_CO_TRY(co_await rest(copy, done.copied_bytes()));
  }
  co_return Error(Errc::unavailable, fmt::format("node {} does not get on with the copy of segment {}",
                                                 nodes_.name(copy.order.node), copy.order.segment.value));
}

}  // namespace reelfs::indexd
