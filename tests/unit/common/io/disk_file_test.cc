#include "common/io/disk_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/async/blocking_pool.h"
#include "common/base/buffer.h"
#include "common/base/units.h"
#include "tests/unit/common/run.h"

namespace reelfs::io {
namespace {

constexpr std::uint64_t kFileBytes = 64 * kPageBytes;

class DiskFileTest : public ::testing::Test {
 protected:
  DiskFileTest() {
    std::ofstream{path_};
    std::filesystem::resize_file(path_, kFileBytes);
  }
  ~DiskFileTest() override { std::filesystem::remove(path_); }

  std::unique_ptr<DiskFile> open(DiskFileMode mode = DiskFileMode::read_write) {
    auto file = open_disk_file(path_, mode, pool_);
    EXPECT_TRUE(file) << file.error().describe();
    return std::move(file).value();
  }
  template <class T>
  T run(asio::awaitable<T> coroutine) {
    return testing::run(context_, std::move(coroutine));
  }

  // Beside the binary: /tmp may be on a filesystem without O_DIRECT.
  const std::filesystem::path path_ =
      std::filesystem::current_path() / ("disk_file_test." + std::to_string(getpid()));
  asio::io_context context_;
  BlockingPool pool_{2, "test"};
};

Buffer filled(std::size_t bytes, int with) {
  Buffer buffer(bytes);
  std::fill(buffer.span().begin(), buffer.span().end(), static_cast<std::byte>(with));
  return buffer;
}

TEST_F(DiskFileTest, ReadsBackWhatWasWritten) {
  const auto file = open();
  EXPECT_EQ(file->size(), kFileBytes);
  const auto written = filled(3 * kPageBytes, 0x5a);
  ASSERT_TRUE(run(file->write(5 * kPageBytes, written.span())));
  ASSERT_TRUE(run(file->sync()));
  auto read = filled(5 * kPageBytes, 1);
  ASSERT_TRUE(run(open(DiskFileMode::read_only)->read(4 * kPageBytes, read.span())));
  EXPECT_EQ(read.view().substr(kPageBytes, 3 * kPageBytes), written.view());
  EXPECT_EQ(read.view().substr(0, kPageBytes), filled(kPageBytes, 0).view());
  EXPECT_EQ(read.view().substr(4 * kPageBytes), filled(kPageBytes, 0).view());
}

TEST_F(DiskFileTest, RefusesWhatLiesBeyondTheEnd) {
  const auto file = open();
  auto buffer = filled(2 * kPageBytes, 1);
  for (const auto offset : {kFileBytes - kPageBytes, kFileBytes, std::uint64_t{0} - kPageBytes}) {
    const auto read = run(file->read(offset, buffer.span()));
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code(), Errc::out_of_range);
    const auto written = run(file->write(offset, buffer.span()));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code(), Errc::out_of_range);
  }
  EXPECT_EQ(std::filesystem::file_size(path_), kFileBytes);
}

TEST_F(DiskFileTest, DiscardFreesTheSpace) {
  const auto file = open();
  ASSERT_TRUE(run(file->write(0, filled(kFileBytes, 7).span())));
  ASSERT_TRUE(run(file->sync()));
  const auto discarded = run(file->discard(kPageBytes, 32 * kPageBytes));
  if (!discarded) {
    ASSERT_EQ(discarded.error().code(), Errc::unsupported);
    GTEST_SKIP() << "this filesystem punches no holes";
  }
  auto page = filled(kPageBytes, 1);
  ASSERT_TRUE(run(file->read(kPageBytes, page.span())));
  EXPECT_EQ(page.view(), filled(kPageBytes, 0).view());
  ASSERT_TRUE(run(file->read(0, page.span())));
  EXPECT_EQ(page.view(), filled(kPageBytes, 7).view());
}

TEST_F(DiskFileTest, NoticesThatTheFileBecameShorter) {
  const auto file = open();
  std::filesystem::resize_file(path_, kPageBytes);
  auto buffer = filled(2 * kPageBytes, 1);
  const auto read = run(file->read(0, buffer.span()));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Errc::io);
}

TEST_F(DiskFileTest, AReadOnlyFileIsNotWritten) {
  const auto file = open(DiskFileMode::read_only);
  const auto written = run(file->write(0, filled(kPageBytes, 1).span()));
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code(), Errc::io);
}

TEST_F(DiskFileTest, OpensFilesAndBlockDevicesOnly) {
  const auto missing = open_disk_file(path_.string() + ".none", DiskFileMode::read_write, pool_);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Errc::not_found);
  const auto null = open_disk_file("/dev/null", DiskFileMode::read_only, pool_);
  ASSERT_FALSE(null);
  EXPECT_EQ(null.error().code(), Errc::invalid);
}

}  // namespace
}  // namespace reelfs::io
