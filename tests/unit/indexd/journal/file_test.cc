#include "indexd/journal/file.h"

#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "tests/unit/indexd/temp_directory.h"

namespace reelfs::indexd {
namespace {

namespace fs = std::filesystem;

struct Recovered {
  Result<JournalCore::End> end;
  std::vector<std::string> payloads;
};

/// A journal of one directory, its entries "entry <index>", five to a file.
class Journal : public ::testing::Test {
 protected:
  static std::string payload(std::uint64_t index) { return "entry " + std::to_string(index); }
  static constexpr std::size_t kEntryBytes = sizeof(EntryHeader) + 7;

  /// Goes on with what is there. @param synced  the entries after which a sync is done
  /// @param applied  what RocksDB has
  void append(std::uint64_t count, const std::vector<std::uint64_t>& synced, std::uint64_t applied = 0,
              LostJournal lost = LostJournal::refuse) {
    JournalFile file(directory_.path());
    const auto end = file.recover(
        {.epoch = Epoch{1}, .index = applied}, [](const Entry&) -> Result<void> { return ok(); }, lost);
    ASSERT_TRUE(end) << end.error().describe();
    JournalCore core({.file_bytes = sizeof(JournalFileHeader) + 5 * kEntryBytes, .sync_interval = {}},
                     end.value(), Epoch{1});
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto index = core.newest_index() + 1;
      core.append(EntryType::changes, payload(index), {});
      ASSERT_TRUE(file.write(core.take_writes()));
      core.written(index);
      if (std::find(synced.begin(), synced.end(), index) == synced.end()) continue;
      ASSERT_TRUE(file.sync());
      core.want_sync(index, {});
      core.synced(core.take_sync({}).value());
    }
  }
  Recovered recover(std::uint64_t applied = 0) {
    Recovered found{.end = Error(Errc::io), .payloads = {}};
    JournalFile file(directory_.path());
    found.end = file.recover({.epoch = Epoch{1}, .index = applied}, [&](const Entry& entry) -> Result<void> {
      found.payloads.emplace_back(entry.payload);
      return ok();
    });
    return found;
  }
  fs::path path(std::uint64_t first_index) const {
    auto digits = std::to_string(first_index);
    return directory_.path() / ("journal-" + std::string(20 - digits.size(), '0') + digits + ".log");
  }
  static std::string read(const fs::path& from) {
    std::ifstream stream(from, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  static void write(const fs::path& to, const std::string& bytes) {
    std::ofstream(to, std::ios::binary | std::ios::trunc) << bytes;
  }
  void flip_byte(std::uint64_t first_index, std::size_t offset) {
    auto bytes = read(path(first_index));
    bytes.at(offset) = static_cast<char>(bytes[offset] ^ 0x10);
    write(path(first_index), bytes);
  }
  static void expect_entries(const Recovered& found, std::uint64_t from, std::uint64_t upto) {
    ASSERT_TRUE(found.end) << found.end.error().describe();
    EXPECT_EQ(found.end.value().position.index, upto);
    std::vector<std::string> expected;
    for (auto index = from; index <= upto; ++index) expected.push_back(payload(index));
    EXPECT_EQ(found.payloads, expected);
  }
  testing::TempDirectory directory_;
};

TEST_F(Journal, BeginsEmpty) { expect_entries(recover(), 1, 0); }

TEST_F(Journal, ComesBackOverSeveralFilesAndGoesOn) {
  append(7, {});
  append(6, {});
  EXPECT_TRUE(fs::exists(path(11)));
  expect_entries(recover(), 1, 13);
  expect_entries(recover(9), 10, 13);
}

TEST_F(Journal, RecoversToLastSyncedEntryAfterTornWrite) {
  append(4, {3});
  const auto whole = read(path(1));
  const auto last = whole.size() - kEntryBytes;
  // Cut short at every byte, and the rest as zeros, and as noise.
  for (auto size = last; size < whole.size(); ++size) {
    const auto kept = whole.substr(0, size);
    for (const auto& torn :
         {kept, kept + std::string(whole.size() - size, '\0'), kept + std::string(500, '\xa7')}) {
      if (torn == whole) continue;
      write(path(1), torn);
      SCOPED_TRACE(size);
      expect_entries(recover(), 1, 3);
      EXPECT_EQ(read(path(1)).size(), last) << "the tail is cut off";
      append(2, {});
      expect_entries(recover(), 1, 5);
      if (HasFailure()) return;
    }
  }
}

TEST_F(Journal, CutsATailThatWasTornInTheMiddle) {
  append(4, {2});
  // Pages of an unsynced write reach the disk in any order: entry 3 is lost, entry 4 is whole.
  flip_byte(1, sizeof(JournalFileHeader) + 2 * kEntryBytes + 50);
  expect_entries(recover(), 1, 2);
}

TEST_F(Journal, DamageToWhatWasSyncedIsAnErrorThatSaysWhere) {
  append(4, {1, 2, 3});
  const auto offset = sizeof(JournalFileHeader) + 2 * kEntryBytes;
  flip_byte(1, offset + 50);
  const auto found = recover();
  ASSERT_FALSE(found.end);
  EXPECT_EQ(found.end.error().code(), Errc::corrupt);
  EXPECT_NE(found.end.error().message().find(path(1).string()), std::string::npos);
  EXPECT_NE(found.end.error().message().find("offset " + std::to_string(offset)), std::string::npos);
  EXPECT_EQ(read(path(1)).size(), sizeof(JournalFileHeader) + 4 * kEntryBytes) << "nothing is cut";
  // RocksDB has it all: nothing is lost.
  ASSERT_TRUE(recover(4).end);
}

TEST_F(Journal, DamageInAnOlderFileIsAnError) {
  append(12, {1, 2, 3, 4, 5, 6, 7, 8});
  flip_byte(1, sizeof(JournalFileHeader) + 4 * kEntryBytes + 50);
  EXPECT_FALSE(recover().end);
  expect_entries(recover(5), 6, 12);
}

TEST_F(Journal, AMissingFileIsAnError) {
  append(12, {1, 2, 3, 4, 5, 6, 7, 8});
  fs::rename(path(6), directory_.path() / "away");
  EXPECT_FALSE(recover().end);
  EXPECT_TRUE(fs::exists(path(11)));
  fs::rename(path(1), directory_.path() / "away too");
  const auto found = recover(3);
  ASSERT_FALSE(found.end) << "entries 4 to 10 are missing";
  EXPECT_EQ(found.end.error().code(), Errc::corrupt);
}

TEST_F(Journal, ATornOlderFileTakesUnsyncedLaterOnesWithIt) {
  append(12, {4});
  fs::resize_file(path(1), sizeof(JournalFileHeader) + 4 * kEntryBytes + 9);
  expect_entries(recover(), 1, 4);
  EXPECT_FALSE(fs::exists(path(6)));
  append(8, {});
  expect_entries(recover(), 1, 12);
}

TEST_F(Journal, ANewFileWithoutAWholeHeaderIsForgotten) {
  append(5, {5});
  for (const auto* const bytes : {"", "RLJF"}) {
    write(path(6), bytes);
    expect_entries(recover(), 1, 5);
    EXPECT_FALSE(fs::exists(path(6)));
  }
  append(1, {});
  expect_entries(recover(), 1, 6);
}

TEST_F(Journal, ADamagedHeaderOfTheOldestFileIsAnError) {
  append(3, {3});
  flip_byte(1, 10);
  EXPECT_FALSE(recover().end);
}

TEST_F(Journal, EndingBeforeTheStateIsAnErrorThatTouchesNothing) {
  append(8, {8});
  const auto newest = read(path(6));
  const auto refuses = [this] {
    const auto found = recover(8);
    ASSERT_FALSE(found.end);
    EXPECT_EQ(found.end.error().code(), Errc::corrupt);
    EXPECT_NE(found.end.error().message().find("--without-journal"), std::string::npos);
  };
  write(path(6), "");
  refuses();
  EXPECT_TRUE(fs::exists(path(6)));
  write(path(6), newest.substr(0, sizeof(JournalFileHeader) + kEntryBytes));
  refuses();
  fs::remove(path(6));
  refuses();
  fs::remove(path(1));
  refuses();
}

TEST_F(Journal, GoesOnAfterTheStateWhereTheJournalIsGivenUp) {
  append(3, {3});
  append(1, {}, 8, LostJournal::go_on_without);
  expect_entries(recover(8), 9, 9);
}

TEST_F(Journal, RemovesOnlyFilesThatAreNotNeeded) {
  append(12, {});
  JournalFile file(directory_.path());
  ASSERT_TRUE(file.recover({}, [](const Entry&) -> Result<void> { return ok(); }));
  ASSERT_TRUE(file.remove_upto(4));
  EXPECT_TRUE(fs::exists(path(1)));
  ASSERT_TRUE(file.remove_upto(5));
  EXPECT_FALSE(fs::exists(path(1)));
  EXPECT_TRUE(fs::exists(path(6)));
  ASSERT_TRUE(file.remove_upto(100));
  EXPECT_FALSE(fs::exists(path(6)));
  EXPECT_TRUE(fs::exists(path(11))) << "the newest is written to";
  EXPECT_EQ(file.older_bytes(), 0U);
}

TEST_F(Journal, EntriesOfAnotherJournalAreNotTakenForOurs) {
  append(3, {});
  const auto ours = read(path(1));
  fs::remove(path(1));
  append(4, {});
  const auto others = read(path(1));
  write(path(1), ours + others.substr(ours.size()));
  expect_entries(recover(), 1, 3);
}

}  // namespace
}  // namespace reelfs::indexd
