#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "noded/device/local_devices.h"
#include "noded/leader/leader.h"
#include "noded/leader/node_state.h"
#include "noded/segment/segment_store.h"
#include "tests/unit/common/run.h"
#include "tests/unit/noded/hooked_file.h"
#include "tests/unit/noded/units.h"

namespace reelfs::noded {

/// A directory with sparse device files, and a cluster's name that no other test has. Leaves no shared memory
/// behind.
class NodeFiles {
 public:
  NodeFiles() {
    auto pattern = (std::filesystem::temp_directory_path() / "noded_test_XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  ~NodeFiles() {
    std::filesystem::remove_all(directory_);
    for (const auto& name : list_shm("/reelfs-" + cluster.to_string().substr(0, 8))) remove_shm(name);
  }
  std::filesystem::path add_device(const std::string& name, std::uint64_t bytes) {
    const auto path = directory_ / name;
    const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
    close(fd);
    devices.push_back(path);
    return path;
  }
  const std::filesystem::path& directory() const { return directory_; }

  const Uuid cluster = Uuid::random();
  std::vector<std::filesystem::path> devices;
  FileHooks hooks;
  Duration device_limit = std::chrono::seconds(3);
  std::uint64_t boot = 1;  // of the machine

 private:
  std::filesystem::path directory_;
};

/// A worker process's inside, without its ports: store and leader on a loop of their own. Destroying it
/// without `end()` is like its death, but for the process, which lives on: `forget_process` makes it look
/// dead.
class TestNode {
 public:
  explicit TestNode(NodeFiles& node_files, std::uint32_t worker = 1, std::string name = "node1")
      : files(node_files),
        store(context.get_executor(), clock,
              {.worker = WorkerId(worker), .device_call_limit = node_files.device_limit}),
        access(std::make_unique<LocalDevices>(node_files.cluster, name, WorkerId(worker)), node_files.hooks),
        state(context.get_executor(), identity_of(node_files, worker, name), access, store),
        leader(context.get_executor(), state, clock,
               {.devices = node_files.devices, .device_list = node_files.directory() / "devices.json"}) {}
  ~TestNode() {
    run(leader.stop());
    run(state.stop());
    run(store.stop());
  }

  template <class T>
  T run(asio::awaitable<T> coroutine) {
    return testing::run(context, std::move(coroutine));
  }
  void run(asio::awaitable<void> coroutine) { testing::run(context, std::move(coroutine)); }

  Result<void> lead() { return run(leader.start()); }
  /// Makes the configured device number `index` one of the cluster's.
  Result<void> initialise(std::size_t index = 0, std::uint64_t block_bytes = 4 * kMiB) {
    NewDevice device;
    device.path = files.devices[index];
    device.uuid = Uuid::random();
    device.device = DeviceId(static_cast<std::uint32_t>(index + 1));
    device.block_bytes = block_bytes;
    return run(leader.initialise_device(device));
  }
  Deadline soon() const { return Deadline::after(clock, std::chrono::seconds(10)); }
  /// Looks at the devices again and again until it is so.
  template <class Condition>
  bool look_until(Condition condition) {
    const auto patience = soon();
    while (!condition()) {
      if (patience.left(clock) <= Duration::zero()) return false;
      leader.look_at_devices();
      run(sleep_for(std::chrono::milliseconds(5)));
    }
    return true;
  }
  DeviceStatus status(std::size_t index = 0) const {
    for (const auto& status : leader.devices()) {
      if (status.path == files.devices[index]) return status;
    }
    return {};
  }
  bool is(DeviceStatus::State state_wanted, std::size_t index = 0) const {
    return status(index).state == state_wanted;
  }
  DeviceTable& table() { return store.devices().front()->table(); }
  Result<std::uint64_t> append(const UnitOptions& options) {
    return run(store.append(options.segment, options.generation, options.offset, make_unit(options)));
  }

  NodeFiles& files;
  const SystemClock clock;
  asio::io_context context{1};
  SegmentStore store;
  HookedDevices access;
  NodeState state;
  Leader leader;

 private:
  static NodeIdentity identity_of(const NodeFiles& files, std::uint32_t worker, std::string name) {
    NodeIdentity identity;
    identity.cluster = files.cluster;
    identity.node_name = std::move(name);
    identity.worker = WorkerId(worker);
    identity.process = ProcessIdentity::self();
    identity.boot = files.boot;
    return identity;
  }
};

}  // namespace reelfs::noded
