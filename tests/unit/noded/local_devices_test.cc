#include "noded/device/local_devices.h"

#include <cerrno>
#include <thread>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/async/timeout.h"
#include "common/base/descriptor.h"
#include "noded/device/own_descriptors.h"
#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0 || errno != EBADF; }

TEST(OwnDescriptors, AThreadKeepsWhatItNamesAndNothingElse) {
  const auto open_null = [] { return Descriptor(open("/dev/null", O_RDONLY | O_CLOEXEC)); };
  const auto below = open_null();
  const auto kept = open_null();
  const auto between = open_null();
  const auto kept_too = open_null();
  const auto above = open_null();
  std::thread([&] {
    use_own_descriptors({kept_too.get(), kept.get()});
    for (const auto* fd : {&kept, &kept_too}) EXPECT_TRUE(is_open(fd->get()));
    for (const auto* fd : {&below, &between, &above}) EXPECT_FALSE(is_open(fd->get()));
    EXPECT_TRUE(is_open(STDERR_FILENO));
    use_own_descriptors({});
    EXPECT_TRUE(is_open(kept.get())) << "once for each thread";
  }).join();
  for (const auto* fd : {&below, &kept, &between, &kept_too, &above}) EXPECT_TRUE(is_open(fd->get()));
}

class LocalDevicesTest : public ::testing::Test {
 protected:
  template <class T>
  T run(asio::awaitable<T> coroutine) {
    return testing::run(context, std::move(coroutine));
  }
  std::unique_ptr<DeviceFile> open(std::uint32_t worker) {
    auto file =
        run(LocalDevices(files.cluster, "node1", WorkerId(worker)).open(path, DeviceAccess::Use::shared));
    EXPECT_TRUE(file) << file.error().describe();
    return std::move(file).value();
  }

  NodeFiles files;
  const std::filesystem::path path = files.add_device("dev1", 4 * kMiB);
  asio::io_context context{1};
};

TEST_F(LocalDevicesTest, KnowsWhichWorkersHaveADeviceOpen) {
  const auto first = open(1);
  EXPECT_EQ(first->in_use_by(WorkerId(1)), false) << "asked about the others";
  EXPECT_EQ(first->in_use_by(WorkerId(2)), false);
  auto second = open(2);
  ASSERT_TRUE(run(second->sync()));  // on a thread with descriptors of its own
  EXPECT_EQ(first->in_use_by(WorkerId(2)), true);
  EXPECT_EQ(second->in_use_by(WorkerId(1)), true);
  EXPECT_EQ(first->in_use_by(WorkerId(3)), false);
  const auto again = open(1);
  EXPECT_EQ(again->in_use_by(WorkerId(1)), true) << "as by a worker that was killed and has a successor";
  second.reset();
  // Its threads end by themselves.
  const SystemClock clock;
  const auto patience = Deadline::after(clock, std::chrono::seconds(10));
  while (first->in_use_by(WorkerId(2)) != false && patience.left(clock) > Duration::zero()) {
    std::this_thread::yield();
  }
  EXPECT_EQ(first->in_use_by(WorkerId(2)), false);
}

TEST_F(LocalDevicesTest, ACallThatHasEndedWakesTheLoopAtOnce) {
  const auto device = open(1);
  asio::steady_timer far_away(context, std::chrono::seconds(60));  // nothing else wakes it
  far_away.async_wait([](const boost::system::error_code&) {});
  const SystemClock clock;
  const auto begun = clock.now();
  Buffer page(kPageBytes);
  std::fill(page.span().begin(), page.span().end(), std::byte{7});
  ASSERT_TRUE(run(device->write(kPageBytes, page.span())));
  ASSERT_TRUE(run(device->sync()));
  Buffer read(kPageBytes);
  ASSERT_TRUE(run(device->read(kPageBytes, read.span())));
  EXPECT_EQ(read.view(), page.view());
  EXPECT_LT(clock.now() - begun, std::chrono::seconds(20));
}

}  // namespace
}  // namespace reelfs::noded
