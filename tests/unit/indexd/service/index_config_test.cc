#include "indexd/index_config.h"

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

constexpr auto kRequired = "cluster = \"6ba7b810-9dad-11d1-80b4-00c04fd430c8\"\ndata_dir = \"data\"\n";

TEST(IndexConfig, HasDefaultsForWhatIsNotSaid) {
  const auto config = IndexConfig::parse(kRequired, "/etc/reelfs/indexd.toml");
  ASSERT_TRUE(config) << config.error().describe();
  EXPECT_EQ(config.value().data_dir, "/etc/reelfs/data");
  ASSERT_EQ(config.value().listen.size(), 1u);
  EXPECT_EQ(config.value().listen[0].port, 7400);
  EXPECT_EQ(config.value().copies, 2u);
  EXPECT_EQ(config.value().block_bytes, 64 * kMiB);
  EXPECT_FALSE(config.value().metrics_listen);
  EXPECT_FALSE(config.value().adopt_blank_devices);
}

TEST(IndexConfig, ListensInSeveralNetworks) {
  const auto parse = [](const char* line) {
    return IndexConfig::parse(std::string(kRequired) + line + "\n", "indexd.toml").value().listen;
  };
  EXPECT_EQ(parse("listen = \"10.0.0.5:7400\"").at(0).to_string(), "10.0.0.5:7400");
  const auto two = parse("listen = [\"10.0.0.5:7400\", \"[fd00::5]:7401\"]");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[1].to_string(), "[fd00::5]:7401");
}

TEST(IndexConfig, RefusesWhatCannotBeMeant) {
  for (const auto* line : {"listen = []", "listen = 7400", "copies = 5", "copies = 0", "block_size = \"5M\"",
                           "block_size = \"2G\"", "repair_rate = 0", "colour = \"red\""}) {
    SCOPED_TRACE(line);
    const auto config = IndexConfig::parse(std::string(kRequired) + line + "\n", "indexd.toml");
    ASSERT_FALSE(config);
    EXPECT_EQ(config.error().code(), Errc::bad_config);
  }
  EXPECT_FALSE(IndexConfig::parse("data_dir = \"data\"\n", "indexd.toml"));
  EXPECT_FALSE(IndexConfig::parse("cluster = \"nonsense\"\ndata_dir = \"data\"\n", "indexd.toml"));
}

}  // namespace
}  // namespace reelfs::indexd
