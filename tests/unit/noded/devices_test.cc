// Devices that fail, hang, vanish, appear, and are added and removed.
#include <atomic>
#include <fstream>
#include <optional>

#include <boost/asio/co_spawn.hpp>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/async/timeout.h"
#include "noded/service/node_description.h"
#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;
using State = DeviceStatus::State;

constexpr InodeId kChannel{2};

class DevicesTest : public ::testing::Test {
 protected:
  /// @param devices  of the same size, initialised
  void start(std::size_t devices, std::uint64_t bytes = 64 * kMiB) {
    for (std::size_t i = 0; i < devices; ++i)
      files.add_device("dev" + std::to_string(files.devices.size() + 1), bytes);
    start_node();
    for (std::size_t i = 0; i < devices; ++i) ASSERT_TRUE(node->initialise(i));
  }
  void start_node() {
    node = std::make_unique<TestNode>(files);
    ASSERT_TRUE(node->lead());
  }
  void restart() {
    node.reset();
    forget();
    start_node();
  }
  void forget() {
    for (const auto& name : list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8))) remove_shm(name);
  }
  Result<BlockAddress> allocate(std::uint64_t segment) {
    return node->run(node->store.allocate(SegmentId(segment), Generation(1), kChannel));
  }
  Result<std::uint64_t> append(std::uint64_t segment, std::uint64_t number = 0) {
    return node->append({.segment = SegmentId(segment), .offset = number * unit});
  }
  Result<SegmentStore::RecordPiece> read(std::uint64_t segment) {
    SegmentStore::RecordRange range;
    range.segment = SegmentId(segment);
    range.length = 100;
    return node->run(node->store.read(range));
  }
  /// A segment on the device, with one record.
  std::uint64_t segment_on(std::size_t index) {
    for (;;) {
      const auto at = allocate(++last_segment);
      if (!at) ADD_FAILURE() << at.error().describe();
      if (!at || at.value().device.value != index + 1) continue;
      EXPECT_TRUE(append(last_segment));
      return last_segment;
    }
  }
  void begin_append(std::uint64_t segment, std::uint64_t number) {
    auto begin = [](SegmentStore& store, UnitOptions options) -> asio::awaitable<void> {
      (void)co_await store.append(options.segment, options.generation, options.offset, make_unit(options));
    };
    const UnitOptions options{.segment = SegmentId(segment), .offset = number * unit};
    asio::co_spawn(node->context, begin(node->store, options), [](const std::exception_ptr&) {});
  }
  void follow(TestNode& follower) {
    Leader::Joining joining;
    joining.worker = follower.state.identity.worker;
    joining.process = follower.state.identity.process;
    joining.first = !follower.state.attached();
    const auto areas = node->run(node->leader.join(joining));
    ASSERT_TRUE(areas);
    ASSERT_TRUE(follower.state.attach(areas.value()));
    follower.run(follower.state.settle(follower.clock, kBringUpLimit));
  }
  Result<DeviceStatus> add(const std::filesystem::path& path) {
    return node->run(node->leader.add_device(path, 4 * kMiB));
  }
  Result<DeviceStatus> remove(const std::filesystem::path& path) {
    return node->run(node->leader.remove_device(path));
  }
  /// A device file that is not configured.
  std::filesystem::path spare(std::uint64_t bytes = 64 * kMiB) {
    const auto path = files.add_device("spare", bytes);
    files.devices.pop_back();
    return path;
  }
  std::size_t device_areas() const {
    return list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8) + "-node1-dev-").size();
  }

  NodeFiles files;
  std::unique_ptr<TestNode> node;
  std::uint64_t last_segment = 0;
  const std::uint64_t unit = round_up(wire::record_bytes(5000), kPageBytes);
};

bool mentions(const Error& error, const std::string& words) {
  return error.describe().find(words) != std::string::npos;
}

