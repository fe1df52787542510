#include "tests/sim/writer_sim.h"

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

namespace reelfs::sim {
namespace {

constexpr std::uint64_t kSeeds = 1000;

/// REELFS_SEED=n repeats one.
std::vector<std::uint64_t> seeds() {
  if (const char* one = std::getenv("REELFS_SEED")) return {std::strtoull(one, nullptr, 10)};
  std::vector<std::uint64_t> all(kSeeds);
  for (std::uint64_t i = 0; i < kSeeds; ++i) all[i] = i + 1;
  return all;
}

TEST(WriterSim, PlacedPiecesAreOnEveryCopyAndEveryPieceEnds) {
  std::size_t placed = 0;
  std::size_t failed = 0;
  std::size_t given_up = 0;
  for (const auto seed : seeds()) {
    SCOPED_TRACE("seed=" + std::to_string(seed));
    WriterSim sim(seed, {});
    sim.run();
    ASSERT_EQ(sim.violations(), std::vector<std::string>{});
    placed += sim.pieces_placed();
    failed += sim.pieces_failed();
    given_up += sim.segments_given_up();
  }
  if (seeds().size() == 1) return;
  // The faults do reach the writer.
  EXPECT_GT(placed, 20 * kSeeds);
  EXPECT_GT(failed, 0u);
  EXPECT_GT(given_up, kSeeds / 4);
  RecordProperty("placed", static_cast<int>(placed));
  RecordProperty("failed", static_cast<int>(failed));
  RecordProperty("given_up", static_cast<int>(given_up));
}

TEST(WriterSim, FindsPlacingAfterTheFirstAcknowledgement) {
  std::size_t found = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    WriterSim sim(seed, {.place_after_first_ack = true});
    sim.run();
    if (!sim.violations().empty()) ++found;
  }
  EXPECT_GT(found, 20u);
}

}  // namespace
}  // namespace reelfs::sim
