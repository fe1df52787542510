#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "indexd/journal/entry.h"
#include "indexd/nodelog/assembly.h"
#include "indexd/nodelog/piece.h"
#include "indexd/nodelog/piece_file.h"
#include "indexd/nodelog/replay.h"
#include "tests/unit/indexd/temp_directory.h"

namespace reelfs::indexd {
namespace {

constexpr std::uint32_t kSalt = 5;

PieceHeader entries(std::uint64_t epoch, std::uint64_t first, std::uint64_t last) {
  PieceHeader header;
  header.kind = static_cast<std::uint8_t>(PieceKind::entries);
  header.salt = kSalt;
  header.bytes = 10;
  header.epoch = epoch;
  header.first_index = first;
  header.last_index = last;
  header.total = 10;
  return header;
}

/// @param total  0: not the last
PieceHeader rows(std::uint64_t epoch, std::uint64_t index, std::uint64_t number, std::uint64_t total = 0,
                 std::uint64_t needed = 0) {
  PieceHeader header;
  header.kind = static_cast<std::uint8_t>(PieceKind::checkpoint);
  header.salt = kSalt;
  header.number = 1;
  header.bytes = 10;
  header.epoch = epoch;
  header.first_index = index;
  header.last_index = total != 0 ? std::max(needed, index) : 0;
  header.offset = number;
  header.total = total;
  return header;
}

using Range = std::pair<std::uint64_t, std::uint64_t>;
std::vector<Range> ranges(const RebuildPlan& plan) {
  std::vector<Range> all;
  for (const auto& each : plan.entries) all.emplace_back(each.first_index, each.last_index);
  return all;
}

TEST(NodeLogPiece, ComesBackAsItWas) {
  auto header = entries(3, 10, 12);
  header.total = 7;
  const auto encoded = encode_piece(header, "entries");
  EXPECT_EQ(encoded.substr(0, 4), "RLNL");
  EXPECT_EQ(encoded.size(), 64 + 7U);
  const auto piece = decode_piece(encoded).value();
  EXPECT_EQ(piece.bytes, "entries");
  EXPECT_EQ(piece.header.first_index, 10U);
  EXPECT_EQ(piece.header.last_index, 12U);
}

TEST(NodeLogPiece, NoDamagedByteIsAccepted) {
  auto header = entries(3, 10, 12);
  header.total = 7;
  const auto encoded = encode_piece(header, "entries");
  for (std::size_t i = 0; i < encoded.size(); ++i) {
    auto damaged = encoded;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_FALSE(decode_piece(damaged)) << "byte " << i;
    EXPECT_FALSE(decode_piece(encoded.substr(0, i))) << "cut at " << i;
  }
}

TEST(NodeLogAssembly, TakesTheNewestWholeCheckpointAndWhatFollowsWithoutAGap) {
  std::vector<PieceHeader> pieces{
      rows(1, 10, 0),     rows(1, 10, 1, 2, 12),  // whole
      rows(1, 30, 0),     rows(1, 30, 2, 3),      // a piece is missing
      entries(1, 9, 11),  entries(1, 12, 20),    entries(1, 21, 22), entries(1, 24, 30),  // 23 is missing
      entries(1, 12, 20),  // on another node, too
  };
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) {
    std::shuffle(pieces.begin(), pieces.end(), random);
    const auto plan = plan_rebuild(pieces);
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->checkpoint.index, 10U);
    ASSERT_EQ(plan->rows.size(), 2U);
    EXPECT_EQ(pieces[plan->rows[1]].total, 2U);
    EXPECT_EQ(ranges(*plan), (std::vector<Range>{{11, 11}, {12, 20}, {21, 22}}));
    EXPECT_EQ(plan->last_index, 22U);
    EXPECT_EQ(plan->behind_gap_index, 30U);
  }
}

TEST(NodeLogAssembly, ACheckpointWithoutTheEntriesThatItNeedsIsNone) {
  const std::vector<PieceHeader> pieces{rows(1, 10, 0, 1, 12), rows(1, 20, 0, 1, 25), entries(1, 11, 13),
                                        entries(1, 21, 24)};
  const auto plan = plan_rebuild(pieces);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->checkpoint.index, 10U);
  EXPECT_FALSE(plan_rebuild(std::span(pieces).subspan(1)));
  EXPECT_FALSE(plan_rebuild({}));
}

