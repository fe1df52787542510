#include "indexd/schema/rows.h"

#include <gtest/gtest.h>

#include "indexd/schema/change.h"
#include "indexd/schema/keys.h"

namespace reelfs::indexd {
namespace {

using namespace std::string_literals;

/// Encodes, decodes, and sees that no other length decodes.
template <class Row>
void expect_round_trip(const Row& row) {
  const auto bytes = encode_row(row);
  const auto decoded = decode_row<Row>(bytes);
  ASSERT_TRUE(decoded) << decoded.error().describe();
  EXPECT_EQ(decoded.value(), row);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode_row<Row>(bytes.substr(0, size))) << size << " of " << bytes.size();
  }
  EXPECT_FALSE(decode_row<Row>(bytes + "x"));
  auto unknown = bytes;
  unknown[0] = 4;
  const auto refused = decode_row<Row>(unknown);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::corrupt);
}

TEST(Rows, ComeBackAsTheyWere) {
  expect_round_trip(InodeRow{.mode = 0100644,
                             .uid = 1,
                             .gid = 2,
                             .nlink = 3,
                             .rdev = 4,
                             .size = 5,
                             .stored_bytes = 6,
                             .atime_ns = -7,
                             .mtime_ns = 8,
                             .ctime_ns = 9,
                             .btime_ns = 10,
                             .channel = InodeId{11},
                             .parent = InodeId{12},
                             .version = 13,
                             .generation = 14,
                             .flags = 15,
                             .entries = 16,
                             .last_cookie = 17});
  expect_round_trip(GrantRow{.last_sequence = 2});
  expect_round_trip(ProgressRow{.sequence = 1, .mtime_ns = -2, .more = 1});
  expect_round_trip(DirentRow{.inode = InodeId{1}, .type = 2, .cookie = 3});
  expect_round_trip(DirectoryOrderRow{.inode = InodeId{1}, .name = "name"});
  expect_round_trip(NameRow{});
  expect_round_trip(SymlinkRow{"../there"});
  expect_round_trip(XattrRow{"\0value"s});
  expect_round_trip(ExtentRow{.length = 1, .segment = SegmentId{2}, .record_offset = 3, .payload_offset = 4});
  expect_round_trip(ExtentRow{.length = 1,
                              .segment = SegmentId{2},
                              .record_offset = 3,
                              .payload_offset = 4,
                              .origin = InodeId{5},
                              .origin_offset = 6});
  expect_round_trip(SegmentFileRow{.live_bytes = 1});
  const SegmentCopy copy{.node = NodeId{1}, .worker = WorkerId{2}, .device = DeviceId{3}, .block = 4};
  expect_round_trip(SegmentRow{.state = SegmentState::sealed,
                               .channel = InodeId{1},
                               .generation = Generation{2},
                               .length = 3,
                               .live_bytes = 4,
                               .block_bytes = 5,
                               .session = SessionId{6},
                               .created_ns = 7,
                               .sealed_ns = 8,
                               .copies = {copy, copy}});
  SegmentRow segment;
  segment.length = 3;
  segment.copies = {copy, copy};
  segment.wanted_copies = 3;
  expect_round_trip(segment);
  segment.lost_upto = 4;
  expect_round_trip(segment);
  segment.wanted_copies = 0;
  segment.async = 1;
  expect_round_trip(segment);
  expect_round_trip(LossRow{.since_ns = 1, .node = NodeId{2}, .from = 4096, .upto = 8192});
  expect_round_trip(PolicyRow{.quota_bytes = 1, .min_copies = 2});
  expect_round_trip(PolicyRow{.max_age_s = 1,
                              .replication = PolicyRow::Replication::async,
                              .acknowledge = PolicyRow::Acknowledge::memory});
  expect_round_trip(ChannelRow{.name = "cam1", .copies = 3, .files = 4, .live_bytes = 5});
  expect_round_trip(NodeRow{.name = "node1", .rack = "r1"});
  expect_round_trip(NodeRow{.name = "node1", .rack = "r1", .service = NodeService::removed});
  expect_round_trip(NodeTimesRow{.away_since_ns = 1, .scrub_ordered_ns = 2});
  expect_round_trip(DeviceRow{
      .uuid = Uuid::random(), .node = NodeId{1}, .path = "/dev/sdb", .block_bytes = 2, .blocks = 3});
  expect_round_trip(SessionRow{.host = "h", .pid = 1, .purpose = "mount", .opened_ns = 2});
  expect_round_trip(
      SessionRow{.host = "h", .pid = 1, .purpose = "reelctl", .opened_ns = 2, .opens_nothing = 1});
  expect_round_trip(AcknowledgedRow{.below = 1});
  expect_round_trip(AnswerRow{"answer"});
  expect_round_trip(OrphanRow{.since_ns = 1});
  expect_round_trip(CounterRow{.value = 1});
  expect_round_trip(LockRow{.last = kLastByte, .type = LockType::write, .pid = 1});
  expect_round_trip(BootRow{"boot"});
  expect_round_trip(HoldRow{.reason = "case 4711", .who = "uid 0 on host", .since_ns = 1});
  expect_round_trip(HoldCountRow{.holds = 1});
  expect_round_trip(RepairLogRow{.at_ns = 1,
                                 .event = RepairEvent::copy_made,
                                 .segment = SegmentId{2},
                                 .node = NodeId{3},
                                 .other = NodeId{4},
                                 .device = DeviceId{5},
                                 .bytes = 6,
                                 .details = "seven"});
  expect_round_trip(DamageRow{.since_ns = 1, .unrepairable = 1, .ranges = {{4096, 8192}, {16384, 4096}}});
  expect_round_trip(ClusterRow{.uuid = Uuid::random(), .block_bytes = 1, .created_ns = 2});
  expect_round_trip(JournalPosition{.epoch = Epoch{1}, .index = 2});
}