TEST_F(DevicesTest, AnErrorTakesOneDeviceOutAndTheOtherGoesOn) {
  start(2);
  const auto on_first = segment_on(0);
  const auto on_second = segment_on(1);
  auto follower = std::make_unique<TestNode>(files, 2);
  follow(*follower);
  ASSERT_TRUE(follower->store.find(SegmentId(on_first)));
  files.hooks.only = files.devices[0];
  files.hooks.fail_writes = true;

  EXPECT_EQ(append(on_first, 1).error().code(), Errc::io);
  files.hooks.fail_writes = false;
  const auto refused = append(on_first, 1).error();
  EXPECT_EQ(refused.code(), Errc::io);
  EXPECT_TRUE(mentions(refused, "dev1) is failed: the write was made to fail")) << refused.describe();
  EXPECT_EQ(read(on_first).error().code(), Errc::io);
  EXPECT_EQ(node->run(node->store.fence(SegmentId(on_first), Generation(2), node->soon())).error().code(),
            Errc::io);
  EXPECT_EQ(node->run(node->store.free(SegmentId(on_first), Generation(), node->soon())).error().code(),
            Errc::io);
  EXPECT_EQ(follower->store.find(SegmentId(on_first)).error().code(), Errc::io)
      << "in every process, at once";
  EXPECT_TRUE(node->is(State::failed));
  EXPECT_EQ(node->status().reason, "the write was made to fail");
  EXPECT_GT(node->status().since_ns, 0);

  EXPECT_TRUE(append(on_second, 1));
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(allocate(++last_segment).value().device, DeviceId(2));
  for (const auto& block : node->store.list()) EXPECT_EQ(block.address.device, DeviceId(2));
  node->leader.look_at_devices();
  node->run(sleep_for(20ms));
  EXPECT_TRUE(node->is(State::failed)) << "somebody is to look at it first";
  const auto in_use = add(files.devices[0]).error();
  EXPECT_TRUE(mentions(in_use, "in use by a process of this node")) << in_use.describe();
  EXPECT_FALSE(mentions(in_use, "wipefs")) << in_use.describe();
  follower.reset();
  EXPECT_TRUE(add(files.devices[0])) << "and then to add it again";
  EXPECT_TRUE(node->is(State::online));
  EXPECT_TRUE(append(on_first, 1));
}

TEST_F(DevicesTest, TheNodesDescriptionTellsWhyOneIsOutOfService) {
  start(2);
  const auto segment = segment_on(0);
  files.hooks.only = files.devices[0];
  files.hooks.fail_writes = true;
  ASSERT_FALSE(append(segment, 1));
  DescriptionOrder order;
  order.cluster = files.cluster;
  order.incarnation = node->state.incarnation;
  order.areas = node->state.own_areas(node->state.names.prefix());
  const auto told = describe_node(order, MappedAreas::attach(order));
  ASSERT_EQ(told.devices_size(), 2);
  EXPECT_EQ(told.devices(0).state(), wire::STATE_FAILED);
  EXPECT_EQ(told.devices(0).reason(), "the write was made to fail");
  EXPECT_EQ(told.devices(1).state(), wire::STATE_ONLINE);
  EXPECT_EQ(told.devices(1).reason(), "");
}

TEST_F(DevicesTest, AHangTakesOneDeviceOutAndItComesBackWhenItAnswers) {
  files.device_limit = 200ms;
  start(2);
  const auto on_first = segment_on(0);
  const auto on_second = segment_on(1);
  files.hooks.only = files.devices[0];
  files.hooks.hang = true;
  for (std::uint64_t i = 1; i < 12; ++i) begin_append(on_first, i);
  EXPECT_TRUE(append(on_second, 1)) << "it does not wait";
  const auto began = node->clock.now();
  const auto refused = append(on_first, 12).error();
  EXPECT_EQ(refused.code(), Errc::io);
  EXPECT_LT(node->clock.now() - began, 2s);
  EXPECT_TRUE(mentions(refused, "has not ended in 0.2 s")) << refused.describe();
  EXPECT_TRUE(node->is(State::failed));
  EXPECT_EQ(read(on_first).error().code(), Errc::io) << "at once";
  EXPECT_TRUE(append(on_second, 2));
  node->leader.look_at_devices();
  node->run(sleep_for(20ms));
  EXPECT_TRUE(node->is(State::failed)) << "a call has not returned";

  files.hooks.hang = false;
  ASSERT_TRUE(node->look_until([&] { return node->is(State::online); })) << node->status().reason;
  EXPECT_TRUE(read(on_first));
  EXPECT_TRUE(node->table().check());
}

