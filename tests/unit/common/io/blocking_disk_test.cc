#include "common/io/blocking_disk.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/buffer.h"
#include "common/base/units.h"

namespace reelfs::io {
namespace {

constexpr std::uint64_t kFileBytes = 64 * kPageBytes;

class BlockingDiskTest : public ::testing::Test {
 protected:
  BlockingDiskTest() {
    std::ofstream{path_};
    std::filesystem::resize_file(path_, kFileBytes);
  }
  ~BlockingDiskTest() override { std::filesystem::remove(path_); }

  BlockingDisk open() const {
    auto disk = BlockingDisk::open(path_);
    EXPECT_TRUE(disk) << disk.error().describe();
    return std::move(disk).value();
  }

  // Beside the binary: /tmp may be on a filesystem without O_DIRECT.
  const std::filesystem::path path_ =
      std::filesystem::current_path() / ("blocking_disk_test." + std::to_string(getpid()));
};

Buffer filled(std::size_t bytes, int with) {
  Buffer buffer(bytes);
  std::fill(buffer.span().begin(), buffer.span().end(), static_cast<std::byte>(with));
  return buffer;
}

TEST_F(BlockingDiskTest, ReadsBackWhatWasWritten) {
  const auto disk = open();
  EXPECT_EQ(disk.size(), kFileBytes);
  const auto written = filled(3 * kPageBytes, 0x5a);
  ASSERT_TRUE(disk.write(5 * kPageBytes, written.span()));
  ASSERT_TRUE(disk.sync());
  auto read = filled(5 * kPageBytes, 1);
  ASSERT_TRUE(open().read(4 * kPageBytes, read.span()));
  EXPECT_EQ(read.view().substr(kPageBytes, 3 * kPageBytes), written.view());
  EXPECT_EQ(read.view().substr(0, kPageBytes), filled(kPageBytes, 0).view());
  EXPECT_EQ(read.view().substr(4 * kPageBytes), filled(kPageBytes, 0).view());
}

TEST_F(BlockingDiskTest, RefusesWhatLiesBeyondTheEnd) {
  const auto disk = open();
  auto buffer = filled(2 * kPageBytes, 1);
  for (const auto offset : {kFileBytes - kPageBytes, kFileBytes, std::uint64_t{0} - kPageBytes}) {
    const auto read = disk.read(offset, buffer.span());
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code(), Errc::out_of_range);
    const auto written = disk.write(offset, buffer.span());
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code(), Errc::out_of_range);
  }
  EXPECT_EQ(std::filesystem::file_size(path_), kFileBytes);
}

TEST_F(BlockingDiskTest, DiscardFreesTheSpaceOfASparseFile) {
  const auto disk = open();
  ASSERT_TRUE(disk.write(0, filled(kFileBytes, 7).span()));
  ASSERT_TRUE(disk.sync());
  const auto discarded = disk.discard(kPageBytes, 32 * kPageBytes);
  if (!discarded) {
    ASSERT_EQ(discarded.error().code(), Errc::unsupported);
    GTEST_SKIP() << "this filesystem punches no holes";
  }
  auto page = filled(kPageBytes, 1);
  ASSERT_TRUE(disk.read(kPageBytes, page.span()));
  EXPECT_EQ(page.view(), filled(kPageBytes, 0).view());
  ASSERT_TRUE(disk.read(0, page.span()));
  EXPECT_EQ(page.view(), filled(kPageBytes, 7).view());
}

TEST_F(BlockingDiskTest, KeepsTheSpaceOfAPreallocatedFile) {
  ASSERT_TRUE(open().write(0, filled(kFileBytes, 7).span()));
  struct stat before {};
  ASSERT_EQ(::stat(path_.c_str(), &before), 0);
  const auto disk = open();
  ASSERT_TRUE(disk.discard(kPageBytes, 32 * kPageBytes));
  struct stat after {};
  ASSERT_EQ(::stat(path_.c_str(), &after), 0);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
}

TEST_F(BlockingDiskTest, NoticesThatTheFileBecameShorter) {
  const auto disk = open();
  std::filesystem::resize_file(path_, kPageBytes);
  auto buffer = filled(2 * kPageBytes, 1);
  const auto read = disk.read(0, buffer.span());
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Errc::io);
}

TEST_F(BlockingDiskTest, OpensFilesAndBlockDevicesOnly) {
  const auto missing = BlockingDisk::open(path_.string() + ".none");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Errc::not_found);
  const auto null = BlockingDisk::open("/dev/null");
  ASSERT_FALSE(null);
  EXPECT_EQ(null.error().code(), Errc::invalid);
}

}  // namespace
}  // namespace reelfs::io