TEST(Rows, RefuseWhatCannotBe) {
  SegmentRow segment;
  segment.length = segment.lost_upto = 4096;
  EXPECT_FALSE(decode_row<SegmentRow>(encode_row(segment)));
  segment.lost_upto = 0;
  segment.async = 2;
  EXPECT_FALSE(decode_row<SegmentRow>(encode_row(segment)));
  EXPECT_FALSE(decode_row<LossRow>(encode_row(LossRow{.node = NodeId{1}, .from = 1, .upto = 1})));
  PolicyRow policy;
  policy.acknowledge = static_cast<PolicyRow::Acknowledge>(4);
  EXPECT_FALSE(decode_row<PolicyRow>(encode_row(policy)));
  // Version 3 with nothing in the fields that it adds would be version 2.
  auto padded = encode_row(PolicyRow{.min_copies = 2});
  padded[0] = 3;
  EXPECT_FALSE(decode_row<PolicyRow>(padded + "\0\0"s));
}

TEST(Rows, HaveTheDocumentedBytes) {
  const PolicyRow policy{.quota_bytes = 0x0102,
                         .replication = PolicyRow::Replication::async,
                         .acknowledge = PolicyRow::Acknowledge::disks};
  EXPECT_EQ(encode_row(policy),
            "\3"
            "\2\1\0\0\0\0\0\0"
            "\0\0\0\0\0\0\0\0"
            "\0\0\0\0\0\0\0\0"
            "\0"
            "\0\0\0\0"
            "\0\0\0\0"
            "\2\1"s);
  EXPECT_EQ(encode_key(LossKey{SegmentId{0x0102}}), "L\0\0\0\0\0\0\1\2"s);
  const ExtentRow extent{
      .length = 0x0102, .segment = SegmentId{7}, .record_offset = 0x40, .payload_offset = 9};
  EXPECT_EQ(encode_row(extent),
            "\1"
            "\2\1\0\0\0\0\0\0"
            "\7\0\0\0\0\0\0\0"
            "\x40\0\0\0"
            "\x09\0\0\0"s);
  auto clone = extent;
  clone.origin = InodeId{5};
  clone.origin_offset = 0x0304;
  EXPECT_EQ(encode_row(clone),
            "\2"
            "\2\1\0\0\0\0\0\0"
            "\7\0\0\0\0\0\0\0"
            "\x40\0\0\0"
            "\x09\0\0\0"
            "\5\0\0\0\0\0\0\0"
            "\4\3\0\0\0\0\0\0"s);
  EXPECT_EQ(encode_row(NodeRow{.name = "n", .rack = ""}),
            "\1"
            "\1\0\0\0n"
            "\0\0\0\0"s);
  EXPECT_EQ(encode_key(ExtentKey{InodeId{0x0102}, 3}),
            "e"
            "\0\0\0\0\0\0\1\2"
            "\0\0\0\0\0\0\0\3"s);
  EXPECT_EQ(encode_key(DirentKey{InodeId{1}, "a\0b"s}),
            "d"
            "\0\0\0\0\0\0\0\1"
            "a\0b"s);
  EXPECT_EQ(encode_key(NodeTimesKey{NodeId{5}}), "=\0\0\0\5"s);
  EXPECT_EQ(encode_row(NodeTimesRow{.away_since_ns = 3, .scrub_ordered_ns = 0x0104}),
            "\1"
            "\3\0\0\0\0\0\0\0"
            "\4\1\0\0\0\0\0\0"s);
  EXPECT_EQ(encode_key(DeviceKey{DeviceId{5}}),
            "v"
            "\0\0\0\5"s);
  EXPECT_EQ(encode_key(CounterKey{Counter::session}), "+\3");
  EXPECT_EQ(encode_row(HoldRow{.reason = "r", .who = "w", .since_ns = 0x0102}),
            "\1"
            "\1\0\0\0r"
            "\1\0\0\0w"
            "\2\1\0\0\0\0\0\0"s);
  EXPECT_EQ(encode_key(HoldKey{InodeId{5}}), "g\0\0\0\0\0\0\0\5"s);
  EXPECT_EQ(encode_key(HoldCountKey{}), "&");
  EXPECT_EQ(encode_row(DamageRow{.since_ns = 3, .ranges = {{4096, 8192}}}),
            "\1"
            "\3\0\0\0\0\0\0\0"
            "\0\0\0\0"
            "\1\0\0\0"
            "\0\x10\0\0\0\0\0\0"
            "\0\x20\0\0\0\0\0\0"s);
  EXPECT_EQ(encode_key(DamageKey{SegmentId{5}, NodeId{2}}), "z\0\0\0\0\0\0\0\5\0\0\0\2"s);
  EXPECT_EQ(encode_row(InodeRow{}).size(), 1U + 4 * 4 + 8 * 3 + 8 * 4 + 8 * 4 + 4 + 8 * 2);
}

