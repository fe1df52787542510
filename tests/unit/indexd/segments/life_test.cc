#include "indexd/segments/life.h"

#include <deque>
#include <functional>
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

constexpr std::uint64_t kBlock =
    (1 << 20) + 64 * 4096;  // 62 pages until too little is left to be granted again

SegmentRow fresh(std::uint32_t copies = 2) {
  SegmentRow row;
  row.channel = InodeId{7};
  row.generation = Generation{1};
  row.session = SessionId{3};
  row.block_bytes = kBlock;
  for (std::uint32_t node = 1; node <= copies; ++node)
    row.copies.push_back({NodeId{node}, WorkerId{1}, {}, 0});
  return row;
}

template <class A>
std::vector<A> all_of(const Actions& actions) {
  std::vector<A> found;
  for (const auto& action : actions) {
    if (const auto* match = std::get_if<A>(&action)) found.push_back(*match);
  }
  return found;
}

/// Stores what was asked for, as an index would.
Actions store(SegmentLife& life, const Actions& actions) {
  const auto asked = all_of<Persist>(actions);
  EXPECT_EQ(asked.size(), 1u);
  return life.persisted(asked.at(0).row);
}

/// A life that was opened and granted.
SegmentLife opened() {
  SegmentLife life(SegmentId{9}, fresh());
  auto actions = store(life, life.begin());
  EXPECT_EQ(all_of<Allocate>(actions).size(), 2u);
  EXPECT_TRUE(life.allocated(NodeId{1}, BlockPlace{DeviceId{1}, 4}).empty());
  actions = store(life, life.allocated(NodeId{2}, BlockPlace{DeviceId{2}, 5}));
  EXPECT_TRUE(all_of<Answer>(actions).at(0).result.has_value());
  EXPECT_TRUE(life.resting());
  return life;
}

TEST(SegmentLife, StoresWhereTheBlocksAreBeforeItAnswersTheWriter) {
  SegmentLife life(SegmentId{9}, fresh());
  auto actions = life.begin();
  EXPECT_TRUE(all_of<Allocate>(actions).empty()) << "nothing is taken before the index knows";
  store(life, actions);
  life.allocated(NodeId{2}, BlockPlace{DeviceId{2}, 5});
  actions = life.allocated(NodeId{1}, BlockPlace{DeviceId{1}, 4});
  EXPECT_TRUE(all_of<Answer>(actions).empty());
  const auto stored = all_of<Persist>(actions).at(0);
  EXPECT_TRUE(stored.sync);
  EXPECT_EQ(stored.row.state, SegmentState::open);
  EXPECT_EQ(stored.row.copies.at(1).block, 5u);
  EXPECT_EQ(all_of<Answer>(life.persisted(stored.row)).size(), 1u);
}

TEST(SegmentLife, GivesEveryBlockBackWhereOneCannotBeTaken) {
  SegmentLife life(SegmentId{9}, fresh());
  store(life, life.begin());
  auto actions = life.allocated(NodeId{1}, Error(Errc::timed_out));
  EXPECT_EQ(all_of<Answer>(actions).at(0).result.error().code(), Errc::timed_out);
  actions = store(life, life.allocated(NodeId{2}, BlockPlace{DeviceId{2}, 5}));
  EXPECT_EQ(all_of<Free>(actions).size(), 2u) << "the silent node may have taken one";
  life.freed(NodeId{1}, ok());
  EXPECT_EQ(all_of<Erase>(life.freed(NodeId{2}, ok())).size(), 1u);
  life.erased();
  EXPECT_TRUE(life.gone());
}

TEST(SegmentLife, CleanCloseKeepsItForTheNextWriter) {
  auto life = opened();
  auto actions = store(life, life.close({SessionId{3}, Generation{1}, 8192, false}));
  EXPECT_TRUE(all_of<Answer>(actions).at(0).result.has_value());
  EXPECT_EQ(life.row().state, SegmentState::unfilled);
  EXPECT_EQ(life.row().length, 8192u);
  const auto released = all_of<Release>(actions);
  ASSERT_EQ(released.size(), 2u);
  EXPECT_EQ(released[1].node, NodeId{2});
  EXPECT_EQ(released[1].generation, Generation{1});
  actions = life.reopen(SessionId{4}, life.row().copies);
  EXPECT_EQ(all_of<Fence>(actions).at(0).generation, Generation{2});
  life.fenced(NodeId{1}, 8192);
  actions = life.fenced(NodeId{2}, 8192);
  EXPECT_TRUE(all_of<Seal>(actions).at(1).reopen);
  life.sealed(NodeId{1}, ok());
  actions = life.sealed(NodeId{2}, ok());
  EXPECT_TRUE(all_of<Persist>(actions).at(0).sync);
  actions = store(life, actions);
  EXPECT_TRUE(all_of<Answer>(actions).at(0).result.has_value());
  EXPECT_EQ(life.row().generation, Generation{2});
  EXPECT_EQ(life.row().session, SessionId{4});
}

TEST(SegmentLife, SealsAtTheFullLengthAfterItWasReopened) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, false}));
  life.reopen(SessionId{4}, life.row().copies);
  life.fenced(NodeId{1}, 8192);
  life.fenced(NodeId{2}, 8192);
  life.sealed(NodeId{1}, ok());
  store(life, life.sealed(NodeId{2}, ok()));
  const auto actions = store(life, life.close({SessionId{4}, Generation{2}, kBlock, false}));
  EXPECT_EQ(life.row().state, SegmentState::sealed);
  for (const auto& seal : all_of<Seal>(actions)) EXPECT_EQ(seal.length, kBlock);
}

TEST(SegmentLife, AnEmptyOneIsFreedAtClose) {
  auto life = opened();
  const auto actions = life.close({SessionId{3}, Generation{1}, 0, false});
  EXPECT_TRUE(all_of<Persist>(actions).at(0).only_if_dead);
  EXPECT_EQ(all_of<Free>(store(life, actions)).size(), 2u);
}

TEST(SegmentLife, AFailedCloseSealsAtTheShortestCopyThatAnswers) {
  auto life = opened();
  auto actions = life.close({SessionId{3}, Generation{1}, 8192, true});
  EXPECT_FALSE(all_of<Persist>(actions).at(0).row.session) << "a restart must know that it is to be fenced";
  actions = store(life, actions);
  EXPECT_EQ(all_of<Answer>(actions).size(), 1u);
  EXPECT_EQ(all_of<Fence>(actions).size(), 2u);
  life.fenced(NodeId{1}, 16384);
  actions = store(life, life.fenced(NodeId{2}, 12288));
  EXPECT_EQ(life.row().state, SegmentState::sealed);
  EXPECT_EQ(life.row().length, 12288u);
  EXPECT_EQ(life.row().generation, Generation{2});
  for (const auto& seal : all_of<Seal>(actions)) EXPECT_EQ(seal.length, 12288u);
}

