#include "common/sim/seeds.h"

#include <charconv>
#include <cstdlib>
#include <numeric>
#include <string_view>

#include "common/base/assert.h"

namespace reelfs::sim {

std::vector<std::uint64_t> seeds(std::uint64_t count) {
  if (const char* chosen = std::getenv("REELFS_SEED")) {
    const std::string_view text(chosen);
    std::uint64_t seed = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), seed);
    REELFS_ASSERT(failure == std::errc{} && end == text.data() + text.size());  // REELFS_SEED is a number
    return {seed};
  }
  std::vector<std::uint64_t> all(count);
  std::iota(all.begin(), all.end(), 1);
  return all;
}

}  // namespace reelfs::sim
