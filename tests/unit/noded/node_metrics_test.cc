#include "noded/service/node_metrics.h"

#include <map>
#include <string>

#include <gtest/gtest.h>

namespace reelfs::noded {
namespace {

/// What is told of devices: "serving /dev/a" or "1 free", and the value.
std::map<std::string, double> told(const prometheus::Registry& registry) {
  std::map<std::string, double> values;
  for (const auto& family : registry.Collect()) {
    for (const auto& metric : family.metric) {
      std::map<std::string, std::string> labels;
      for (const auto& label : metric.label) labels[label.name] = label.value;
      if (family.name == "reelfs_noded_device_serving")
        values["serving " + labels["path"]] = metric.gauge.value;
      if (family.name == "reelfs_noded_blocks")
        values[labels["device"] + " " + labels["state"]] = metric.gauge.value;
    }
  }
  return values;
}

NodeMetrics::DeviceFigures serving(std::uint32_t device, std::string path) {
  NodeMetrics::DeviceFigures figures;
  figures.device = DeviceId(device);
  figures.path = std::move(path);
  figures.serving = true;
  figures.blocks = {.blocks = 15, .free = 9, .open = 2, .sealed = 4};
  return figures;
}

using Told = std::map<std::string, double>;

TEST(NodeMetrics, ADeviceOutOfServiceTellsOnlyThatAndOneThatIsGoneNothing) {
  prometheus::Registry registry;
  NodeMetrics metrics(registry);
  const auto all = Told{{"serving /dev/a", 1}, {"1 free", 9}, {"1 open", 2}, {"1 sealed", 4}};
  metrics.devices({serving(1, "/dev/a")});
  EXPECT_EQ(told(registry), all);
  auto failed = serving(1, "/dev/a");
  failed.serving = false;
  metrics.devices({failed});
  EXPECT_EQ(told(registry), (Told{{"serving /dev/a", 0}}));
  metrics.devices({serving(1, "/dev/a")});
  EXPECT_EQ(told(registry), all);
  metrics.devices({});
  EXPECT_EQ(told(registry), Told());
}

TEST(NodeMetrics, ADeviceMayServeAtAnotherPathAndAPathGetAnotherDevice) {
  prometheus::Registry registry;
  NodeMetrics metrics(registry);
  metrics.devices({serving(1, "/dev/b")});
  auto left = serving(1, "/dev/b");
  left.serving = false;
  metrics.devices({serving(1, "/dev/a"), left});
  EXPECT_EQ(
      told(registry),
      (Told{{"serving /dev/a", 1}, {"serving /dev/b", 0}, {"1 free", 9}, {"1 open", 2}, {"1 sealed", 4}}));
  metrics.devices({serving(2, "/dev/a")});
  EXPECT_EQ(told(registry), (Told{{"serving /dev/a", 1}, {"2 free", 9}, {"2 open", 2}, {"2 sealed", 4}}));
}

}  // namespace
}  // namespace reelfs::noded
