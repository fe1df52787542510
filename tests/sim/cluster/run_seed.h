#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/cluster/cluster.h"
#include "tests/sim/cluster/planted.h"

namespace reelfs::sim {

/// What came of a seed.
struct Outcome {
  bool failed = false;  // something did not hold, or the process ended by itself
  std::string told;     // what, and with `traced` all that happened
  Cluster::Figures figures;
  std::uint64_t digest = 0;  // of all that happened
  std::uint64_t events = 0;
};

/// Runs a cluster with this seed, in a process of its own, which begins as all others do: what happens
/// depends on nothing else.
Outcome run_seed(std::uint64_t seed, Bug bug, bool traced);

/// So many, of 1, 2, ..., are run where nobody asks for others.
inline constexpr std::uint64_t kQuickSeeds = 60;

}  // namespace reelfs::sim
