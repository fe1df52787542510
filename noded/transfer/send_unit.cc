#include "noded/transfer/send_unit.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include <boost/asio/io_context.hpp>

#include "common/async/timeout.h"
#include "common/base/units.h"
#include "common/observe/log.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kMostKept = 64 * kMiB;    // of units, so that they need not be read again
constexpr std::uint64_t kFirstWindow = 2 * kMiB;  // until the process has said what it takes
constexpr std::uint64_t kMostWindow = 32 * kMiB;  // whatever it says
constexpr std::size_t kMostRequests = 64;         // under way to a process
constexpr int kMaxCopies = 4;
constexpr std::size_t kListedAtOnce = 4096;  // records
/// A process that says nothing for so long is asked again later.
constexpr Duration kReplyLimit = std::chrono::seconds(3);
constexpr Duration kFirstPause = std::chrono::milliseconds(100);
constexpr Duration kLongestPause = std::chrono::seconds(2);
constexpr Duration kCopyPause = std::chrono::milliseconds(250);  // of a copy that refuses
constexpr Duration kLongestPatience = std::chrono::seconds(30);
constexpr Duration kLook = std::chrono::milliseconds(500);  // whether the segment was fenced meanwhile

spdlog::logger& log() {
  static auto& instance = logger("noded.transfer");
  return instance;
}

/// Errors of the process or the path to it: they say nothing of one copy.
bool speaks_of_the_process(Errc code) {
  return code == Errc::unavailable || code == Errc::timed_out || code == Errc::protocol ||
         code == Errc::unsupported;
}

}  // namespace

SendUnit::SendUnit(asio::io_context& context, const Clock& clock, SegmentStore& store,
                   rpc::ClientOptions client_options)
    : clock_(clock),
      store_(store),
      log_(kMostKept),
      targets_(context, clock, std::move(client_options)),
      group_(context.get_executor()) {}

asio::awaitable<void> SendUnit::stop() {
  co_await group_.stop();
  co_await targets_.stop();
  progress_.notify_all();
}

void SendUnit::appended(const ChangeSource& source, const std::vector<wire::WorkerAddress>& others,
                        std::uint64_t offset, SharedBuffer unit) {
  if (others.empty()) return;
  Change change;
  change.offset = offset;
  change.end = offset + unit->size();
  change.payload_bytes = payload_of(unit->span());
  change.since = clock_.now();
  change.bytes = std::move(unit);
  log_.appended(source, others, change);
  for (const auto& other : others) wake(other);
}

void SendUnit::wake(const wire::WorkerAddress& address) {
  const auto process = rpc::Endpoint::from(address.endpoint());
  auto& lane = lanes_[process];
  lane.address = address;
  lane.process = process;
  if (lane.window == 0) lane.window = kFirstWindow;
  lane.changed.set();
  if (!std::exchange(lane.running, true)) group_.spawn(run(lane));
}

/// Runs while there is something to send, and until all of it was answered.
asio::awaitable<void> SendUnit::run(Lane& lane) {
  for (;;) {
    const auto now = clock_.now();
    const auto at = log_.next_at(lane.process, now);
    if (!at && lane.requests == 0) break;
    const auto ready_at = at ? std::max(*at, lane.not_before) : TimePoint::max();
    auto next = ready_at <= now ? log_.next(lane.process, now) : std::nullopt;
    const auto bytes = next ? next->change.end - next->change.offset : 0;
    const bool fits =
        lane.requests == 0 || (lane.in_flight + bytes <= lane.window && lane.requests < kMostRequests);
    if (!next || !fits) {
      if (ready_at == TimePoint::max() || next) {
        const bool woken = co_await lane.changed.wait();
        if (!woken) break;
      } else {
        const auto waited = co_await with_timeout(clock_, Deadline{ready_at}, wait_for(lane.changed));
        if (!waited && waited.error().code() == Errc::cancelled) break;
      }
      continue;
    }
    if (next->underived) {
      co_await derive(lane, std::move(*next));
      continue;
    }
    log_.sent(*next);
    auto unit = co_await bytes_of(*next);
    if (!unit) {
      // Fenced, or freed: it is nobody's to send on any more. Or this copy cannot be read, and then its index
      // finds out soon enough.
      const auto code = unit.error().code();
      if (code == Errc::stale_generation || code == Errc::not_found) {
        log_.forget(next->place.segment);
        progress_.notify_all();
      } else {
        failed(lane, *next, unit.error());
      }
      continue;
    }
    lane.in_flight += bytes;
    ++lane.requests;
    group_.spawn(send(lane, std::move(*next), std::move(unit).value()));
  }
  lane.running = false;
}

