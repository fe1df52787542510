#include <gtest/gtest.h>

#include "common/wire/record.h"
#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

constexpr std::uint32_t kPiece = 8000;

class RollForwardTest : public IndexTest {
 protected:
  RollForwardTest() { options.dead_segment_grace = std::chrono::milliseconds(1); }

  void begin() {
    start();
    add_node();
    add_node();
    session = open_session();
    channel = create(session, 1, kRootInode.value, "cam", S_IFDIR | 0755);
    file = create(session, 2, channel, "recording.ts");
    grant = granted();
  }
  wire::Grant granted() {
    const auto reply = open_segment(session, channel);
    EXPECT_TRUE(reply) << reply.error().describe();
    return reply ? reply.value().grants(0) : wire::Grant();
  }
  /// A record of the file on every copy, in a unit of its own. @return its offset in the segment
  std::uint32_t place(const wire::Grant& into, std::uint64_t sequence, std::uint64_t file_offset) {
    auto& end = ends[into.segment()];
    const auto offset = static_cast<std::uint32_t>(end);
    wire::ListedRecord record;
    record.set_record_offset(offset);
    record.set_payload_bytes(kPiece);
    record.set_generation(into.generation());
    record.set_inode(file);
    record.set_file_offset(file_offset);
    record.set_sequence(sequence);
    record.set_written_at_ns(clock.wall().time_since_epoch().count());
    end = round_up(offset + wire::record_bytes(kPiece), kPageBytes);
    for (auto& node : nodes) {
      if (!node->blocks.contains(into.segment())) continue;
      node->blocks[into.segment()].length = end;
      node->records[into.segment()].push_back(record);
    }
    return offset;
  }
  void commit_piece(std::uint64_t number, const wire::Grant& in, std::uint32_t record, std::uint64_t sequence,
                    std::uint64_t file_offset, std::uint64_t settled) {
    wire::CommitRequest request;
    request.mutable_header()->set_session(session);
    request.mutable_header()->set_request(number);
    request.set_settled(settled);
    auto& committed = *request.add_files();
    committed.set_inode(file);
    committed.set_sequence(sequence);
    committed.set_mtime_ns(clock.wall().time_since_epoch().count());
    auto& extent = *committed.add_extents();
    extent.set_file_offset(file_offset);
    extent.set_length(kPiece);
    extent.set_segment(in.segment());
    extent.set_record_offset(record);
    const auto reply = call<wire::CommitReply>(Method::commit, request);
    ASSERT_TRUE(reply) << reply.error().describe();
  }
  std::uint64_t size() {
    const auto reply = attributes(file);
    return reply ? reply.value().attributes().size() : 0;
  }
  std::vector<std::pair<std::uint64_t, std::uint32_t>> extents() {
    wire::GetExtentsRequest request;
    request.set_inode(file);
    request.set_length(UINT64_MAX);
    const auto reply = call<wire::GetExtentsReply>(Method::get_extents, request);
    std::vector<std::pair<std::uint64_t, std::uint32_t>> found;
    if (!reply) return found;
    for (const auto& extent : reply.value().extents())
      found.emplace_back(extent.file_offset(), extent.record_offset());
    return found;
  }
  std::size_t rows() {
    auto count = [](const View& view) -> Result<std::size_t> {
      std::size_t found = 0;
      REELFS_TRY(view.scan_table<GrantKey>([&](const GrantKey&, const GrantRow&) { return ++found > 0; }));
      REELFS_TRY(
          view.scan_table<ProgressKey>([&](const ProgressKey&, const ProgressRow&) { return ++found > 0; }));
      return found;
    };
    return run(context, index->read(std::move(count))).value();
  }

  std::uint64_t session = 0, channel = 0, file = 0;
  wire::Grant grant;
  std::map<std::uint64_t, std::uint64_t> ends;  // of segments
};

TEST_F(RollForwardTest, WhatAMountThatIsGoneHadPlacedIsCommittedInItsPlace) {
  begin();
  const auto first = place(grant, 10, 0);
  commit_piece(3, grant, first, 10, 0, 10);
  const auto second = place(grant, 11, kPiece);
  const auto third = place(grant, 12, 2 * kPiece);
  close_session(session);
  EXPECT_TRUE(eventually([&] { return size() == 3 * kPiece; }));
  using Extents = std::vector<std::pair<std::uint64_t, std::uint32_t>>;
  EXPECT_EQ(extents(), (Extents{{0, first}, {kPiece, second}, {2 * kPiece, third}}));
  EXPECT_TRUE(eventually([&] { return rows() == 0; }));
  EXPECT_EQ(show(grant.segment()).value().segment().live_bytes(), 3 * kPiece);
}

