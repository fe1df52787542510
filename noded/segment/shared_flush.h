#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "noded/device/device_access.h"
#include "noded/shm/device_table.h"

namespace reelfs::noded {

/// Flushes of one device by one process, shared with the other processes of the node: those that want one at
/// the same time make one. docs/design/node.md, "Flushing"
class SharedFlush {
 public:
  /// What it costs the others that a flusher was killed or stopped. Where the disk is only slow they flush
  /// once each, as if they were alone.
  static constexpr Duration kPatience = std::chrono::milliseconds(100);

  /// @param table  outlives it, and its calls
  SharedFlush(DeviceTable& table, WorkerId worker, Duration patience = kPatience);

  /// Blocks until what was written to the device before, by whichever process, is on stable storage: by a
  /// flush of this process or another's. A flush that fails takes the device out of service before anybody
  /// else can rely on a later one. One call at a time.
  /// @param now_ns  wall time
  /// @errors io, or those of `sync`
  Result<void> run(const DeviceFile::BlockingSync& sync, std::int64_t now_ns);
  /// Whether it was this process that took the device out of service, since the last question.
  bool found_failure() { return found_failure_.exchange(false); }

 private:
  Result<void> flush(const DeviceFile::BlockingSync& sync, const FlushTurn& turn, std::int64_t now_ns);

  DeviceTable& table_;
  const WorkerId worker_;
  const Duration patience_;
  std::uint32_t trusts_;  // the number of lost flushes with which other processes' are taken for ours
  std::atomic<bool> found_failure_{false};
};

}  // namespace reelfs::noded
