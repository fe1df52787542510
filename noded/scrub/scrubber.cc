#include "noded/scrub/scrubber.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/scrub/careful_read.h"
#include "noded/scrub/record_scan.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kReadBytes = kMiB;
constexpr Duration kLookPause = 500ms;  // between looks at what is to be done
constexpr Duration kShortPause = 100ms;
constexpr Duration kTurn = 1s;  // then another worker does what it was one's turn to do
constexpr Duration kReportPause = 1s;
constexpr Duration kLongestLook = 10min;  // between looks at a whole table
constexpr int kLookShare = 200;           // of the time that one takes
constexpr int kBusyFactor = 8;
constexpr std::size_t kMostRanges = 64;  // of one report

spdlog::logger& log() {
  static auto& instance = logger("noded.scrub");
  return instance;
}

}  // namespace

/// One that is being verified.
struct Scrubber::Block {
  OfDevice& of_device;
  ScrubSchedule::Next next;
  std::uint64_t claim = 0;
  std::int64_t began_ns = 0;  // wall time: what rots behind the reading is not known to be right
  ByteRanges bad;
  SegmentId segment() const { return SegmentId(next.slot.descriptor.segment); }
};

Scrubber::Scrubber(asio::any_io_executor executor, const Clock& clock, SegmentStore& store, Options options,
                   Report report)
    : clock_(clock), store_(store), options_(options), report_(std::move(report)), group_(executor) {}

asio::awaitable<void> Scrubber::stop() { co_await group_.stop(); }

std::int64_t Scrubber::wall_ns() const { return clock_.wall().time_since_epoch().count(); }
std::int64_t Scrubber::steady_ns() const { return clock_.now().time_since_epoch().count(); }

void Scrubber::order() {
  const auto now = wall_ns();
  for (const auto& device : store_.devices()) {
    if (device->usable()) device->table().order_scrub(now);
  }
}

asio::awaitable<void> Scrubber::run() {
  for (;;) {
    std::erase_if(devices_, [](const auto& each) { return !each.second->device->usable(); });
    const auto devices = store_.devices();
    for (const auto& device : devices) {
      const auto life = device->table().life();
      if (!device->usable() || devices_.contains(life)) continue;
      auto of_device = std::make_shared<OfDevice>();
      of_device->device = device;
      devices_.emplace(life, of_device);
      group_.spawn(scrub(std::move(of_device)));
    }
    co_await sleep_for(kLookPause);
  }
}

asio::awaitable<void> Scrubber::scrub(std::shared_ptr<OfDevice> of_device) {
  while (of_device->device->usable()) {
    const auto pause = co_await step(*of_device);
    if (!pause && pause.error().code() == Errc::cancelled) co_return;
    co_await sleep_for(pause ? pause.value() : kLookPause);
  }
}

void Scrubber::look(OfDevice& of_device) {
  auto& table = of_device.device->table();
  of_device.ordered_ns = table.scrub_state().ordered_ns;
  const auto began = clock_.now();
  ScrubSchedule::Rules rules;
  rules.period = options_.rate > 0 ? options_.period : Duration::zero();
  rules.ordered_ns = of_device.ordered_ns;
  of_device.schedule = ScrubSchedule::look(table, rules, wall_ns());
  const auto took = clock_.now() - began;
  of_device.look_at = clock_.now() + std::clamp<Duration>(kLookShare * took, kLookPause, kLongestLook);
  if (of_device.ordered_ns != 0 && of_device.schedule->order_done()) {
    table.end_ordered_scrub(of_device.ordered_ns);
    log().info("ordered pass is over device={} bytes={}", table.path(), of_device.schedule->used_bytes());
  }
}

/// Verifies one block, if one is due and it is our turn. @return how long to wait
Task<Duration> Scrubber::step(OfDevice& of_device) {
  auto& table = of_device.device->table();
  const bool ordered_anew = table.scrub_state().ordered_ns != of_device.ordered_ns;
  if (!of_device.schedule || ordered_anew || clock_.now() >= of_device.look_at) look(of_device);
  if (options_.rate == 0) co_return kLookPause;
  const auto now = wall_ns();
  auto next = of_device.schedule->next(table, now);
  if (!next || next->due_ns > now) co_return kLookPause;
  const bool our_turn = next->block % options_.workers + 1 == options_.worker.value;
  DeviceTable::ScrubClaim claim;
  claim.block = next->block;
  claim.worker = options_.worker;
  claim.now_ns = steady_ns();
  claim.patience_ns = options_.patience.count();
  if (!our_turn && !table.scrub_idle_for(claim.now_ns, kTurn.count())) co_return kShortPause;
  const auto number = table.claim_scrub(claim);
  if (!number) co_return kShortPause;
  Block block{of_device, *next, *number, wall_ns(), {}};
  auto verified = co_await verify(block);
  if (verified) verified = co_await conclude(block);
  table.end_scrub(block.claim, verified && !block.bad.empty());
  of_device.schedule->drop(block.next.block);
  if (!verified) co_return verified.error();
  co_return Duration::zero();
}

