#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/attributes.h"
#include "common/base/ids.h"

namespace reelfs::client {

// When bytes of recordings came: nanoseconds since 1970 of the index server's clock.

struct Recording {
  Attributes attributes;
  std::string path;           // within its channel
  std::int64_t first_ns = 0;  // of its first byte; 0: there is none
  std::int64_t last_ns = 0;   // of its newest
};

/// Half-open.
struct TimeRange {
  std::int64_t from_ns = 0;
  std::int64_t to_ns = 0;
};

struct RecordingsWanted {
  InodeId channel;
  InodeId inode;                      // this one alone, of whichever channel
  std::string path;                   // the one of this path within the channel alone
  std::optional<TimeRange> bytes_in;  // with bytes that came in this time
};

}  // namespace reelfs::client
