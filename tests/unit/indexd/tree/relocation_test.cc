// Moving what lives in a segment, against a model: files as maps of bytes, segments as lists of records that
// say what they are.

#include "indexd/tree/relocation.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "common/wire/record.h"
#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

constexpr std::uint64_t kFileBytes = 300;
constexpr std::uint64_t kNewest = 8;  // segments

/// REELFS_SEED=n repeats one.
std::uint64_t seed() {
  const auto* const given = std::getenv("REELFS_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

struct ModelRecord {
  InodeId inode;
  std::uint64_t file_offset = 0;
  std::vector<std::uint8_t> bytes;
};
struct ModelSegment {
  std::map<std::uint32_t, ModelRecord> records;
  std::uint32_t end = 0;
};
struct ModelFile {
  InodeId id;
  std::uint64_t size = 0;
  std::map<std::uint64_t, std::uint8_t> bytes;  // holes are not in it
};

class RelocationModel : public TreeTest {
 protected:
  RelocationModel() {
    for (std::uint64_t i = 1; i <= kNewest; ++i) make_segment(i, SegmentState::open);
    for (auto& file : files_) file.id = make(cam1_, fmt::format("{}", ++named_));
  }

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }
  ModelFile& any_file() { return files_.at(pick(files_.size())); }

  /// As it is, with what lives in it.
  void make_segment_sealed(std::uint64_t number) {
    auto row = segment(number);
    row.state = SegmentState::sealed;
    row.length = kGiB;
    txn_->put(SegmentKey{SegmentId{number}}, row);
    txn_->keep();
  }
  std::uint32_t append(std::uint64_t segment, ModelRecord record) {
    auto& into = segments_[segment];
    const auto at = into.end;
    into.end +=
        static_cast<std::uint32_t>(wire::record_bytes(static_cast<std::uint32_t>(record.bytes.size())));
    into.records.emplace(at, std::move(record));
    return at;
  }

  void write() {
    auto& file = any_file();
    const auto offset = pick(kFileBytes);
    ModelRecord record{file.id, offset, {}};
    for (auto length = pick(60) + 1; length > 0; --length)
      record.bytes.push_back(static_cast<std::uint8_t>(random_()));
    const auto length = record.bytes.size();
    for (std::uint64_t i = 0; i < length; ++i) file.bytes[offset + i] = record.bytes[i];
    file.size = std::max(file.size, offset + length);
    const auto at = append(open_, std::move(record));
    ASSERT_TRUE(put(file.id, {extent(offset, length, open_, at)}));
  }
  void punch() {
    auto& file = any_file();
    const HoleParams params{.inode = file.id, .offset = pick(kFileBytes), .length = pick(kFileBytes / 4) + 1};
    file.bytes.erase(file.bytes.lower_bound(params.offset),
                     file.bytes.lower_bound(params.offset + params.length));
    ASSERT_TRUE(run([&] { return punch_hole(*txn_, params, now_); }));
  }
  void truncate() {
    auto& file = any_file();
    SetAttributesParams params;
    params.inode = file.id;
    params.size = pick(kFileBytes * 2);
    file.bytes.erase(file.bytes.lower_bound(*params.size), file.bytes.end());
    file.size = *params.size;
    ASSERT_TRUE(set(params));
  }
  void clone() {
    auto& source = any_file();
    auto& target = any_file();
    if (source.id == target.id) return;
    CloneParams params{.source = source.id, .target = target.id};
    params.source_offset = pick(kFileBytes);
    params.target_offset = pick(kFileBytes);
    params.length = pick(kFileBytes / 2);
    const auto done = run([&] { return clone_range(*txn_, params, now_); });
    ASSERT_TRUE(done);
    const auto length = done.value().length;
    for (std::uint64_t i = 0; i < length; ++i) {
      const auto byte = source.bytes.find(params.source_offset + i);
      target.bytes.erase(params.target_offset + i);
      if (byte != source.bytes.end()) target.bytes[params.target_offset + i] = byte->second;
    }
    if (length > 0) target.size = std::max(target.size, params.target_offset + length);
  }
  void remove_and_reap() {
    auto& file = any_file();
    ASSERT_TRUE(remove(cam1_, path_of(*txn_, file.id).value().substr(5)));
    // Half of them stay a while, without a name.
    if (pick(2) == 0) {
      orphans_.push_back(std::move(file));
    } else {
      reap(file);
    }
    file = {};
    file.id = make(cam1_, fmt::format("{}", ++named_));
  }
  void reap(const ModelFile& file) {
    ASSERT_TRUE(run([&] { return reap_orphan(*txn_, file.id, kFileBytes); }));
  }
  void change_something() {
    switch (pick(8)) {
      case 0:
        return remove_and_reap();
      case 1:
        return truncate();
      case 2:
        return punch();
      case 3:
      case 4:
        return clone();
      default:
        return write();
    }
  }

  LiveExtents find_live(std::uint64_t source) {
    LiveExtents all;
    std::optional<LiveCursor> cursor = LiveCursor{};
    while (cursor) {
      auto some = live_extents(*txn_, SegmentId{source}, *cursor, pick(5) + 1).value();
      all.extents.insert(all.extents.end(), some.extents.begin(), some.extents.end());
      cursor = some.next;
    }
    return all;
  }
  /// As a node does, which believes only records that are what the index says.
  Moved copy(std::uint64_t source, std::uint64_t target, const std::vector<RecordPart>& parts) {
    Moved moved{SegmentId{source}, SegmentId{target}, {}};
    for (const auto& part : parts) {
      const auto& old = segments_[source].records.at(part.record_offset);
      EXPECT_EQ(old.inode, part.inode);
      EXPECT_EQ(old.file_offset, part.file_offset);
      EXPECT_LE(part.end(), old.bytes.size());
      const auto begin = old.bytes.begin() + part.payload_offset;
      const auto at =
          append(target, {old.inode, old.file_offset + part.payload_offset, {begin, begin + part.length}});
      moved.parts.emplace(part.record_offset, Moved::Part{part.payload_offset, part.length, at});
    }
    return moved;
  }
  Relocated relocate_some(const Moved& moved, std::span<const LiveExtents::Of> extents) {
    const auto before = rows();
    const auto live_before = segment(moved.source.value).live_bytes;
    const auto done = run([&] { return relocate(*txn_, moved, extents); });
    EXPECT_TRUE(done) << done.error().describe();
    EXPECT_EQ(rows(), before) << "files have changed";
    const auto live = segment(moved.source.value).live_bytes;
    EXPECT_EQ(live_before - live, done.value().bytes);
    const bool told = std::count(done.value().emptied.begin(), done.value().emptied.end(), moved.source) > 0;
    EXPECT_EQ(told, live == 0 && live_before > 0);
    return done.value();
  }
  std::vector<InodeRow> rows() {
    std::vector<InodeRow> rows;
    for (const auto& file : files_) rows.push_back(row(file.id));
    return rows;
  }

  void compare(const ModelFile& file) {
    const auto inode = row(file.id);
    ASSERT_EQ(inode.size, file.size);
    ASSERT_EQ(inode.stored_bytes, file.bytes.size());
    std::map<std::uint64_t, std::uint8_t> bytes;
    for (const auto& each : extents_of(file.id)) {
      const auto& where = each.row;
      const auto& record = segments_.at(where.segment.value).records.at(where.record_offset);
      ASSERT_EQ(record.inode, where.origin ? where.origin : file.id);
      ASSERT_EQ(record.file_offset,
                where.origin ? where.origin_offset : each.file_offset - where.payload_offset);
      ASSERT_LE(where.payload_offset + where.length, record.bytes.size());
      for (std::uint64_t i = 0; i < where.length; ++i)
        bytes[each.file_offset + i] = record.bytes[where.payload_offset + i];
    }
    ASSERT_EQ(bytes, file.bytes);
  }
  void compare_all() {
    for (const auto& file : files_) compare(file);
    for (const auto& file : orphans_) compare(file);
  }

  const std::uint64_t seed_ = seed();
  std::mt19937_64 random_{seed_};
  std::array<ModelFile, 4> files_;
  std::vector<ModelFile> orphans_;
  std::map<std::uint64_t, ModelSegment> segments_;
  std::uint64_t open_ = 1;
  std::uint64_t made_ = kNewest;
  int named_ = 0;
};

TEST_F(RelocationModel, LosesNothingAndUndoesNothingWhateverHappensMeanwhile) {
  SCOPED_TRACE(fmt::format("REELFS_SEED={}", seed_));
  for (int round = 0; round < 400 && !HasFatalFailure(); ++round) {
    SCOPED_TRACE(round);
    for (auto changes = pick(30) + 1; changes > 0 && !HasFatalFailure(); --changes) change_something();
    // The segment is sealed, another one is written, and a third takes what lives in the first.
    const auto source = open_;
    make_segment_sealed(source);
    make_segment(++made_, SegmentState::open);
    open_ = made_;
    make_segment(++made_, SegmentState::open);
    const auto target = made_;
    const bool is_quiet = pick(3) == 0;
    const auto meanwhile = [&] {
      for (auto changes = is_quiet ? 0 : pick(6); changes > 0 && !HasFatalFailure(); --changes)
        change_something();
    };
    const auto live = find_live(source);
    const auto parts = parts_of(live.extents);
    meanwhile();
    const auto moved = copy(source, target, parts);
    for (std::size_t at = 0; at < live.extents.size() && !HasFatalFailure();) {
      meanwhile();
      const auto some = std::min<std::size_t>(pick(5) + 1, live.extents.size() - at);
      relocate_some(moved, std::span(live.extents).subspan(at, some));
      at += some;
    }
    compare_all();
    if (is_quiet) {
      ASSERT_EQ(segment(source).live_bytes, 0u);
    }
    // Carried out once more, it finds nothing to do.
    const auto again = relocate_some(moved, live.extents);
    if (is_quiet) {
      ASSERT_EQ(again.bytes, 0u);
    }
    for (const auto& file : orphans_) reap(file);
    orphans_.clear();
    if (round % 50 == 0) expect_sound();
  }
}

TEST_F(RelocationModel, IsRefusedWhereTheTargetWasClosedBelowIt) {
  write();
  make_segment_sealed(1);
  const auto live = find_live(1);
  const auto moved = copy(1, 2, parts_of(live.extents));
  make_segment(2, SegmentState::sealed, 64);
  EXPECT_EQ(code(run([&] { return relocate(*txn_, moved, live.extents); })), Errc::stale_generation);
  compare_all();
}

TEST_F(TreeTest, AHeldFileMoves) {
  const auto file = make(cam1_, "held");
  make_segment(1);
  make_segment(2);
  ASSERT_TRUE(put(file, {extent(0, 100, 1, 64, 10)}));
  txn_->put(HoldKey{file}, HoldRow{"case 4711", "someone", 1});
  txn_->put(HoldCountKey{}, HoldCountRow{1});
  txn_->keep();
  const auto live = live_extents(*txn_, SegmentId{1}, {}, 10).value();
  Moved moved{SegmentId{1}, SegmentId{2}, {}};
  moved.parts.emplace(64, Moved::Part{10, 100, 4096});
  ASSERT_TRUE(run([&] { return relocate(*txn_, moved, live.extents); }));
  const auto there = extents_of(file);
  ASSERT_EQ(there.size(), 1u);
  EXPECT_EQ(there.front().row, (ExtentRow{.length = 100, .segment = SegmentId{2}, .record_offset = 4096}));
}

}  // namespace
}  // namespace reelfs::indexd::tree
