#pragma once

namespace reelfs {
/// Prints and aborts. Use REELFS_ASSERT.
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;
}  // namespace reelfs

/// States what only a bug can break; stays on in release.
#define REELFS_ASSERT(expression) \
  ((expression) ? void(0) : ::reelfs::assertion_failed(#expression, __FILE__, __LINE__))
