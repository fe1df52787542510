#include <cstdlib>
#include <ctime>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "fuse/views/calendar.h"
#include "fuse/views/link_names.h"
#include "fuse/views/node.h"

namespace reelfs::fuse {
namespace {

using Kind = ViewNode::Kind;
using namespace std::chrono_literals;

// ---- numbers

ViewNode node_of(Kind kind, std::uint64_t inode, Day day = {}, int hour = 0, unsigned generated = 0) {
  ViewNode node;
  node.kind = kind;
  node.inode = InodeId(inode);
  node.day = day;
  node.hour = hour;
  node.generated = generated;
  return node;
}

TEST(ViewNumbers, SayWhatTheyAre) {
  std::set<fuse_ino_t> numbers;
  std::vector<ViewNode> nodes;
  for (const std::uint64_t channel : {std::uint64_t{2}, std::uint64_t{3}, kMaxChannelWithViews}) {
    nodes.push_back(node_of(Kind::by_time, channel));
    nodes.push_back(node_of(Kind::reel, channel));
    for (const unsigned file : {1U, 2U, kMaxGenerated})
      nodes.push_back(node_of(Kind::generated, channel, {}, 0, file));
    for (const auto day : {Day{}, Day{2026y / 11 / 21}, kLastDay}) {
      nodes.push_back(node_of(Kind::date, channel, day));
      for (int hour = 0; hour < 24; ++hour) nodes.push_back(node_of(Kind::hour, channel, day, hour));
    }
  }
  for (const std::uint64_t recording : {std::uint64_t{2}, (std::uint64_t{1} << 61) - 1})
    nodes.push_back(node_of(Kind::link, recording));
  for (const auto& node : nodes) {
    const auto number = to_number(node);
    ASSERT_TRUE(number);
    EXPECT_TRUE(is_view(*number));
    EXPECT_TRUE(numbers.insert(*number).second) << *number;
    EXPECT_EQ(view_node(*number), node) << *number;
  }
}

TEST(ViewNumbers, ThoseThatDoNotFitAreNone) {
  EXPECT_FALSE(to_number(node_of(Kind::by_time, kMaxChannelWithViews + 1)));
  EXPECT_FALSE(to_number(node_of(Kind::date, 2, kLastDay + std::chrono::days(1))));
  EXPECT_FALSE(to_number(node_of(Kind::date, 2, Day{} - std::chrono::days(1))));
  EXPECT_FALSE(to_number(node_of(Kind::link, std::uint64_t{1} << 61)));
}

TEST(ViewNumbers, AnyOtherNumberIsRefusedOrMeansOneNode) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 100'000; ++i) {
    const auto number = random() | std::uint64_t{1} << 63;
    const auto node = view_node(number);
    EXPECT_TRUE(!node || to_number(*node) == number) << number;
  }
  EXPECT_FALSE(is_view(std::uint64_t{1} << 62));
}

// ---- times

class Calendar : public ::testing::Test {
 protected:
  ~Calendar() override {
    ::unsetenv("TZ");
    ::tzset();
  }
  static void in(const char* zone) {
    ::setenv("TZ", zone, 1);
    ::tzset();
  }
  static constexpr Day at(int year, unsigned month, unsigned day) {
    return Day(std::chrono::year(year) / month / day);
  }
  /// Seconds of UTC, of a day.
  static std::int64_t ns(Day day, int hour, int minute = 0) {
    return (day.time_since_epoch().count() * 86400 + hour * 3600 + minute * 60) * 1'000'000'000;
  }
  static void expect_time(std::optional<client::TimeRange> time, std::int64_t from, std::int64_t to) {
    ASSERT_TRUE(time);
    EXPECT_EQ(time->from_ns, from);
    EXPECT_EQ(time->to_ns, to);
  }
};

TEST_F(Calendar, AnHourOfUtc) {
  in("UTC");
  const auto day = at(2026, 11, 21);
  expect_time(time_of(day, 10), ns(day, 10), ns(day, 11));
  expect_time(time_of(day), ns(day, 0), ns(day, 24));
}

