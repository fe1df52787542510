#include <gtest/gtest.h>

#include "client/file_state.h"

namespace reelfs::client {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kDay = 24 * 3600 * kSecond;

class ReadsTest : public ::testing::Test {
 protected:
  Attributes file(std::int64_t atime_ns, std::int64_t mtime_ns, std::int64_t ctime_ns) {
    Attributes attributes;
    attributes.inode = InodeId(7);
    attributes.atime_ns = atime_ns;
    attributes.mtime_ns = mtime_ns;
    attributes.ctime_ns = ctime_ns;
    return attributes;
  }
  SystemClock clock_;
  FileTable files_{clock_};
};

TEST_F(ReadsTest, AreNotedOnceAfterAChangeAndOnceADay) {
  const auto changed = file(kSecond, 2 * kSecond, 2 * kSecond);
  EXPECT_TRUE(files_.note_read(changed, 3 * kSecond));
  EXPECT_FALSE(files_.note_read(changed, 4 * kSecond)) << "its atime is newer than the change by now";
  const auto read = file(3 * kSecond, 2 * kSecond, 2 * kSecond);
  FileTable others(clock_);
  EXPECT_FALSE(others.note_read(read, 4 * kSecond));
  EXPECT_TRUE(others.note_read(read, 3 * kSecond + kDay));
}

TEST_F(ReadsTest, AreSeenBeforeTheIndexIsTold) {
  const auto known = file(kSecond, 2 * kSecond, 2 * kSecond);
  ASSERT_TRUE(files_.note_read(known, 3 * kSecond));
  EXPECT_EQ(files_.note(known).atime_ns, 3 * kSecond);
  EXPECT_EQ(files_.note(file(kSecond, 2 * kSecond, 4 * kSecond)).atime_ns, kSecond) << "it was changed since";
  const auto reads = files_.reads(10);
  EXPECT_EQ(reads, (FileTable::Reads{{InodeId(7), 3 * kSecond}}));
  files_.reads_told(reads);
  EXPECT_EQ(files_.note(known).atime_ns, kSecond) << "from now on the index tells";
}

TEST_F(ReadsTest, AReadWhileTheIndexIsToldOfAnEarlierOneIsStillToBeTold) {
  const auto known = file(kSecond, 2 * kSecond, 2 * kSecond);
  ASSERT_TRUE(files_.note_read(known, 3 * kSecond));
  const auto reads = files_.reads(10);
  ASSERT_TRUE(files_.note_read(file(kSecond, 4 * kSecond, 4 * kSecond), 5 * kSecond));
  files_.reads_told(reads);
  EXPECT_EQ(files_.reads(10).size(), 1U);
}

TEST_F(ReadsTest, AreForgottenWhereTheAtimeIsSet) {
  const auto known = file(kSecond, 2 * kSecond, 2 * kSecond);
  ASSERT_TRUE(files_.note_read(known, 3 * kSecond));
  files_.forget_read(known.inode);
  EXPECT_TRUE(files_.reads(10).empty());
  EXPECT_EQ(files_.note(known).atime_ns, kSecond);
}

}  // namespace
}  // namespace reelfs::client
