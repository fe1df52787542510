#include <cstring>

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gtest/gtest.h>

#include "common/async/condition.h"
#include "common/rpc/server.h"
#include "noded/transfer/receive_unit.h"
#include "noded/transfer/send_unit.h"
#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr SegmentId kSegment{1};

/// A process of another node: its copies are in memory.
class Target {
 public:
  Target(TestNode& node, std::uint32_t number)
      : number_(number),
        server_(node.context, node.clock, {},
                [this](rpc::Request request) { return take(std::move(request)); }),
        clock_(node.clock) {
    rpc::Endpoint any;
    any.host = "127.0.0.1";
    endpoint_ = server_.listen(any).value();
  }
  asio::awaitable<void> stop() { co_await server_.stop(); }
  wire::WorkerAddress address() const {
    wire::WorkerAddress address;
    address.set_node(number_);
    address.set_worker(1);
    address.mutable_endpoint()->set_host(endpoint_.host);
    address.mutable_endpoint()->set_port(endpoint_.port);
    return address;
  }
  void let_go() {
    held = false;
    released_.notify_all();
  }

  std::map<std::uint64_t, std::string> copies;
  std::uint64_t window = 16 * kMiB;
  bool held = false;                      // nothing is answered
  std::map<std::uint64_t, Errc> refuses;  // of these segments
  std::uint64_t under_way = 0, most_under_way = 0, requests = 0;

 private:
  Task<rpc::Response> take(rpc::Request request) {
    REELFS_CO_TRY(const auto command, request.parse<wire::SendOnRequest>());
    ++requests;
    under_way += request.payload.size();
    most_under_way = std::max(most_under_way, under_way);
    while (held) {
      REELFS_CO_TRY(co_await released_.wait(clock_, Deadline::after(clock_, 60s)));
    }
    under_way -= request.payload.size();
    if (const auto refused = refuses.find(command.segment()); refused != refuses.end())
      co_return Error(refused->second, "refused by the test");
    auto& copy = copies[command.segment()];
    if (command.offset() == copy.size() && !request.payload.empty()) {
      REELFS_CO_TRY(wire::verify_append_unit(request.payload.span(), SegmentId(command.segment()),
                                             Generation(command.generation()), command.offset()));
      copy.append(request.payload.view());
    }
    wire::SendOnReply reply;
    reply.set_end(copy.size());
    reply.set_window_bytes(window);
    co_return rpc::Response(reply);
  }

  const std::uint32_t number_;
  rpc::Server server_;
  rpc::Endpoint endpoint_;
  const Clock& clock_;
  Condition released_;
};

class SendUnitTest : public ::testing::Test {
 protected:
  SendUnitTest() {
    EXPECT_TRUE(node_.lead());
    EXPECT_TRUE(node_.initialise(0, 8 * kMiB));
    for (std::uint64_t segment = 1; segment <= 2; ++segment)
      EXPECT_TRUE(node_.run(node_.store.allocate(SegmentId(segment), Generation(1), InodeId(7))));
  }
  ~SendUnitTest() override {
    second_.let_go();
    third_.let_go();
    if (sender_) node_.run(sender_->stop());
    node_.run(second_.stop());
    node_.run(third_.stop());
  }
  /// As NodeService does it.
  void append(std::uint32_t payload, SegmentId segment = kSegment) {
    UnitOptions options;
    options.segment = segment;
    options.offset = node_.store.find(segment).value().slot.end;
    options.payload_bytes = payload;
    auto unit = std::make_shared<const Buffer>(make_unit(options));
    ASSERT_TRUE(node_.run(node_.store.append(segment, Generation(1), options.offset, unit)));
    sender_->appended({segment, Generation(1), InodeId(7)}, others_, options.offset, std::move(unit));
  }
  /// So many bytes of the segment are on every copy, or patience ends.
  Result<std::uint64_t> await(Duration patience = 10s, SegmentId segment = kSegment) {
    wire::AwaitCopiesRequest order;
    order.set_segment(segment.value);
    order.set_generation(1);
    order.set_length(end(segment));
    for (const auto& other : others_) *order.add_copies() = other;
    order.set_patience_ms(
        static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(patience).count()));
    return node_.run(sender_->await_copies(std::move(order)));
  }
  std::uint64_t end(SegmentId segment = kSegment) { return node_.store.find(segment).value().slot.end; }
  std::uint64_t lag_of(std::uint32_t node) {
    std::uint64_t bytes = 0;
    for (const auto& lag : sender_->lag()) {
      if (lag.node == NodeId(node)) bytes += lag.bytes;
    }
    return bytes;
  }
  void expect_same(const Target& target, SegmentId segment = kSegment) {
    const auto& copy = target.copies.at(segment.value);
    ASSERT_EQ(copy.size(), end(segment));
    const auto here = node_.run(node_.store.read_written(segment, Generation(1), 0, end(segment)));
    ASSERT_TRUE(here);
    EXPECT_EQ(std::memcmp(here.value()->data(), copy.data(), copy.size()), 0);
  }
  void make_sender() {
    if (sender_) node_.run(sender_->stop());
    sender_ = std::make_unique<SendUnit>(node_.context, node_.clock, node_.store, rpc::ClientOptions{});
  }

  NodeFiles files_;
  const std::filesystem::path device_ = files_.add_device("device", 64 * kMiB);
  TestNode node_{files_};
  Target second_{node_, 2}, third_{node_, 3};
  std::vector<wire::WorkerAddress> others_{second_.address(), third_.address()};
  std::unique_ptr<SendUnit> sender_ =
      std::make_unique<SendUnit>(node_.context, node_.clock, node_.store, rpc::ClientOptions{});
};