TEST_F(Calendar, ZonesHalfAnHourAndADayAway) {
  const auto day = at(2026, 11, 21);
  in("Asia/Kolkata");
  expect_time(time_of(day, 10), ns(day, 4, 30), ns(day, 5, 30));
  in("Asia/Kathmandu");
  expect_time(time_of(day, 0), ns(day, -6, 15), ns(day, -5, 15));
  in("Pacific/Kiritimati");
  expect_time(time_of(day, 0), ns(day, -14), ns(day, -13));
  in("Pacific/Pago_Pago");
  expect_time(time_of(day, 23), ns(day, 34), ns(day, 35));
}

TEST_F(Calendar, ASkippedHourIsNever) {
  in("Europe/Berlin");
  const auto day = at(2026, 3, 29);
  EXPECT_FALSE(time_of(day, 2));
  expect_time(time_of(day, 1), ns(day, 0), ns(day, 1));
  expect_time(time_of(day, 3), ns(day, 1), ns(day, 2));
  expect_time(time_of(day), ns(day, -1), ns(day, 22));
  EXPECT_EQ(hours_of({*time_of(day)}, day).size(), 23U);
}

TEST_F(Calendar, AnHourThatClocksShowTwiceIsOne) {
  in("Europe/Berlin");
  const auto day = at(2026, 10, 25);
  expect_time(time_of(day, 2), ns(day, 0), ns(day, 2));
  expect_time(time_of(day, 3), ns(day, 2), ns(day, 3));
  expect_time(time_of(day), ns(day, -2), ns(day, 23));
  EXPECT_EQ(hours_of({*time_of(day)}, day).size(), 24U);
  EXPECT_EQ(hours_of({{ns(day, 0, 45), ns(day, 1)}}, day), std::set{2});
  EXPECT_EQ(hours_of({{ns(day, 1, 15), ns(day, 1, 30)}}, day), std::set{2});
}

TEST_F(Calendar, ClocksThatChangeByHalfAnHour) {
  in("Australia/Lord_Howe");  // from 02:00 at +11 to 01:30 at +10:30
  const auto day = at(2026, 4, 5);
  expect_time(time_of(day, 1), ns(day, -10), ns(day, -9, 30));
  expect_time(time_of(day, 2), ns(day, -9, 30), ns(day, -8, 30));
}

TEST_F(Calendar, ADayThatClocksSkipIsNever) {
  in("Pacific/Apia");
  EXPECT_FALSE(time_of(at(2011, 12, 30)));
  EXPECT_TRUE(time_of(at(2011, 12, 31)));
}

TEST_F(Calendar, EveryMomentIsInTheHourThatClocksShow) {
  for (const char* const zone : {"UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe",
                                 "Asia/Kathmandu", "America/Havana", "Pacific/Apia"}) {
    SCOPED_TRACE(zone);
    in(zone);
    std::mt19937_64 random(1);
    for (int i = 0; i < 500; ++i) {
      const auto seconds = static_cast<std::time_t>(random() % (60ULL * 365 * 86400));
      std::tm shown{};
      ::localtime_r(&seconds, &shown);
      const auto day = at(shown.tm_year + 1900, static_cast<unsigned>(shown.tm_mon) + 1,
                          static_cast<unsigned>(shown.tm_mday));
      const auto hour = time_of(day, shown.tm_hour), whole = time_of(day);
      const auto moment = seconds * 1'000'000'000;
      ASSERT_TRUE(hour && whole);
      EXPECT_TRUE(hour->from_ns <= moment && moment < hour->to_ns) << seconds;
      EXPECT_TRUE(whole->from_ns <= hour->from_ns && hour->to_ns <= whole->to_ns) << seconds;
    }
  }
}

