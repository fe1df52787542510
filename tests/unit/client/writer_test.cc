#include "client/writer.h"

#include <cstring>
#include <functional>
#include <optional>
#include <random>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gtest/gtest.h>

#include "client/index_client.h"
#include "client/node_pool.h"
#include "common/async/event.h"
#include "common/async/task_group.h"
#include "common/wire/record.h"
#include "tests/unit/client/fake_store.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr InodeId kChannel{7};

/// A Writer over real connections to a store in memory, in one thread.
class WriterTest : public ::testing::Test {
 protected:
  /// A slow machine is not a failed copy.
  static WriterOptions patient() {
    WriterOptions options;
    options.switch_timeout = 20s;
    options.append_timeout = 25s;
    return options;
  }
  void build(std::size_t nodes, std::uint64_t block_bytes, WriterOptions options = patient(),
             std::size_t workers = 1) {
    std::vector<FakeNode*> pointers;
    for (std::uint32_t id = 1; id <= nodes; ++id) {
      nodes_.push_back(std::make_unique<FakeNode>(context_, clock_, id, workers));
      pointers.push_back(nodes_.back().get());
    }
    fake_index_ = std::make_unique<FakeIndex>(context_, clock_, pointers, 2, block_bytes);
    IndexClient::Options index_options;
    index_options.purpose = "test";
    index_ = std::make_unique<IndexClient>(context_, clock_, fake_index_->config(), index_options);
    pool_ = std::make_unique<NodePool>(context_, clock_, rpc::ClientOptions{});
    writer_ = std::make_unique<Writer>(context_, clock_, *index_, *pool_, options);
  }

  /// Runs the scenario, stops everything, and returns when all has ended.
  void run(std::function<asio::awaitable<void>()> scenario) {
    std::exception_ptr failure;
    asio::co_spawn(context_, play(std::move(scenario)),
                   [&failure](std::exception_ptr thrown) { failure = thrown; });
    context_.run();
    if (failure) std::rethrow_exception(failure);
  }
  asio::awaitable<void> play(std::function<asio::awaitable<void>()> scenario) {
    started_ = (co_await index_->start()).has_value();
    co_await scenario();
    co_await writer_->stop();
    co_await appends_.stop();
    co_await pool_->stop();
    co_await index_->stop();
    co_await fake_index_->stop();
    for (auto& node : nodes_) co_await node->stop();
  }

  struct Stored {
    SharedBuffer bytes;
    std::optional<Result<Placed>> result;
  };
  /// Begins to store `count` pieces, of which `all_ended_` tells the end.
  void append_many(std::size_t count, std::size_t max_bytes) {
    for (std::size_t i = 0; i < count; ++i) {
      auto bytes = std::make_shared<Buffer>(1 + random_() % max_bytes);
      for (std::size_t at = 0; at < bytes->size(); at += 37)
        bytes->data()[at] = static_cast<std::byte>(random_());
      stored_.push_back(std::make_unique<Stored>());
      stored_.back()->bytes = bytes;
      ++under_way_;
      appends_.spawn(append_one(stored_.size() - 1));
    }
  }
  asio::awaitable<void> append_one(std::size_t number) {
    Piece piece{InodeId(100 + number), number * 1000, stored_[number]->bytes};
    stored_[number]->result.emplace(co_await writer_->append(channel_, std::move(piece)));
    one_ended_.set();
    if (--under_way_ == 0) all_ended_.set();
  }
  std::size_t placed() const {
    std::size_t count = 0;
    for (const auto& piece : stored_) count += piece->result && piece->result->has_value() ? 1 : 0;
    return count;
  }
  std::vector<SegmentId> segments_of_placed() const {
    std::set<SegmentId> segments;
    for (const auto& piece : stored_) {
      if (piece->result && piece->result->has_value()) segments.insert(piece->result->value().segment);
    }
    return {segments.begin(), segments.end()};
  }
  /// Every placed piece is a good record on every copy.
  void expect_stored() {
    for (std::size_t number = 0; number < stored_.size(); ++number) {
      SCOPED_TRACE(number);
      const auto& piece = *stored_[number];
      ASSERT_TRUE(piece.result);
      ASSERT_TRUE(piece.result->has_value()) << piece.result->error().describe();
      const auto& at = piece.result->value();
      for (auto* node : fake_index_->segments.at(at.segment.value).nodes) {
        const auto& block = node->blocks.at(at.segment.value).bytes;
        ASSERT_LT(at.record_offset, block.size());
        const auto bytes = std::as_bytes(std::span(block)).subspan(at.record_offset);
        const auto record = wire::decode_record_header(bytes);
        ASSERT_TRUE(record) << record.error().describe();
        const auto& header = record.value().header;
        EXPECT_EQ(header.inode, 100 + number);
        EXPECT_EQ(header.file_offset, number * 1000);
        EXPECT_EQ(header.channel, kChannel.value);
        ASSERT_EQ(header.payload_bytes, piece.bytes->size());
        EXPECT_EQ(std::memcmp(bytes.data() + header.header_bytes, piece.bytes->data(), header.payload_bytes),
                  0);
      }
    }
  }

