#include "client/unsettled_changes.h"

#include <memory>

#include <gtest/gtest.h>

#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

UnsettledChanges::Change change(std::uint64_t number, std::uint64_t epoch = 7) {
  return {RequestId(number), wire::Method::commit, std::make_shared<wire::CommitRequest>(), Epoch(epoch), {}};
}

wire::JournalMark mark(std::uint64_t index, std::uint64_t synced, std::uint64_t epoch = 7) {
  wire::JournalMark made;
  made.set_epoch(epoch);
  made.set_index(index);
  made.set_synced(synced);
  return made;
}

TEST(UnsettledChanges, WhatWasAnsweredBeforeAMarkIsSettledOnceThatIsSynced) {
  UnsettledChanges changes;
  changes.add(change(1));
  const auto asked = changes.added();
  changes.add(change(2));
  changes.marked(asked, mark(50, 40));
  EXPECT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes.lowest_number(), 1u);
  // The second may lie behind entry 60, for all that is known.
  changes.marked(asked, mark(60, 60));
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes.lowest_number(), 2u);
  changes.marked(changes.added(), mark(61, 60));
  EXPECT_EQ(changes.size(), 1u);
  changes.marked(changes.added(), mark(90, 61));
  EXPECT_EQ(changes.size(), 0u);
  EXPECT_FALSE(changes.lowest_number());
}

TEST(UnsettledChanges, AMarkOfAnotherReignSaysNothing) {
  UnsettledChanges changes;
  changes.add(change(1));
  changes.marked(changes.added(), mark(50, 40));
  changes.marked(changes.added(), mark(100, 100, 8));
  EXPECT_EQ(changes.size(), 1u);
  EXPECT_TRUE(changes.any_before(Epoch(8)));
  EXPECT_FALSE(changes.any_before(Epoch(7)));
}

TEST(UnsettledChanges, ASyncSettlesWhatWasAnsweredBeforeItWasAsked) {
  UnsettledChanges changes;
  changes.add(change(1));
  changes.add(change(3, 8));
  const auto asked = changes.added();
  changes.add(change(2));
  changes.settled(asked);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes.all().front().number, RequestId(2));
  EXPECT_EQ(changes.lowest_number(), 2u);
}

TEST(UnsettledChanges, AreAskedForInTheOrderOfTheAnswers) {
  UnsettledChanges changes;
  for (const auto number : {5, 2, 9, 4}) changes.add(change(static_cast<std::uint64_t>(number)));
  EXPECT_EQ(changes.drop_if([](const auto& each) { return each.number == RequestId(9); }), 1u);
  const auto all = changes.all();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].number, RequestId(5));
  EXPECT_EQ(all[1].number, RequestId(2));
  EXPECT_EQ(all[2].number, RequestId(4));
  EXPECT_EQ(changes.lowest_number(), 2u);
}

}  // namespace
}  // namespace reelfs::client
