#include "indexd/journal/core.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

using std::chrono::milliseconds;

class JournalCoreTest : public ::testing::Test {
 protected:
  static TimePoint at(int ms) { return TimePoint(milliseconds(ms)); }
  std::uint64_t append(int ms) { return core_.append(EntryType::changes, "payload", at(ms)); }
  void write() {
    core_.take_writes();
    core_.written(core_.newest_index());
  }
  JournalCore core_{{.file_bytes = 256, .sync_interval = milliseconds(100)}, {}, Epoch{1}};
};

TEST_F(JournalCoreTest, EntriesOfAGroupAreOneWrite) {
  append(0), append(0), append(0);
  const auto writes = core_.take_writes();
  ASSERT_EQ(writes.size(), 1U);
  EXPECT_EQ(writes[0].new_file, 1U);
  EXPECT_EQ(writes[0].bytes.size(), sizeof(JournalFileHeader) + 3 * (sizeof(EntryHeader) + 7));
  EXPECT_TRUE(core_.take_writes().empty());
}

TEST_F(JournalCoreTest, BeginsAFileWhenOneIsFull) {
  for (int i = 0; i < 10; ++i) append(0);
  std::vector<std::uint64_t> first;
  for (const auto& write : core_.take_writes()) first.push_back(write.new_file.value());
  EXPECT_EQ(first, (std::vector<std::uint64_t>{1, 6}));
}

TEST_F(JournalCoreTest, EntriesAreChainedAndSayWhatIsSynced) {
  append(0);
  write();
  core_.want_sync(1, {});
  core_.synced(core_.take_sync(at(0)).value());
  append(0), append(0);
  const auto bytes = core_.take_writes().at(0).bytes;
  const auto second = decode_entry(bytes, 0).value();
  const auto third = decode_entry(std::string_view(bytes).substr(second.bytes()), 0).value();
  EXPECT_EQ(second.header.index, 2U);
  EXPECT_EQ(second.header.synced_index, 1U);
  EXPECT_EQ(third.header.previous_crc32c, second.header.crc32c);
  EXPECT_FALSE(decode_entry(bytes, 1)) << "the salt of another journal";
}

TEST_F(JournalCoreTest, OneSyncReleasesAllWhoWaitForWhatItCovers) {
  append(0), append(0);
  write();
  core_.want_sync(1, 71);
  core_.want_sync(2, 72);
  EXPECT_EQ(core_.take_sync(at(0)), 2U);
  append(1);
  write();
  core_.want_sync(3, 73);
  EXPECT_FALSE(core_.take_sync(at(1))) << "one at a time";
  EXPECT_TRUE(core_.take_released().empty());
  core_.synced(2);
  EXPECT_EQ(core_.take_released(), (std::vector<JournalCore::WaiterId>{71, 72}));
  EXPECT_EQ(core_.take_sync(at(2)), 3U);
  core_.synced(3);
  EXPECT_EQ(core_.take_released(), (std::vector<JournalCore::WaiterId>{73}));
  core_.want_sync(2, 74);
  EXPECT_EQ(core_.take_released(), (std::vector<JournalCore::WaiterId>{74})) << "already there";
}

TEST_F(JournalCoreTest, WhatIsNotWrittenIsNotCoveredByASync) {
  append(0);
  write();
  append(0);
  core_.want_sync(2, 71);
  EXPECT_EQ(core_.take_sync(at(0)), 1U);
  core_.synced(1);
  EXPECT_TRUE(core_.take_released().empty());
  EXPECT_FALSE(core_.take_sync(at(0)));
  write();
  EXPECT_EQ(core_.take_sync(at(0)), 2U);
  core_.synced(2);
  EXPECT_EQ(core_.take_released().size(), 1U);
}

TEST_F(JournalCoreTest, SyncsByItselfAfterTheInterval) {
  EXPECT_FALSE(core_.sync_due());
  append(5);
  write();
  append(50);
  write();
  EXPECT_EQ(core_.sync_due(), at(105));
  EXPECT_FALSE(core_.take_sync(at(104)));
  EXPECT_EQ(core_.take_sync(at(105)), 2U);
  EXPECT_FALSE(core_.sync_due());
  append(110);
  write();
  core_.synced(2);
  EXPECT_EQ(core_.sync_due(), at(210));
}

TEST_F(JournalCoreTest, AFailureReleasesEverybodyInVain) {
  append(0);
  write();
  core_.want_sync(1, 71);
  ASSERT_TRUE(core_.take_sync(at(0)));
  core_.fail();
  EXPECT_EQ(core_.take_released(), (std::vector<JournalCore::WaiterId>{71}));
  EXPECT_EQ(core_.synced_index(), 0U);
  core_.want_sync(1, 72);
  EXPECT_EQ(core_.take_released(), (std::vector<JournalCore::WaiterId>{72}));
  EXPECT_FALSE(core_.take_sync(at(1000)));
}

}  // namespace
}  // namespace reelfs::indexd