TEST_F(DevicesTest, AFlushThatWasUnderWayWhenADeviceHungMakesNoFailureOfIt) {
  files.device_limit = 200ms;
  start(2);
  const auto on_first = segment_on(0);
  files.hooks.only = files.devices[0];
  std::atomic<bool> hangs = true;
  std::atomic<bool> began = false;
  files.hooks.before_sync = [&] {
    began = true;
    hangs.wait(true);
  };
  const auto flushed = node->run(node->store.sync({SegmentId(on_first)}));
  EXPECT_EQ(flushed.error().code(), Errc::io);
  EXPECT_TRUE(began);
  EXPECT_TRUE(node->is(State::failed));
  EXPECT_EQ(node->table().verdict().health, DeviceHealth::stuck);
  hangs = false;
  hangs.notify_all();
  ASSERT_TRUE(node->look_until([&] { return node->is(State::online); })) << node->status().reason;
  EXPECT_TRUE(read(on_first));
}

TEST_F(DevicesTest, AVanishedDeviceIsLetGoAndComesBackWithWhatItHad) {
  start(2);
  const auto segment = segment_on(0);
  TestNode follower(files, 2);
  follow(follower);
  EXPECT_EQ(device_areas(), 2u);
  const auto hidden = files.directory() / "hidden";
  std::filesystem::rename(files.devices[0], hidden);
  ASSERT_TRUE(node->look_until([&] { return node->is(State::offline); }));
  EXPECT_EQ(node->status().reason, "there is nothing at this path");
  EXPECT_EQ(device_areas(), 1u);
  EXPECT_EQ(node->store.devices().size(), 1u);
  EXPECT_FALSE(append(segment, 1));
  EXPECT_EQ(follower.store.find(SegmentId(segment)).error().code(), Errc::io);
  follow(follower);
  EXPECT_EQ(follower.store.devices().size(), 1u);

  std::filesystem::rename(hidden, files.devices[0]);
  ASSERT_TRUE(node->look_until([&] { return node->is(State::online); })) << node->status().reason;
  EXPECT_TRUE(read(segment));
  EXPECT_TRUE(append(segment, 1));
  follow(follower);
  EXPECT_EQ(follower.store.find(SegmentId(segment)).value().slot.end, 2 * unit);
}

TEST_F(DevicesTest, ADeviceThatAnotherTakesThePlaceOfIsLetGo) {
  start(1);
  const auto segment = segment_on(0);
  std::filesystem::remove(files.devices[0]);
  files.add_device("dev1", 64 * kMiB);
  ASSERT_TRUE(node->look_until([&] { return node->is(State::blank); })) << node->status().reason;
  EXPECT_EQ(node->store.find(SegmentId(segment)).error().code(), Errc::not_found);
}

TEST_F(DevicesTest, ADeviceThatIsNotThereAtTheStartIsWaitedFor) {
  start(1);
  const auto segment = segment_on(0);
  const auto hidden = files.directory() / "hidden";
  std::filesystem::rename(files.devices[0], hidden);
  restart();
  EXPECT_TRUE(node->is(State::offline));
  const auto refused = allocate(77).error();
  EXPECT_TRUE(mentions(refused, "no device in service")) << refused.describe();
  const Leader::Joining joining{.worker = WorkerId(2), .process = ProcessIdentity::self(), .first = true};
  EXPECT_EQ(node->run(node->leader.join(joining)).value().awaited, files.devices);
  std::filesystem::rename(hidden, files.devices[0]);
  ASSERT_TRUE(node->look_until([&] { return node->is(State::online); }));
  EXPECT_TRUE(read(segment));
}

TEST_F(DevicesTest, TwoNodesDoNotShareADevice) {
  start(1);
  TestNode other(files, 1, "node2");
  ASSERT_TRUE(other.lead());
  EXPECT_TRUE(other.is(State::foreign));
  EXPECT_NE(other.status().reason.find("in use by another node"), std::string::npos) << other.status().reason;
  node.reset();
  EXPECT_TRUE(other.look_until([&] { return other.status().reason == "it belongs to node node1"; }))
      << other.status().reason;
}