TEST(SegmentLife, WaitsWhileNoCopyAnswersAndGoesOnWhenOneDoes) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, Error(Errc::unavailable));
  EXPECT_TRUE(life.fenced(NodeId{2}, Error(Errc::unavailable)).empty());
  EXPECT_TRUE(life.waiting());
  EXPECT_EQ(all_of<Fence>(life.retry()).size(), 2u);
  life.fenced(NodeId{1}, Error(Errc::unavailable));
  store(life, life.fenced(NodeId{2}, 8192));
  life.sealed(NodeId{2}, ok());
  EXPECT_EQ(life.row().state, SegmentState::sealed);
  EXPECT_TRUE(life.waiting()) << "the silent copy is sealed when it comes back";
  EXPECT_TRUE(life.waits_for(NodeId{1}));
  EXPECT_FALSE(life.waits_for(NodeId{2}));
  EXPECT_FALSE(life.waits_for(NodeId{3}));
  EXPECT_EQ(all_of<Fence>(life.retry()).at(0).node, NodeId{1});
  EXPECT_EQ(all_of<Seal>(life.fenced(NodeId{1}, 12288)).at(0).length, 8192u);
  life.sealed(NodeId{1}, ok());
  EXPECT_TRUE(life.resting());
}

TEST(SegmentLife, ACopyThatLostCommittedBytesDoesNotShortenTheOthers) {
  auto row = fresh();
  row.state = SegmentState::open;
  row.length = 8192;  // committed
  row.live_bytes = 8000;
  SegmentLife life(SegmentId{9}, row);
  EXPECT_EQ(all_of<Fence>(life.session_died()).size(), 2u);
  life.fenced(NodeId{1}, 4096);
  auto actions = life.fenced(NodeId{2}, 12288);
  actions = store(life, actions);
  EXPECT_EQ(life.row().length, 12288u) << "all that one has which holds what was committed";
  EXPECT_EQ(all_of<Seal>(actions).at(0).node, NodeId{2});
  actions = life.sealed(NodeId{2}, ok());
  EXPECT_TRUE(all_of<Free>(actions).empty()) << "it has what was placed, though it is short";
  const auto completed = all_of<Complete>(actions).at(0);
  EXPECT_EQ(completed.node, NodeId{1});
  EXPECT_EQ(completed.length, 12288u);
  ASSERT_EQ(completed.sources.size(), 1u);
  EXPECT_EQ(completed.sources.at(0).node, NodeId{2});
  EXPECT_TRUE(life.completed(NodeId{1}, BlockPlace{}).empty());
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().copies.size(), 2u);
}

/// Sealed at 12288, with copies on nodes 1 and 2.
SegmentRow sealed_row() {
  auto row = fresh();
  row.state = SegmentState::sealed;
  row.session = {};
  row.length = 12288;
  row.live_bytes = 12000;
  return row;
}

TEST(SegmentLife, ACopyThatIsBehindWaitsForAWholeOneToBeCompletedFrom) {
  SegmentLife life(SegmentId{9}, sealed_row());
  EXPECT_EQ(all_of<Fence>(life.reseal(NodeId{1})).at(0).node, NodeId{1});
  auto actions = life.fenced(NodeId{1}, 4096);
  const auto order = all_of<Complete>(actions).at(0);
  EXPECT_EQ(order.node, NodeId{1});
  EXPECT_EQ(order.generation, life.row().generation);
  EXPECT_TRUE(life.completed(NodeId{1}, Error(Errc::unavailable)).empty());
  EXPECT_TRUE(life.waits_for(NodeId{1}));
  EXPECT_EQ(life.row().copies.size(), 2u);
  EXPECT_EQ(all_of<Fence>(life.retry()).size(), 1u);
  actions = life.fenced(NodeId{1}, 8192);  // it came further than before
  EXPECT_EQ(all_of<Complete>(actions).size(), 1u);
  life.completed(NodeId{1}, BlockPlace{});
  EXPECT_TRUE(life.resting());
}

TEST(SegmentLife, ASourceThatTurnsOutShortIsNotAskedForEver) {
  SegmentLife life(SegmentId{9}, sealed_row());
  life.reseal(NodeId{1});
  EXPECT_EQ(all_of<Complete>(life.fenced(NodeId{1}, 4096)).at(0).sources.at(0).node, NodeId{2});
  EXPECT_TRUE(life.completed(NodeId{1}, Error(Errc::corrupt, "the copy there has 8192 bytes")).empty());
  EXPECT_EQ(all_of<Fence>(life.retry()).size(), 2u);
  EXPECT_TRUE(life.fenced(NodeId{1}, 4096).empty());
  EXPECT_EQ(all_of<Seal>(life.fenced(NodeId{2}, 8192)).size(), 2u) << "each is closed where it ends";
}

TEST(SegmentLife, WhereNoCopyIsWholeEachIsClosedWhereItEnds) {
  SegmentLife life(SegmentId{9}, sealed_row());
  life.reseal(NodeId{1});
  life.reseal(NodeId{2});
  EXPECT_TRUE(life.fenced(NodeId{1}, 4096).empty()) << "the other one may be whole";
  EXPECT_EQ(all_of<Fence>(life.retry()).at(0).node, NodeId{2});
  const auto seals = all_of<Seal>(life.fenced(NodeId{2}, 8192));
  ASSERT_EQ(seals.size(), 2u);
  EXPECT_EQ(seals.at(0).length, 4096u);
  EXPECT_EQ(seals.at(1).length, 8192u);
  life.sealed(NodeId{1}, ok());
  life.sealed(NodeId{2}, ok());
  EXPECT_TRUE(life.resting());
}

