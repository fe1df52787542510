#include "admin/time_text.h"

#include <cstdlib>
#include <ctime>

#include <gtest/gtest.h>

#include "common/base/rfc3339.h"

namespace reelfs::admin {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kNoon = 1'792'584'000 * kSecond;  // 2026-10-21T12:00:00Z

class TimeText : public ::testing::Test {
 protected:
  TimeText() {
    ::setenv("TZ", "UTC-2", 1);  // two hours ahead of UTC
    ::tzset();
  }
  ~TimeText() override {
    ::unsetenv("TZ");
    ::tzset();
  }
  static std::int64_t parsed(const char* text) {
    const auto time = parse_time(text, kNoon);
    EXPECT_TRUE(time) << text;
    return time ? time.value() : 0;
  }
};

TEST_F(TimeText, IsReadAsPeopleWriteIt) {
  EXPECT_EQ(parsed("14:00"), kNoon);
  EXPECT_EQ(parsed("14:00:05"), kNoon + 5 * kSecond);
  EXPECT_EQ(parsed("9:30"), kNoon - 4 * 3600 * kSecond - 1800 * kSecond);
  EXPECT_EQ(parsed("2026-10-21 14:00"), kNoon);
  EXPECT_EQ(parsed("2026-10-20 14:00:00"), kNoon - 86400 * kSecond);
  EXPECT_EQ(parsed("2026-10-21"), kNoon - 14 * 3600 * kSecond);
  EXPECT_EQ(parsed("2026-10-21T12:00:00Z"), kNoon);
  EXPECT_EQ(parsed("2026-10-21t12:00:00.25z"), kNoon + kSecond / 4);
  EXPECT_EQ(parsed("2026-10-21T13:30:00+01:30"), kNoon);
  EXPECT_EQ(parsed("2026-10-21 07:00:00-05:00"), kNoon);
}

TEST_F(TimeText, RefusesWhatIsNone) {
  for (const auto* text : {"", "now", "10", "25:00", "10:60", "10:00Z", "2026-02-30", "2026-13-01",
                           "2026-10-21Z", "2026-10-2110:00", "T10:00", "2026-10-21T10:00:00+1", "10:00 x"}) {
    EXPECT_FALSE(parse_time(text, kNoon)) << text;
  }
}

TEST_F(TimeText, IsWrittenInLocalTimeAndInUtc) {
  EXPECT_EQ(time_text(kNoon), "2026-10-21 14:00:00");
  EXPECT_EQ(rfc3339(kNoon + 5), "2026-10-21T12:00:00.000000005Z");
  EXPECT_EQ(parsed(rfc3339(kNoon + 5).c_str()), kNoon + 5);
}

}  // namespace
}  // namespace reelfs::admin