TEST_F(DevicesTest, ADeviceThatAProcessHasLockedIsRefusedUntilItLetsGo) {
  files.add_device("dev1", 64 * kMiB);
  const int fd = open(files.devices[0].c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  start_node();
  EXPECT_TRUE(node->is(State::foreign));
  EXPECT_NE(node->status().reason.find("another process holds a lock"), std::string::npos);
  close(fd);
  EXPECT_TRUE(node->look_until([&] { return node->is(State::blank); }));
}

TEST_F(DevicesTest, AnotherPathToADeviceInServiceIsRefused) {
  start(1);
  const auto copy = spare();
  ASSERT_TRUE(node->run(node->store.devices().front()->sync()));
  std::filesystem::copy_file(files.devices[0], copy, std::filesystem::copy_options::overwrite_existing);
  const auto refused = add(copy).error();
  EXPECT_TRUE(mentions(refused, "a copy of it?")) << refused.describe();
  EXPECT_FALSE(mentions(refused, "wipefs")) << "it may be the same disk: " << refused.describe();
  EXPECT_TRUE(allocate(1));
}

TEST_F(DevicesTest, OfTwoCopiesThatAreThereAtTheStartOneServes) {
  start(1);
  ASSERT_TRUE(node->run(node->store.devices().front()->sync()));
  node.reset();
  forget();
  const auto copy = files.add_device("copy", 64 * kMiB);
  std::filesystem::copy_file(files.devices[0], copy, std::filesystem::copy_options::overwrite_existing);
  start_node();
  EXPECT_EQ(node->store.devices().size(), 1u);
  EXPECT_NE(node->is(State::online, 0), node->is(State::online, 1));
  EXPECT_NE(node->is(State::foreign, 0), node->is(State::foreign, 1));
  EXPECT_TRUE(allocate(1));
}

TEST_F(DevicesTest, WhatWasAddedAndRemovedSurvivesARestart) {
  start(1);
  const auto path = spare();
  EXPECT_EQ(add(path).value().state, State::blank);
  EXPECT_EQ(add(path).value().state, State::blank) << "a repetition is harmless";
  NewDevice device;
  device.path = path;
  device.uuid = Uuid::random();
  device.device = DeviceId(9);
  device.block_bytes = 4 * kMiB;
  ASSERT_TRUE(node->run(node->leader.initialise_device(device)));
  EXPECT_EQ(remove(files.devices[0]).value().state, State::removed);
  EXPECT_EQ(remove(files.devices[0]).value().state, State::removed);
  EXPECT_EQ(allocate(1).value().device, DeviceId(9));
  restart();
  EXPECT_TRUE(node->is(State::removed));
  EXPECT_EQ(node->status().device, DeviceId(1));
  ASSERT_EQ(node->store.devices().size(), 1u);
  EXPECT_EQ(node->store.devices().front()->id(), DeviceId(9));
  EXPECT_TRUE(node->store.find(SegmentId(1)));
  EXPECT_EQ(add(files.devices[0]).value().state, State::online);
  restart();
  EXPECT_EQ(node->store.devices().size(), 2u);
}

TEST_F(DevicesTest, ADeviceThatIsAddedServesOnlyOnceItIsInTheList) {
  start(2);
  ASSERT_TRUE(remove(files.devices[1]));
  TestNode successor(files, 2);
  follow(successor);
  const auto fresh = files.directory() / "devices.json.new";
  ASSERT_EQ(mkfifo(fresh.c_str(), 0600), 0);  // to write the list waits until somebody reads
  std::optional<Result<DeviceStatus>> added;
  auto begin = [](Leader& leader, std::filesystem::path path,
                  std::optional<Result<DeviceStatus>>& into) -> asio::awaitable<void> {
    into.emplace(co_await leader.add_device(std::move(path), 4 * kMiB));
  };
  asio::co_spawn(node->context, begin(node->leader, files.devices[1], added),
                 [](const std::exception_ptr&) {});
  ASSERT_TRUE(node->look_until([&] { return device_areas() == 2; }));
  EXPECT_EQ(node->store.devices().size(), 1u);
  ASSERT_TRUE(successor.lead()) << "as if the leader had died";
  EXPECT_EQ(successor.store.devices().size(), 1u);
  EXPECT_TRUE(successor.is(State::removed, 1)) << "it is as it was";
  EXPECT_EQ(device_areas(), 1u);

  const int reader = open(fresh.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_TRUE(node->look_until([&] { return added.has_value(); }));
  close(reader);
  EXPECT_FALSE(*added) << "nothing can be synced to a pipe";
  EXPECT_EQ(node->store.devices().size(), 1u);
  EXPECT_TRUE(node->is(State::removed, 1));
  std::filesystem::remove(fresh);
  EXPECT_EQ(add(files.devices[1]).value().state, State::online);
  EXPECT_EQ(node->store.devices().size(), 2u);
}

TEST_F(DevicesTest, AddingAndRemovingAtOnceAreBothRemembered) {
  start(1);
  const auto path = spare();
  auto begin = [](Leader& leader, std::filesystem::path removed) -> asio::awaitable<void> {
    (void)co_await leader.remove_device(std::move(removed));
  };
  asio::co_spawn(node->context, begin(node->leader, files.devices[0]), [](const std::exception_ptr&) {});
  EXPECT_EQ(add(path).value().state, State::blank);
  ASSERT_TRUE(node->look_until([&] { return node->is(State::removed); }));
  restart();
  EXPECT_TRUE(node->is(State::removed));
  EXPECT_EQ(node->leader.devices().size(), 2u);
}

TEST_F(DevicesTest, AddingGoesOnWhereNobodyWaitsForIt) {
  start(1);
  const auto path = spare();
  files.hooks.only = path;
  files.hooks.hang = true;
  auto let_go = [](FileHooks& hooks) -> asio::awaitable<void> {
    co_await sleep_for(100ms);
    hooks.hang = false;
  };
  asio::co_spawn(node->context, let_go(files.hooks), [](const std::exception_ptr&) {});
  auto adding = node->leader.add_device(path, 4 * kMiB);
  const auto soon = Deadline::after(node->clock, 20ms);
  const auto added = node->run(with_timeout(node->clock, soon, std::move(adding)));
  EXPECT_TRUE(added) << "it was not cut short";
  EXPECT_FALSE(files.hooks.hang);
  restart();
  EXPECT_EQ(node->leader.devices().size(), 2u) << "it is in the list";
}

TEST_F(DevicesTest, DiscardsThatHangHoldUpNoOtherCall) {
  start(1);
  files.hooks.hang_discards = true;
  auto let_go = [](FileHooks& hooks) -> asio::awaitable<void> {
    co_await sleep_for(10s);
    hooks.hang_discards = false;
  };
  asio::co_spawn(node->context, let_go(files.hooks), [](const std::exception_ptr&) {});
  for (int i = 0; i < 12; ++i) {
    const auto segment = segment_on(0);
    ASSERT_TRUE(node->run(node->store.free(SegmentId(segment), Generation(), node->soon())));
  }
  const auto segment = segment_on(0);
  EXPECT_TRUE(append(segment, 1));
  EXPECT_EQ(node->table().counts().free, node->table().counts().blocks - 13u) << "they hang still";
  files.hooks.hang_discards = false;
  const auto patience = node->soon();
  while (node->table().counts().free + 1 < node->table().counts().blocks) {
    ASSERT_GT(patience.left(node->clock), Duration::zero());
    node->run(sleep_for(1ms));
  }
}

TEST_F(DevicesTest, WhatCannotBeADeviceIsNotAddedAndItIsSaidWhy) {
  start(1);
  const auto path = spare(3 * kMiB);
  EXPECT_TRUE(mentions(add(path).error(), "too small")) << add(path).error().describe();
  EXPECT_EQ(add(files.directory() / "nothing").error().code(), Errc::not_found);
  EXPECT_EQ(add("relative").error().code(), Errc::invalid);
  std::ofstream(path) << "somebody's file system";
  std::filesystem::resize_file(path, 64 * kMiB);
  const auto refused = add(path).error();
  EXPECT_EQ(refused.code(), Errc::not_permitted);
  EXPECT_TRUE(mentions(refused, "not a reelfs device")) << refused.describe();
  EXPECT_TRUE(mentions(refused, "wipefs")) << refused.describe();
  EXPECT_EQ(node->leader.devices().size(), 1u);
  EXPECT_EQ(remove(path).error().code(), Errc::not_found);
}

TEST_F(DevicesTest, WhatIsNeitherAFileNorABlockDeviceIsNotWaitedFor) {
  start(1);
  const auto pipe = files.directory() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const auto& path : {pipe, files.directory(), std::filesystem::path("/dev/null")}) {
    const auto refused = add(path).error();
    EXPECT_TRUE(mentions(refused, "neither a file nor a block device")) << refused.describe();
  }
  std::filesystem::remove(files.devices[0]);
  std::filesystem::rename(pipe, files.devices[0]);
  EXPECT_TRUE(node->look_until([&] { return node->is(State::offline); })) << "a pipe took its place";
  EXPECT_EQ(node->run(node->access.open(files.devices[0], DeviceAccess::Use::first)).error().code(),
            Errc::invalid);
}

TEST_F(DevicesTest, APathThatIsNoDeviceLeavesNothingBehind) {
  start(1);
  const auto tasks = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                         std::filesystem::directory_iterator());
  };
  const auto before = tasks();
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(add(files.directory() / ("nothing" + std::to_string(i))));
  EXPECT_TRUE(node->look_until([&] { return tasks() <= before; }))
      << tasks() << " threads, " << before << " before";
}

