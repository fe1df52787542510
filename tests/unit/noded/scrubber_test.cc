#include "noded/scrub/scrubber.h"

#include <gtest/gtest.h>

#include "noded/scrub/schedule.h"
#include "tests/unit/noded/scrub_fixture.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kDay = 86'400'000'000'000;

class ScrubberTest : public ScrubTest {
 protected:
  struct Running {
    Running(TestNode& test_node, Scrubber::Options options, Scrubber::Report report)
        : node(test_node),
          scrubber(node.context.get_executor(), node.clock, node.store, options, std::move(report)),
          group(node.context.get_executor()) {
      group.spawn(scrubber.run());
    }
    ~Running() {
      node.run(group.stop());
      node.run(scrubber.stop());
    }
    TestNode& node;
    Scrubber scrubber;
    TaskGroup group;
  };
  Task<void> take(wire::Damage damage) {
    if (index_is_away) co_return Error(Errc::unavailable, "it is away");
    damages.push_back(std::move(damage));
    co_return ok();
  }
  std::unique_ptr<Running> run(TestNode& on, std::uint32_t worker = 1, std::uint32_t workers = 1) {
    Scrubber::Options options;
    options.worker = WorkerId(worker);
    options.workers = workers;
    options.rate = kGiB;
    return std::make_unique<Running>(on, options,
                                     [this](wire::Damage damage) { return take(std::move(damage)); });
  }
  template <class Condition>
  bool until(Condition condition) {
    const auto patience = node->soon();
    while (!condition()) {
      if (patience.left(node->clock) <= Duration::zero()) return false;
      node->run(sleep_for(5ms));
    }
    return true;
  }
  bool ordered_is_done() { return node->table().scrub_state().ordered_ns == 0; }

  std::vector<wire::Damage> damages;
  bool index_is_away = false;
};

TEST_F(ScrubberTest, VerifiesWhatIsOrderedAndTellsWhatIsBad) {
  for (std::uint64_t i = 1; i <= 4; ++i) make_copy(SegmentId(i));
  flip(SegmentId(2), 2 * kPageBytes + 5);
  flip(SegmentId(4), 3);
  const auto running = run(*node);
  running->scrubber.order();
  ASSERT_TRUE(until([&] { return running->scrubber.counts().blocks == 4 && ordered_is_done(); }));
  ASSERT_EQ(damages.size(), 2u);
  std::map<std::uint64_t, wire::Damage> by_segment;
  for (const auto& damage : damages) by_segment[damage.segment()] = damage;
  ASSERT_EQ(by_segment[2].ranges_size(), 1);
  EXPECT_LE(by_segment[2].ranges(0).offset(), 2 * kPageBytes);
  EXPECT_EQ(by_segment[2].ranges(0).offset() % kPageBytes, 0u);
  EXPECT_EQ(by_segment[4].ranges(0).offset(), 0u);
  const auto progress = running->scrubber.progress(DeviceId(1));
  ASSERT_TRUE(progress);
  EXPECT_EQ(progress->damaged_blocks(), 2u);
  EXPECT_GT(progress->oldest_ns(), 0);
}

TEST_F(ScrubberTest, WhatWasVerifiedStaysSoOverARestart) {
  make_copy(SegmentId(1));
  make_copy(SegmentId(2));
  {
    const auto running = run(*node);
    running->scrubber.order();
    ASSERT_TRUE(until([&] { return running->scrubber.counts().blocks == 2 && ordered_is_done(); }));
  }
  const auto verified = found(SegmentId(1)).slot.descriptor.verified_at_ns;
  ASSERT_NE(verified, 0);
  restart();
  EXPECT_EQ(found(SegmentId(1)).slot.descriptor.verified_at_ns, verified);
}

TEST_F(ScrubberTest, AFindingThatCannotBeToldIsNotForgotten) {
  make_copy(SegmentId(1));
  flip(SegmentId(1), 3);
  index_is_away = true;
  const auto running = run(*node);
  running->scrubber.order();
  ASSERT_TRUE(until([&] { return running->scrubber.counts().damaged_blocks == 1; }));
  EXPECT_EQ(found(SegmentId(1)).slot.descriptor.verified_at_ns, 0) << "a successor is to find it anew";
  index_is_away = false;
  ASSERT_TRUE(until([&] { return damages.size() == 1 && ordered_is_done(); }));
  EXPECT_NE(found(SegmentId(1)).slot.descriptor.verified_at_ns, 0);
}

TEST_F(ScrubberTest, TwoWorkersShareTheBlocksAndReadEachOnce) {
  constexpr std::uint64_t kCopies = 6;
  for (std::uint64_t i = 1; i <= kCopies; ++i) make_copy(SegmentId(i));
  TestNode other(files, 2);
  ASSERT_TRUE(other.lead()) << "it takes over what the first has made";
  const auto one = run(*node, 1, 2);
  const auto two = run(other, 2, 2);
  one->scrubber.order();
  ASSERT_TRUE(until([&] {
    other.run(sleep_for(5ms));
    return one->scrubber.counts().blocks + two->scrubber.counts().blocks == kCopies && ordered_is_done();
  }));
  EXPECT_GT(one->scrubber.counts().blocks, 0u);
  EXPECT_GT(two->scrubber.counts().blocks, 0u);
}

TEST_F(ScrubberTest, WhereAWorkerDoesNothingAnotherGoesOn) {
  for (std::uint64_t i = 1; i <= 3; ++i) make_copy(SegmentId(i));
  const auto one = run(*node, 1, 2);
  one->scrubber.order();
  ASSERT_TRUE(until([&] { return one->scrubber.counts().blocks == 3 && ordered_is_done(); }));
}

