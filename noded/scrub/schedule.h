#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/clock.h"
#include "noded/shm/device_table.h"

namespace reelfs::noded {

/// Which block of a device is to be verified next, and when.
///
/// All that is known stands in the block descriptors, so that nothing begins anew with a restart: the block
/// that was verified, or taken, longest ago comes next, and the pauses are such that each comes once within
/// the period. A look at the table is taken now and then; what is asked of it in between goes by that.
/// docs/design/scrub.md, "When"
class ScrubSchedule {
 public:
  struct Rules {
    Duration period{};            // zero: only what was ordered
    std::int64_t ordered_ns = 0;  // wall time: what was not verified since is to be now; 0: nothing
  };
  struct Next {
    std::uint32_t block = 0;
    BlockSlot slot;           // as it is now
    std::int64_t due_ns = 0;  // wall time
  };

  /// @param most  blocks to be remembered, of those that come first
  static ScrubSchedule look(DeviceTable& table, Rules rules, std::int64_t wall_ns, std::size_t most = 1024);

  /// The first of those remembered that is as it was; empty when there is none left: look again.
  /// @param wall_ns  now
  std::optional<Next> next(DeviceTable& table, std::int64_t wall_ns);
  /// Verified, or not to be for now.
  void drop(std::uint32_t block);

  std::uint64_t used_bytes() const { return used_; }
  /// Since it was ordered, or else within the period.
  std::uint64_t verified_bytes() const { return verified_; }
  /// Everything was verified or taken since then; 0: there is nothing.
  std::int64_t oldest_ns() const { return oldest_; }
  /// Nothing is left of what was ordered.
  bool order_done() const { return ordered_left_ == 0; }

 private:
  struct Candidate {
    std::int64_t since_ns = 0;
    std::uint32_t block = 0;
    std::uint64_t segment = 0;
  };
  explicit ScrubSchedule(Rules rules) : rules_(rules) {}

  Rules rules_;
  std::vector<Candidate> candidates_;  // the first to be verified is the last
  std::uint64_t used_ = 0;
  std::uint64_t verified_ = 0;
  std::uint64_t ordered_left_ = 0;
  std::int64_t oldest_ = 0;
  std::int64_t latest_verified_ = 0;
};

}  // namespace reelfs::noded