TEST(SegmentLife, ACopyIsStoredBeforeTheOneThatItReplacesIsGivenBack) {
  SegmentLife life(SegmentId{9}, sealed_row());
  auto actions = life.add_copy(NodeId{3}, WorkerId{2}, NodeId{1});
  EXPECT_TRUE(all_of<Persist>(actions).at(0).sync);
  EXPECT_EQ(all_of<Persist>(actions).at(0).row.generation, Generation{2}) << "of its own";
  EXPECT_TRUE(life.makes_copy_on(NodeId{3}));
  actions = store(life, actions);
  const auto order = all_of<Complete>(actions).at(0);
  EXPECT_EQ(order.node, NodeId{3});
  EXPECT_EQ(order.generation, Generation{2});
  EXPECT_EQ(order.sources.size(), 2u) << "the one that is replaced is whole, too";
  EXPECT_TRUE(life.free_dead().empty()) << "not while a block of it is taken";
  actions = life.completed(NodeId{3}, BlockPlace{DeviceId{5}, 6});
  EXPECT_TRUE(all_of<Free>(actions).empty());
  EXPECT_TRUE(all_of<Persist>(actions).at(0).sync);
  actions = store(life, actions);
  const auto freed = all_of<Free>(actions).at(0);
  EXPECT_EQ(freed.node, NodeId{1});
  EXPECT_EQ(freed.newest, Generation{2});
  EXPECT_TRUE(all_of<Repaired>(actions).at(0).result.has_value());
  EXPECT_TRUE(life.resting());
  const auto copies = life.row().copies;
  ASSERT_EQ(copies.size(), 2u);
  EXPECT_EQ(copies.at(0).node, NodeId{3});
  EXPECT_EQ(copies.at(0).block, 6u);
}

TEST(SegmentLife, ACopyThatCannotBeMadeIsGivenBackAndNothingElseChanges) {
  SegmentLife life(SegmentId{9}, sealed_row());
  store(life, life.add_copy(NodeId{3}, WorkerId{2}, NodeId{}));
  const auto actions = life.completed(NodeId{3}, Error(Errc::no_space));
  EXPECT_EQ(all_of<Free>(actions).at(0).node, NodeId{3});
  EXPECT_EQ(all_of<Repaired>(actions).at(0).result.error().code(), Errc::no_space);
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().copies.size(), 2u);
  EXPECT_FALSE(life.makes_copy_on(NodeId{3}));
  store(life, life.add_copy(NodeId{3}, WorkerId{2}, NodeId{}));
  EXPECT_EQ(life.row().generation, Generation{3})
      << "what was left of the first attempt is told from this one";
  store(life, life.completed(NodeId{3}, BlockPlace{DeviceId{5}, 6}));
  EXPECT_EQ(life.row().copies.size(), 3u);
}

TEST(SegmentLife, TheCopyOfASilentNodeIsReplacedWhileItIsWaitedFor) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, Error(Errc::unavailable));
  store(life, life.fenced(NodeId{2}, 8192));
  EXPECT_EQ(all_of<Repaired>(life.add_copy(NodeId{3}, WorkerId{1}, NodeId{1})).at(0).result.error().code(),
            Errc::busy);
  life.sealed(NodeId{2}, ok());
  ASSERT_TRUE(life.waits_for(NodeId{1}));
  const auto actions = store(life, life.add_copy(NodeId{3}, WorkerId{1}, NodeId{1}));
  ASSERT_EQ(all_of<Complete>(actions).at(0).sources.size(), 1u) << "the silent one is none";
  EXPECT_EQ(all_of<Complete>(actions).at(0).sources.at(0).node, NodeId{2});
  store(life, life.completed(NodeId{3}, BlockPlace{DeviceId{5}, 6}));
  EXPECT_TRUE(life.resting()) << "nobody is waited for any more";
}

TEST(SegmentLife, ANodeThatReturnsWhileACopyIsMadeHasItsTurnAfterwards) {
  SegmentLife life(SegmentId{9}, sealed_row());
  store(life, life.add_copy(NodeId{3}, WorkerId{2}, NodeId{1}));
  EXPECT_TRUE(life.reseal(NodeId{2}).empty());
  store(life, life.completed(NodeId{3}, BlockPlace{DeviceId{5}, 6}));
  EXPECT_TRUE(life.waits_for(NodeId{2}));
}

TEST(SegmentLife, WhatIsFinishedIsFencedThoughItsWriterLives) {
  auto life = opened();
  auto actions = life.finish();
  EXPECT_FALSE(all_of<Persist>(actions).at(0).row.session);
  actions = store(life, actions);
  EXPECT_EQ(all_of<Fence>(actions).size(), 2u);
  life.fenced(NodeId{1}, 8192);
  store(life, life.fenced(NodeId{2}, 8192));
  EXPECT_EQ(life.row().state, SegmentState::sealed);
  // and one that nobody writes
  auto row = sealed_row();
  row.state = SegmentState::unfilled;
  SegmentLife unfilled(SegmentId{9}, row);
  EXPECT_EQ(all_of<Fence>(unfilled.finish()).size(), 2u);
  unfilled.fenced(NodeId{1}, Error(Errc::unavailable));
  store(unfilled, unfilled.fenced(NodeId{2}, 12288));
  EXPECT_EQ(unfilled.row().state, SegmentState::sealed);
  EXPECT_EQ(unfilled.row().length, 12288u);
}

TEST(SegmentLife, ATornCopyDoesNotDecideWhileAnotherIsSilent) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, FencedCopy(4096, true));
  EXPECT_TRUE(life.fenced(NodeId{2}, Error(Errc::unavailable)).empty()) << "it may have all that was placed";
  EXPECT_TRUE(life.waits_for(NodeId{2}));
  life.retry();
  store(life, life.fenced(NodeId{2}, 8192));
  EXPECT_EQ(life.row().state, SegmentState::sealed);
  EXPECT_EQ(life.row().length, 8192u) << "the torn one is the shortest, and does not count";
}

TEST(SegmentLife, ATornCopyDecidesOnceTheSilentOneIsGivenUp) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, FencedCopy(4096, true));
  EXPECT_TRUE(life.fenced(NodeId{2}, Error(Errc::unavailable)).empty());
  EXPECT_TRUE(life.give_up(NodeId{1}).empty()) << "it has answered";
  store(life, life.give_up(NodeId{2}));
  EXPECT_EQ(life.row().state, SegmentState::sealed);
  EXPECT_EQ(life.row().length, 4096u);
}

TEST(SegmentLife, WhereAllCopiesAreTornTheLongestCounts) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, FencedCopy(4096, true));
  store(life, life.fenced(NodeId{2}, FencedCopy(12288, true)));
  EXPECT_EQ(life.row().length, 12288u);
}

TEST(SegmentLife, ACopyThatIsNotTornDecidesAlone) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, FencedCopy(8192, false));
  store(life, life.fenced(NodeId{2}, Error(Errc::unavailable)));
  EXPECT_EQ(life.row().length, 8192u);
}

