#include "noded/service/node_check.h"

#include <fstream>

#include <gtest/gtest.h>

#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

class NodeCheck : public ::testing::Test {
 protected:
  NodeCheck() {
    files.add_device("dev1", 64 * kMiB);
    files.add_device("dev2", 64 * kMiB);
    node = std::make_unique<TestNode>(files);
    EXPECT_TRUE(node->lead());
    for (std::size_t device = 0; device < 2; ++device) EXPECT_TRUE(node->initialise(device));
    EXPECT_TRUE(node->run(node->store.allocate(SegmentId(1), Generation(1), InodeId(2))));
    EXPECT_TRUE(node->append({}));
  }
  MappedAreas areas() {
    DescriptionOrder order;
    order.cluster = files.cluster;
    order.incarnation = node->state.incarnation;
    order.areas = node->state.own_areas(node->state.names.prefix());
    return MappedAreas::attach(order);
  }
  std::vector<std::string> faults() { return check_areas(areas()); }
  DeviceTable& table(std::size_t device) { return node->store.devices().at(device)->table(); }
  std::vector<std::string> faults_on_disk(std::size_t device) {
    return node->run(check_device(node->store.devices().at(device))).value();
  }

  NodeFiles files;
  std::unique_ptr<TestNode> node;
};

TEST_F(NodeCheck, FindsNothingWhereAllIsWell) {
  EXPECT_EQ(areas().devices.size(), 2u);
  EXPECT_EQ(faults(), std::vector<std::string>());
  for (std::size_t device = 0; device < 2; ++device) {
    EXPECT_EQ(faults_on_disk(device), std::vector<std::string>()) << device;
  }
}

TEST_F(NodeCheck, FindsABlockWhoseOwnerDoesNotKnowOfIt) {
  const auto owned = node->store.find(SegmentId(1)).value().address;
  node->state.process->remove(owned);
  ASSERT_EQ(faults().size(), 1u);
  EXPECT_NE(faults()[0].find("does not have it on its list"), std::string::npos) << faults()[0];
  node->state.process->add(owned);
  EXPECT_TRUE(faults().empty());
  DeviceTable::Append append;
  append.segment = SegmentId(5);
  append.generation = Generation(1);
  append.worker = WorkerId(9);
  append.block = table(0).allocate(append.segment, append.generation, InodeId(2), append.worker, 1).value();
  ASSERT_TRUE(table(0).begin_append(append, 0, kPageBytes, false));
  ASSERT_EQ(faults().size(), 1u);
  EXPECT_NE(faults()[0].find("worker 9, which has no shared memory"), std::string::npos) << faults()[0];
}

TEST_F(NodeCheck, FindsASegmentWithTwoBlocks) {
  const auto first = node->store.find(SegmentId(1)).value().address.device;
  auto& other = table(0).device() == first ? table(1) : table(0);
  ASSERT_TRUE(other.allocate(SegmentId(1), Generation(1), InodeId(2), WorkerId(0), 1));
  EXPECT_EQ(faults(), std::vector<std::string>{"segment 1 has two blocks"});
}

TEST_F(NodeCheck, FindsAPageThatIsNotWhatWasWritten) {
  {
    std::fstream device(files.devices[0], std::ios::in | std::ios::out | std::ios::binary);
    device.seekp(static_cast<std::streamoff>(table(0).geometry().table_offset + 100));
    device.put('x');
  }
  const auto found = faults_on_disk(0);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("page 0 of its descriptor table"), std::string::npos) << found[0];
  EXPECT_TRUE(faults_on_disk(1).empty());
}

TEST_F(NodeCheck, FindsAFlushThatNobodyMakes) {
  ASSERT_TRUE(node->run(node->store.sync({SegmentId(1)})));
  EXPECT_TRUE(faults().empty());
  DeviceTable::FlushWish wish;
  wish.worker = WorkerId(9);
  wish.wanted = table(0).flushes().begun + 1;
  wish.trusts = table(0).flushes().lost;
  const auto turn = table(0).join_flush(wish);
  ASSERT_EQ(turn.kind, FlushTurn::Kind::mine);
  ASSERT_EQ(faults().size(), 1u);
  EXPECT_NE(faults()[0].find("flushed by worker 9, which has no shared memory"), std::string::npos)
      << faults()[0];
  table(0).end_flush(turn.number, wish.worker, true);
  EXPECT_TRUE(faults().empty());
  table(0).end_flush(turn.number + 1, wish.worker, true);
  ASSERT_EQ(faults().size(), 1u);
  EXPECT_NE(faults()[0].find("has succeeded"), std::string::npos) << faults()[0];
}

TEST_F(NodeCheck, LeavesOutAPageThatIsStillToBeWritten) {
  ASSERT_TRUE(table(0).allocate(SegmentId(5), Generation(1), InodeId(2), WorkerId(0), 1));
  EXPECT_TRUE(faults_on_disk(0).empty());
  EXPECT_EQ(table(0).dirty_pages().size(), 1u);
}

}  // namespace
}  // namespace reelfs::noded