asio::awaitable<void> SendUnit::send(Lane& lane, ChangeLog::Next next, SharedBuffer unit) {
  const auto bytes = unit->size();
  wire::SendOnRequest request;
  request.set_segment(next.place.segment.value);
  request.set_generation(next.generation.value);
  request.set_offset(next.change.offset);
  const auto client = targets_.client_of(next.to);
  const auto reply = co_await client->call(wire::Method::send_on, request,
                                           Deadline::after(clock_, kReplyLimit), std::move(unit));
  lane.in_flight -= bytes;
  --lane.requests;
  wire::SendOnReply message;
  if (!reply) {
    failed(lane, next, reply.error());
  } else if (!message.ParseFromString(reply.value().message)) {
    failed(lane, next, Error(Errc::protocol, "reply does not parse"));
  } else {
    lane.pause = {};
    lane.window = std::clamp(message.window_bytes(), std::uint64_t{kPageBytes}, kMostWindow);
    if (message.end() >= next.change.end) sent_bytes_ += bytes;
    log_.answered(next, message.end());
    progress_.notify_all();
  }
  lane.changed.set();
}

void SendUnit::failed(Lane& lane, const ChangeLog::Next& next, const Error& error) {
  const auto now = clock_.now();
  if (speaks_of_the_process(error.code())) {
    if (lane.not_before <= now) {  // else it is one of several that were under way
      lane.pause = std::clamp(2 * lane.pause, kFirstPause, kLongestPause);
      lane.not_before = now + lane.pause;
      if (lane.pause == kFirstPause)
        log().warn("copies lag, their process does not answer node={} process={} why=\"{}\"",
                   next.place.node.value, lane.process.to_string(), error.describe());
    }
    log_.failed(next, now);
    return;
  }
  log().debug("a copy does not take what it lacks segment={} node={} why=\"{}\"", next.place.segment.value,
              next.place.node.value, error.describe());
  log_.failed(next, now + kCopyPause);
}

Task<SharedBuffer> SendUnit::bytes_of(const ChangeLog::Next& next) {
  // Also where the bytes are at hand: what is fenced here is not sent on.
  REELFS_CO_TRY(const auto block, store_.find(next.place.segment));
  if (block.slot.descriptor.generation > next.generation.value || block.slot.descriptor.fenced == 1)
    co_return Error(Errc::stale_generation, "the segment is fenced here");
  if (next.change.bytes) co_return next.change.bytes;
  REELFS_CO_TRY(auto bytes, co_await store_.read_written(next.place.segment, next.generation,
                                                         next.change.offset, next.change.end));
  co_return SharedBuffer(std::move(bytes));
}

// ---- copies of which nothing is known

asio::awaitable<void> SendUnit::derive(Lane& lane, ChangeLog::Next next) {
  log_.sent(next);
  const auto end = co_await end_of(lane, next);
  if (!end) {
    failed(lane, next, end.error());
    co_return;
  }
  lane.pause = {};
  for (;;) {
    const auto before = store_.find(next.place.segment);
    auto changes = co_await changes_behind(next, end.value());
    const auto block = store_.find(next.place.segment);
    if (!before || !changes || !block) {
      failed(lane, next, !block ? block.error() : changes ? before.error() : changes.error());
      co_return;
    }
    const auto upto = changes.value().empty() ? end.value() : changes.value().back().end;
    if (upto < before.value().slot.end) {
      failed(lane, next, Error(Errc::corrupt, "its records cannot be walked here"));
      co_return;
    }
    if (upto < block.value().slot.end) continue;  // more was appended while the records were listed
    log_.derived(next, end.value(), std::move(changes).value());
    progress_.notify_all();
    co_return;
  }
}

