#include "fuse/takeover/mount_state.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace reelfs::fuse {
namespace {

MountState some_state() {
  MountState state;
  state.root = kRootInode;
  state.client.session = SessionId(7);
  state.made.push_back({std::uint64_t{1} << 63 | 5, 11, std::string("start\tend\n\0\xff", 12)});
  state.made.push_back({std::uint64_t{1} << 63 | 6, 12, ""});
  return state;
}

TEST(MountState, FilesOfViewsArriveAsTheyWereMade) {
  const auto sent = nlohmann::json::to_cbor(to_json(some_state()));
  const auto received = mount_state_from_json(nlohmann::json::from_cbor(sent));
  ASSERT_TRUE(received) << received.error().describe();
  const auto expected = some_state();
  ASSERT_EQ(received.value().made.size(), expected.made.size());
  for (std::size_t i = 0; i < expected.made.size(); ++i) {
    EXPECT_EQ(received.value().made[i].node, expected.made[i].node);
    EXPECT_EQ(received.value().made[i].number, expected.made[i].number);
    EXPECT_EQ(received.value().made[i].content, expected.made[i].content);
  }
}

TEST(MountState, AProcessThatKnewNoViewsHasNone) {
  auto sent = to_json(some_state());
  sent.erase("made");
  const auto received = mount_state_from_json(sent);
  ASSERT_TRUE(received) << received.error().describe();
  EXPECT_TRUE(received.value().made.empty());
  EXPECT_EQ(received.value().client.session, SessionId(7));
}

TEST(MountState, WhatIsNoFileOfAViewIsRefused) {
  for (const auto& wrong : {nlohmann::json(1), nlohmann::json::array({1}),
                            nlohmann::json::array({{{"node", 1}, {"number", 2}, {"content", "text"}}})}) {
    auto sent = to_json(some_state());
    sent["made"] = wrong;
    const auto received = mount_state_from_json(sent);
    ASSERT_FALSE(received) << wrong;
    EXPECT_EQ(received.error().code(), Errc::protocol);
  }
}

}  // namespace
}  // namespace reelfs::fuse