  asio::io_context context_{1};
  SystemClock clock_;
  std::mt19937 random_{1};
  std::vector<std::unique_ptr<FakeNode>> nodes_;
  std::unique_ptr<FakeIndex> fake_index_;
  std::unique_ptr<IndexClient> index_;
  std::unique_ptr<NodePool> pool_;
  std::unique_ptr<Writer> writer_;
  InodeId channel_ = kChannel;  // that append_many writes to
  bool started_ = false;
  std::vector<std::unique_ptr<Stored>> stored_;
  std::size_t under_way_ = 0;
  Event one_ended_;
  Event all_ended_;
  TaskGroup appends_{context_.get_executor()};
};

TEST_F(WriterTest, PlacedPiecesAreRecordsOnEveryCopyOfSegmentsOneAfterAnother) {
  build(3, 8 * kMiB);
  run([this]() -> asio::awaitable<void> {
    append_many(60, wire::kMaxRecordPayload);
    co_await all_ended_.wait();
  });
  ASSERT_TRUE(started_);
  expect_stored();
  EXPECT_GT(segments_of_placed().size(), 2u) << "30 MiB do not fit two blocks";
  EXPECT_EQ(fake_index_->open_segments(), 0u) << "stop gives all grants back";
  for (const auto& [id, segment] : fake_index_->segments) {
    EXPECT_FALSE(segment.failed);
    for (auto* node : segment.nodes) EXPECT_EQ(node->blocks[id].bytes.size(), segment.length);
  }
}

TEST_F(WriterTest, PiecesQueuedTogetherShareAUnit) {
  build(2, 8 * kMiB);
  run([this]() -> asio::awaitable<void> {
    append_many(40, 50);
    co_await all_ended_.wait();
  });
  expect_stored();
  ASSERT_EQ(segments_of_placed().size(), 1u);
  EXPECT_EQ(fake_index_->segments.at(segments_of_placed()[0].value).length, round_up(40 * 256, kPageBytes));
}

TEST_F(WriterTest, GoesOnElsewhereWhenAWorkerDies) {
  build(4, 64 * kMiB);
  run([this]() -> asio::awaitable<void> {
    append_many(60, wire::kMaxRecordPayload);
    while (placed() < 5) co_await one_ended_.wait();
    auto* victim = fake_index_->segments.at(segments_of_placed()[0].value).nodes[1];
    co_await victim->kill(0);
    while (under_way_ > 0) co_await all_ended_.wait();
  });
  expect_stored();
  std::size_t failed = 0;
  for (const auto& [id, segment] : fake_index_->segments) {
    if (!segment.failed) continue;
    ++failed;
    for (auto* node : segment.nodes) EXPECT_LE(segment.length, node->blocks[id].bytes.size());
  }
  EXPECT_GE(failed, 1u);
  EXPECT_EQ(fake_index_->open_segments(), 0u);
}