Task<std::uint64_t> SendUnit::end_of(Lane& lane, const ChangeLog::Next& next) {
  wire::SendOnRequest request;
  request.set_segment(next.place.segment.value);
  request.set_generation(next.generation.value);
  const auto client = targets_.client_of(next.to);
  auto reply = co_await client->call(wire::Method::send_on, request, Deadline::after(clock_, kReplyLimit));
  if (!reply) co_return std::move(reply).error();
  wire::SendOnReply message;
  if (!message.ParseFromString(reply.value().message))
    co_return Error(Errc::protocol, "reply does not parse");
  lane.window = std::clamp(message.window_bytes(), std::uint64_t{kPageBytes}, kMostWindow);
  co_return message.end();
}

/// What stands here from `end` on, in pieces that are append units: each begins with a record at a page.
Task<std::vector<Change>> SendUnit::changes_behind(const ChangeLog::Next& next, std::uint64_t end) {
  std::vector<Change> changes;
  const auto since = clock_.now();
  for (auto from = end;;) {
    REELFS_CO_TRY(const auto block, store_.find(next.place.segment));
    if (block.slot.descriptor.generation > next.generation.value)
      co_return Error(Errc::stale_generation, "the segment is fenced here");
    if (from >= block.slot.end) break;
    REELFS_CO_TRY(const auto list, co_await store_.list_records(next.place.segment, from, kListedAtOnce));
    for (const auto& [offset, header] : list.records) {
      if (changes.empty() || offset % kPageBytes == 0) {
        Change change;
        change.offset = offset;
        change.since = since;
        changes.push_back(change);
      }
      auto& change = changes.back();
      change.payload_bytes += header.payload_bytes;
      change.end = round_up(offset + wire::record_bytes(header.payload_bytes), std::uint64_t{kPageBytes});
    }
    if (list.next == 0) break;
    from = list.next;
  }
  co_return std::move(changes);
}

// ---- waiting

Task<std::uint64_t> SendUnit::await_copies(wire::AwaitCopiesRequest order) {
  ChangeSource source;
  source.segment = SegmentId(order.segment());
  source.generation = Generation(order.generation());
  if (order.copies().empty() || order.copies_size() > kMaxCopies)
    co_return Error(Errc::invalid, "a segment has 1 to 3 other copies");
  REELFS_CO_TRY(const auto block, store_.find(source.segment));
  if (block.slot.end < order.length())
    co_return Error(Errc::invalid, "segment " + std::to_string(order.segment()) + " has " +
                                       std::to_string(block.slot.end) + " bytes here");
  source.channel = InodeId(block.slot.descriptor.channel);
  const std::vector<wire::WorkerAddress> others(order.copies().begin(), order.copies().end());
  const auto patience = std::min<Duration>(std::chrono::milliseconds(order.patience_ms()), kLongestPatience);
  const auto until = clock_.now() + patience;
  for (bool followed = false;;) {
    REELFS_CO_TRY(const auto now_here, store_.find(source.segment));
    const auto& descriptor = now_here.slot.descriptor;
    if (descriptor.generation > order.generation() || descriptor.fenced == 1)
      co_return Error(Errc::stale_generation, "the segment is fenced here");
    if (!std::exchange(followed, true)) {
      log_.follow(source, others);
      for (const auto& other : others) wake(other);
    }
    const auto end = log_.everywhere(source.segment).value_or(0);
    if (end >= order.length() || clock_.now() >= until) co_return end;
    const auto waited = co_await progress_.wait(clock_, Deadline{std::min(until, clock_.now() + kLook)});
    if (!waited && waited.error().code() == Errc::cancelled) co_return waited.error();
  }
}

// ---- what is told

/// Segments that have no writer any more.
void SendUnit::forget_ended() {
  for (const auto& source : log_.sources()) {
    const auto block = store_.find(source.segment);
    const bool serves = block || block.error().code() != Errc::not_found;
    const bool is_open = !block || (block.value().slot.descriptor.generation <= source.generation.value &&
                                    block.value().slot.descriptor.fenced == 0 &&
                                    block.value().slot.descriptor.state == BlockState::open);
    if (serves && is_open) continue;
    log_.forget(source.segment);
    progress_.notify_all();
  }
}

std::vector<ChangeLog::Lag> SendUnit::lag() {
  forget_ended();
  return log_.lag(clock_.now());
}

}  // namespace reelfs::noded
