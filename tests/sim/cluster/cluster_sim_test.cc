// Each seed in a process of its own, which begins as all others do: what happens with a seed depends on
// nothing else. The environment chooses:
//   REELFS_SEED=n     that one, with what happened
//   REELFS_SEEDS=n    1 to n, or REELFS_SEEDS=m-n
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <gtest/gtest.h>

#include "common/base/assert.h"
#include "tests/sim/cluster/run_seed.h"

namespace reelfs::sim {
namespace {

struct Seeds {
  std::uint64_t first = 1;
  std::uint64_t last = 1;
  bool traced = false;
};

std::uint64_t number_of(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  REELFS_ASSERT(failure == std::errc{} && end == text.data() + text.size());  // a seed is a number
  return number;
}

Seeds seeds(std::uint64_t usual) {
  if (const char* one = std::getenv("REELFS_SEED")) return {number_of(one), number_of(one), true};
  const char* many = std::getenv("REELFS_SEEDS");
  if (many == nullptr) return {1, usual, false};
  const std::string_view text(many);
  const auto dash = text.find('-');
  if (dash == std::string_view::npos) return {1, number_of(text), false};
  return {number_of(text.substr(0, dash)), number_of(text.substr(dash + 1)), false};
}

void add(Cluster::Figures& sum, const Cluster::Figures& each) {
  sum.syncs += each.syncs;
  sum.acknowledged_bytes += each.acknowledged_bytes;
  sum.errors += each.errors;
  sum.faults += each.faults;
  sum.segments += each.segments;
  sum.fences += each.fences;
  sum.completed += each.completed;
  sum.torn += each.torn;
}

TEST(ClusterSim, WhatWasSyncedStaysWhateverHappens) {
  const auto range = seeds(kQuickSeeds);
  const auto begun = std::chrono::system_clock::now();
  Cluster::Figures sum;
  std::uint64_t events = 0, failed = 0;
  for (auto seed = range.first; seed <= range.last; ++seed) {
    const auto outcome = run_seed(seed, Bug::none, range.traced);
    add(sum, outcome.figures);
    events += outcome.events;
    if (range.traced) std::fputs(outcome.told.c_str(), stdout);
    if (!outcome.failed) continue;
    ++failed;
    ADD_FAILURE() << outcome.told.substr(0, 2000)
                  << "  once more with all that happened: REELFS_SEED=" << seed;
    if (failed == 1 && !range.traced) {
      const auto again = run_seed(seed, Bug::none, true);
      std::fputs(again.told.c_str(), stdout);
    }
    if (failed >= 10) break;
  }
  const auto seconds = std::chrono::duration<double>(std::chrono::system_clock::now() - begun).count();
  std::printf(
      "seeds %lu to %lu in %.1f s: %lu failed; %lu faults, %lu fsyncs acknowledged, %lu bytes looked for, "
      "%lu errors told, %lu segments left, %lu fences (%lu torn), %lu orders to make copies whole, "
      "%lu events\n",
      range.first, range.last, seconds, failed, sum.faults, sum.syncs, sum.acknowledged_bytes, sum.errors,
      sum.segments, sum.fences, sum.torn, sum.completed, events);
  if (range.last - range.first + 1 < kQuickSeeds) return;
  // What is to be survived does happen.
  EXPECT_GT(sum.faults, kQuickSeeds);
  EXPECT_GT(sum.syncs, 20 * kQuickSeeds);
  EXPECT_GT(sum.fences, kQuickSeeds);
  EXPECT_GT(sum.torn, kQuickSeeds / 20);
  EXPECT_GT(sum.completed, kQuickSeeds / 20);
}

TEST(ClusterSim, ASeedAlwaysDoesTheSame) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const auto once = run_seed(seed, Bug::none, false);
    const auto again = run_seed(seed, Bug::none, true);
    EXPECT_EQ(once.digest, again.digest) << "seed " << seed;
  }
}

}  // namespace
}  // namespace reelfs::sim