TEST_F(ScrubberTest, ASectorThatCannotBeReadIsAFindingAndNoReasonToDoWithoutTheDevice) {
  make_copy(SegmentId(1));
  const auto running = run(*node);
  files.hooks.fail_reads = true;
  running->scrubber.order();
  ASSERT_TRUE(until([&] { return damages.size() == 1; }));
  files.hooks.fail_reads = false;
  EXPECT_EQ(damages[0].ranges(0).offset(), 0u);
  EXPECT_TRUE(node->table().serving());
}

// ---- when

class ScrubScheduleTest : public ::testing::Test {
 protected:
  ScrubScheduleTest() {
    DeviceTable::Identity identity;
    identity.cluster = cluster;
    identity.incarnation = Uuid::random();
    identity.superblock.cluster = cluster;
    identity.superblock.uuid = Uuid::random();
    identity.superblock.device = DeviceId(7);
    identity.superblock.node_name = "node1";
    identity.superblock.geometry = plan_geometry(kMiB + 40 * 4 * kMiB + kPageBytes, 4 * kMiB).value();
    identity.path = "/dev/sdx";
    std::vector<DeviceTable::Found> blocks(identity.superblock.geometry.block_count);
    for (std::uint32_t i = 0; i < 4; ++i) {
      auto& block = blocks[i];
      block.descriptor.state = BlockState::sealed;
      block.descriptor.segment = i + 1;
      block.descriptor.allocated_at_ns = (10 + i) * kDay;
      block.end = block.descriptor.length = kMiB;
    }
    table = DeviceTable::create(name, identity, blocks).value();
  }
  ~ScrubScheduleTest() override { remove_shm(name); }
  ScrubSchedule look(std::int64_t now, std::int64_t ordered = 0) {
    ScrubSchedule::Rules rules;
    rules.period = std::chrono::hours(24 * 14);
    rules.ordered_ns = ordered;
    return ScrubSchedule::look(*table, rules, now);
  }
  void verified(std::uint32_t block, std::int64_t at) {
    ASSERT_TRUE(table->note_verified(block, table->slot(block), at));
  }

  const Uuid cluster = Uuid::random();
  const std::string name = "/reelfs-test-" + cluster.to_string();
  std::unique_ptr<DeviceTable> table;
};

TEST_F(ScrubScheduleTest, TheOldestComesFirstAndAllWithinThePeriodInEvenPauses) {
  const auto now = 20 * kDay;
  auto schedule = look(now);
  EXPECT_EQ(schedule.used_bytes(), 4 * kMiB);
  EXPECT_EQ(schedule.verified_bytes(), 4 * kMiB);
  EXPECT_EQ(schedule.oldest_ns(), 10 * kDay);
  auto next = schedule.next(*table, now).value();
  EXPECT_EQ(next.block, 0u);
  EXPECT_EQ(next.due_ns, 10 * kDay + 14 * kDay / 4) << "a fourth of the period for a fourth of the bytes";
  verified(0, now);
  next = schedule.next(*table, now).value();
  EXPECT_EQ(next.block, 1u);
  EXPECT_EQ(next.due_ns, now + 14 * kDay / 4);
  verified(1, now);
  verified(2, now);
  next = look(40 * kDay).next(*table, 40 * kDay).value();
  EXPECT_EQ(next.block, 3u);
  EXPECT_LE(next.due_ns, 27 * kDay) << "it is late";
}

TEST_F(ScrubScheduleTest, WhatIsOrderedIsDueAtOnceAndOnce) {
  const auto now = 14 * kDay;
  auto schedule = look(now, now);
  EXPECT_EQ(schedule.verified_bytes(), 0u);
  for (std::uint32_t block = 0; block < 4; ++block) {
    EXPECT_FALSE(look(now, now).order_done());
    const auto next = schedule.next(*table, now).value();
    EXPECT_EQ(next.due_ns, 0);
    verified(next.block, now + 1);
  }
  EXPECT_TRUE(look(now + 1, now).order_done());
  EXPECT_EQ(look(now + 1, now).verified_bytes(), 4 * kMiB);
  EXPECT_FALSE(schedule.next(*table, now + 1)) << "all are as they were not";
}

TEST_F(ScrubScheduleTest, WhatIsWrittenWaitsAndWhatIsFreedIsForgotten) {
  const auto now = 20 * kDay;
  const auto open = table->allocate(SegmentId(77), Generation(1), InodeId(1), WorkerId(1), kDay).value();
  EXPECT_EQ(look(now).used_bytes(), 4 * kMiB) << "nothing is in it";
  DeviceTable::Append append;
  append.block = open;
  append.segment = SegmentId(77);
  append.generation = Generation(1);
  append.worker = WorkerId(1);
  ASSERT_TRUE(table->begin_append(append, 0, kPageBytes, false));
  ASSERT_TRUE(table->end_append(append, kPageBytes));
  EXPECT_EQ(look(now).used_bytes(), 4 * kMiB) << "it has a writer";
  ASSERT_TRUE(table->release(open, SegmentId(77), Generation(1)));
  auto schedule = look(now);
  EXPECT_EQ(schedule.used_bytes(), 4 * kMiB + kPageBytes);
  EXPECT_EQ(schedule.next(*table, now)->block, open);
  ASSERT_TRUE(table->begin_free(open, SegmentId(77), WorkerId(1)));
  EXPECT_EQ(schedule.next(*table, now)->block, 0u);
}

}  // namespace
}  // namespace reelfs::noded
