#include "indexd/retention/plan.h"

#include <algorithm>

namespace reelfs::indexd {

namespace {

bool may_give(const ChannelUse& channel) {
  return channel.policy.overwrite && !channel.nothing_may_go && channel.used_bytes > 0;
}

/// Of the cluster, so that they add up to no more than it where quotas do.
std::uint64_t equal_share(const SpaceUse& space, std::span<const ChannelUse> channels) {
  std::uint64_t without = 0, promised = 0;
  for (const auto& channel : channels) {
    if (channel.policy.quota_bytes) {
      promised += std::min(*channel.policy.quota_bytes, space.total_bytes);
    } else {
      ++without;
    }
  }
  if (without == 0) return 0;
  const auto left = space.total_bytes - std::min(space.total_bytes, promised);
  return std::max<std::uint64_t>(1, left / without);
}

}  // namespace

std::uint64_t RetentionPlan::over_quota(const ChannelUse& channel) {
  if (!channel.policy.quota_bytes || !channel.policy.overwrite) return 0;
  const auto quota = *channel.policy.quota_bytes;
  const auto headroom = std::min(channel.ingest * kQuotaHeadroomS, quota / 10);
  const auto wanted = quota - headroom;
  const auto used = channel.used_bytes + channel.coming_bytes;
  return std::min(used - std::min(used, wanted), channel.used_bytes);
}

std::uint64_t RetentionPlan::reserve(const SpaceUse& space, std::span<const ChannelUse> channels) {
  constexpr std::uint64_t kLeastBlocks = 2;
  std::uint64_t wanted = kLeastBlocks * space.block_bytes;
  for (const auto& channel : channels) {
    if (channel.ingest > 0) wanted += channel.ingest * kReserveS + space.block_bytes;
  }
  return std::min(wanted, space.total_bytes / 10);
}

std::optional<std::size_t> RetentionPlan::next(const SpaceUse& space, std::span<const ChannelUse> channels) {
  const auto equal = equal_share(space, channels);
  std::optional<std::size_t> chosen;
  double most = 0;
  for (std::size_t index = 0; index < channels.size(); ++index) {
    const auto& channel = channels[index];
    if (!may_give(channel)) continue;
    const auto share = channel.policy.quota_bytes.value_or(equal);
    const auto part = static_cast<double>(channel.used_bytes) / static_cast<double>(share);
    if (chosen && part <= most) continue;
    chosen = index;
    most = part;
  }
  return chosen;
}

}  // namespace reelfs::indexd
