#pragma once

#include <array>
#include <cstdint>

namespace reelfs::noded {

/// Who verifies which block of a device, and who writes one in place: stands in the device shared memory,
/// under its mutex. Each word is true by itself, so there is nothing to repair after a death. When a block
/// was verified is in its descriptor. docs/design/scrub.md
struct ScrubBoard {
  std::int64_t ordered_ns = 0;  // blocks not verified since are to be now; 0: none
  std::uint64_t claims = 0;     // numbered as they are made
  std::uint64_t claim = 0;      // the number of the one that is held; 0: none
  std::int64_t touched_ns = 0;  // steady clock: when its worker did something last
  std::uint64_t read_bytes = 0;
  std::uint64_t damaged_blocks = 0;
  std::uint32_t block = 0;   // of the claim
  std::uint32_t worker = 0;  // WorkerId
  struct Rewrite {
    std::uint32_t block = 0;
    std::uint32_t worker = 0;  // WorkerId; 0: the entry is free
  };
  std::array<Rewrite, 8> rewrites{};
};
static_assert(sizeof(ScrubBoard) == 120);

}  // namespace reelfs::noded
