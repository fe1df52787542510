#include "fuse/views/calendar.h"

#include <algorithm>
#include <charconv>
#include <ctime>

#include <fmt/format.h>

namespace reelfs::fuse {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;
/// All time zones are whole quarters of an hour away from UTC, and change by such.
constexpr std::int64_t kStepNs = 900 * kSecondNs;
constexpr std::int64_t kDayNs = 86400 * kSecondNs;
/// Clocks are 12 hours behind UTC to 14 hours ahead of it.
constexpr std::int64_t kFurthestNs = 16 * 3600 * kSecondNs;

struct Shown {
  Day day;
  int hour = 0;
};

/// What clocks show at a time.
Shown shown_at(std::int64_t time_ns) {
  const std::time_t seconds = time_ns / kSecondNs - (time_ns % kSecondNs < 0 ? 1 : 0);
  std::tm at{};
  ::localtime_r(&seconds, &at);
  const auto date = std::chrono::year(at.tm_year + 1900) / static_cast<unsigned>(at.tm_mon + 1) /
                    static_cast<unsigned>(at.tm_mday);
  return {Day(date), at.tm_hour};
}

/// From the first to the last quarter of an hour in which clocks show something.
template <class IsShown>
std::optional<client::TimeRange> find_time(Day day, IsShown is_shown) {
  const std::int64_t midnight = day.time_since_epoch().count() * kDayNs;
  std::optional<client::TimeRange> found;
  for (auto at = midnight - kFurthestNs; at < midnight + kDayNs + kFurthestNs; at += kStepNs) {
    if (!is_shown(shown_at(at))) continue;
    if (!found) found.emplace(client::TimeRange{at, at});
    found->to_ns = at + kStepNs;
  }
  return found;
}

std::optional<int> parse_number(std::string_view digits) {
  int number = 0;
  const auto* const end = digits.data() + digits.size();
  const auto [parsed, error] = std::from_chars(digits.data(), end, number);
  if (error != std::errc() || parsed != end) return std::nullopt;
  return number;
}

}  // namespace

std::optional<client::TimeRange> time_of(Day day) {
  return find_time(day, [day](const Shown& shown) { return shown.day == day; });
}

std::optional<client::TimeRange> time_of(Day day, int hour) {
  return find_time(day, [=](const Shown& shown) { return shown.day == day && shown.hour == hour; });
}

std::set<Day> days_of(const std::vector<client::TimeRange>& times) {
  std::set<Day> days;
  for (const auto& time : times) {
    // No day is shorter: where clocks skip one, they skip all of it.
    for (auto at = time.from_ns; at < time.to_ns; at += kDayNs / 4) days.insert(shown_at(at).day);
    days.insert(shown_at(time.to_ns - 1).day);
  }
  return days;
}

std::set<int> hours_of(const std::vector<client::TimeRange>& times, Day day) {
  std::set<int> hours;
  const auto whole = time_of(day);
  if (!whole) return hours;
  for (const auto& time : times) {
    const auto to = std::min(time.to_ns, whole->to_ns);
    for (auto at = std::max(time.from_ns, whole->from_ns); at < to; at += kStepNs)
      hours.insert(shown_at(at).hour);
  }
  return hours;
}

std::optional<Day> parse_day(std::string_view text) {
  constexpr std::size_t kYear = 4, kMonth = 5, kDay = 8;
  if (text.size() != to_text(Day{}).size()) return std::nullopt;
  const auto year = parse_number(text.substr(0, kYear));
  const auto month = parse_number(text.substr(kMonth, 2));
  const auto day = parse_number(text.substr(kDay));
  if (!year || !month || !day) return std::nullopt;
  const auto date = std::chrono::year(*year) / static_cast<unsigned>(*month) / static_cast<unsigned>(*day);
  if (!date.ok() || Day(date) < Day{} || Day(date) > kLastDay || to_text(Day(date)) != text)
    return std::nullopt;
  return Day(date);
}

std::string to_text(Day day) {
  const std::chrono::year_month_day date(day);
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                     static_cast<unsigned>(date.day()));
}

std::optional<int> parse_hour(std::string_view text) {
  constexpr int kHours = 24;
  const auto hour = parse_number(text);
  if (!hour || *hour < 0 || *hour >= kHours || hour_text(*hour) != text) return std::nullopt;
  return hour;
}

std::string hour_text(int hour) { return fmt::format("{:02}", hour); }

}  // namespace reelfs::fuse
