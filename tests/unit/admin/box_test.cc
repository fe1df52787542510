#include "admin/box/box.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/box/ports.h"
#include "client/cluster_config.h"
#include "common/config/config.h"
#include "common/rpc/tls.h"

namespace reelfs::admin {
namespace {

class BoxTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pattern = (std::filesystem::temp_directory_path() / "reelfs box-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    small_.device_bytes = 8 * kMiB;
    small_.block_bytes = 4 * kMiB;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path directory_;
  BoxOptions small_;
};

TEST_F(BoxTest, IsFoundAgainAsItWasMade) {
  EXPECT_FALSE(Box::exists(directory_));
  EXPECT_EQ(Box::load(directory_, "/bin").error().code(), Errc::not_found);
  small_.mount = "/mnt/reel";
  small_.workers = 3;
  const auto made = Box::create(directory_, small_, "/bin");
  ASSERT_TRUE(made.has_value()) << made.error().describe();
  EXPECT_TRUE(Box::exists(directory_));
  const auto found = Box::load(directory_, "/bin");
  ASSERT_TRUE(found.has_value()) << found.error().describe();
  EXPECT_EQ(found.value().cluster(), made.value().cluster());
  EXPECT_EQ(found.value().index_endpoint(), made.value().index_endpoint());
  EXPECT_EQ(found.value().options().workers, 3u);
  EXPECT_EQ(found.value().options().mount, "/mnt/reel");
}

TEST_F(BoxTest, NamesItsProcessesInStartingOrder) {
  small_.mount = "/mnt/reel";
  const auto box = Box::create(directory_, small_, "/bin").value();
  std::vector<std::string> names;
  for (const auto& process : box.processes()) names.push_back(process.name);
  EXPECT_EQ(names, (std::vector<std::string>{"index1", "node1.worker1", "node1.worker2", "node2.worker1",
                                             "node2.worker2", "mount"}));
}

TEST_F(BoxTest, SetsTheDevicesSpaceAside) {
  ASSERT_TRUE(Box::create(directory_, small_, "/bin").has_value());
  struct stat file {};
  ASSERT_EQ(stat((directory_ / "node2.dev1").c_str(), &file), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(file.st_size), small_.device_bytes);
  EXPECT_GE(static_cast<std::uint64_t>(file.st_blocks) * 512, small_.device_bytes);
}

TEST_F(BoxTest, WritesConfigurationThatItsProgramsRead) {
  small_.tls = true;
  const auto box = Box::create(directory_, small_, "/bin").value();
  const auto cluster = client::ClusterConfig::load(box.cluster_file());
  ASSERT_TRUE(cluster.has_value()) << cluster.error().describe();
  EXPECT_EQ(cluster.value().cluster, box.cluster());
  ASSERT_EQ(cluster.value().indexes.size(), 1u);
  EXPECT_EQ(cluster.value().indexes.front(), box.index_endpoint());
  EXPECT_TRUE(rpc::TlsContext::load(cluster.value().tls).has_value());

  auto node = config::File::load(directory_ / "node1.toml");
  ASSERT_TRUE(node.has_value()) << node.error().describe();
  std::vector<std::string> devices;
  node.value().root().read("devices", devices);
  EXPECT_EQ(devices, (std::vector<std::string>{(directory_ / "node1.dev1").string()}));
  rpc::TlsFiles tls;
  node.value().root().read("tls", tls);
  EXPECT_TRUE(rpc::TlsContext::load(tls).has_value());
}

TEST_F(BoxTest, RefusesWhatCannotWork) {
  const auto refused = [this](auto change) {
    auto options = small_;
    change(options);
    return check(options).has_error() && Box::create(directory_, options, "/bin").has_error();
  };
  EXPECT_TRUE(check(small_).has_value());
  EXPECT_TRUE(refused([](BoxOptions& box) { box.indexes = 2; }));
  EXPECT_TRUE(refused([](BoxOptions& box) { box.arbiters = 3; }));
  EXPECT_TRUE(refused([](BoxOptions& box) { box.copies = 3; })) << "more copies than nodes";
  EXPECT_TRUE(refused([](BoxOptions& box) { box.copies = 0; }));
  EXPECT_TRUE(refused([](BoxOptions& box) { box.workers = 0; }));
  EXPECT_TRUE(refused([](BoxOptions& box) { box.block_bytes = 2 * kMiB; }));
  EXPECT_TRUE(refused([](BoxOptions& box) { box.block_bytes = 4 * kMiB + 1; }));
  EXPECT_TRUE(refused([](BoxOptions& box) { box.block_bytes = 5 * kMiB; })) << "indexd would not take it";
  EXPECT_TRUE(refused([](BoxOptions& box) { box.device_bytes = box.block_bytes; }));
  EXPECT_FALSE(Box::exists(directory_)) << "nothing is left behind";
}

TEST(FreePorts, AreDifferentAndBelowTheKernelsOwn) {
  const auto ports = free_ports(20);
  ASSERT_TRUE(ports.has_value());
  const std::set<std::uint16_t> different(ports.value().begin(), ports.value().end());
  EXPECT_EQ(different.size(), 20u);
  EXPECT_TRUE(std::all_of(different.begin(), different.end(), [](auto port) { return port >= 10'000; }));
}

}  // namespace
}  // namespace reelfs::admin
