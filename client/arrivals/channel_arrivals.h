#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "common/base/clock.h"

namespace reelfs::client {

/// What became of written bytes.
enum class Fate { stored, lost };

/// When bytes of one channel came, as this mount has seen it, and what kept others from coming. Bytes count
/// once they have been committed, with the time at which they were written. Any thread.
class ChannelArrivals {
 public:
  struct Pause {
    TimePoint begin;
    TimePoint end;
    Duration stalled{0};     // of it, a call waited, or the index did not answer
    Duration unattended{0};  // of it, nobody had a file open for writing
  };
  struct Came {
    TimePoint first;
    TimePoint last;
    Duration longest_pause{0};  // between two arrivals
  };
  /// Since the last report that was confirmed; and how things are.
  struct Report {
    std::optional<Came> came;
    std::vector<Pause> pauses;  // longer than kNotable, ascending, the newest kMaxPauses
    std::optional<TimePoint> written;
    std::optional<TimePoint> pending;
    std::uint32_t writers = 0;
    Duration waiting{0};
    Duration longest_stall{0};
  };
  static constexpr Duration kNotable = std::chrono::seconds(1);
  static constexpr std::size_t kMaxPauses = 256;

  /// @param now  of its making: nobody has recorded until then
  explicit ChannelArrivals(TimePoint now) : unattended_(now) {}
  ChannelArrivals(const ChannelArrivals&) = delete;
  ChannelArrivals& operator=(const ChannelArrivals&) = delete;

  /// A write was taken, and began so many pieces.
  void wrote(TimePoint now, std::size_t pieces_begun);
  /// @param begun  when each of the pieces was, ascending
  void settled(std::span<const TimePoint> begun, Fate fate);

  void writer_opened(TimePoint now);
  void writer_closed(TimePoint now);
  void call_waits(TimePoint since);
  void call_ended(TimePoint since, TimePoint now);
  /// The store could not be asked in this time; or, open at its end, cannot be.
  void store_away(TimePoint since);
  void store_back(TimePoint now);

  /// Whether somebody may write, or there is something to tell.
  bool is_active() const;
  Report report(TimePoint now);
  /// What report() told last is known.
  void confirm();

 private:
  /// Times in which something was so.
  class Spells {
   public:
    Spells() = default;
    explicit Spells(TimePoint since) : since_(since) {}
    void begin(TimePoint now);
    void end(TimePoint now);
    void add(TimePoint begin, TimePoint end);
    Duration within(TimePoint begin, TimePoint end) const;
    void forget_before(TimePoint time);

   private:
    static constexpr std::size_t kMax = 1024;
    std::optional<TimePoint> since_;
    std::deque<std::pair<TimePoint, TimePoint>> ended_;
  };
  struct News {
    std::optional<Came> came;
    std::deque<Pause> pauses;
    Duration longest_stall{0};
  };

  void arrive(TimePoint time);
  static void note(News& news, const Came& came);

  mutable std::mutex mutex_;  // guards all below
  std::uint32_t writers_ = 0;
  std::multiset<TimePoint> waits_;
  Spells stalled_;
  Spells unattended_;
  Spells away_;
  std::map<TimePoint, std::size_t> pending_;  // pieces by when they were begun
  std::set<TimePoint> stored_;                // while older ones are pending
  std::optional<TimePoint> newest_begun_;
  std::optional<TimePoint> written_;
  std::optional<TimePoint> last_;
  News news_;
  News sent_;  // with the last report
  std::uint32_t writers_sent_ = 0;
  std::uint32_t writers_known_ = 0;  // to the index
};

}  // namespace reelfs::client