TEST(NodeLogAssembly, OfTwoReignsWithTheSameEntriesTheLaterCounts) {
  // The first had stored up to 20 on nodes when its machine lost power, and what its own disk had was 14.
  const std::vector<PieceHeader> pieces{rows(1, 10, 0, 1), entries(1, 11, 13), entries(1, 14, 20),
                                        entries(2, 15, 16), entries(2, 17, 40)};
  const auto plan = plan_rebuild(pieces);
  ASSERT_TRUE(plan);
  EXPECT_EQ(ranges(*plan), (std::vector<Range>{{11, 13}, {14, 14}, {15, 16}, {17, 40}}));
}

TEST(NodeLogAssembly, ALaterJournalCountsThoughItsNumbersAreSmaller) {
  // A rebuilt index begins with a journal of its own.
  std::vector<PieceHeader> pieces{rows(7, 1000, 0, 1), entries(7, 1001, 1002), rows(8, 3, 0, 1),
                                  entries(8, 4, 5)};
  pieces[2].salt = pieces[3].salt = kSalt + 1;
  const auto plan = plan_rebuild(pieces);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->salt, kSalt + 1);
  EXPECT_EQ(plan->last_index, 5U);
}

TEST(NodeLogAssembly, APartOfAGroupIsNoGroup) {
  auto first = entries(1, 11, 11), second = first;
  first.total = second.total = 20;
  second.offset = 10;
  const std::vector<PieceHeader> pieces{rows(1, 10, 0, 1), first, second};
  EXPECT_EQ(plan_rebuild(pieces)->last_index, 11U);
  EXPECT_EQ(plan_rebuild(std::span(pieces).first(2))->last_index, 10U);
}

class NodeLogReplay : public ::testing::Test {
 protected:
  NodeLogReplay() : file(PieceFile::create(directory.path() / "pieces").value()) {
    auto header = rows(1, 10, 0, 1);
    EXPECT_TRUE(file.add(encode_piece(header, "rows")));
  }
  void add(std::uint64_t first, std::uint64_t last, std::optional<std::uint64_t> breaks_chain_at = {}) {
    std::string bytes;
    for (auto index = first; index <= last; ++index) {
      EntryHeader header;
      header.type = static_cast<std::uint8_t>(EntryType::changes);
      header.epoch = 1;
      header.index = index;
      header.previous_crc32c = chain + (index == breaks_chain_at ? 1 : 0);
      chain = encode_entry(header, "entry " + std::to_string(index), kSalt, bytes);
    }
    auto header = entries(1, first, last);
    header.total = bytes.size();
    for (header.offset = 0; header.offset < bytes.size(); header.offset += 100)
      EXPECT_TRUE(file.add(encode_piece(header, std::string_view(bytes).substr(header.offset, 100))));
  }
  Result<Replayed> replay_all() {
    seen.clear();
    const auto plan = plan_rebuild(file.headers());
    EXPECT_TRUE(plan);
    return replay(*plan, file, [this](std::string_view changes) -> Result<void> {
      seen.emplace_back(changes);
      return ok();
    });
  }

  testing::TempDirectory directory;
  PieceFile file;
  std::uint32_t chain = 77;
  std::vector<std::string> seen;
};

TEST_F(NodeLogReplay, GivesRowsAndThenEntriesInOrder) {
  add(10, 12);
  add(13, 20);
  const auto replayed = replay_all().value();
  EXPECT_EQ(replayed.last.index, 20U);
  EXPECT_EQ(replayed.entries, 10U);
  ASSERT_EQ(seen.size(), 11U);
  EXPECT_EQ(seen[0], "rows");
  EXPECT_EQ(seen[1], "entry 11");
  EXPECT_EQ(seen[10], "entry 20");
  // The same from the file as another process finds it.
  auto again = PieceFile::open(directory.path() / "pieces", file.bytes()).value();
  EXPECT_EQ(again.headers(), file.headers());
  EXPECT_FALSE(PieceFile::open(directory.path() / "pieces", file.bytes() - 1));
}

TEST_F(NodeLogReplay, EndsWhereAnEntryDoesNotFollowUponTheOneBefore) {
  add(11, 12);
  add(13, 20, 15);
  EXPECT_EQ(replay_all().value().last.index, 14U);
}

}  // namespace
}  // namespace reelfs::indexd