TEST(SegmentLife, WhatADeadWriterPlacedAndNeverCommittedStays) {
  auto life = opened();
  life.session_died();
  life.fenced(NodeId{1}, 4096);
  const auto actions = life.fenced(NodeId{2}, 4096);
  EXPECT_EQ(all_of<Persist>(actions).at(0).row.state, SegmentState::sealed);
  EXPECT_EQ(all_of<Persist>(actions).at(0).row.length, 4096u);
  EXPECT_EQ(all_of<Seal>(store(life, actions)).size(), 2u);
}

TEST(SegmentLife, WhatADeadWriterNeverWroteToIsFreed) {
  auto life = opened();
  life.session_died();
  life.fenced(NodeId{1}, 0);
  const auto actions = life.fenced(NodeId{2}, 4096);  // placed is what both have
  EXPECT_TRUE(all_of<Persist>(actions).at(0).only_if_dead);
  EXPECT_EQ(all_of<Free>(store(life, actions)).size(), 2u);
}

TEST(SegmentLife, FreeingIsOnStableStorageBeforeABlockIsGivenBack) {
  auto row = fresh();
  row.state = SegmentState::sealed;
  row.length = 4096;
  SegmentLife life(SegmentId{9}, row);
  const auto actions = life.free_dead();
  EXPECT_TRUE(all_of<Free>(actions).empty());
  EXPECT_TRUE(all_of<Persist>(actions).at(0).sync);
  EXPECT_TRUE(all_of<Persist>(actions).at(0).only_if_dead);
  life.persist_refused();
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().state, SegmentState::sealed);
}

TEST(SegmentLife, AnAnswerThatNobodyWaitsForGivesTheSegmentBack) {
  SegmentLife life(SegmentId{9}, fresh());
  store(life, life.begin());
  life.abandon();
  life.allocated(NodeId{1}, BlockPlace{DeviceId{1}, 4});
  const auto actions = life.allocated(NodeId{2}, BlockPlace{DeviceId{2}, 5});
  EXPECT_EQ(all_of<Persist>(actions).at(0).row.state, SegmentState::freeing);
}

TEST(SegmentLife, ASegmentThatTurnsOutAliveGoesOnWaitingForItsSilentCopy) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, Error(Errc::unavailable));
  store(life, life.fenced(NodeId{2}, 8192));
  life.sealed(NodeId{2}, ok());
  ASSERT_TRUE(life.waits_for(NodeId{1}));
  EXPECT_EQ(all_of<Persist>(life.free_dead()).size(), 1u);
  life.persist_refused();
  EXPECT_TRUE(life.waits_for(NodeId{1}));
  EXPECT_EQ(all_of<Fence>(life.retry()).at(0).node, NodeId{1});
}

TEST(SegmentLife, ACopyThatIsGoneIsTornAtItsBeginning) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, Error(Errc::not_found));
  EXPECT_TRUE(life.fenced(NodeId{2}, FencedCopy(8192, true)).empty()) << "the other one may have more";
  auto actions = life.reported_without(NodeId{1});
  actions = store(life, actions);
  EXPECT_EQ(life.row().length, 8192u);
  actions = life.sealed(NodeId{2}, ok());
  const auto order = all_of<Complete>(actions).at(0);
  EXPECT_EQ(order.node, NodeId{1});
  actions = life.completed(NodeId{1}, BlockPlace{DeviceId{1}, 7});
  EXPECT_FALSE(life.resting()) << "the row names another block";
  EXPECT_TRUE(all_of<Persist>(actions).at(0).sync);
  store(life, actions);
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().copies.at(0).block, 7u);
  EXPECT_EQ(life.row().copies.at(1).block, 5u);
}

TEST(SegmentLife, ACopyOfASealedSegmentThatIsGoneIsMadeAnew) {
  SegmentLife life(SegmentId{9}, sealed_row());
  const auto orders = all_of<Complete>(life.reported_without(NodeId{2}));
  ASSERT_EQ(orders.size(), 1u);
  EXPECT_EQ(orders.at(0).node, NodeId{2});
  EXPECT_EQ(orders.at(0).sources.at(0).node, NodeId{1});
  store(life, life.completed(NodeId{2}, BlockPlace{DeviceId{4}, 1}));
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().copies.at(1).device, DeviceId{4});
  EXPECT_TRUE(life.reported_without(NodeId{3}).empty()) << "it has none there";
}

TEST(SegmentLife, ALoneCopyIsNotTakenForGoneBecauseOfAListThatIsOld) {
  auto row = sealed_row();
  row.copies.resize(1);
  SegmentLife sealed(SegmentId{9}, row);
  EXPECT_TRUE(sealed.reported_without(NodeId{1}).empty());
  EXPECT_TRUE(sealed.resting());
  row = fresh(1);
  row.state = SegmentState::open;
  row.copies[0].device = DeviceId{1};
  SegmentLife open(SegmentId{9}, row);
  EXPECT_EQ(all_of<Fence>(open.session_died()).size(), 1u);
  open.fenced(NodeId{1}, Error(Errc::timed_out));
  EXPECT_TRUE(open.reported_without(NodeId{1}).empty()) << "it may be there";
  open.retry();
  open.fenced(NodeId{1}, Error(Errc::not_found));
  store(open, open.reported_without(NodeId{1}));
  EXPECT_EQ(open.row().length, 0u);
}

TEST(SegmentLife, RepeatedAndForeignClosesChangeNothing) {
  auto life = opened();
  EXPECT_EQ(all_of<Answer>(life.close({SessionId{4}, Generation{1}, 0, false})).at(0).result.error().code(),
            Errc::stale_generation);
  store(life, life.close({SessionId{3}, Generation{1}, 4096, false}));
  const auto again = life.close({SessionId{3}, Generation{1}, 4096, false});
  ASSERT_EQ(again.size(), 1u);
  EXPECT_TRUE(std::get<Answer>(again[0]).result.has_value());
  EXPECT_EQ(life.row().state, SegmentState::unfilled);
}

// ---- random orders, failures, crashes

