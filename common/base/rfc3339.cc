#include "common/base/rfc3339.h"

#include <cstdio>
#include <ctime>

namespace reelfs {

std::string rfc3339(std::int64_t time_ns) {
  constexpr std::int64_t kSecondNs = 1'000'000'000;
  const auto seconds = static_cast<std::time_t>(time_ns / kSecondNs - (time_ns % kSecondNs < 0 ? 1 : 0));
  std::tm at{};
  ::gmtime_r(&seconds, &at);
  char text[64];
  const auto length = std::snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%09dZ",
                                    at.tm_year + 1900, at.tm_mon + 1, at.tm_mday, at.tm_hour, at.tm_min,
                                    at.tm_sec, static_cast<int>(time_ns - seconds * kSecondNs));
  return {text, static_cast<std::size_t>(length)};
}

}  // namespace reelfs
