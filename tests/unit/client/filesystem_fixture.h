#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "client/filesystem.h"
#include "common/async/timeout.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "tests/unit/client/fake_cluster.h"
#include "tests/unit/common/run.h"

namespace reelfs::client {

using namespace std::chrono_literals;

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span<const char>(text));
}

/// A cluster, and mounts of it, on one loop.
class FileSystemTest : public ::testing::Test {
 protected:
  template <class T>
  T run(asio::awaitable<T> coroutine) {
    return testing::run(context, std::move(coroutine));
  }

  /// Runs the loop until it is so.
  template <class Condition>
  bool eventually(Condition condition) {
    const auto deadline = Deadline::after(clock, 20s);
    while (!condition()) {
      if (deadline.left(clock) <= Duration::zero()) return false;
      run(sleep_for(1ms));
    }
    return true;
  }

  void TearDown() override {
    for (auto& mount : mounts_) {
      if (mount) run(mount->stop());
    }
    mounts_.clear();
    run(cluster.stop());
  }

  FileSystem& mount(FileSystemOptions options = {}) {
    mounts_.push_back(std::make_unique<FileSystem>(context, clock, cluster.config(), std::move(options)));
    EXPECT_TRUE(run(mounts_.back()->start()));
    return *mounts_.back();
  }
  void unmount(FileSystem& which) {
    run(which.stop());
    std::erase_if(mounts_, [&](const auto& mount) { return mount.get() == &which; });
  }

  InodeId channel(FileSystem& fs) {
    CreateOptions options;
    options.parent = kRootInode;
    options.name = "cam1";
    options.mode = S_IFDIR | 0755;
    auto made = run(fs.create(options));
    if (!made && made.error().code() == Errc::exists) made = run(fs.lookup(kRootInode, "cam1"));
    EXPECT_TRUE(made);
    return made.value().inode;
  }
  std::shared_ptr<FileHandle> create(FileSystem& fs, const std::string& name) {
    CreateOptions options;
    options.parent = channel(fs);
    options.name = name;
    options.mode = S_IFREG | 0644;
    auto opened = run(fs.create_file(options));
    EXPECT_TRUE(opened);
    return opened.value().handle;
  }
  std::shared_ptr<FileHandle> open(FileSystem& fs, InodeId inode) {
    auto opened = run(fs.open(inode));
    EXPECT_TRUE(opened);
    return opened.value().handle;
  }

  void write(FileHandle& handle, std::uint64_t offset, const std::string& text) {
    const auto written = run(handle.write(offset, Buffer::copy_of(bytes_of(text))));
    ASSERT_TRUE(written) << written.error().describe();
    ASSERT_EQ(written.value(), text.size());
  }
  std::string read(FileHandle& handle, std::uint64_t offset = 0, std::size_t length = 64u << 20) {
    const auto bytes = run(handle.read(offset, length));
    if (!bytes) return bytes.error().describe();
    return std::string(bytes.value().view());
  }
  Errc error_of(const Result<void>& result) { return result ? Errc{} : result.error().code(); }

  asio::io_context context;
  SystemClock clock;
  testing::FakeCluster cluster{context, clock};

 private:
  std::vector<std::unique_ptr<FileSystem>> mounts_;
};

}  // namespace reelfs::client
