#include "admin/time_text.h"

#include <ctime>
#include <optional>
#include <regex>

#include <fmt/format.h>

namespace reelfs::admin {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;

std::int64_t seconds_of(std::int64_t time_ns) {
  return time_ns / kSecondNs - (time_ns % kSecondNs < 0 ? 1 : 0);
}

std::tm broken_down(std::int64_t time_ns, std::tm* (*convert)(const std::time_t*, std::tm*)) {
  const auto seconds = static_cast<std::time_t>(seconds_of(time_ns));
  std::tm parts{};
  convert(&seconds, &parts);
  return parts;
}

int number(const std::csub_match& digits) { return digits.matched ? std::stoi(digits.str()) : 0; }

std::int64_t fraction_ns(const std::csub_match& digits) {
  auto nine = digits.str().substr(0, 9);
  nine.resize(9, '0');
  return std::stoll(nine);
}

/// @return none: there is no such day or time
std::optional<std::int64_t> to_seconds(std::tm parts, std::time_t (*convert)(std::tm*)) {
  auto wanted = parts;
  parts.tm_isdst = -1;
  const auto seconds = convert(&parts);
  const bool is_there = parts.tm_mday == wanted.tm_mday && parts.tm_mon == wanted.tm_mon &&
                        wanted.tm_hour < 24 && wanted.tm_min < 60 && wanted.tm_sec < 60;
  return is_there ? std::optional<std::int64_t>(seconds) : std::nullopt;
}

}  // namespace

Result<std::int64_t> parse_time(std::string_view text, std::int64_t now_ns) {
  static const std::regex kForm(
      R"((?:(\d{4})-(\d{2})-(\d{2}))?(?:(^|[Tt ])(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?)? ?([Zz]|([+-])(\d{2}):(\d{2}))?)");
  const Error refused(
      Errc::invalid,
      fmt::format("{} is not a time: give 10:00, \"2026-11-21 10:00\" or 2026-11-21T10:00:00Z", text));
  std::cmatch found;
  if (!std::regex_match(text.data(), text.data() + text.size(), found, kForm)) return refused;
  const bool has_day = found[1].matched, has_time = found[5].matched, has_zone = found[9].matched;
  // A time of day alone begins the text, and a zone belongs to a time of a day.
  if (!(has_day || has_time) || (has_time && has_day != (found[4].length() > 0)) ||
      (has_zone && !(has_day && has_time)))
    return refused;
  auto parts = broken_down(now_ns, ::localtime_r);
  if (has_day) {
    parts.tm_year = number(found[1]) - 1900;
    parts.tm_mon = number(found[2]) - 1;
    parts.tm_mday = number(found[3]);
  }
  parts.tm_hour = number(found[5]);
  parts.tm_min = number(found[6]);
  parts.tm_sec = number(found[7]);
  const auto seconds = to_seconds(parts, has_zone ? ::timegm : ::mktime);
  if (!seconds) return refused;
  std::int64_t offset = 0;
  if (found[10].matched) {
    offset = (number(found[11]) * 60 + number(found[12])) * 60;
    if (found[10].str() == "-") offset = -offset;
  }
  // What an int64_t of nanoseconds can hold.
  constexpr std::int64_t kMost = INT64_MAX / kSecondNs - 1;
  if (*seconds - offset > kMost || *seconds - offset < -kMost) return refused;
  return (*seconds - offset) * kSecondNs + (found[8].matched ? fraction_ns(found[8]) : 0);
}

std::string time_text(std::int64_t time_ns) {
  const auto at = broken_down(time_ns, ::localtime_r);
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02}", at.tm_year + 1900, at.tm_mon + 1, at.tm_mday,
                     at.tm_hour, at.tm_min, at.tm_sec);
}

}  // namespace reelfs::admin