TEST_F(SendUnitTest, EveryOtherCopyGetsTheSameBytes) {
  for (std::uint32_t i = 0; i < 20; ++i) append(1 + i * 10'000);
  const auto reached = await();
  ASSERT_TRUE(reached) << reached.error().describe();
  EXPECT_EQ(reached.value(), end());
  expect_same(second_);
  expect_same(third_);
  EXPECT_TRUE(sender_->lag().empty());
}

TEST_F(SendUnitTest, ACopyThatIsSilentHoldsUpNoOtherAndItsLagIsToldUntilItAnswers) {
  third_.held = true;
  append(1000);
  append(2000);
  const auto reached = await(200ms);
  ASSERT_TRUE(reached);
  EXPECT_EQ(reached.value(), 0u) << "the third has nothing";
  expect_same(second_);
  EXPECT_EQ(lag_of(2), 0u);
  EXPECT_EQ(lag_of(3), 3000u);
  EXPECT_EQ(lag_of(0), 3000u);
  third_.let_go();
  ASSERT_EQ(await().value(), end());
  expect_same(third_);
  EXPECT_TRUE(sender_->lag().empty());
}

TEST_F(SendUnitTest, NoMoreIsUnderWayToAProcessThanItTakes) {
  second_.window = 64 * kKiB;
  others_.pop_back();
  append(10'000);
  ASSERT_TRUE(await());
  second_.held = true;
  second_.most_under_way = 0;
  for (int i = 0; i < 20; ++i) append(20'000);
  EXPECT_EQ(await(200ms).value(), round_up(wire::record_bytes(10'000), std::uint64_t{kPageBytes}));
  EXPECT_GT(second_.most_under_way, 20'000u) << "several are, where they fit";
  EXPECT_LE(second_.most_under_way, 64 * kKiB);
  second_.let_go();
  ASSERT_EQ(await().value(), end());
  EXPECT_LE(second_.most_under_way, 64 * kKiB);
  expect_same(second_);
}

TEST_F(SendUnitTest, ASegmentWhoseCopyRefusesHoldsUpNoOtherSegment) {
  others_.pop_back();
  second_.refuses[1] = Errc::io;
  append(1000, SegmentId(1));
  append(1000, SegmentId(2));
  EXPECT_EQ(await(10s, SegmentId(2)).value(), end(SegmentId(2)));
  EXPECT_EQ(lag_of(2), 1000u);
  second_.refuses.clear();
  EXPECT_EQ(await(10s, SegmentId(1)).value(), end(SegmentId(1)));
}

TEST_F(SendUnitTest, AnotherProcessFindsOutWhatTheOneThatDiedHadNotSent) {
  append(5000);
  append(100'000);
  ASSERT_TRUE(await());
  second_.held = true;
  append(70'000);
  append(300);
  make_sender();  // knows nothing
  second_.let_go();
  const auto reached = await();
  ASSERT_TRUE(reached) << reached.error().describe();
  EXPECT_EQ(reached.value(), end());
  expect_same(second_);
  expect_same(third_);
}

TEST_F(SendUnitTest, ACopyThatLostItsEndIsGivenItAgain) {
  for (int i = 0; i < 5; ++i) append(50'000);
  ASSERT_TRUE(await());
  second_.copies.at(1).resize(round_up(wire::record_bytes(50'000), std::uint64_t{kPageBytes}));
  append(1000);
  ASSERT_EQ(await().value(), end());
  expect_same(second_);
}

TEST_F(SendUnitTest, NothingIsSentOnOnceTheSegmentIsFenced) {
  third_.held = second_.held = true;
  append(1000);
  ASSERT_TRUE(node_.run(node_.store.fence(kSegment, Generation(2), node_.soon())));
  EXPECT_TRUE(sender_->lag().empty()) << "the index sees to the rest";
  const auto refused = await();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::stale_generation);
}

TEST_F(SendUnitTest, RefusesToAwaitWhatIsNotThere) {
  append(1000);
  wire::AwaitCopiesRequest order;
  order.set_segment(1);
  order.set_generation(1);
  order.set_length(end() + 1);
  *order.add_copies() = others_[0];
  EXPECT_EQ(node_.run(sender_->await_copies(order)).error().code(), Errc::invalid);
  order.clear_copies();
  order.set_length(end());
  EXPECT_EQ(node_.run(sender_->await_copies(order)).error().code(), Errc::invalid);
  *order.add_copies() = others_[0];
  order.set_segment(99);
  EXPECT_EQ(node_.run(sender_->await_copies(order)).error().code(), Errc::not_found);
}

class ReceiveUnitTest : public ::testing::Test {
 protected:
  ReceiveUnitTest() {
    EXPECT_TRUE(node_.lead());
    EXPECT_TRUE(node_.initialise(0, 8 * kMiB));
    EXPECT_TRUE(node_.run(node_.store.allocate(kSegment, Generation(1), InodeId(7))));
  }
  Result<wire::SendOnReply> take(std::uint64_t offset, Buffer unit, std::uint64_t generation = 1) {
    wire::SendOnRequest request;
    request.set_segment(kSegment.value);
    request.set_generation(generation);
    request.set_offset(offset);
    return node_.run(receiver_.take(std::move(request), std::move(unit)));
  }
  static Buffer unit(std::uint64_t offset, std::uint32_t payload = 5000) {
    UnitOptions options;
    options.offset = offset;
    options.payload_bytes = payload;
    return make_unit(options);
  }

  NodeFiles files_;
  const std::filesystem::path device_ = files_.add_device("device", 64 * kMiB);
  TestNode node_{files_};
  ReceiveUnit receiver_{node_.store};
};

TEST_F(ReceiveUnitTest, AppendsInOrderAndAnswersWithTheEnd) {
  auto reply = take(0, unit(0));
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(reply.value().end(), 2 * kPageBytes);
  EXPECT_GE(reply.value().window_bytes(), kMiB);
  reply = take(2 * kPageBytes, unit(2 * kPageBytes));
  EXPECT_EQ(reply.value().end(), 4 * kPageBytes);
  reply = take(0, Buffer());
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply.value().end(), 4 * kPageBytes) << "asked for the end alone";
}

TEST_F(ReceiveUnitTest, WhatDoesNotContinueTheCopyIsNotWrittenAndTheAnswerSaysWhereItEnds) {
  ASSERT_TRUE(take(0, unit(0)));
  auto reply = take(8 * kPageBytes, unit(8 * kPageBytes));
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(reply.value().end(), 2 * kPageBytes);
  reply = take(kPageBytes, unit(kPageBytes));
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(reply.value().end(), 2 * kPageBytes);
  reply = take(0, unit(0));
  ASSERT_TRUE(reply) << "repeated";
  EXPECT_EQ(reply.value().end(), 2 * kPageBytes);
}

TEST_F(ReceiveUnitTest, RefusesWhatIsDamagedOrOfAnotherPlaceOrWriter) {
  auto damaged = unit(0);
  damaged.data()[3000] ^= std::byte{1};
  EXPECT_EQ(take(0, std::move(damaged)).error().code(), Errc::corrupt);
  EXPECT_EQ(take(0, unit(4 * kPageBytes)).error().code(), Errc::corrupt);
  ASSERT_TRUE(take(0, unit(0)));
  ASSERT_TRUE(node_.run(node_.store.fence(kSegment, Generation(2), node_.soon())));
  EXPECT_EQ(take(2 * kPageBytes, unit(2 * kPageBytes)).error().code(), Errc::stale_generation);
  EXPECT_EQ(take(0, Buffer()).error().code(), Errc::stale_generation);
  EXPECT_EQ(node_.store.find(kSegment).value().slot.end, 2 * kPageBytes);
}

}  // namespace
}  // namespace reelfs::noded
