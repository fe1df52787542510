#include "common/rpc/deadline_queue.h"

#include <algorithm>
#include <set>
#include <utility>

#include <boost/asio/steady_timer.hpp>

namespace reelfs::rpc {

struct DeadlineQueue::State : std::enable_shared_from_this<State> {
  State(asio::any_io_executor executor, const Clock& time, std::function<void(std::uint64_t)> callback)
      : clock(time), expired(std::move(callback)), timer(std::move(executor)) {}

  // The timer is left alone while it fires early enough: calls mostly end long before their deadline, and
  // later ones mostly have later deadlines.
  void arm() {
    if (entries.empty() || entries.begin()->first >= armed_for) return;
    armed_for = entries.begin()->first;
    constexpr Duration kLongest = std::chrono::hours(1);
    timer.expires_after(std::min(armed_for - clock.now(), kLongest));
    timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      const auto self = weak.lock();
      if (self && !error) self->fire();
    });
  }

  void fire() {
    armed_for = TimePoint::max();
    const auto now = clock.now();
    while (!entries.empty() && entries.begin()->first <= now) {
      const auto id = entries.begin()->second;
      entries.erase(entries.begin());
      expired(id);
    }
    arm();
  }

  const Clock& clock;
  const std::function<void(std::uint64_t)> expired;
  asio::steady_timer timer;
  TimePoint armed_for = TimePoint::max();
  std::set<std::pair<TimePoint, std::uint64_t>> entries;
};

DeadlineQueue::DeadlineQueue(asio::any_io_executor executor, const Clock& clock,
                             std::function<void(std::uint64_t)> expired)
    : state_(std::make_shared<State>(std::move(executor), clock, std::move(expired))) {}

DeadlineQueue::~DeadlineQueue() { clear(); }

void DeadlineQueue::add(Deadline deadline, std::uint64_t id) {
  if (deadline.at == TimePoint::max()) return;
  state_->entries.emplace(deadline.at, id);
  state_->arm();
}

void DeadlineQueue::remove(Deadline deadline, std::uint64_t id) { state_->entries.erase({deadline.at, id}); }

void DeadlineQueue::clear() {
  state_->entries.clear();
  state_->armed_for = TimePoint::max();
  state_->timer.cancel();
}

}  // namespace reelfs::rpc
