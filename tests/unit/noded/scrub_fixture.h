#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {

/// A node with copies whose bytes on the device a test reads and damages behind its back.
class ScrubTest : public ::testing::Test {
 protected:
  ScrubTest() {
    files.add_device("disk", 64 * kMiB);
    start();
    EXPECT_TRUE(node->initialise());
  }
  void start() {
    node.reset();
    node = std::make_unique<TestNode>(files);
    EXPECT_TRUE(node->lead());
  }
  /// Its processes end, and begin again.
  void restart() {
    node.reset();
    for (const auto& name : list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8))) remove_shm(name);
    start();
  }
  /// A copy of a few records, sealed.
  void make_copy(SegmentId segment) {
    ASSERT_TRUE(node->run(node->store.allocate(segment, Generation(1), InodeId(2))));
    std::uint64_t end = 0;
    for (const std::uint32_t bytes : {100U, 300000U, wire::kMaxRecordPayload, 5000U}) {
      const UnitOptions unit{.segment = segment, .offset = end, .payload_bytes = bytes};
      end = node->append(unit).value();
    }
    const UnitOptions pair{.segment = segment, .offset = end, .payload_bytes = 1000};
    end = node->run(node->store.append(segment, Generation(1), end, make_double_unit(pair))).value();
    const auto sealed = SegmentStore::After::sealed;
    ASSERT_TRUE(node->run(node->store.cut(segment, Generation(1), end, sealed, node->soon())));
  }
  SegmentBlock found(SegmentId segment) { return node->store.find(segment).value(); }
  std::uint64_t place(SegmentId segment) {
    return node->table().geometry().block_offset(found(segment).address.block);
  }
  std::vector<std::byte> bytes_of(SegmentId segment) {
    std::vector<std::byte> bytes(found(segment).slot.end);
    const int fd = open(files.devices[0].c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(place(segment))),
              static_cast<ssize_t>(bytes.size()));
    close(fd);
    return bytes;
  }
  void overwrite(SegmentId segment, std::uint64_t at, const std::vector<std::byte>& bytes) {
    const int fd = open(files.devices[0].c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_EQ(pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(place(segment) + at)),
              static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(fsync(fd), 0);
    close(fd);
  }
  void flip(SegmentId segment, std::uint64_t at) {
    const auto bytes = bytes_of(segment);
    overwrite(segment, at, {bytes[at] ^ std::byte{4}});
  }

  NodeFiles files;
  std::unique_ptr<TestNode> node;
};

}  // namespace reelfs::noded