TEST_F(DevicesTest, ADamagedDeviceListIsNotTakenForAnEmptyOne) {
  start(1);
  node.reset();
  forget();
  for (const auto* text : {"{ \"added\": [", "{ \"version\": \"one\" }", "[]"}) {
    std::ofstream(files.directory() / "devices.json") << text;
    node = std::make_unique<TestNode>(files);
    EXPECT_EQ(node->lead().error().code(), Errc::bad_config) << text;
    node.reset();
  }
}

TEST_F(DevicesTest, ABlockIsTakenWhereFewerCallsWait) {
  files.add_device("dev1", 128 * kMiB);
  start(1);  // a second one, half as large
  ASSERT_TRUE(node->initialise(1));
  const auto one = segment_on(0);
  const auto other = segment_on(0);
  EXPECT_EQ(allocate(++last_segment).value().device, DeviceId(1)) << "it has more room";
  files.hooks.only = files.devices[0];
  files.hooks.hang = true;
  for (std::uint64_t i = 1; i <= 8; ++i) {
    begin_append(one, i);
    begin_append(other, i);
  }
  while (node->store.find_device(DeviceId(1))->queue_depth() < 16) node->run(sleep_for(1ms));
  const auto taken = allocate(++last_segment);
  files.hooks.hang = false;
  EXPECT_EQ(taken.value().device, DeviceId(2));
}

