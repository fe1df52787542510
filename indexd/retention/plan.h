#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "indexd/tree/policy.h"

namespace reelfs::indexd {

/// One channel at one moment, as far as overwriting goes.
struct ChannelUse {
  InodeId channel;
  tree::Policy policy;
  std::uint64_t used_bytes = 0;
  std::uint64_t coming_bytes = 0;  // that somebody waits to put into it
  std::uint64_t ingest = 0;        // bytes per second that are being recorded
  bool nothing_may_go = false;     // it was tried, and what is left is too young, held or being written
};

/// Net of copies, of what is online.
struct SpaceUse {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
  std::uint64_t block_bytes = 0;
};

/// Whether the space that is online is all there is for now. What nodes are to tell yet (after a restart of
/// the index server), or will tell again in a moment, must cost no recording.
class SteadySpace {
 public:
  static constexpr auto kSettles = std::chrono::seconds(30);

  explicit SteadySpace(TimePoint now) : since_(now) {}
  /// @param blocks  of all devices  @param present  of those online
  bool is_steady(std::uint64_t blocks, std::uint64_t present, TimePoint now) {
    if (std::exchange(present_, present) != present) since_ = now;
    return present >= blocks || now - since_ >= kSettles;
  }

 private:
  std::uint64_t present_ = 0;
  TimePoint since_;  // it has not changed since
};

/// What decides how much goes, and where. Pure functions of what they are given.
class RetentionPlan {
 public:
  /// What is recorded meanwhile fits in between two looks, and the node's answers, many times over.
  static constexpr std::uint64_t kQuotaHeadroomS = 5;
  /// A new recording always finds room for so long.
  static constexpr std::uint64_t kReserveS = 60;

  /// Bytes to go so that the channel stays within its quota. 0 where it has none, or overwrites nothing.
  static std::uint64_t over_quota(const ChannelUse& channel);
  /// What is to be free in the cluster: a minute of what is being recorded, a segment for each channel that
  /// records, and some; but never more than a tenth of what there is.
  static std::uint64_t reserve(const SpaceUse& space, std::span<const ChannelUse> channels);
  /// The channel whose oldest recording goes next where the cluster is short of space: that which uses the
  /// most of its share. A share is the quota; all without a quota have equal ones. None: nothing may go
  /// anywhere.
  static std::optional<std::size_t> next(const SpaceUse& space, std::span<const ChannelUse> channels);
};

}  // namespace reelfs::indexd