/// An index that forgets what was not synced, nodes that fail and come back, or one that never does, or whose
/// machine loses power, writers that append as they please, copies that are made anew, orders that arrive
/// late. Whatever happens, each copy that a row names, but those of the lost node, has what was acknowledged,
/// no two writers have one grant, and in the end no block is leaked or doubly owned.
class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {}

  void run() {
    for (int step = 0; step < 400; ++step) {
      something_happens();
      if (step % 8 == 0) check_copies();
      if (::testing::Test::HasFailure()) return;
    }
    settle();
    check_at_rest();
  }

 private:
  struct Block {
    std::uint64_t generation = 0;
    std::uint64_t length = 0;
    bool writable = true;
    bool sealed = false;
    std::uint64_t flushed = 0;
    bool torn = false;    // its machine lost power while it was open
    bool stable = false;  // it was flushed and fenced before that could happen
  };
  struct Node {
    bool up = true;
    bool lost = false;  // for ever
    std::map<SegmentId, Block> blocks;
  };
  struct Index {
    std::map<SegmentId, SegmentRow> rows;
    std::uint64_t last_segment = 0;
  };
  struct Writer {
    SegmentId segment;
    Generation generation;
    SessionId session;
    std::uint64_t offset = 0;  // acknowledged by every copy
    std::vector<NodeId> nodes;
  };
  struct Pending {
    SegmentId segment;
    std::uint64_t life = 0;  // of the index server
    Action action;
  };

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }
  bool chance(std::uint64_t percent) { return pick(100) < percent; }

  SegmentLife& life_of(SegmentId segment) {
    const auto found = lives_.find(segment);
    if (found != lives_.end()) return found->second;
    return lives_.emplace(segment, SegmentLife(segment, index_.rows.at(segment))).first->second;
  }

  void perform(SegmentId segment, Actions actions) {
    for (auto& action : actions) {
      if (const auto* answer = std::get_if<Answer>(&action)) {
        if (opening_.contains(segment) && answer->result) granted(segment);
        opening_.erase(segment);
      } else if (std::holds_alternative<Repaired>(action)) {
        continue;
      } else {
        pending_.push_back({segment, server_life_, std::move(action)});
      }
    }
    const auto found = lives_.find(segment);
    if (found != lives_.end() && (found->second.resting() || found->second.gone())) lives_.erase(found);
  }

  void granted(SegmentId segment) {
    const auto& row = lives_.at(segment).row();
    EXPECT_TRUE(grants_.insert({segment, row.generation}).second)
        << "segment " << segment.value << " granted twice with generation " << row.generation.value;
    if (!sessions_.contains(row.session)) return;
    Writer writer{segment, row.generation, row.session, row.length, {}};
    for (const auto& copy : row.copies) writer.nodes.push_back(copy.node);
    writers_.push_back(std::move(writer));
  }

  void open_new() {
    const SegmentId segment{++index_.last_segment};
    SegmentRow row = fresh(0);
    row.session = a_session();
    const auto first = static_cast<std::uint32_t>(pick(3));
    row.copies = {{NodeId{first + 1}, WorkerId{1}, {}, 0}, {NodeId{(first + 1) % 3 + 1}, WorkerId{1}, {}, 0}};
    auto& life = lives_.emplace(segment, SegmentLife(segment, row)).first->second;
    opening_.insert(segment);
    perform(segment, life.begin());
  }

  SessionId a_session() {
    if (sessions_.empty() || chance(20)) sessions_.insert(SessionId{++last_session_});
    auto session = sessions_.begin();
    std::advance(session, static_cast<long>(pick(sessions_.size())));
    return *session;
  }

  std::vector<SegmentId> rows_in(SegmentState state, bool idle) {
    std::vector<SegmentId> found;
    for (const auto& [id, row] : index_.rows) {
      if (row.state == state && (!idle || !lives_.contains(id))) found.push_back(id);
    }
    return found;
  }

  void something_happens() {
    const auto what = pick(100);
    if (what < 40) return act();
    if (what < 44) return open_new();
    if (what < 53) return reopen_one();
    if (what < 68) return append();
    if (what < 73) return commit();
    if (what < 79) return close_one();
    if (what < 82) return kill_session();
    if (what < 86) return die_away();
    if (what < 89) return free_one();
    if (what < 91) return toggle_node();
    if (what < 94) return retry_all();
    if (what < 95) return repair_one();
    if (what < 96) return arrive_late();
    if (what < 97) return crash(false);
    if (what < 99) return crash(true);
    if (chance(40)) return lose_power(pick(nodes_.size()));
    synced_ = index_;
  }

  void act() {
    if (pending_.empty()) return;
    const auto at = pick(pending_.size());
    auto pending = std::move(pending_[at]);
    pending_.erase(pending_.begin() + static_cast<long>(at));
    const auto segment = pending.segment;
    const bool lost = !lives_.contains(segment);  // a Free that nobody awaits
    std::visit([&](auto& action) { carry_out(segment, action, lost); }, pending.action);
  }

  void carry_out(SegmentId segment, Persist& action, bool) {
    auto& life = lives_.at(segment);
    const auto stored = index_.rows.find(segment);
    if (action.create) {
      EXPECT_TRUE(stored == index_.rows.end());
    } else {
      ASSERT_TRUE(stored != index_.rows.end());
      if (action.only_if_dead && stored->second.live_bytes > 0)
        return perform(segment, life.persist_refused());
      action.row.live_bytes = stored->second.live_bytes;
      action.row.length = std::max(action.row.length, stored->second.length);
    }
    index_.rows[segment] = action.row;
    if (action.sync) synced_ = index_;
    perform(segment, life.persisted(action.row));
  }
  void carry_out(SegmentId segment, Erase&, bool) {
    index_.rows.erase(segment);
    perform(segment, lives_.at(segment).erased());
  }

  /// Calls a node: it may be down, carry it out and fail to say so, or not get it.
  template <class R, class F>
  Result<R> call(NodeId id, F f) {
    auto& node = nodes_[id.value - 1];
    if (!node.up || (!settling_ && chance(5))) return Error(Errc::unavailable);
    if (!settling_ && chance(5)) {  // it lies in the socket of a process that is stopped
      late_.push_back([this, id, f] { (void)f(nodes_[id.value - 1]); });
      return Error(Errc::timed_out);
    }
    Result<R> result = f(node);
    if (!settling_ && chance(5)) return Error(Errc::timed_out);
    return result;
  }
  void arrive_late() {
    if (late_.empty()) return;
    const auto at = pick(late_.size());
    const auto carry_out_now = std::move(late_[at]);
    late_.erase(late_.begin() + static_cast<long>(at));
    carry_out_now();
  }
  void carry_out(SegmentId segment, Allocate& action, bool) {
    auto place = call<BlockPlace>(action.node, [segment, action](Node& node) -> Result<BlockPlace> {
      auto& block = node.blocks[segment];  // one that a forgotten life took is taken over
      if (block.generation > action.generation.value) return Error(Errc::stale_generation);
      block = {action.generation.value, 0, true, false};
      return BlockPlace{DeviceId{1}, static_cast<std::uint32_t>(segment.value)};
    });
    perform(segment, lives_.at(segment).allocated(action.node, std::move(place)));
  }
  void carry_out(SegmentId segment, Fence& action, bool) {
    auto fenced = call<FencedCopy>(action.node, [segment, action](Node& node) -> Result<FencedCopy> {
      const auto found = node.blocks.find(segment);
      if (found == node.blocks.end()) return Error(Errc::not_found);
      auto& block = found->second;
      if (block.generation > action.generation.value) return Error(Errc::stale_generation);
      if (block.generation < action.generation.value) block.writable = false;
      block.generation = action.generation.value;
      block.flushed = block.length;
      block.stable = !block.torn;
      return FencedCopy(block.length, block.torn);
    });
    perform(segment, lives_.at(segment).fenced(action.node, std::move(fenced)));
  }
  void carry_out(SegmentId segment, Seal& action, bool) {
    auto result = call<int>(action.node, [segment, action](Node& node) -> Result<int> {
      const auto block = node.blocks.find(segment);
      if (block == node.blocks.end()) return Error(Errc::not_found);
      if (block->second.generation > action.generation.value) return Error(Errc::stale_generation);
      if (block->second.length < action.length) return Error(Errc::out_of_range);
      block->second = {action.generation.value, action.length, action.reopen, !action.reopen, action.length};
      return 0;
    });
    Result<void> outcome = ok();
    if (!result) outcome = result.error();
    perform(segment, lives_.at(segment).sealed(action.node, std::move(outcome)));
  }
  void carry_out(SegmentId segment, Free& action, bool lost) {
    auto result = call<int>(action.node, [segment, action](Node& node) -> Result<int> {
      free_block(node, segment, action.newest);
      return 0;
    });
    Result<void> outcome = ok();
    if (!result) outcome = result.error();
    if (!lost) perform(segment, lives_.at(segment).freed(action.node, std::move(outcome)));
  }
  static void free_block(Node& node, SegmentId segment, Generation newest) {
    const auto block = node.blocks.find(segment);
    if (block == node.blocks.end()) return;
    if (newest && block->second.generation > newest.value) return;
    node.blocks.erase(block);
  }
  void carry_out(SegmentId segment, Complete& action, bool) {
    auto place = call<BlockPlace>(action.node, [this, segment, action](Node& node) -> Result<BlockPlace> {
      return complete(node, segment, action);
    });
    perform(segment, lives_.at(segment).completed(action.node, std::move(place)));
  }
  /// As SegmentStore::begin_copy and SegmentCopier do it.
  Result<BlockPlace> complete(Node& node, SegmentId segment, const Complete& order) {
    const bool had_one = node.blocks.contains(segment);
    auto& block = node.blocks[segment];
    if (block.generation > order.generation.value) return Error(Errc::stale_generation);
    const BlockPlace place{DeviceId{1}, static_cast<std::uint32_t>(segment.value)};
    if (had_one && block.sealed && block.length == order.length) {
      block.generation = order.generation.value;
      return place;
    }
    block.generation = order.generation.value;
    block.writable = block.sealed = false;
    block.length = std::min(block.length, order.length);
    block.flushed = block.length;
    block.stable = true;
    for (const auto& source : order.sources) {
      const auto& other = nodes_[source.node.value - 1];
      const auto from = other.blocks.find(segment);
      const bool serves = other.up && from != other.blocks.end() && !from->second.writable &&
                          from->second.length >= order.length;
      if (!serves) continue;
      if (!settling_ && chance(10)) {  // stopped in the middle
        block.length = std::max(block.length, order.length / 8192 * 4096);
        return Error(Errc::timed_out);
      }
      block.length = order.length;
      block.sealed = true;
      return place;
    }
    return Error(Errc::unavailable);
  }
  void carry_out(SegmentId, Repaired&, bool) { FAIL() << "told at once"; }
  void carry_out(SegmentId, Release&, bool) {}  // whose node it is changes nothing here
  void carry_out(SegmentId, Answer&, bool) { FAIL() << "answered at once"; }

  void append() {
    if (writers_.empty()) return;
    auto& writer = writers_[pick(writers_.size())];
    if (writer.offset + 4096 > kBlock) return;
    bool all = true;
    for (const auto id : writer.nodes) {
      auto& node = nodes_[id.value - 1];
      const auto block = node.blocks.find(writer.segment);
      const bool taken = node.up && !chance(5) && block != node.blocks.end() && block->second.writable &&
                         block->second.generation == writer.generation.value &&
                         block->second.length == writer.offset;
      if (taken) block->second.length += 4096;
      all = all && taken;
    }
    if (all && chance(20)) {  // fsync
      for (const auto id : writer.nodes) {
        auto& block = nodes_[id.value - 1].blocks.at(writer.segment);
        block.flushed = block.length;
      }
    }
    if (all) {
      writer.offset += 4096;
      acknowledged_[writer.segment] = std::max(acknowledged_[writer.segment], writer.offset);
    } else {
      failed(writer);
    }
  }
  /// A copy failed: the writer goes on elsewhere and says so.
  void failed(Writer& writer) {
    const auto left = writer;
    writer = writers_.back();
    writers_.pop_back();
    close(left, true);
  }
  void commit() {
    if (writers_.empty()) return;
    const auto& writer = writers_[pick(writers_.size())];
    const auto row = index_.rows.find(writer.segment);
    if (writer.offset == 0) return;
    if (row == index_.rows.end() || row->second.state == SegmentState::freeing)
      return;  // refused: its session is gone
    row->second.length = std::max(row->second.length, writer.offset);
    row->second.live_bytes = writer.offset;
    if (chance(50)) synced_ = index_;
  }
  void close_one() {
    if (writers_.empty()) return;
    const auto at = pick(writers_.size());
    const auto writer = writers_[at];
    writers_.erase(writers_.begin() + static_cast<long>(at));
    close(writer, chance(30));
  }
  void close(const Writer& writer, bool failed) {
    if (!index_.rows.contains(writer.segment)) return;
    perform(writer.segment,
            life_of(writer.segment).close({writer.session, writer.generation, writer.offset, failed}));
  }
  void kill_session() {
    if (sessions_.empty()) return;
    const auto session = a_session();
    sessions_.erase(session);
    std::erase_if(writers_, [&](const Writer& w) {
      return w.session == session && !chance(20);
    });  // some live on unaware
    std::vector<SegmentId> concerned;
    for (const auto& [id, life] : lives_) {
      if (life.row().session == session || opening_.contains(id)) concerned.push_back(id);
    }
    for (const auto& [id, row] : index_.rows) {
      if (row.session == session && row.state == SegmentState::open && !lives_.contains(id))
        concerned.push_back(id);
    }
    for (const auto id : concerned) perform(id, life_of(id).session_died());
  }
  void die_away() {  // the files of a segment are deleted
    if (index_.rows.empty()) return;
    auto row = index_.rows.begin();
    std::advance(row, static_cast<long>(pick(index_.rows.size())));
    if (row->second.live_bytes == 0) return;
    row->second.live_bytes = 0;
    if (!row->second.session) deleted_.insert(row->first);
  }
  void free_one() {
    for (const auto state : {SegmentState::sealed, SegmentState::unfilled}) {
      for (const auto id : rows_in(state, true)) {
        if (index_.rows.at(id).live_bytes > 0 || !deleted_.contains(id)) continue;
        perform(id, life_of(id).free_dead());
        return;
      }
    }
  }
  void reopen_one() {
    const auto unfilled = rows_in(SegmentState::unfilled, true);
    if (unfilled.empty()) return;
    const auto id = unfilled[pick(unfilled.size())];
    opening_.insert(id);
    deleted_.erase(id);
    perform(id, life_of(id).reopen(a_session(), index_.rows.at(id).copies));
  }
  void toggle_node() {
    auto& node = nodes_[pick(nodes_.size())];
    const bool may_go = std::none_of(nodes_.begin(), nodes_.end(), [](const Node& n) { return n.lost; });
    if (may_go && chance(10)) {
      node.lost = true;
      node.up = false;
      for (const auto& [segment, block] : node.blocks)
        hurt_[segment].insert(static_cast<std::size_t>(&node - nodes_.data()));
      node.blocks.clear();
      late_.clear();  // to keep it simple: some were for it
    }
    if (!node.lost) node.up = !node.up || chance(50);
  }
  /// Another copy instead of the lost one, or of any.
  void repair_one() {
    std::vector<SegmentId> ids;
    for (const auto& [id, row] : index_.rows) {
      const auto life = lives_.find(id);
      if (life == lives_.end() || life->second.waiting()) ids.push_back(id);
    }
    if (!ids.empty()) repair(ids[pick(ids.size())]);
  }
  void repair(SegmentId id) {
    const auto copies = index_.rows.at(id).copies;
    auto& life = life_of(id);
    if (life.resting() && life.row().state != SegmentState::sealed) return perform(id, life.finish());
    if (life.row().state != SegmentState::sealed) return;
    NodeId free_one, instead_of = copies[pick(copies.size())].node;
    for (std::uint32_t node = 1; node <= nodes_.size(); ++node) {
      const bool has = std::any_of(copies.begin(), copies.end(),
                                   [&](const auto& copy) { return copy.node == NodeId{node}; });
      if (has && nodes_[node - 1].lost) instead_of = NodeId{node};
      if (!has && !nodes_[node - 1].lost) free_one = NodeId{node};
    }
    if (free_one) perform(id, life.add_copy(free_one, WorkerId{1}, instead_of));
  }
  /// A node's machine: what was not flushed is lost, or the end of it, and the node knows which blocks it may
  /// be.
  void lose_power(std::size_t index) {
    for (auto& [segment, block] : nodes_[index].blocks) {
      if (block.sealed || block.stable) continue;
      const auto pages = (block.length - block.flushed) / 4096;
      const auto lost = 4096 * pick(pages + 1);
      block.length -= lost;
      block.torn = true;
      if (lost > 0) hurt_[segment].insert(index);
    }
  }
  /// It lost what was not flushed, and may be short as long as nobody looked.
  bool is_hurt(SegmentId segment, NodeId node) const {
    const auto hurt = hurt_.find(segment);
    return hurt != hurt_.end() && hurt->second.contains(node.value - 1);
  }
  /// What was placed survives that one of its copies is hurt.
  bool promised(SegmentId segment) const {
    const auto hurt = hurt_.find(segment);
    return hurt == hurt_.end() || hurt->second.size() < 2;
  }
  void retry_all() {
    std::vector<SegmentId> ids;
    for (const auto& [id, life] : lives_) ids.push_back(id);
    for (const auto id : ids) perform(id, lives_.at(id).retry());
  }
  /// The index server stops at once; what it had asked for may still be carried out, or not. With `power`,
  /// what was not synced is lost.
  void crash(bool power) {
    for (auto& pending : pending_) {
      const bool on_node =
          !std::holds_alternative<Persist>(pending.action) && !std::holds_alternative<Erase>(pending.action);
      if (!on_node || !chance(50)) continue;
      std::visit(
          [&](auto& action) {
            if constexpr (std::is_same_v<std::decay_t<decltype(action)>, Free>) {
              free_block(nodes_[action.node.value - 1], pending.segment, action.newest);
            }
            if constexpr (std::is_same_v<std::decay_t<decltype(action)>, Complete>) {
              auto& node = nodes_[action.node.value - 1];
              if (node.up) (void)complete(node, pending.segment, action);
            }
            if constexpr (std::is_same_v<std::decay_t<decltype(action)>, Allocate>) {
              auto& node = nodes_[action.node.value - 1];
              if (node.up) node.blocks[pending.segment] = {action.generation.value, 0, true, false};
            }
          },
          pending.action);
    }
    pending_.clear();
    lives_.clear();
    opening_.clear();
    ++server_life_;
    if (power) {
      const auto last_segment = index_.last_segment;  // is synced before it is used
      index_ = synced_;
      index_.last_segment = last_segment;
      std::erase_if(writers_, [&](const Writer& w) { return !index_.rows.contains(w.segment); });
    }
    synced_ = index_;
    for (const auto& [id, row] : std::map(index_.rows)) {
      perform(id, life_of(id).resume(sessions_.contains(row.session)));
    }
    for (auto& node : nodes_) report(node);
  }
  void report(Node& node) {
    const NodeId id{static_cast<std::uint32_t>(&node - nodes_.data()) + 1};
    if (!node.up) return;
    std::erase_if(node.blocks, [&](const auto& entry) { return !owned(entry.first, id); });
    for (const auto& [segment, block] : std::map(node.blocks)) {
      const auto row = index_.rows.find(segment);
      if (row == index_.rows.end() || row->second.state != SegmentState::sealed || block.sealed) continue;
      perform(segment, life_of(segment).reseal(id));
    }
  }
  bool owned(SegmentId segment, NodeId node) {
    const auto life = lives_.find(segment);
    const auto row = index_.rows.find(segment);
    if (life == lives_.end() && row == index_.rows.end()) return false;
    const auto& copies = life != lives_.end() ? life->second.row().copies : row->second.copies;
    if (life != lives_.end() && life->second.makes_copy_on(node)) return true;
    return std::any_of(copies.begin(), copies.end(), [&](const auto& copy) { return copy.node == node; });
  }

  void settle() {
    settling_ = true;
    for (auto& node : nodes_) node.up = !node.lost;
    while (!late_.empty()) arrive_late();
    for (int round = 0; round < 30; ++round) {
      while (!pending_.empty()) act();
      check_copies();
      if (round >= 12) give_up_lost_node();
      retry_all();
      if (round == 5) {
        sessions_.clear();
        writers_.clear();
        for (const auto& [id, row] : std::map(index_.rows)) {
          if (row.state == SegmentState::open) perform(id, life_of(id).session_died());
        }
      }
      if (round == 10 || round == 25) {  // wanted where something may be left behind
        for (auto& node : nodes_) report(node);
      }
    }
    while (!pending_.empty()) act();
  }

  /// As the index server does it for a node that was removed.
  void give_up_lost_node() {
    for (std::uint32_t node = 1; node <= nodes_.size(); ++node) {
      if (!nodes_[node - 1].lost) continue;
      for (const auto& [id, row] : std::map(index_.rows)) {
        const bool has = std::any_of(row.copies.begin(), row.copies.end(),
                                     [&](const auto& copy) { return copy.node == NodeId{node}; });
        const auto life = lives_.find(id);
        if (has && row.state == SegmentState::freeing)
          perform(id, life_of(id).reported_without(NodeId{node}));
        else if (has && row.state != SegmentState::sealed && life != lives_.end())
          perform(id, life->second.give_up(NodeId{node}));
        else if (has && !is_beyond_repair(id) && (life == lives_.end() || life->second.waiting()))
          repair(id);
      }
    }
  }
  /// The lost node had the only copy that was whole: the other one has what was placed, and what lies behind
  /// that never was.
  bool is_beyond_repair(SegmentId id) {
    const auto& row = index_.rows.at(id);
    return row.state == SegmentState::sealed &&
           std::all_of(row.copies.begin(), row.copies.end(), [&](const auto& copy) {
             const auto& node = nodes_[copy.node.value - 1];
             return node.lost || (node.blocks.contains(id) && node.blocks.at(id).length < row.length);
           });
  }
  /// What was placed is in each copy that a row names, and none is taken away: any of them may become the
  /// last.
  void check_copies() {
    for (const auto& [id, row] : index_.rows) {
      const bool holds = row.state != SegmentState::allocating && row.state != SegmentState::freeing;
      if (!holds || acknowledged_[id] == 0) continue;
      SCOPED_TRACE(id.value);
      EXPECT_EQ(row.copies.size(), 2u);
      std::uint64_t longest = 0;
      for (const auto& copy : row.copies) {
        if (nodes_[copy.node.value - 1].lost) continue;
        const auto& blocks = nodes_[copy.node.value - 1].blocks;
        ASSERT_TRUE(blocks.contains(id)) << "on node " << copy.node.value;
        const bool has_all = blocks.at(id).length >= acknowledged_[id];
        EXPECT_TRUE(has_all || is_hurt(id, copy.node) || !promised(id)) << "on node " << copy.node.value;
        longest = std::max(longest, blocks.at(id).length);
      }
      EXPECT_TRUE(longest >= acknowledged_[id] || !promised(id)) << "what was placed is nowhere";
      const bool one_is_lost = std::any_of(row.copies.begin(), row.copies.end(), [&](const auto& copy) {
        return nodes_[copy.node.value - 1].lost;
      });
      if (row.state != SegmentState::sealed || one_is_lost) continue;
      EXPECT_TRUE(longest >= row.length || !promised(id)) << "one of them is whole";
    }
  }

  void check_at_rest() {
    check_copies();
    EXPECT_TRUE(pending_.empty());
    std::erase_if(lives_, [this](const auto& entry) { return is_beyond_repair(entry.first); });
    EXPECT_TRUE(lives_.empty());
    std::size_t owned_blocks = 0;
    for (const auto& [id, row] : index_.rows) {
      SCOPED_TRACE(id.value);
      EXPECT_TRUE(row.state == SegmentState::sealed || row.state == SegmentState::unfilled)
          << to_string(row.state);
      ASSERT_FALSE(row.copies.empty());
      bool whole = false;
      if (promised(id)) {
        EXPECT_GE(row.length, acknowledged_[id]);
      }
      for (const auto& copy : row.copies) {
        if (is_beyond_repair(id) && nodes_[copy.node.value - 1].lost) continue;
        ++owned_blocks;
        ASSERT_FALSE(nodes_[copy.node.value - 1].lost);
        const auto& blocks = nodes_[copy.node.value - 1].blocks;
        ASSERT_TRUE(blocks.contains(id));
        const bool has_all = blocks.at(id).length >= acknowledged_[id];
        whole = whole || has_all;
        EXPECT_TRUE(has_all || is_hurt(id, copy.node) || !promised(id)) << "node " << copy.node.value;
      }
      EXPECT_TRUE(whole || !promised(id)) << "what was placed is nowhere";
    }
    std::size_t blocks = 0;
    for (const auto& node : nodes_) blocks += node.blocks.size();
    EXPECT_EQ(blocks, owned_blocks) << "a block is leaked";
  }

  std::mt19937_64 random_;
  Index index_, synced_;
  std::array<Node, 3> nodes_;
  std::map<SegmentId, SegmentLife> lives_;
  std::set<SegmentId> opening_;
  std::deque<Pending> pending_;
  std::vector<std::function<void()>> late_;
  std::vector<Writer> writers_;
  std::set<SessionId> sessions_;
  std::set<SegmentId> deleted_;
  std::set<std::pair<SegmentId, Generation>> grants_;
  std::map<SegmentId, std::uint64_t> acknowledged_;
  std::map<SegmentId, std::set<std::size_t>> hurt_;  // nodes whose copy lost something
  std::uint64_t last_session_ = 0;
  std::uint64_t server_life_ = 1;
  bool settling_ = false;
};

TEST(SegmentLife, NothingLeaksAndNothingAcknowledgedIsLostWhateverHappens) {
  for (std::uint64_t seed = 1; seed <= 1500; ++seed) {
    SCOPED_TRACE(seed);
    World(seed).run();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace reelfs::indexd
