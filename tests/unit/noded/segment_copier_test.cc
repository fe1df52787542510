#include "noded/transfer/segment_copier.h"

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include "common/rpc/server.h"
#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

constexpr SegmentId kSegment{1};
constexpr std::uint64_t kBlockBytes = 8 * kMiB;

/// A node that is to make copies, and another one's copy, which is in memory here and served to it.
class SegmentCopierTest : public ::testing::Test {
 protected:
  SegmentCopierTest() {
    EXPECT_TRUE(node_.lead());
    EXPECT_TRUE(node_.initialise(0, kBlockBytes));
    std::uint32_t number = 0;
    for (const std::uint32_t payload : {5000u, 1'000'000u, 300u, 2000u, 900'000u, 70'000u, 1'000'000u,
                                        1'000'000u, 1'000'000u, 1'000'000u}) {
      UnitOptions unit;
      unit.offset = whole_.size();
      unit.payload_bytes = payload;
      unit.generation = Generation(number < 3 ? 1 : 2);  // it was reopened once
      units_.push_back(unit);
      const bool is_double = number++ == 3;  // its second record begins within a page
      const auto bytes = is_double ? make_double_unit(unit) : make_unit(unit);
      whole_.insert(whole_.end(), bytes.span().begin(), bytes.span().end());
    }
    rpc::Endpoint any;
    any.host = "127.0.0.1";
    endpoint_ = server_.listen(any).value();
  }
  ~SegmentCopierTest() override {
    node_.run(copier_.stop());
    node_.run(server_.stop());
  }

  Task<rpc::Response> serve(rpc::Request request) {
    REELFS_CO_TRY(const auto command, request.parse<wire::ReadSegmentRequest>());
    ++reads_;
    const auto& image = served_.empty() ? whole_ : served_;
    if (command.offset() >= image.size()) co_return Error(Errc::invalid);
    const auto size = std::min<std::size_t>(command.length(), image.size() - command.offset());
    read_bytes_ += size;
    rpc::Response response{[&] {
      wire::ReadSegmentReply reply;
      reply.set_valid(image.size());
      return reply;
    }()};
    response.payload =
        std::make_shared<Buffer>(Buffer::copy_of(std::span(image).subspan(command.offset(), size)));
    response.payload_bytes = size;
    co_return std::move(response);
  }

  wire::CopySegmentRequest order(std::uint64_t most_bytes = kBlockBytes) const {
    wire::CopySegmentRequest order;
    order.set_segment(kSegment.value);
    order.set_generation(3);
    order.set_channel(2);
    order.set_length(whole_.size());
    order.set_most_bytes(most_bytes);
    add_source(order, endpoint_.port, 7);
    return order;
  }
  static void add_source(wire::CopySegmentRequest& order, std::uint32_t port, std::uint32_t node) {
    auto& source = *order.add_sources();
    source.set_node(node);
    source.mutable_endpoint()->set_host("127.0.0.1");
    source.mutable_endpoint()->set_port(port);
  }
  Result<wire::CopySegmentReply> copy(const wire::CopySegmentRequest& order) {
    return node_.run(copier_.copy(order, Epoch(1), node_.soon()));
  }
  BlockSlot slot() { return node_.store.find(kSegment).value().slot; }
  void expect_whole() {
    const auto found = slot();
    EXPECT_EQ(found.descriptor.state, BlockState::sealed);
    ASSERT_EQ(found.end, whole_.size());
    for (std::uint64_t at = 0; at < whole_.size();) {
      const auto piece = node_.run(node_.store.read_raw(kSegment, at, kMiB));
      ASSERT_TRUE(piece) << piece.error().describe();
      const auto& bytes = *piece.value().bytes;
      ASSERT_EQ(std::memcmp(bytes.data(), whole_.data() + at, bytes.size()), 0) << at;
      at += bytes.size();
    }
  }
  /// The first units were appended here before the node went away.
  void append_first(std::size_t count) {
    ASSERT_TRUE(node_.run(node_.store.allocate(kSegment, Generation(1), InodeId(2))));
    for (std::size_t i = 0; i < count; ++i) ASSERT_TRUE(node_.append(units_[i]));
    ASSERT_TRUE(node_.run(node_.store.fence(kSegment, Generation(2), node_.soon())));
  }

