#include "noded/leader/leader.h"

#include <algorithm>
#include <chrono>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <gtest/gtest.h>

#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

constexpr InodeId kChannel{2};

using namespace std::chrono_literals;

/// Attaches what the leader has.
/// @param process  that the leader takes it for
void follow(TestNode& follower, TestNode& leader, ProcessIdentity process = ProcessIdentity::self()) {
  Leader::Joining joining;
  joining.worker = follower.state.identity.worker;
  joining.process = process;
  joining.first = !follower.state.attached();
  const auto areas = leader.run(leader.leader.join(joining));
  ASSERT_TRUE(areas);
  ASSERT_TRUE(follower.state.attach(areas.value()));
  follower.run(follower.state.settle(follower.clock, kBringUpLimit));
}

asio::awaitable<void> initialise(Leader& leader, NewDevice device) {
  (void)co_await leader.initialise_device(std::move(device));
}

TEST(Leader, ASuccessorSharesTheDeviceThatOnlyAnotherFollowerHasAttached) {
  NodeFiles files;
  files.add_device("dev1", 64 * kMiB);
  auto first = std::make_unique<TestNode>(files, 1);
  TestNode second(files, 2);
  TestNode third(files, 3);
  ASSERT_TRUE(first->lead());
  follow(second, *first);
  follow(third, *first);
  ASSERT_TRUE(first->initialise());
  follow(third, *first);
  first.reset();
  ASSERT_TRUE(second.lead());
  const auto here = second.run(second.store.allocate(SegmentId(1), Generation(1), kChannel));
  const auto there = third.run(third.store.allocate(SegmentId(2), Generation(1), kChannel));
  ASSERT_TRUE(here);
  ASSERT_TRUE(there);
  EXPECT_NE(here.value(), there.value()) << "one block for two segments";
  EXPECT_TRUE(second.store.find(SegmentId(2)));
}

asio::awaitable<void> let_go(FileHooks& hooks, Duration after) {
  co_await sleep_for(after);
  hooks.hang_opens = false;
}

TEST(Leader, NothingStaysADeadWorkersOnADeviceThatItsSuccessorCouldNotOpen) {
  NodeFiles files;
  files.add_device("dev1", 64 * kMiB);
  auto first = std::make_unique<TestNode>(files, 1);
  auto second = std::make_unique<TestNode>(files, 2);
  TestNode third(files, 3);
  ASSERT_TRUE(first->lead());
  follow(third, *first);
  ASSERT_TRUE(first->initialise());
  auto gone = ProcessIdentity::self();
  gone.start_ticks += 1;  // the second will count as dead
  follow(*second, *first, gone);
  const auto block = second->run(second->store.allocate(SegmentId(1), Generation(1), kChannel));
  ASSERT_TRUE(block);
  ASSERT_TRUE(second->append({}));
  const DeviceTable::Append write{block.value().block, SegmentId(1), Generation(1), WorkerId(2)};
  const auto end = second->store.find(SegmentId(1)).value().slot.end;
  ASSERT_TRUE(second->table().begin_append(write, end, kPageBytes, false));
  second.reset();
  first.reset();

  files.hooks.hang_opens = true;
  asio::co_spawn(third.context, let_go(files.hooks, kBringUpLimit + 500ms), [](const std::exception_ptr&) {});
  ASSERT_TRUE(third.lead());
  const auto processes = third.state.own_areas(third.state.names.process_prefix());
  EXPECT_EQ(std::count(processes.begin(), processes.end(), third.state.names.process(WorkerId(2))), 0);
  ASSERT_TRUE(third.look_until([&] { return third.is(DeviceStatus::State::online); }))
      << third.status().reason;
  const auto found = third.store.find(SegmentId(1));
  ASSERT_TRUE(found);
  EXPECT_EQ(found.value().slot.owner, 0u);
  EXPECT_EQ(found.value().slot.in_flight, 0u);
  const auto fenced = third.run(third.store.fence(SegmentId(1), Generation(2), third.soon()));
  ASSERT_TRUE(fenced) << fenced.error().describe();
  EXPECT_EQ(fenced.value().length, end) << "what was acknowledged";
}

TEST(Leader, AnInitialisationGoesOnWhereItsCallerGivesUp) {
  NodeFiles files;
  NewDevice device;
  device.path = files.add_device("dev1", 64 * kMiB);
  device.uuid = Uuid::random();
  device.device = DeviceId(1);
  device.block_bytes = 4 * kMiB;
  TestNode node(files);
  ASSERT_TRUE(node.lead());
  asio::cancellation_signal give_up;
  int writes = 0;
  files.hooks.before_write = [&] {
    if (++writes == 2) give_up.emit(asio::cancellation_type::all);  // the table is there, no superblock yet
  };
  bool ended = false;
  asio::co_spawn(
      node.context, initialise(node.leader, device),
      asio::bind_cancellation_slot(give_up.slot(), [&](const std::exception_ptr&) { ended = true; }));
  node.context.restart();
  while (!ended) ASSERT_EQ(node.context.run_one(), 1u);
  files.hooks.before_write = nullptr;
  const auto again = node.run(node.leader.initialise_device(device));
  EXPECT_TRUE(again) << again.error().describe();
  ASSERT_EQ(node.leader.devices().size(), 1u);
  EXPECT_EQ(node.leader.devices().front().state, DeviceStatus::State::online);
}

}  // namespace
}  // namespace reelfs::noded
