#pragma once

#include <cstdint>
#include <string>

namespace reelfs {

/// A time in nanoseconds since 1970 as RFC 3339 has it, in UTC: "2026-11-21T10:00:00.500000000Z"
std::string rfc3339(std::int64_t time_ns);

}  // namespace reelfs
