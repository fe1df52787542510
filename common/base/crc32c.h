#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace reelfs {

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) with the CPU's instruction, three streams interleaved.
/// @param previous  the CRC of the bytes before, to go on from; 0 at the start
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0) noexcept;

}  // namespace reelfs
