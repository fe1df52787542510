#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "indexd/gaps/cadence.h"
#include "indexd/tree/gaps.h"

namespace reelfs::indexd {

/// What a session tells of a channel: wire::ChannelArrivals in times of this host.
struct ArrivalReport {
  struct Pause {
    TimePoint begin;
    TimePoint end;
    Duration stalled{0};
    Duration unattended{0};
  };
  struct Came {
    TimePoint first;
    TimePoint last;
    Duration longest_pause{0};  // between two arrivals
  };
  std::optional<Came> came;   // since the last report
  std::vector<Pause> pauses;  // ascending; the first may end with came->first
  std::optional<TimePoint> written;
  std::optional<TimePoint> pending;
  std::uint32_t writers = 0;
  Duration waiting{0};
  Duration longest_stall{0};
};

/// A moment by both clocks: rows carry wall times, and lengths are measured by the steady one.
struct Moment {
  TimePoint now;
  WallNs wall_ns = 0;
};

/// Notices when a channel that is recorded to goes silent, and why. docs/design/gaps.md
class ChannelWatch {
 public:
  /// Beyond the cadence. Together with the time between two looks it is less than the 5 s that are promised.
  static constexpr Duration kSlack = std::chrono::seconds(4);
  /// A channel is recorded to once bytes have come this often and over this time. A file that is copied into
  /// it in one go does not make it so.
  static constexpr std::size_t kArrivals = 4;
  static constexpr Duration kArriving = std::chrono::seconds(2);

  /// A channel of which nothing is known.
  explicit ChannelWatch(TimePoint started) : started_(started) {}
  /// One that the store knows.
  /// @param last_ns  of its newest byte, as far as the store knows
  /// @param open     the gap that lasts, if any
  ChannelWatch(Moment started, const WatchRow& row, WallNs last_ns, const std::optional<tree::Gap>& open);

  void report(SessionId session, const ArrivalReport& report, Moment at);
  void session_ended(SessionId session) { sessions_.erase(session); }
  /// To be called a few times a second, where nothing is known that has kept reports away.
  void look(Moment at);

  /// Since the last call: rows of the ledger, in the order in which they are to be changed.
  std::vector<tree::GapChange> take_changes() { return std::exchange(changes_, {}); }
  /// Its count of gaps is not filled in.
  WatchRow row() const;

  bool is_watched() const { return watched_; }
  Duration cadence() const { return cadence_.usual(); }
  Duration longest_stall() const { return longest_stall_; }
  std::optional<TimePoint> last() const { return last_; }
  struct Open {
    WallNs start_ns = 0;
    GapCause cause = GapCause::source_silent;
  };
  /// The gap that lasts.
  std::optional<Open> open() const;
  struct Totals {
    std::array<std::uint64_t, 4> gaps{};  // by cause, those that have ended
    Duration length{0};                   // of them
  };
  /// Since this was made.
  const Totals& totals() const { return totals_; }

 private:
  struct Teller {
    TimePoint heard;
    std::uint32_t writers = 0;
    Duration waiting{0};
    std::optional<TimePoint> written;
    std::optional<TimePoint> pending;
  };
  struct OpenGap {
    TimePoint begin;
    WallNs start_ns = 0;
    GapCause cause = GapCause::source_silent;
    std::array<Duration, 4> lasted{};  // by cause
    Duration longest_stall{0};
    TimePoint looked_at;
  };
  using Pause = ArrivalReport::Pause;

  Duration limit() const { return cadence_.usual() + kSlack; }
  TimePoint silent_since() const;
  GapCause cause_now(TimePoint now) const;
  void open_gap(TimePoint begin, Moment at);
  void put_open();
  void settle(const Pause& pause, bool told, Duration longest_stall, Moment at);
  void close(WallNs start_ns, Duration length, GapCause cause, Duration longest_stall);
  void retract();
  void learn(Duration pause, Moment at);

  const TimePoint started_;
  bool watched_ = false;
  WallNs since_ns_ = 0;
  std::optional<TimePoint> since_;
  std::size_t arrivals_ = 0;  // reports of some
  Cadence cadence_;
  Duration longest_stall_{0};
  std::optional<TimePoint> last_;
  std::optional<OpenGap> open_;
  std::map<SessionId, Teller> sessions_;
  std::vector<tree::GapChange> changes_;
  Totals totals_;
};

}  // namespace reelfs::indexd