TEST_F(DevicesTest, BitRotInTheTableCostsNoOtherBlock) {
  start(1);
  const auto lost = segment_on(0);
  const auto kept = segment_on(0);
  const auto geometry = node->table().geometry();
  ASSERT_TRUE(allocate(++last_segment));  // empty, and its descriptor will be damaged
  node.reset();
  forget();
  {
    std::fstream device(files.devices[0], std::ios::in | std::ios::out | std::ios::binary);
    for (const std::uint64_t entry : {0, 2}) {
      device.seekp(static_cast<std::streamoff>(geometry.table_offset + entry * sizeof(DescriptorEntry) + 20));
      device.put('!');
    }
    device.seekp(100);
    device.put('!');  // and in the first superblock
  }
  start_node();
  EXPECT_TRUE(node->is(State::online)) << node->status().reason;
  EXPECT_TRUE(read(lost)) << "made up from its records";
  EXPECT_TRUE(read(kept));
  EXPECT_FALSE(node->store.find(SegmentId(last_segment)));
  EXPECT_TRUE(node->table().check());
  restart();
  EXPECT_TRUE(read(lost)) << "it was written anew";
}

TEST_F(DevicesTest, ADeviceWithBothSuperblocksLostIsLeftAlone) {
  start(2);
  const auto segment = segment_on(1);
  const auto copy = node->store.find_device(DeviceId(1))->table().geometry().copy_offset;
  node.reset();
  forget();
  {
    std::fstream device(files.devices[0], std::ios::in | std::ios::out | std::ios::binary);
    for (const std::uint64_t at : {std::uint64_t{100}, copy + 100}) {
      device.seekp(static_cast<std::streamoff>(at));
      device.put('!');
    }
  }
  start_node();
  EXPECT_TRUE(node->is(State::foreign)) << "not blank: it is not to be written over";
  EXPECT_NE(node->status().reason, "");
  EXPECT_TRUE(node->is(State::online, 1));
  EXPECT_TRUE(read(segment));
}

}  // namespace
}  // namespace reelfs::noded
