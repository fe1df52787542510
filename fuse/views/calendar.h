#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "client/recordings.h"
#include "fuse/views/node.h"

namespace reelfs::fuse {

// Days and hours as the clocks of the process's time zone (TZ, /etc/localtime) show them. Where clocks are
// set back an hour lasts longer: what they show twice is one hour. One that they skip is never.

/// When clocks show this day. @return none: never
std::optional<client::TimeRange> time_of(Day day);
/// @param hour  0 to 23
std::optional<client::TimeRange> time_of(Day day, int hour);

/// Days and hours with any part in the times, which are whole quarters of an hour.
std::set<Day> days_of(const std::vector<client::TimeRange>& times);
std::set<int> hours_of(const std::vector<client::TimeRange>& times, Day day);

/// "2026-11-21", up to kLastDay. Written in any other way it is none.
std::optional<Day> parse_day(std::string_view text);
std::string to_text(Day day);
/// "00" to "23"
std::optional<int> parse_hour(std::string_view text);
std::string hour_text(int hour);

}  // namespace reelfs::fuse