TEST_F(WriterTest, GoesOnElsewhereWhenAWorkerStandsStill) {
  WriterOptions options;
  options.switch_timeout = 500ms;
  build(4, 64 * kMiB, options);
  run([this]() -> asio::awaitable<void> {
    append_many(2, 1000);
    while (placed() < 2) co_await one_ended_.wait();
    fake_index_->segments.at(segments_of_placed()[0].value).nodes[0]->stands_still = true;
    append_many(30, 50'000);
    while (under_way_ > 0) co_await all_ended_.wait();
  });
  expect_stored();
  bool asked_to_avoid = false;
  for (const auto& avoided : fake_index_->avoided) asked_to_avoid |= !avoided.empty();
  EXPECT_TRUE(asked_to_avoid);
}

TEST_F(WriterTest, SyncFlushesEveryCopyOnceAndOnlyWhatIsNew) {
  build(2, 64 * kMiB);
  Result<void> first = Error(Errc::cancelled);
  Result<void> second = Error(Errc::cancelled);
  std::size_t flushes_after_first = 0;
  run([&]() -> asio::awaitable<void> {
    append_many(3, 100'000);
    co_await all_ended_.wait();
    first = co_await writer_->sync(segments_of_placed());
    flushes_after_first = nodes_[0]->syncs + nodes_[1]->syncs;
    second = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_TRUE(first) << first.error().describe();
  ASSERT_TRUE(second) << second.error().describe();
  EXPECT_EQ(flushes_after_first, 2u);
  EXPECT_EQ(nodes_[0]->syncs + nodes_[1]->syncs, 2u);
  for (auto& node : nodes_) {
    const auto& block = node->blocks.at(segments_of_placed()[0].value);
    EXPECT_EQ(block.synced, block.bytes.size());
  }
}

TEST_F(WriterTest, CallersThatWaitTogetherShareOneFlush) {
  build(2, 64 * kMiB);
  std::size_t synced = 0;
  run([&]() -> asio::awaitable<void> {
    append_many(1, 1000);
    co_await all_ended_.wait();
    const auto segments = segments_of_placed();
    Event hold;
    Event done;
    nodes_[0]->hold_syncs = &hold;
    TaskGroup callers(context_.get_executor());
    const auto sync_once = [](Writer& writer, std::vector<SegmentId> which, std::size_t& good,
                              Event& ended) -> asio::awaitable<void> {
      const auto synced_here = co_await writer.sync(which);
      if (synced_here) ++good;
      ended.set();
    };
    callers.spawn(sync_once(*writer_, segments, synced, done));
    // The second node's flush ends while the first node's is held: one caller is under way, the next ones
    // gather.
    while (nodes_[0]->syncs == 0) co_await asio::post(asio::use_awaitable);
    for (int i = 0; i < 5; ++i) callers.spawn(sync_once(*writer_, segments, synced, done));
    append_many(1, 1000);
    while (under_way_ > 0) co_await all_ended_.wait();
    nodes_[0]->hold_syncs = nullptr;
    hold.set();
    while (synced < 6) co_await done.wait();
    co_await callers.stop();
  });
  EXPECT_EQ(synced, 6u);
  EXPECT_LE(nodes_[0]->syncs, 3u)
      << "the first, one for those who came meanwhile, one at the end for the last piece";
}

TEST_F(WriterTest, AnotherWorkerOfTheNodeFlushesForADeadOne) {
  build(2, 64 * kMiB, {}, 2);
  Result<void> synced = Error(Errc::cancelled);
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    co_await nodes_[0]->kill(0);
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_TRUE(synced) << synced.error().describe();
  for (auto& node : nodes_) {
    const auto& block = node->blocks.at(segments_of_placed()[0].value);
    EXPECT_EQ(block.synced, block.bytes.size());
  }
}

TEST_F(WriterTest, SyncFailsWhenTooFewCopiesCanBeFlushed) {
  auto options = patient();
  options.timeout = 2s;
  build(2, 64 * kMiB, options);
  fake_index_->min_copies = 2;
  Result<void> synced = ok();
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    co_await nodes_[0]->kill(0);
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().code(), Errc::timed_out);
}

TEST_F(WriterTest, SyncDoesWithoutACopyThatCannotBeFlushedOnceItsSegmentIsLeft) {
  build(2, 64 * kMiB);
  Result<void> synced = Error(Errc::cancelled);
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    co_await nodes_[0]->kill(0);
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_TRUE(synced) << synced.error().describe();
  const auto segment = segments_of_placed()[0].value;
  EXPECT_TRUE(fake_index_->segments.at(segment).failed);
  const auto& block = nodes_[1]->blocks.at(segment);
  EXPECT_EQ(block.synced, block.bytes.size());
}

TEST_F(WriterTest, SyncWaitsForAFlushThatHangsNoLongerThanForItsSegmentToBeLeft) {
  build(2, 64 * kMiB);
  Result<void> synced = Error(Errc::cancelled), again = Error(Errc::cancelled);
  Duration took{}, took_again{};
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    nodes_[0]->stands_still = true;
    const auto begun = clock_.now();
    synced = co_await writer_->sync(segments_of_placed());
    took = clock_.now() - begun;
    again = co_await writer_->sync(segments_of_placed());
    took_again = clock_.now() - begun - took;
    nodes_[0]->stands_still = false;
  });
  ASSERT_TRUE(synced) << synced.error().describe();
  ASSERT_TRUE(again) << again.error().describe();
  EXPECT_GE(took, 700ms);
  EXPECT_LT(took_again, took);
  EXPECT_TRUE(fake_index_->segments.at(segments_of_placed()[0].value).failed);
}

TEST_F(WriterTest, AFlushThatFindsLessThanWasAcknowledgedConfirmsNothing) {
  build(2, 64 * kMiB);
  fake_index_->min_copies = 2;
  Result<void> synced = ok();
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    auto& block = nodes_[1]->blocks.at(segments_of_placed()[0].value);  // its host loses power
    block.bytes.resize(0);
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().code(), Errc::io);
}

