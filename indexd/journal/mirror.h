#pragma once

#include <cstdint>
#include <string>

#include "common/async/task.h"

namespace reelfs::indexd {

/// A second place where the journal is kept. docs/design/rebuild.md
class JournalMirror {
 public:
  virtual ~JournalMirror() = default;

  /// These entries are in the journal's file, and about to be applied. They follow upon those of the call
  /// before. On the writer's thread: must not wait. @param entries  as docs/formats/journal.md has them
  virtual void written(std::uint64_t first_index, std::uint64_t last_index, std::string entries) = 0;
  /// Somebody is going to wait for the entries up to this one.
  virtual void want(std::uint64_t index) = 0;
  /// Returns when they are on stable storage there, or when nobody is to wait for that any longer.
  virtual asio::awaitable<void> stored(std::uint64_t index) = 0;
};

}  // namespace reelfs::indexd
