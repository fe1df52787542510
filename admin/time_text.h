#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace reelfs::admin {

/// A time as people give it, in nanoseconds since 1970: "10:00" or "10:00:30" (of the day of `now_ns`),
/// "2026-11-21", "2026-11-21 10:00", all of the local time zone, or with one, as RFC 3339 has it:
/// "2026-11-21T10:00:00.5+01:00", "…Z". @errors invalid, and what is understood
Result<std::int64_t> parse_time(std::string_view text, std::int64_t now_ns);

/// "2026-11-21 10:00:00", local time
std::string time_text(std::int64_t time_ns);

}  // namespace reelfs::admin