  NodeFiles files_;
  const std::filesystem::path device_ = files_.add_device("device", 64 * kMiB);
  TestNode node_{files_};
  std::vector<UnitOptions> units_;
  std::vector<std::byte> whole_;   // the segment as it is to be
  std::vector<std::byte> served_;  // instead of it, where that is not empty
  std::uint64_t reads_ = 0;
  std::uint64_t read_bytes_ = 0;
  rpc::Server server_{
      node_.context, node_.clock, {}, [this](rpc::Request request) { return serve(std::move(request)); }};
  rpc::Endpoint endpoint_;
  SegmentCopier copier_{node_.context, node_.clock, node_.store, {}};
};

TEST_F(SegmentCopierTest, MakesACopyWhereThereWasNone) {
  const auto reply = copy(order());
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(reply.value().valid(), whole_.size());
  EXPECT_EQ(reply.value().copied_bytes(), whole_.size());
  EXPECT_EQ(reply.value().device(), 1u);
  EXPECT_EQ(reply.value().bad_sources_size(), 0);
  expect_whole();
  // Once more, the answer having been lost: nothing is read.
  const auto reads = reads_;
  const auto again = copy(order());
  ASSERT_TRUE(again);
  EXPECT_EQ(again.value().valid(), whole_.size());
  EXPECT_EQ(again.value().copied_bytes(), 0u);
  EXPECT_EQ(again.value().block(), reply.value().block());
  EXPECT_EQ(reads_, reads);
}

TEST_F(SegmentCopierTest, GoesOnWhereTheOrderBeforeEnded) {
  std::uint64_t before = 0;
  int orders = 0;
  for (; before < whole_.size(); ++orders) {
    ASSERT_LT(orders, 10);
    const auto reply = copy(order(kMiB));
    ASSERT_TRUE(reply) << reply.error().describe();
    ASSERT_GT(reply.value().valid(), before);
    before = reply.value().valid();
    EXPECT_EQ(slot().end, before);
    if (before < whole_.size()) {
      EXPECT_EQ(slot().descriptor.state, BlockState::open);
    }
  }
  EXPECT_GT(orders, 2);
  expect_whole();
}

TEST_F(SegmentCopierTest, CompletesACopyThatIsBehindWithoutReadingWhatItHas) {
  append_first(3);
  const auto reply = copy(order());
  ASSERT_TRUE(reply) << reply.error().describe();
  const auto had = units_[3].offset;
  EXPECT_EQ(reply.value().copied_bytes(), whole_.size() - had);
  EXPECT_LE(read_bytes_, whole_.size() - units_[2].offset);
  expect_whole();
}

TEST_F(SegmentCopierTest, WritesAgainThePageInWhichTheCopyEndsWithinAUnit) {
  // The second record of the double unit was lost with its host's memory, and its first is there.
  append_first(3);
  auto bytes = make_double_unit(units_[3]);
  const auto first = round_up(wire::record_bytes(units_[3].payload_bytes), kPageBytes);
  const auto rest = bytes.span().subspan(wire::record_bytes(units_[3].payload_bytes));
  std::fill(rest.begin(), rest.end(), std::byte{0});
  Buffer torn = Buffer::copy_of(std::as_const(bytes).span().first(first));
  ASSERT_TRUE(
      node_.run(node_.store.begin_copy(kSegment, Generation(2), InodeId(2), whole_.size(), node_.soon())));
  ASSERT_TRUE(node_.run(node_.store.extend_copy(kSegment, Generation(2), units_[3].offset,
                                                std::make_shared<const Buffer>(std::move(torn)))));
  const auto reply = copy(order());
  ASSERT_TRUE(reply) << reply.error().describe();
  expect_whole();
}

