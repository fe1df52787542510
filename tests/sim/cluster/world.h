#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <fmt/format.h>

#include "common/base/clock.h"

namespace reelfs::sim {

namespace asio = boost::asio;

/// A machine: what runs on it loses its memory with its power, and its disks what was not flushed.
struct Host {
  std::string name;
  std::uint64_t boot = 1;  // so often it was started
  bool powered = true;
};

/// A program that runs on a host, or did. It has an io_context of its own: to kill it is never to run that
/// again, to stop it (SIGSTOP) is not to run it for a while. What it had is not destroyed: the kernel does
/// not ask destructors either, and the seed's own process ends soon.
struct Process {
  Process(Host& machine, std::string program) : host(machine), name(std::move(program)) {}
  Host& host;
  const std::string name;
  asio::io_context context{1};
  bool alive = true;
  bool stopped = false;
  bool ready = false;  // queued to be run
};

/// Everything that happens, in one thread and on virtual time, all chances taken from one seed.
///
/// The product runs as it is: its timers see this time because this library defines
/// std::chrono::steady_clock::now() and timerfd_settime(2) anew, its UUIDs come from the seed by getrandom(2)
/// likewise. There is one world in a process, for that reason.
class World {
 public:
  World(std::uint64_t seed, bool traced);
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // ---- time and chance

  TimePoint now() const { return now_; }
  const Clock& clock() const { return clock_; }
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  Duration between(Duration least, Duration most);
  /// For what is merely to differ from others, of a sequence of its own: libraries take some, too.
  std::uint64_t identity() { return identities_(); }

  // ---- processes

  Process& start(Host& host, std::string name);
  void kill(Process& process);
  void stop(Process& process);
  void go_on(Process& process);
  /// Whose code runs just now; null for the world's own events.
  Process* current() const { return current_; }
  void run_as(Process& process, const std::function<void()>& work);

  // ---- what is to happen

  void after(Duration delay, std::function<void()> event);
  /// In the process, once it runs: never where it is dead by then.
  void after(Process& process, Duration delay, std::function<void()> event);
  /// Goes on until it is so, or until that time. @return whether it is so
  bool run_until(const std::function<bool()>& so, Duration limit);

  // ---- what is seen

  template <class... Args>
  void note(fmt::format_string<Args...> text, Args&&... args) {
    if (traced_) write_note(fmt::format(text, std::forward<Args>(args)...));
  }
  void violated(std::string what);
  const std::vector<std::string>& violations() const { return violations_; }
  bool traced() const { return traced_; }
  const std::deque<std::string>& notes() const { return notes_; }
  std::uint64_t events() const { return events_run_; }
  std::uint64_t digest() const { return digest_; }  // of all that happened: equal runs have equal ones
  void mix(std::uint64_t value) { digest_ = (digest_ ^ value) * 0x9E3779B97F4A7C15ULL; }

  // ---- for the functions that are defined anew

  void set_timer(int descriptor, bool at_once, Duration delay);

 private:
  class WorldClock final : public Clock {
   public:
    explicit WorldClock(const World& world) : world_(world) {}
    TimePoint now() const override { return world_.now(); }
    WallTime wall() const override {
      return WallTime(std::chrono::seconds(1'700'000'000) + world_.now().time_since_epoch());
    }

   private:
    const World& world_;
  };
  struct Timer {
    Process* process;
    TimePoint at;
  };

  void make_ready(Process& process);
  void run_ready();
  void fire_timers();
  std::optional<TimePoint> next_time() const;
  void write_note(std::string text);

  std::mt19937_64 random_, identities_;
  const bool traced_;
  TimePoint now_{std::chrono::hours(1)};
  const WorldClock clock_{*this};
  std::multimap<TimePoint, std::function<void()>> events_;
  std::list<Process> processes_;
  std::deque<Process*> ready_;
  std::map<int, Timer> timers_;  // by the descriptor of Asio's timer
  Process* current_ = nullptr;
  std::vector<std::string> violations_;
  std::deque<std::string> notes_;
  std::uint64_t events_run_ = 0;
  std::uint64_t digest_ = 0;
};

/// The one there is.
World& world();

/// Lets time pass in a coroutine of the current process. Not ended by its being cancelled, like a call in the
/// kernel.
asio::awaitable<void> pass(Duration duration);

}  // namespace reelfs::sim