Duration Scrubber::pause_after(std::uint64_t bytes, Duration took, const Device& device) const {
  const bool busy = store_.appends_under_way() > 0 || device.queue_depth() > 0;
  const auto at_rate = std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(options_.rate)));
  // A device that answers slowly has others to serve, of other processes maybe.
  return std::max<Duration>(at_rate - took, (busy ? kBusyFactor : 1) * took);
}

/// Reads it piece by piece; what a record needs of the piece before is kept.
Task<void> Scrubber::verify(Block& block) {
  auto device = block.of_device.device;
  auto& table = device->table();
  const auto end = block.next.slot.end;
  const auto base = table.geometry().block_offset(block.next.block);
  RecordScan::Rules rules;
  rules.segment = block.segment();
  rules.length = end;
  RecordScan scan(rules);
  auto window = std::make_shared<Buffer>(0);
  std::uint64_t window_begin = 0, window_end = 0;
  while (!scan.done()) {
    const auto from = round_down(scan.position(), kPageBytes);
    const auto upto = std::min(end, std::max(window_end, from) + kReadBytes);
    const auto kept = window_end > from ? window_end - from : 0;
    auto wider = std::make_shared<Buffer>(upto - from);
    if (kept > 0) std::memcpy(wider->data(), window->data() + (from - window_begin), kept);
    const auto began = clock_.now();
    REELFS_CO_TRY(const auto unreadable, co_await read_carefully(device, base + from + kept, wider, kept));
    const auto took = clock_.now() - began;
    for (const auto& pages : unreadable) block.bad.add(from + pages.begin, from + pages.end);
    const auto bytes = upto - from - kept;
    counts_.read_bytes += bytes;
    if (!table.keep_scrub(block.claim, steady_ns(), bytes))
      co_return Error(Errc::busy, "another worker goes on with the device");
    window = std::move(wider);
    window_begin = from;
    window_end = upto;
    scan.feed(from, std::as_const(*window).span());
    co_await sleep_for(pause_after(bytes, took, *device));
  }
  block.bad.add(scan.bad());
  ++counts_.blocks;
  co_return ok();
}

/// Tells what is bad, then notes when it was verified: in this order, so that a death in between costs
/// another reading and no finding.
Task<void> Scrubber::conclude(Block& block) {
  auto device = block.of_device.device;
  auto& table = device->table();
  const auto& was = block.next.slot;
  if (!block.bad.empty()) {
    const auto now = table.slot(block.next.block);
    const bool same = now.descriptor.segment == was.descriptor.segment && now.end >= was.end &&
                      now.descriptor.allocated_at_ns == was.descriptor.allocated_at_ns;
    if (!same) {
      block.bad = ByteRanges();  // it was freed, or cut, while it was read
      co_return ok();
    }
    block.bad = block.bad.aligned(kPageBytes, was.end).coarser(kMostRanges);
    ++counts_.damaged_blocks;
    counts_.damaged_bytes += block.bad.bytes();
    log().error("copy is damaged segment={} device={} block={} ranges={} bytes={} first={}",
                block.segment().value, table.path(), block.next.block, block.bad.size(), block.bad.bytes(),
                block.bad.list().front().begin);
    wire::Damage damage;
    damage.set_segment(block.segment().value);
    damage.set_why("found by the scrubber");
    for (const auto& range : block.bad) {
      auto& told = *damage.add_ranges();
      told.set_offset(range.begin);
      told.set_length(range.length());
    }
    for (;;) {
      const auto reported = co_await report_(damage);
      if (reported) break;
      if (reported.error().code() == Errc::cancelled) co_return reported.error();
      REELFS_CO_TRY(device->usable());
      if (!table.keep_scrub(block.claim, steady_ns(), 0))
        co_return Error(Errc::busy, "another worker goes on with the device");
      co_await sleep_for(kReportPause);
    }
  }
  if (!table.note_verified(block.next.block, was, block.began_ns)) co_return ok();
  co_return co_await device->persist(block.next.block);
}

std::optional<wire::ScrubProgress> Scrubber::progress(DeviceId device) const {
  for (const auto& [life, of_device] : devices_) {
    if (of_device->device->id() != device || !of_device->schedule) continue;
    const auto state = of_device->device->table().scrub_state();
    const auto& schedule = *of_device->schedule;
    wire::ScrubProgress progress;
    progress.set_period_s(static_cast<std::uint64_t>(
        options_.rate == 0 ? 0 : std::chrono::duration_cast<std::chrono::seconds>(options_.period).count()));
    progress.set_used_bytes(schedule.used_bytes());
    progress.set_verified_bytes(schedule.verified_bytes());
    progress.set_oldest_ns(schedule.oldest_ns());
    progress.set_ordered_ns(state.ordered_ns);
    progress.set_read_bytes(state.read_bytes);
    progress.set_damaged_blocks(state.damaged_blocks);
    return progress;
  }
  return std::nullopt;
}

}  // namespace reelfs::noded
