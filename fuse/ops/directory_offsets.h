#pragma once

#include <cstdint>
#include <limits>

namespace reelfs::fuse {

// The offsets that readdir, telldir and seekdir see. Each names the place behind an entry, and is the same in
// every listing:
// "." is at 1, ".." at 2, and an entry of the index at its cookie (1 or more) and 2.

inline constexpr std::uint64_t kDirectoryStart = 0;
inline constexpr std::uint64_t kAfterDot = 1;
inline constexpr std::uint64_t kAfterDotDot = 2;

/// off_t is signed; a cookie above this cannot be told to the kernel.
inline constexpr std::uint64_t kMaxCookie = std::numeric_limits<std::int64_t>::max() - kAfterDotDot;

constexpr std::uint64_t offset_of_cookie(std::uint64_t cookie) { return cookie + kAfterDotDot; }
/// @return the cookie after which the index goes on; 0: at its first entry
constexpr std::uint64_t cookie_at_offset(std::uint64_t offset) {
  return offset <= kAfterDotDot ? 0 : offset - kAfterDotDot;
}

}  // namespace reelfs::fuse