TEST_F(WriterTest, ASegmentThatWasFreedNeedsNoFlushAndDoesNotHoldUpOthers) {
  build(2, 64 * kMiB);
  Result<void> synced = Error(Errc::cancelled);
  std::uint64_t kept = 0;
  run([&]() -> asio::awaitable<void> {
    append_many(1, 1000);
    co_await all_ended_.wait();
    const auto freed = segments_of_placed()[0].value;
    channel_ = InodeId(8);
    append_many(1, 1000);
    co_await all_ended_.wait();
    fake_index_->segments.erase(freed);
    for (auto& node : nodes_) node->blocks.erase(freed);
    kept = stored_[1]->result->value().segment.value;
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_TRUE(synced) << synced.error().describe();
  for (auto& node : nodes_) {
    ASSERT_FALSE(node->sync_sizes.empty());
    EXPECT_EQ(node->sync_sizes[0], 1u) << "without the one that is freed";
    EXPECT_EQ(node->blocks.at(kept).synced, node->blocks.at(kept).bytes.size());
  }
}

TEST_F(WriterTest, ACopyThatIsGoneIsNotClaimedToBeOnStableStorage) {
  build(2, 64 * kMiB);
  fake_index_->min_copies = 2;
  Result<void> synced = ok();
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    nodes_[1]->blocks.erase(segments_of_placed()[0].value);
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().code(), Errc::io);
}

TEST_F(WriterTest, ACopyThatIsGoneIsNotAskedForForeverThoughItsProcessIsGoneToo) {
  build(2, 64 * kMiB, {}, 2);
  fake_index_->min_copies = 2;
  Result<void> synced = ok();
  run([&]() -> asio::awaitable<void> {
    append_many(3, 1000);
    co_await all_ended_.wait();
    co_await nodes_[1]->kill(0);
    nodes_[1]->blocks.erase(segments_of_placed()[0].value);
    synced = co_await writer_->sync(segments_of_placed());
  });
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().code(), Errc::io);
}

TEST_F(WriterTest, AFullSegmentIsFlushedWithoutBeingAsked) {
  build(2, 4 * kMiB);
  run([this]() -> asio::awaitable<void> {
    append_many(30, wire::kMaxRecordPayload);
    co_await all_ended_.wait();
  });
  expect_stored();
  for (auto& node : nodes_) {
    for (const auto& [id, block] : node->blocks) EXPECT_EQ(block.synced, block.bytes.size());
  }
}

TEST_F(WriterTest, AFullClusterIsToldToTheCaller) {
  build(2, 64 * kMiB);
  fake_index_->refuse_grants = Errc::no_space;
  run([this]() -> asio::awaitable<void> {
    append_many(2, 1000);
    co_await all_ended_.wait();
  });
  for (const auto& piece : stored_) {
    ASSERT_TRUE(piece->result);
    ASSERT_FALSE(piece->result->has_value());
    EXPECT_EQ(piece->result->error().code(), Errc::no_space);
  }
}

TEST_F(WriterTest, ACancelledCallerLeavesAtOnceAndOthersGoOn) {
  build(2, 64 * kMiB);
  run([this]() -> asio::awaitable<void> {
    append_many(1, 1000);
    co_await all_ended_.wait();
    nodes_[0]->stands_still = true;
    append_many(1, 1000);
    co_await asio::post(asio::use_awaitable);
    co_await asio::post(asio::use_awaitable);
    co_await appends_.stop();
    nodes_[0]->stands_still = false;
  });
  ASSERT_TRUE(stored_[1]->result);
  ASSERT_FALSE(stored_[1]->result->has_value());
  EXPECT_EQ(stored_[1]->result->error().code(), Errc::cancelled);
}

TEST_F(WriterTest, RefusesPiecesItCannotStore) {
  build(2, 64 * kMiB);
  std::vector<Errc> errors;
  run([&]() -> asio::awaitable<void> {
    for (const std::size_t size : {std::size_t{0}, std::size_t{wire::kMaxRecordPayload} + 1}) {
      Piece piece{InodeId(5), 0, std::make_shared<Buffer>(size)};
      const auto result = co_await writer_->append(kChannel, std::move(piece));
      errors.push_back(result ? Errc{} : result.error().code());
    }
    co_await writer_->stop();
    Piece piece{InodeId(5), 0, std::make_shared<Buffer>(1)};
    const auto result = co_await writer_->append(kChannel, std::move(piece));
    errors.push_back(result ? Errc{} : result.error().code());
  });
  EXPECT_EQ(errors, (std::vector<Errc>{Errc::invalid, Errc::invalid, Errc::cancelled}));
}

}  // namespace
}  // namespace reelfs::client
