#include "tests/sim/cluster/world.h"

#include <chrono>
#include <cstring>
#include <random>

#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <poll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/async/waiter.h"
#include "common/base/assert.h"

namespace reelfs::sim {
namespace {

World* the_world = nullptr;

constexpr std::size_t kNotesKept = 20000;

/// Sets the kernel's timer so that Asio sees it expired, or not.
void set_kernel_timer(int descriptor, bool expired) {
  itimerspec spec{};
  if (expired) spec.it_value.tv_nsec = 1;
  REELFS_ASSERT(syscall(SYS_timerfd_settime, descriptor, TFD_TIMER_ABSTIME, &spec, nullptr) == 0);
  if (!expired) return;
  pollfd seen{descriptor, POLLIN, 0};
  REELFS_ASSERT(poll(&seen, 1, 10'000) == 1);
}

}  // namespace

World& world() {
  REELFS_ASSERT(the_world != nullptr);
  return *the_world;
}

World::World(std::uint64_t seed, bool traced) : random_(seed), identities_(~seed), traced_(traced) {
  REELFS_ASSERT(the_world == nullptr);
  the_world = this;
}

Duration World::between(Duration least, Duration most) {
  return least + std::chrono::microseconds(
                     below(static_cast<std::uint64_t>((most - least) / std::chrono::microseconds(1)) + 1));
}

// ---- processes

Process& World::start(Host& host, std::string name) {
  note("{} starts", name);
  return processes_.emplace_back(host, std::move(name));
}

void World::kill(Process& process) {
  process.alive = false;
  std::erase_if(timers_, [&](const auto& timer) { return timer.second.process == &process; });
}

void World::stop(Process& process) { process.stopped = true; }

void World::go_on(Process& process) {
  process.stopped = false;
  make_ready(process);
}

void World::run_as(Process& process, const std::function<void()>& work) {
  auto* const before = std::exchange(current_, &process);
  work();
  current_ = before;
  make_ready(process);
}

void World::make_ready(Process& process) {
  if (!process.alive || process.stopped || std::exchange(process.ready, true)) return;
  ready_.push_back(&process);
}

void World::run_ready() {
  while (!ready_.empty()) {
    auto& process = *ready_.front();
    ready_.pop_front();
    process.ready = false;
    if (!process.alive || process.stopped) continue;
    current_ = &process;
    process.context.restart();
    events_run_ += process.context.poll();
    current_ = nullptr;
  }
}

// ---- time

void World::after(Duration delay, std::function<void()> event) {
  events_.emplace(now_ + delay, std::move(event));
}

void World::after(Process& process, Duration delay, std::function<void()> event) {
  after(delay, [this, &process, event = std::move(event)]() mutable {
    if (!process.alive) return;
    asio::post(process.context, std::move(event));
    make_ready(process);
  });
}

void World::set_timer(int descriptor, bool at_once, Duration delay) {
  set_kernel_timer(descriptor, false);
  REELFS_ASSERT(current_ != nullptr);
  timers_[descriptor] = {current_, at_once ? now_ : now_ + delay};
}

std::optional<TimePoint> World::next_time() const {
  std::optional<TimePoint> next;
  if (!events_.empty()) next = events_.begin()->first;
  for (const auto& [descriptor, timer] : timers_) {
    if (!timer.process->stopped && (!next || timer.at < *next)) next = timer.at;
  }
  return next;
}

void World::fire_timers() {
  std::vector<int> due;
  for (const auto& [descriptor, timer] : timers_) {
    if (timer.at <= now_ && !timer.process->stopped) due.push_back(descriptor);
  }
  for (const auto descriptor : due) {
    auto& process = *timers_.at(descriptor).process;
    timers_.erase(descriptor);
    set_kernel_timer(descriptor, true);
    make_ready(process);
  }
}

bool World::run_until(const std::function<bool()>& so, Duration limit) {
  const auto until = now_ + limit;
  for (;;) {
    run_ready();
    if (so()) return true;
    const auto next = next_time();
    if (!next || *next > until) {
      now_ = until;
      return false;
    }
    now_ = std::max(now_, *next);
    mix(static_cast<std::uint64_t>(now_.time_since_epoch().count()));
    if (!events_.empty() && events_.begin()->first <= now_) {
      const auto event = events_.extract(events_.begin());
      ++events_run_;
      event.mapped()();
    }
    fire_timers();
  }
}

asio::awaitable<void> pass(Duration duration) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  auto start = [duration, &executor](auto handler) {
    auto waiter = std::make_shared<Waiter<>>(executor, std::move(handler));
    auto resume = [waiter] { waiter->resume(); };
    world().after(*world().current(), duration, std::move(resume));
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
}

// ---- what is seen

void World::violated(std::string what) {
  note("VIOLATED: {}", what);
  violations_.push_back(std::move(what));
}

void World::write_note(std::string text) {
  const auto at = std::chrono::duration<double>(now_.time_since_epoch() - std::chrono::hours(1)).count();
  const auto who = current_ != nullptr ? current_->name : "";
  notes_.push_back(fmt::format("{:11.6f} {:8} {}", at, who, text));
  if (notes_.size() > kNotesKept) notes_.pop_front();
}

}  // namespace reelfs::sim

// ---- the machine's time and chance, defined anew for the whole program

// libstdc++'s own is in a shared library: the program's goes before it.
std::chrono::steady_clock::time_point std::chrono::_V2::steady_clock::now() noexcept {
  if (reelfs::sim::the_world != nullptr)
    return std::chrono::time_point_cast<duration>(reelfs::sim::the_world->now());
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return time_point(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

std::random_device::result_type std::random_device::_M_getval() {
  return static_cast<result_type>(reelfs::sim::world().identity());
}

extern "C" int timerfd_settime(int descriptor, int flags, const itimerspec* spec,
                               itimerspec* before) noexcept {
  if (before != nullptr) std::memset(before, 0, sizeof *before);
  const auto delay =
      std::chrono::seconds(spec->it_value.tv_sec) + std::chrono::nanoseconds(spec->it_value.tv_nsec);
  reelfs::sim::world().set_timer(descriptor, flags == TFD_TIMER_ABSTIME, delay);
  return 0;
}

extern "C" ssize_t getrandom(void* into, size_t bytes, unsigned) {
  if (reelfs::sim::the_world == nullptr) return syscall(SYS_getrandom, into, bytes, 0);
  auto* const out = static_cast<unsigned char*>(into);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<unsigned char>(reelfs::sim::the_world->identity());
  return static_cast<ssize_t>(bytes);
}
