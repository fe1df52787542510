#include "admin/output.h"

#include <sstream>

#include <gtest/gtest.h>

namespace reelfs::admin {
namespace {

TEST(Table, AlignsColumnsOnTheWidestCell) {
  Table table({"NODE", "STATE"});
  table.add({"node-with-a-name", "online"});
  table.add({"n2", "offline"});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(),
            "NODE              STATE\n"
            "node-with-a-name  online\n"
            "n2                offline\n");
}

TEST(Table, PrintsHeadingsAloneWithoutRows) {
  std::ostringstream out;
  Table({"A", "B"}).print(out);
  EXPECT_EQ(out.str(), "A  B\n");
}

TEST(HumanBytes, ChoosesTheUnit) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(std::uint64_t{64} << 20), "64.0 MiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16.0 EiB");
}

TEST(HumanTime, ChoosesTheUnit) {
  EXPECT_EQ(human_time(999), "999 ms");
  EXPECT_EQ(human_time(60'000), "60 s");
  EXPECT_EQ(human_time(180'000), "3 min");
  EXPECT_EQ(human_time(3 * 3'600'000), "3 h");
  EXPECT_EQ(human_time(std::uint64_t{72} * 3'600'000), "3 days");
}

}  // namespace
}  // namespace reelfs::admin