TEST_F(SegmentCopierTest, TakesNothingThatIsDamagedAndTriesTheNextSource) {
  served_ = whole_;
  served_[units_[4].offset + 500'000] ^= std::byte{1};
  const auto damaged = copy(order());
  ASSERT_TRUE(damaged) << "what was right is kept: " << damaged.error().describe();
  ASSERT_EQ(damaged.value().bad_sources_size(), 1);
  EXPECT_EQ(damaged.value().bad_sources(0), 7u);
  EXPECT_LE(damaged.value().valid(), units_[4].offset);
  EXPECT_GT(damaged.value().valid(), 0u);
  const auto no_further = copy(order());
  EXPECT_EQ(no_further.error().code(), Errc::corrupt);
  // Another node has it whole. The first one is dead.
  served_.clear();
  auto with_another = order();
  with_another.clear_sources();
  add_source(with_another, 1, 6);
  add_source(with_another, endpoint_.port, 7);
  const auto reply = copy(with_another);
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(reply.value().bad_sources(0), 6u);
  expect_whole();
}

TEST_F(SegmentCopierTest, ASourceThatIsBehindItselfGivesNothing) {
  served_.assign(whole_.begin(), whole_.begin() + static_cast<long>(units_[5].offset));
  EXPECT_EQ(copy(order()).error().code(), Errc::corrupt);
  EXPECT_EQ(slot().end, 0u);
}

TEST_F(SegmentCopierTest, RecordsOfAnotherSegmentAreNotTaken) {
  served_.clear();
  for (const auto& unit : units_) {
    auto other = unit;
    other.segment = SegmentId(2);
    const auto bytes = make_unit(other);
    served_.insert(served_.end(), bytes.span().begin(), bytes.span().end());
  }
  served_.resize(std::max(served_.size(), whole_.size()));
  EXPECT_EQ(copy(order()).error().code(), Errc::corrupt);
  EXPECT_EQ(slot().end, 0u);
}

TEST_F(SegmentCopierTest, AnEarlierGenerationChangesNothing) {
  ASSERT_TRUE(copy(order()));
  auto late = order();
  late.set_generation(2);
  EXPECT_EQ(copy(late).error().code(), Errc::stale_generation);
  // Nor does a late order to free what an earlier attempt left.
  EXPECT_EQ(node_.run(node_.store.free(kSegment, Generation(2), node_.soon())).error().code(),
            Errc::stale_generation);
  expect_whole();
  ASSERT_TRUE(node_.run(node_.store.free(kSegment, Generation(3), node_.soon())));
  EXPECT_EQ(node_.store.find(kSegment).error().code(), Errc::not_found);
}

TEST_F(SegmentCopierTest, ACopyIsNotServedWhileItMayGrow) {
  append_first(2);
  EXPECT_TRUE(node_.run(node_.store.read_raw(kSegment, 0, kMiB))) << "it is fenced";
  ASSERT_TRUE(copy(order(kMiB)));
  EXPECT_EQ(node_.run(node_.store.read_raw(kSegment, 0, kMiB)).error().code(), Errc::busy);
  ASSERT_TRUE(copy(order()));
  EXPECT_TRUE(node_.run(node_.store.read_raw(kSegment, 0, kMiB)));
  EXPECT_EQ(node_.run(node_.store.read_raw(kSegment, whole_.size(), kMiB)).error().code(), Errc::invalid);
}

TEST_F(SegmentCopierTest, WhatIsSealedTooShortIsCompletedAndNothingElseIsOrdered) {
  append_first(3);
  ASSERT_TRUE(node_.run(
      node_.store.cut(kSegment, Generation(2), units_[3].offset, SegmentStore::After::sealed, node_.soon())));
  ASSERT_TRUE(copy(order()));
  expect_whole();
  auto odd = order();
  odd.set_length(5000);
  EXPECT_EQ(copy(odd).error().code(), Errc::invalid);
  auto too_long = order();
  too_long.set_segment(2);
  too_long.set_length(kBlockBytes + kPageBytes);
  EXPECT_EQ(copy(too_long).error().code(), Errc::invalid);
}

}  // namespace
}  // namespace reelfs::noded