TEST_F(RollForwardTest, TheLaterOfTwoRecordsCountsInWhicheverSegmentItStands) {
  begin();
  const auto other = granted();
  ASSERT_NE(other.segment(), grant.segment());
  // The segment that is looked at first holds the later one.
  const auto& low = grant.segment() < other.segment() ? grant : other;
  const auto& high = grant.segment() < other.segment() ? other : grant;
  const auto later = place(low, 12, 0);
  place(high, 11, 0);
  close_session(session);
  EXPECT_TRUE(eventually([&] { return rows() == 0; }));
  ASSERT_EQ(extents().size(), 1u);
  EXPECT_EQ(extents().at(0).second, later);
  EXPECT_EQ(show(low.segment()).value().segment().live_bytes(), std::uint64_t{kPiece});
}

TEST_F(RollForwardTest, GoesOnAfterTheIndexServerWasStarted) {
  begin();
  place(grant, 11, 0);
  place(grant, 12, kPiece);
  options.lease = std::chrono::milliseconds(50);
  restart();
  EXPECT_TRUE(eventually([&] { return size() == 2 * kPiece; }));
  EXPECT_TRUE(eventually([&] { return rows() == 0; }));
}

TEST_F(RollForwardTest, ACopyThatIsAwayIsNotWaitedFor) {
  begin();
  place(grant, 11, 0);
  nodes[0]->stop();
  close_session(session);
  EXPECT_TRUE(eventually([&] { return size() == kPiece; }));
}

TEST_F(RollForwardTest, ASegmentIsFreedOnceWhatWasRolledForwardIsGone) {
  begin();
  place(grant, 11, 0);
  close_session(session);
  EXPECT_TRUE(eventually([&] { return size() == kPiece; }));
  EXPECT_EQ(blocks_taken(), 2u);
  session = open_session();
  ASSERT_TRUE(unlink(session, 1, channel, "recording.ts"));
  wire::ReleaseRequest release;
  release.set_session(session);
  release.add_forgotten(file);
  ASSERT_TRUE(call<wire::Empty>(Method::release, release));
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 0; }));
}

TEST_F(RollForwardTest, ASegmentWhoseRecordsAreNotCommittedYetIsNotFreed) {
  begin();
  const auto record = place(grant, 11, 0);
  wire::CloseSegmentRequest close;
  close.set_session(session);
  close.set_segment(grant.segment());
  close.set_generation(grant.generation());
  close.set_length(ends[grant.segment()]);
  close.set_failed(true);
  close.set_last_sequence(11);
  ASSERT_TRUE(call<wire::Empty>(Method::close_segment, close));
  EXPECT_TRUE(
      eventually([&] { return show(grant.segment()).value().segment().state() == wire::SEGMENT_SEALED; }));
  // Another one of the channel that nobody may write to any more is freed meanwhile.
  const auto empty = granted();
  ASSERT_TRUE(close_segment(session, empty, 0));
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 2; }));
  commit_piece(3, grant, record, 11, 0, 11);
  EXPECT_EQ(size(), std::uint64_t{kPiece});
  EXPECT_TRUE(eventually([&] { return rows() == 1; }))
      << "the grant is forgotten, and how far it got is known";
}

TEST_F(RollForwardTest, WhatIsSettledIsNotReadAgain) {
  begin();
  const auto record = place(grant, 11, 0);
  commit_piece(3, grant, record, 11, 0, 11);
  wire::CloseSegmentRequest close;
  close.set_session(session);
  close.set_segment(grant.segment());
  close.set_generation(grant.generation());
  close.set_length(ends[grant.segment()]);
  close.set_last_sequence(11);
  ASSERT_TRUE(call<wire::Empty>(Method::close_segment, close));
  close_session(session);
  EXPECT_TRUE(eventually([&] { return rows() == 0; }));
  EXPECT_EQ(nodes[0]->lists + nodes[1]->lists, 0);
}

}  // namespace
}  // namespace reelfs::indexd
