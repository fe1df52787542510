#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include <boost/asio/any_io_executor.hpp>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/byte_ranges.h"
#include "common/base/clock.h"
#include "common/base/units.h"
#include "common/wire/index.pb.h"
#include "noded/scrub/schedule.h"
#include "noded/segment/segment_store.h"

namespace reelfs::noded {

/// What the scrubber of a worker counts; all of it only grows.
struct ScrubCounts {
  std::uint64_t read_bytes = 0;
  std::uint64_t blocks = 0;
  std::uint64_t damaged_blocks = 0;
  std::uint64_t damaged_bytes = 0;
};

/// Reads every copy of a node that nobody appends to and verifies all its records, each within a period, and
/// tells what is bad. All workers of the node do so, one block of a device at a time: who verifies which is
/// in shared memory, and when it was in the block's descriptor.
///
/// Lives on the store's loop; `stop()` before destroying. Design: docs/design/scrub.md
class Scrubber {
 public:
  struct Options {
    WorkerId worker;
    std::uint32_t workers = 1;  // of the node: they take turns
    Duration period = std::chrono::hours(14 * 24);
    std::uint64_t rate = 32 * kMiB;  // bytes read from one device in a second at most; 0: none are
    Duration patience = std::chrono::seconds(30);  // with a worker that has begun and does nothing
  };
  /// Tells the index; repeated until it has succeeded.
  using Report = std::function<Task<void>(wire::Damage damage)>;

  Scrubber(asio::any_io_executor executor, const Clock& clock, SegmentStore& store, Options options,
           Report report);
  Scrubber(const Scrubber&) = delete;
  Scrubber& operator=(const Scrubber&) = delete;

  /// Runs until it is cancelled.
  asio::awaitable<void> run();
  asio::awaitable<void> stop();

  /// Everything on the node's devices is to be verified now, by all its workers.
  void order();
  /// How far the node is with a device, as this worker knows it.
  std::optional<wire::ScrubProgress> progress(DeviceId device) const;
  const ScrubCounts& counts() const { return counts_; }

 private:
  struct Block;
  struct OfDevice {
    DevicePtr device;
    std::optional<ScrubSchedule> schedule;
    std::int64_t ordered_ns = 0;  // as it was when the schedule was made
    TimePoint look_at;
  };
  asio::awaitable<void> scrub(std::shared_ptr<OfDevice> of_device);
  Task<Duration> step(OfDevice& of_device);
  void look(OfDevice& of_device);
  Task<void> verify(Block& block);
  Task<void> conclude(Block& block);
  Duration pause_after(std::uint64_t bytes, Duration took, const Device& device) const;
  std::int64_t wall_ns() const;
  std::int64_t steady_ns() const;

  const Clock& clock_;
  SegmentStore& store_;
  const Options options_;
  const Report report_;
  std::map<std::uint64_t, std::shared_ptr<OfDevice>> devices_;  // by life
  ScrubCounts counts_;
  TaskGroup group_;
};

}  // namespace reelfs::noded
