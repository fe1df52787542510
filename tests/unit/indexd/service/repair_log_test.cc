#include "indexd/service/repair_log.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

constexpr std::uint64_t kKept = 100;

/// The log of an index that has one node.
class RepairLogTest : public IndexTest {
 protected:
  void SetUp() override {
    start();
    add_node();
  }
  wire::ReadRepairLogReply read(const wire::ReadRepairLogRequest& request) {
    auto reply = call<wire::ReadRepairLogReply>(Method::read_repair_log, request);
    EXPECT_TRUE(reply);
    return reply ? std::move(reply).value() : wire::ReadRepairLogReply();
  }
  wire::ReadRepairLogReply read() { return read(wire::ReadRepairLogRequest()); }
  bool has(wire::RepairEvent event, std::uint32_t node) {
    const auto entries = read().entries();
    return std::any_of(entries.begin(), entries.end(),
                       [&](const auto& entry) { return entry.event() == event && entry.node() == node; });
  }
};

TEST_F(RepairLogTest, ANodeThatGoesAndComesBackIsNotedOnceAndNotAtEachStart) {
  auto& node = *nodes.front();
  ASSERT_TRUE(eventually([&] { return read().entries().empty(); })) << "that it came first is no news";
  node.go_silent();
  ASSERT_TRUE(eventually([&] { return has(wire::REPAIR_EVENT_NODE_AWAY, node.node()); }));
  node.register_with(endpoint, cluster);
  ASSERT_TRUE(eventually([&] { return has(wire::REPAIR_EVENT_NODE_BACK, node.node()); }));
  EXPECT_EQ(read().entries_size(), 2);
  EXPECT_EQ(read().entries(0).event(), wire::REPAIR_EVENT_NODE_BACK) << "newest first";
  EXPECT_EQ(read().entries(0).node_name(), "node1");
  EXPECT_GE(read().entries(0).at_ns(), read().entries(1).at_ns());
  restart();
  ASSERT_TRUE(call<wire::RepairStatusReply>(Method::repair_now, wire::RepairNowRequest()));
  ASSERT_TRUE(eventually([&] { return has(wire::REPAIR_EVENT_NOT_WAITED_FOR, 0); }));
  const auto after = read();
  const auto count = [&](wire::RepairEvent event) {
    return std::count_if(after.entries().begin(), after.entries().end(),
                         [&](const auto& entry) { return entry.event() == event; });
  };
  EXPECT_EQ(count(wire::REPAIR_EVENT_NODE_AWAY), count(wire::REPAIR_EVENT_NODE_BACK))
      << "a start alone is no coming back";
  EXPECT_EQ(after.entries(0).number(), static_cast<std::uint64_t>(after.entries_size())) << "numbers go on";
}

TEST_F(RepairLogTest, PagesAndFilters) {
  wire::DrainNodeRequest drain;
  drain.set_node("node1");
  for (int i = 0; i < 6; ++i) {
    drain.set_undo(i % 2 == 1);
    ASSERT_TRUE(call<wire::DrainNodeReply>(Method::drain_node, drain));
  }
  ASSERT_TRUE(call<wire::RepairStatusReply>(Method::repair_now, wire::RepairNowRequest()));
  ASSERT_TRUE(eventually([&] { return read().entries_size() == 7; }));
  wire::ReadRepairLogRequest request;
  request.set_node("node1");
  EXPECT_EQ(read(request).entries_size(), 6);
  request.set_limit(4);
  const auto first = read(request);
  ASSERT_EQ(first.entries_size(), 4);
  EXPECT_EQ(first.entries(0).event(), wire::REPAIR_EVENT_NODE_STAYING);
  EXPECT_EQ(first.next_below(), first.entries(3).number());
  request.set_below(first.next_below());
  const auto second = read(request);
  ASSERT_EQ(second.entries_size(), 2);
  EXPECT_EQ(second.entries(1).event(), wire::REPAIR_EVENT_NODE_LEAVING);
  EXPECT_EQ(second.next_below(), 0u);
  request.set_below(0);
  request.set_since_ns(first.entries(1).at_ns());
  EXPECT_LE(read(request).entries_size(), 4);
  EXPECT_GE(read(request).entries_size(), 2);
  request.set_since_ns(0);
  request.set_segment(17);
  EXPECT_EQ(read(request).entries_size(), 0);
  request.set_node("nobody");
  EXPECT_EQ(call<wire::ReadRepairLogReply>(Method::read_repair_log, request).error().code(), Errc::not_found);
}

TEST_F(RepairLogTest, TheOldestGoAndAFailureIsNotedOnce) {
  NodeRegistry none(context, clock, *index, options, rpc::ClientOptions());
  RepairLog log(context.get_executor(), clock, *index, none, kKept);
  ASSERT_TRUE(run(context, log.start()));
  RepairLogRow made;
  made.event = RepairEvent::copy_made;
  made.details = std::string(10'000, 'x');
  for (std::uint64_t i = 1; i <= 3 * kKept; ++i) {
    made.segment = SegmentId{i};
    log.note(made);
  }
  const Error why(Errc::unavailable, "nobody has room");
  for (int i = 0; i < 5; ++i) log.note_failure(SegmentId{1}, NodeId{1}, why);
  wire::ReadRepairLogReply all;
  ASSERT_TRUE(eventually([&] {
    all = run(context, log.read(wire::ReadRepairLogRequest())).value();
    return all.entries_size() > 0 && all.entries(0).number() == 3 * kKept + 1;
  }));
  EXPECT_EQ(all.entries_size(), static_cast<int>(kKept));
  EXPECT_EQ(all.entries(0).event(), wire::REPAIR_EVENT_COPY_FAILED);
  EXPECT_NE(all.entries(0).details().find("nobody has room"), std::string::npos);
  EXPECT_LT(all.entries(1).details().size(), 1000u);
  run(context, log.stop());
}

}  // namespace
}  // namespace reelfs::indexd