TEST(Rows, RefuseFieldsThatCannotBe) {
  SegmentRow row;
  row.state = static_cast<SegmentState>(6);
  EXPECT_FALSE(decode_row<SegmentRow>(encode_row(row)));
  EXPECT_FALSE(decode_row<HoldRow>(encode_row(HoldRow{})));
  EXPECT_FALSE(decode_row<HoldCountRow>(encode_row(HoldCountRow{})));
  for (const auto unknown : {RepairEvent{0}, RepairEvent{21}}) {
    RepairLogRow row;
    row.event = unknown;
    EXPECT_FALSE(decode_row<RepairLogRow>(encode_row(row)));
  }
  EXPECT_FALSE(decode_row<DamageRow>(encode_row(DamageRow{})));
  EXPECT_FALSE(decode_row<DamageRow>(encode_row(DamageRow{.ranges = {{4096, 0}}})));
  EXPECT_FALSE(decode_row<DamageRow>(encode_row(DamageRow{.ranges = {{4096, 4096}, {8191, 4096}}})));
  EXPECT_FALSE(decode_row<DamageRow>(encode_row(DamageRow{.unrepairable = 2, .ranges = {{0, 1}}})));
  // A count of copies far beyond the bytes that are there.
  auto bytes = encode_row(SegmentRow{});
  bytes.replace(bytes.size() - 4, 4, "\xff\xff\xff\xff");
  EXPECT_FALSE(decode_row<SegmentRow>(bytes));
}

TEST(Keys, SortByTheirFields) {
  EXPECT_LT(encode_key(ExtentKey{InodeId{1}, 256}), encode_key(ExtentKey{InodeId{1}, 257}));
  EXPECT_LT(encode_key(ExtentKey{InodeId{1}, 255}), encode_key(ExtentKey{InodeId{1}, 256}));
  EXPECT_LT(encode_key(ExtentKey{InodeId{255}, ~0ULL}), encode_key(ExtentKey{InodeId{256}, 0}));
  EXPECT_LT(encode_key(DirentKey{InodeId{1}, "zz"}), encode_key(DirentKey{InodeId{2}, ""}));
}

TEST(Keys, RefuseOtherTablesAndLengths) {
  const auto key = encode_key(ExtentKey{InodeId{1}, 2});
  EXPECT_TRUE(decode_key<ExtentKey>(key));
  EXPECT_FALSE(decode_key<ExtentKey>(key.substr(0, 16)));
  EXPECT_FALSE(decode_key<ExtentKey>(key + "x"));
  EXPECT_FALSE(decode_key<SegmentFileKey>(key));
  EXPECT_TRUE(check_row(key, encode_row(ExtentRow{})));
  EXPECT_FALSE(check_row(key, encode_row(NodeRow{})));
  EXPECT_FALSE(check_row("?", ""));
}

TEST(Changes, ComeBackInOrder) {
  std::string changes;
  append_change(changes, "k1", "v1");
  append_change(changes, "k2", std::nullopt);
  append_change(changes, "", "");
  EXPECT_EQ(changes,
            "\1"
            "\1\2\0\0\0k1\2\0\0\0v1"
            "\2\2\0\0\0k2"
            "\1\0\0\0\0\0\0\0\0"s);
  std::string seen;
  const auto visit = [&](std::string_view key, std::optional<std::string_view> value) {
    seen.append(key).append(value ? "=" : "!").append(value.value_or("")).append(";");
  };
  ASSERT_TRUE(for_each_change(changes, visit));
  EXPECT_EQ(seen, "k1=v1;k2!;=;");
  EXPECT_FALSE(for_each_change("", visit));
  EXPECT_FALSE(for_each_change("\2", visit));
  EXPECT_FALSE(for_each_change(changes.substr(0, changes.size() - 1), visit));
}

}  // namespace
}  // namespace reelfs::indexd