TEST_F(Calendar, DaysAndHoursWithAnyPartInThem) {
  in("Europe/Berlin");
  const auto day = at(2026, 11, 21);
  // 23:45 to 00:15 of the local time
  const std::vector<client::TimeRange> night{{ns(day, 22, 45), ns(day, 23, 15)}};
  EXPECT_EQ(days_of(night), (std::set{day, day + std::chrono::days(1)}));
  EXPECT_EQ(hours_of(night, day), std::set{23});
  EXPECT_EQ(hours_of(night, day + std::chrono::days(1)), std::set{0});
  EXPECT_TRUE(hours_of(night, day - std::chrono::days(1)).empty());
  const std::vector<client::TimeRange> weeks{{ns(day, 0), ns(day, 24 * 20)}};
  EXPECT_EQ(days_of(weeks).size(), 21U);
  EXPECT_TRUE(days_of({}).empty());
}

TEST_F(Calendar, NamesAreWrittenInOneWay) {
  EXPECT_EQ(to_text(at(2026, 1, 2)), "2026-01-02");
  EXPECT_EQ(parse_day("2026-01-02"), at(2026, 1, 2));
  EXPECT_EQ(parse_day(to_text(kLastDay)), kLastDay);
  for (const auto* const wrong : {"", "2026-1-2", "2026-01-32", "2026-02-30", "1969-12-31", "2026/01/02",
                                  "2026-01-02 ", "+026-01-02", "2026-01--2", "2149-12-31", "x"}) {
    EXPECT_FALSE(parse_day(wrong)) << wrong;
  }
  for (int hour = 0; hour < 24; ++hour) EXPECT_EQ(parse_hour(hour_text(hour)), hour);
  for (const auto* const wrong : {"", "1", "24", "001", "-1", "1x", " 1", "+1"})
    EXPECT_FALSE(parse_hour(wrong)) << wrong;
}

// ---- links

TEST(LinkNames, LeadBackToThePath) {
  std::set<std::string> names;
  for (const std::string path :
       {"a.ts", "2026/a.ts", "2026%2Fa.ts", "2026%252Fa.ts", "%", "%/%", "a%~5.ts", "tür/ü.ts"}) {
    const auto name = link_name(path, InodeId(7));
    EXPECT_EQ(name.find('/'), name.npos);
    EXPECT_TRUE(names.insert(name).second) << name;
    const auto said = parse_link_name(name);
    ASSERT_TRUE(said) << name;
    EXPECT_EQ(said->path, path);
    EXPECT_FALSE(said->recording);
  }
  EXPECT_EQ(link_name("2026/11/a.ts", InodeId(7)), "2026%2F11%2Fa.ts");
}

TEST(LinkNames, LongOnesAreCutAndSayTheInode) {
  const auto just = std::string(252, 'x') + ".ts";
  EXPECT_EQ(link_name(just, InodeId(7)), just);
  for (std::size_t length = 240; length < 300; ++length) {
    for (const std::string filler : {"x", "%", "/", "ü"}) {
      const auto path = std::string(length - 240, 'y') + [&] {
        std::string text;
        while (text.size() < 260) text += filler;
        return text;
      }() + ".mp4";
      const auto name = link_name(path, InodeId(4711));
      EXPECT_LE(name.size(), 255U);
      EXPECT_GE(name.size(), 248U);
      EXPECT_TRUE(name.ends_with("%~4711.mp4")) << name;
      const auto said = parse_link_name(name);
      ASSERT_TRUE(said);
      EXPECT_EQ(said->recording, InodeId(4711));
      const auto stem = name.substr(0, name.size() - std::string("%~4711.mp4").size());
      EXPECT_TRUE(parse_link_name(stem)) << "an escape was cut: " << name;
      EXPECT_NE(static_cast<unsigned char>(stem.back()), 0xC3) << "a letter was cut: " << name;
    }
  }
}

TEST(LinkNames, WhatNoLinkIsCalled) {
  for (const auto* const wrong : {"%", "a%2", "a%2f", "%20", "%~", "x%~0", "x%~y", "%~99999999999999999999"})
    EXPECT_FALSE(parse_link_name(wrong)) << wrong;
}

}  // namespace
}  // namespace reelfs::fuse
