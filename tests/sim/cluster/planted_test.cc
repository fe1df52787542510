// Mistakes planted in copies of the product's sources (planted.cmake): each is found within the seeds of a
// quick run. REELFS_SEED=n shows what one seed finds; REELFS_BUG=name alone.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/sim/cluster/run_seed.h"

namespace reelfs::sim {
namespace {

class ClusterSimFinds : public ::testing::TestWithParam<Bug> {};

TEST_P(ClusterSimFinds, TheMistake) {
  const auto bug = GetParam();
  if (const char* one = std::getenv("REELFS_SEED")) {
    std::fputs(run_seed(std::strtoull(one, nullptr, 10), bug, true).told.c_str(), stdout);
    return;
  }
  for (std::uint64_t seed = 1; seed <= kQuickSeeds; ++seed) {
    const auto outcome = run_seed(seed, bug, false);
    if (!outcome.failed) continue;
    std::printf("%s: %s", std::string(to_string(bug)).c_str(), outcome.told.substr(0, 500).c_str());
    return;
  }
  ADD_FAILURE() << to_string(bug) << " is not found within " << kQuickSeeds << " seeds";
}

const auto kName = [](const auto& bug) { return std::string(to_string(bug.param)); };

constexpr Bug kFoundSoon[] = {Bug::place_after_first_copy, Bug::fence_without_waiting,
                              Bug::drop_short_copy,        Bug::flush_without_length,
                              Bug::flush_nothing,          Bug::journal_sync_nothing};
INSTANTIATE_TEST_SUITE_P(Planted, ClusterSimFinds, ::testing::ValuesIn(kFoundSoon), kName);

// These take rarer circumstances than the seeds of a quick run have: --gtest_also_run_disabled_tests
constexpr Bug kRare[] = {Bug::accept_old_generation, Bug::trust_torn,          Bug::seal_before_sync,
                         Bug::commit_unchecked,      Bug::free_any_generation, Bug::grant_before_sync};
INSTANTIATE_TEST_SUITE_P(DISABLED_Rare, ClusterSimFinds, ::testing::ValuesIn(kRare), kName);

}  // namespace
}  // namespace reelfs::sim
