// A worker inside the test's process, so that its devices can be the test's, following a leader of its own.
#include "noded/worker/worker.h"

#include <atomic>
#include <future>
#include <latch>
#include <thread>

#include <boost/asio/co_spawn.hpp>

#include "noded/worker/node_config.h"
#include "tests/unit/noded/processes_fixture.h"

namespace reelfs::noded {
namespace {

/// Devices of which no look ends before `let_go`.
class HangingLooks final : public DeviceAccess {
 public:
  HangingLooks(const Uuid& cluster, std::string_view node_name) : devices_(cluster, node_name, WorkerId(2)) {}
  Task<DeviceSight> look(std::filesystem::path /*path*/) override {
    ++begun;
    BlockingPool lookout(1, "lookout");
    auto work = [this]() -> Result<DeviceSight> {
      let_go_.wait();
      return DeviceSight();
    };
    co_return co_await lookout.run(std::move(work));
  }
  Task<std::unique_ptr<DeviceFile>> open(std::filesystem::path path, Use use) override {
    return devices_.open(std::move(path), use);
  }
  void let_go() { let_go_.count_down(); }

  std::atomic<int> begun = 0;

 private:
  LocalDevices devices_;
  std::latch let_go_{1};
};

/// A worker with a loop and a thread of its own.
class InnerWorker {
 public:
  InnerWorker(const NodeConfig& config, HangingLooks& devices)
      : devices_(devices),
        worker_(context_, clock_, pool_, devices, registry_, options_for(config)),
        running_(context_.get_executor()) {
    running_.spawn(run());
    thread_ = std::thread([this] { context_.run(); });
  }
  ~InnerWorker() {
    if (!stopped_.valid()) stop();
    devices_.let_go();
    thread_.join();  // it ends when nothing is left to do
  }
  /// Begins to. @return that it has
  std::shared_future<void> stop() {
    std::promise<void> stopped;
    stopped_ = stopped.get_future().share();
    asio::co_spawn(context_, stop_all(),
                   [told = std::move(stopped)](const std::exception_ptr&) mutable { told.set_value(); });
    return stopped_;
  }
  bool hangs() const { return worker_.hangs(); }

 private:
  static Worker::Options options_for(const NodeConfig& config) {
    Worker::Options options;
    options.identity.cluster = config.cluster;
    options.identity.node_name = config.name;
    options.identity.worker = WorkerId(2);
    options.identity.process = ProcessIdentity::self();
    options.indexes = config.indexes;
    options.addresses = config.addresses;
    options.internal_port = static_cast<std::uint16_t>(config.internal_port);
    return options;
  }
  asio::awaitable<void> run() { (void)co_await worker_.run(); }
  asio::awaitable<void> stop_all() {
    co_await running_.stop();
    co_await worker_.stop();
  }

  HangingLooks& devices_;
  const SystemClock clock_;
  asio::io_context context_{1};
  BlockingPool pool_{1, "side"};
  prometheus::Registry registry_;
  Worker worker_;
  TaskGroup running_;
  std::thread thread_;
  std::shared_future<void> stopped_;
};

TEST_F(ProcessesTest, AFollowersLookThatHangsHoldsUpNeitherItsStreamsNorItsEnd) {
  const auto path = files.directory() / "dev1";
  std::filesystem::remove(path);
  start(1);
  ASSERT_TRUE(wait_until([&] { return is_leader(1) && has_device(1, wire::STATE_OFFLINE); }));
  const auto config = load_node_config(config_path());
  ASSERT_TRUE(config) << config.error().describe();
  HangingLooks looks(files.cluster, "node1");
  InnerWorker follower(config.value(), looks);
  ASSERT_TRUE(wait_until([&] { return index.status(2) != nullptr && looks.begun == 1; }));
  files.add_device("dev1", 64 * kMiB);
  ASSERT_TRUE(wait_until([&] { return has_device(1, wire::STATE_BLANK); }));
  ASSERT_TRUE(initialise(1));
  ASSERT_TRUE(wait_until([&] { return allocate(2, 1).has_value(); })) << "it hears of the device";
  EXPECT_TRUE(append(2, {}));
  EXPECT_EQ(looks.begun, 1) << "one at a time";
  ASSERT_EQ(follower.stop().wait_for(10s), std::future_status::ready);
  EXPECT_TRUE(follower.hangs());
}

}  // namespace
}  // namespace reelfs::noded
