#include "noded/transfer/record_copier.h"

#include <cstring>

#include <gtest/gtest.h>

#include "common/rpc/server.h"
#include "common/wire/node.pb.h"
#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

constexpr SegmentId kSource{1};
constexpr SegmentId kTarget{2};

/// A node with a segment of three records, and an empty one that its own port takes appends to.
class RecordCopierTest : public ::testing::Test {
 protected:
  RecordCopierTest() {
    EXPECT_TRUE(node_.lead());
    EXPECT_TRUE(node_.initialise());
    for (const auto segment : {kSource, kTarget})
      EXPECT_TRUE(node_.run(node_.store.allocate(segment, Generation(1), InodeId(2))));
    for (std::uint32_t i = 0; i < 3; ++i) {
      UnitOptions unit;
      unit.offset = at_;
      unit.payload_bytes = 5000 + 100'000 * i;
      unit.file_offset = 10'000 * i;
      units_.push_back(unit);
      at_ = node_.append(unit).value();
    }
    rpc::Endpoint any;
    any.host = "127.0.0.1";
    endpoint_ = server_.listen(any).value();
  }
  ~RecordCopierTest() override {
    node_.run(copier_.stop());
    node_.run(server_.stop());
  }

  Task<rpc::Response> take(rpc::Request request) {
    REELFS_CO_TRY(const auto command, request.parse<wire::AppendRequest>());
    ++appends_;
    REELFS_CO_TRY(const auto end,
                  co_await node_.store.append(SegmentId(command.segment()), Generation(command.generation()),
                                              command.offset(), std::move(request.payload)));
    wire::AppendReply reply;
    reply.set_end(end);
    co_return rpc::Response(reply);
  }

  wire::CopyRecordsRequest order() const {
    wire::CopyRecordsRequest order;
    order.set_source(kSource.value);
    order.set_target(kTarget.value);
    order.set_generation(1);
    auto& copy = *order.add_copies();
    copy.set_node(7);
    copy.mutable_endpoint()->set_host(endpoint_.host);
    copy.mutable_endpoint()->set_port(endpoint_.port);
    return order;
  }
  void add(wire::CopyRecordsRequest& order, std::size_t unit, std::uint32_t begin, std::uint32_t end) const {
    auto& piece = *order.add_pieces();
    piece.set_record_offset(static_cast<std::uint32_t>(units_[unit].offset));
    piece.set_payload_offset(begin);
    piece.set_length(end - begin);
    piece.set_inode(units_[unit].inode.value);
    piece.set_file_offset(units_[unit].file_offset);
  }
  Result<wire::CopyRecordsReply> copy(const wire::CopyRecordsRequest& order) {
    return node_.run(copier_.copy(order, Epoch(1), node_.soon()));
  }
  /// The record that the copy made of payload bytes [begin, end) of a unit's record is there and is right.
  void expect_copied(std::uint64_t at, std::size_t unit, std::uint32_t begin, std::uint32_t end) {
    SegmentStore::RecordRange range;
    range.segment = kTarget;
    range.record_offset = static_cast<std::uint32_t>(at);
    range.length = end - begin;
    const auto piece = node_.run(node_.store.read(range));
    ASSERT_TRUE(piece) << piece.error().describe();
    const auto bytes = piece.value().bytes->span().subspan(piece.value().begin, piece.value().size);
    const auto record = wire::decode_record_header(bytes);
    ASSERT_TRUE(record);
    EXPECT_EQ(record.value().header.inode, units_[unit].inode.value);
    EXPECT_EQ(record.value().header.channel, 2u);
    EXPECT_EQ(record.value().header.file_offset, units_[unit].file_offset + begin);
    ASSERT_EQ(record.value().header.payload_bytes, end - begin);
    const auto payload = payload_of(units_[unit]);
    EXPECT_EQ(
        std::memcmp(bytes.data() + record.value().header.header_bytes, payload.data() + begin, end - begin),
        0);
  }

  NodeFiles files_;
  const std::filesystem::path device_ = files_.add_device("device", 32 * kMiB);
  TestNode node_{files_};
  std::vector<UnitOptions> units_;
  std::uint64_t at_ = 0;
  int appends_ = 0;
  rpc::Server server_{
      node_.context, node_.clock, {}, [this](rpc::Request request) { return take(std::move(request)); }};
  rpc::Endpoint endpoint_;
  RecordCopier copier_{node_.context, node_.clock, node_.store, {}};
};

TEST_F(RecordCopierTest, MakesRecordsOfPiecesThatSayTheSameOfThemselves) {
  auto wanted = order();
  add(wanted, 0, 0, 5000);
  add(wanted, 2, 70'001, 150'000);  // from the middle of a chunk to the middle of another
  add(wanted, 1, 104'999, 105'000);
  const auto reply = copy(wanted);
  ASSERT_TRUE(reply) << reply.error().describe();
  ASSERT_TRUE(reply.value().failures().empty());
  const auto second = wire::record_bytes(5000);
  const auto third = second + wire::record_bytes(79'999);
  EXPECT_EQ(reply.value().end(), round_up(third + wire::record_bytes(1), kPageBytes));
  expect_copied(0, 0, 0, 5000);
  expect_copied(second, 2, 70'001, 150'000);
  expect_copied(third, 1, 104'999, 105'000);
  // The same once more, its answer having been lost, lies where it lay.
  const auto again = copy(wanted);
  ASSERT_TRUE(again);
  EXPECT_EQ(again.value().end(), reply.value().end());
  EXPECT_EQ(appends_, 2);
  expect_copied(0, 0, 0, 5000);
}

TEST_F(RecordCopierTest, CopiesNothingUnlessAllIsWhatItShouldBe) {
  auto other_file = order();
  add(other_file, 0, 0, 5000);
  add(other_file, 1, 0, 10);
  other_file.mutable_pieces(1)->set_inode(43);
  EXPECT_EQ(copy(other_file).error().code(), Errc::corrupt);
  auto beyond = order();
  add(beyond, 0, 4999, 5001);
  EXPECT_EQ(copy(beyond).error().code(), Errc::corrupt);
  auto nowhere = order();
  add(nowhere, 0, 0, 1);
  nowhere.set_source(99);
  EXPECT_EQ(copy(nowhere).error().code(), Errc::not_found);
  EXPECT_EQ(copy(order()).error().code(), Errc::invalid);
  auto too_much = order();
  for (int i = 0; i < 50; ++i) add(too_much, 1, 0, 105'000);
  EXPECT_EQ(copy(too_much).error().code(), Errc::invalid);
  EXPECT_EQ(appends_, 0);
}

TEST_F(RecordCopierTest, SaysWhichCopyDidNotTakeIt) {
  ASSERT_TRUE(node_.run(node_.store.fence(kTarget, Generation(2), node_.soon())));
  auto wanted = order();
  add(wanted, 0, 0, 5000);
  const auto reply = copy(wanted);
  ASSERT_TRUE(reply);
  ASSERT_EQ(reply.value().failures_size(), 1);
  EXPECT_EQ(reply.value().failures(0).node(), 7u);
  EXPECT_EQ(static_cast<Errc>(reply.value().failures(0).code()), Errc::stale_generation);
  EXPECT_EQ(reply.value().end(), 0u);
}

}  // namespace
}  // namespace reelfs::noded
