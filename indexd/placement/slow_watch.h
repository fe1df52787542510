#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::indexd {

/// What a process told of one device: its calls since it told last.
struct DeviceCalls {
  std::uint64_t writes = 0;  // that ended, and
  Duration write_time{};     // how long they took together
  std::uint64_t flushes = 0;
  Duration flush_time{};
  Duration oldest_write{};  // of those under way: for how long the first one has been; 0: there is none
  Duration oldest_flush{};
};

/// Which devices are slower than their peers: those whose writes or flushes take kFactor times as long as the
/// median of the other devices' do, and longer than kFloor, for a while. One that is slow stays so until it
/// has been told to be fast for a longer while; silence proves nothing.
///
/// What a device's calls take is a mean of the last second, in which what is 0.3 s older counts half. It
/// is judged while it does something; as a peer it keeps its last figure for a minute, and where peers are
/// even in number the slower of the two in the middle counts. A plain state machine.
class SlowWatch {
 public:
  struct Options {
    double factor = 4;
    Duration slow_after{};
    Duration fast_after{};
  };
  /// What is quicker than this is not slow, whatever the others are: a write into a page cache takes 20 us,
  /// and ten times that now and then. A disk of rotating rust flushes in 10 to 30 ms.
  static constexpr Duration kFloor = std::chrono::milliseconds(40);

  explicit SlowWatch(Options options) : options_(options) {}

  void heard(DeviceId device, WorkerId worker, TimePoint now, const DeviceCalls& calls);
  /// It is out of service, or gone.
  void forget(DeviceId device) { devices_.erase(device); }

  struct Change {
    DeviceId device;
    bool slow = false;
    bool by_flushes = false;  // else by writes
    Duration takes{};
    Duration peers_take{};
  };
  /// Which became slow, or fast again, since the last look. To be called a few times a second.
  std::vector<Change> look(TimePoint now);

  bool slow(DeviceId device) const;
  struct Latency {
    Duration write{};  // 0: not known
    Duration flush{};
  };
  Latency latency(DeviceId device) const;

 private:
  struct Mean {
    double count = 0;  // of calls; those of 0.3 s before count half
    double time = 0;   // seconds
    TimePoint heard;   // when a call ended last: count and time are as of then
    struct Waiting {
      Duration time;
      TimePoint told;
    };
    std::map<WorkerId, Waiting> waiting;  // for a call that has not ended
    void add(TimePoint now, std::uint64_t calls, Duration took);
    /// @param remembered  since the last call ended
    std::optional<double> takes(TimePoint now, Duration remembered) const;
  };
  struct Device {
    Mean writes, flushes;
    bool slow = false;
    std::optional<TimePoint> otherwise_since;  // it has been fast though it counts as slow, or the reverse
  };
  struct Judgement {
    bool known = false;
    bool slow = false;
    bool fast = false;
    Change change;
  };
  Judgement judge(DeviceId id, const Device& device, TimePoint now) const;
  std::optional<double> median_of_others(DeviceId id, Mean Device::*which, TimePoint now) const;

  Options options_;
  std::map<DeviceId, Device> devices_;
};

}  // namespace reelfs::indexd
