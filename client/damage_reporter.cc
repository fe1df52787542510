#include "client/damage_reporter.h"

#include <chrono>
#include <utility>

#include "client/index_client.h"
#include "common/observe/log.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kAgainAfter = 10s;  // by then it is repaired, or is not going to be soon
constexpr Duration kCallLimit = 10s;
constexpr std::size_t kMostUnderWay = 16;
constexpr std::size_t kMostRemembered = 4096;

spdlog::logger& log() { return logger("client.reader"); }

}  // namespace

DamageReporter::DamageReporter(const asio::any_io_executor& executor, const Clock& clock, IndexClient& index)
    : clock_(clock), index_(index), background_(executor) {}

void DamageReporter::report(Place place, std::string why) {
  const auto now = clock_.now();
  const Key key(place.segment, place.node, place.offset);
  const auto told = told_.find(key);
  if (told != told_.end() && now - told->second < kAgainAfter) return;
  if (under_way_ >= kMostUnderWay) return;
  if (told_.size() >= kMostRemembered) {
    std::erase_if(told_, [&](const auto& each) { return now - each.second >= kAgainAfter; });
    if (told_.size() >= kMostRemembered) return;
  }
  told_[key] = now;
  ++under_way_;
  background_.spawn(send(place, std::move(why)));
}

asio::awaitable<void> DamageReporter::send(Place place, std::string why) {
  wire::ReportDamageRequest request;
  auto& damage = *request.add_damages();
  damage.set_segment(place.segment.value);
  damage.set_node(place.node.value);
  damage.set_why(std::move(why));
  auto& range = *damage.add_ranges();
  range.set_offset(place.offset);
  range.set_length(place.length);
  const auto reply = co_await index_.call<wire::ReportDamageReply>(
      wire::Method::report_damage, std::move(request), Deadline::after(clock_, kCallLimit));
  --under_way_;
  if (reply) co_return;
  told_.erase(Key(place.segment, place.node, place.offset));
  log().info("damage not reported segment={} node={} why=\"{}\"", place.segment.value, place.node.value,
             reply.error().describe());
}

asio::awaitable<void> DamageReporter::stop() { co_await background_.stop(); }

}  // namespace reelfs::client
