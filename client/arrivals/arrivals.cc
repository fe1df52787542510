#include "client/arrivals/arrivals.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "client/index_client.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kInterval = 500ms;
constexpr Duration kPatience = 5s;
constexpr Duration kLastPatience = 1s;
// Of an index server that does not know what arrivals are: another may take its place.
constexpr Duration kUnsupportedFor = 60s;
constexpr std::size_t kMaxTogether = 4096;  // the index's own limit
// A sleep that takes so much longer was this process's: it was stopped.
constexpr Duration kLate = 1s;

std::uint64_t milliseconds(Duration duration) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return static_cast<std::uint64_t>(std::max<decltype(ms)>(ms, 0));
}

void to_wire(const ChannelArrivals::Report& report, TimePoint now, wire::ChannelArrivals& out) {
  if (report.came) {
    out.set_first_ms(milliseconds(now - report.came->first));
    out.set_last_ms(milliseconds(now - report.came->last));
    out.set_longest_pause_ms(milliseconds(report.came->longest_pause));
  }
  for (const auto& pause : report.pauses) {
    auto& told = *out.add_pauses();
    told.set_ended_ms(milliseconds(now - pause.end));
    told.set_length_ms(milliseconds(pause.end - pause.begin));
    told.set_stalled_ms(milliseconds(pause.stalled));
    told.set_unattended_ms(milliseconds(pause.unattended));
  }
  if (report.written) out.set_written_ms(milliseconds(now - *report.written));
  if (report.pending) out.set_pending_ms(milliseconds(now - *report.pending));
  out.set_writers(report.writers);
  out.set_waiting_ms(milliseconds(report.waiting));
  out.set_longest_stall_ms(milliseconds(report.longest_stall));
}

}  // namespace

Arrivals::Waiting::Waiting(Arrivals& owner, InodeId channel)
    : clock_(owner.clock_), channel_(owner.of(channel)), since_(owner.clock_.now()) {
  channel_->call_waits(since_);
}

Arrivals::Waiting::~Waiting() { channel_->call_ended(since_, clock_.now()); }

Arrivals::Arrivals(asio::any_io_executor executor, const Clock& clock, IndexClient& index)
    : clock_(clock), index_(index), group_(std::move(executor)) {}

void Arrivals::start() { group_.spawn(run()); }

asio::awaitable<void> Arrivals::stop() {
  co_await group_.stop();
  if (!is_active()) co_return;
  const auto told = co_await tell(Deadline::after(clock_, kLastPatience));
  if (!told) logger("client.arrivals").debug("last arrivals not told error={}", told.error().describe());
}

std::shared_ptr<ChannelArrivals> Arrivals::of(InodeId channel) {
  auto& arrivals = channels_[channel];
  if (!arrivals) arrivals = std::make_shared<ChannelArrivals>(clock_.now());
  return arrivals;
}

void Arrivals::writer_opened(InodeId channel) {
  of(channel)->writer_opened(clock_.now());
  opened_.set();
}

void Arrivals::writer_closed(InodeId channel) { of(channel)->writer_closed(clock_.now()); }

bool Arrivals::is_active() const {
  return std::any_of(channels_.begin(), channels_.end(),
                     [](const auto& each) { return each.second->is_active(); });
}

asio::awaitable<void> Arrivals::run() {
  while (true) {
    while (!is_active()) {
      const bool woken = co_await opened_.wait();
      if (!woken) co_return;
    }
    const auto due = clock_.now() + kInterval;
    co_await sleep_for(kInterval);
    const auto now = clock_.now();
    if (now - due > kLate) {
      for (const auto& [id, channel] : channels_) channel->store_away(due), channel->store_back(now);
    }
    const auto told = co_await tell(Deadline::after(clock_, kPatience));
    if (told) continue;
    if (told.error().code() == Errc::cancelled) co_return;
    if (told.error().code() == Errc::unsupported) co_await sleep_for(kUnsupportedFor);
  }
}

Task<void> Arrivals::tell(Deadline deadline) {
  const auto now = clock_.now();
  wire::ReportArrivalsRequest request;
  std::vector<std::shared_ptr<ChannelArrivals>> told;
  for (const auto& [id, channel] : channels_) {
    if (!channel->is_active() || told.size() >= kMaxTogether) continue;
    auto& message = *request.add_channels();
    message.set_channel(id.value);
    to_wire(channel->report(now), now, message);
    told.push_back(channel);
  }
  if (told.empty()) co_return ok();
  // While the index does not answer, a recorder may wait for it in calls that are not seen here.
  for (const auto& [id, channel] : channels_) channel->store_away(now);
  auto reply = co_await index_.call<wire::Empty>(wire::Method::report_arrivals, std::move(request), deadline);
  const bool is_answered =
      reply || (reply.error().code() != Errc::unavailable && reply.error().code() != Errc::timed_out &&
                reply.error().code() != Errc::cancelled);
  if (is_answered) {
    for (const auto& [id, channel] : channels_) channel->store_back(clock_.now());
  }
  REELFS_CO_TRY(std::move(reply));
  for (const auto& channel : told) channel->confirm();
  co_return ok();
}

}  // namespace reelfs::client
