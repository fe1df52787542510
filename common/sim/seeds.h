#pragma once

#include <cstdint>
#include <vector>

namespace reelfs::sim {

/// The seeds a randomised test runs with: 1 .. count, or the one in the environment's REELFS_SEED alone, to
/// repeat a failure.
std::vector<std::uint64_t> seeds(std::uint64_t count = 16);

}  // namespace reelfs::sim
