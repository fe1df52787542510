#include "indexd/segments/life.h"

#include <deque>
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
  const auto seals = all_of<Seal>(actions);
  ASSERT_EQ(seals.size(), 2u);
  EXPECT_EQ(seals.at(0).length, 4096u) << "it is closed where it ends";
  EXPECT_EQ(seals.at(1).length, 12288u);
  EXPECT_TRUE(life.sealed(NodeId{1}, ok()).empty());
  EXPECT_TRUE(life.sealed(NodeId{2}, ok()).empty());
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().copies.size(), 2u);
}

TEST(SegmentLife, ACopyThatIsBehindWhenItsNodeIsBackStaysACopy) {
  auto life = opened();
  store(life, life.close({SessionId{3}, Generation{1}, 8192, true}));
  life.fenced(NodeId{1}, Error(Errc::unavailable));
  store(life, life.fenced(NodeId{2}, 16384));
  life.sealed(NodeId{2}, ok());
  life.retry();
  auto actions = life.fenced(NodeId{1}, 12288);  // of the last record only node 2 had heard
  ASSERT_EQ(all_of<Seal>(actions).size(), 1u);
  EXPECT_EQ(all_of<Seal>(actions).at(0).length, 12288u);
  actions = life.sealed(NodeId{1}, ok());
  EXPECT_TRUE(all_of<Free>(actions).empty()) << "it has what was placed, and may become the last one";
  EXPECT_TRUE(all_of<Persist>(actions).empty());
  EXPECT_TRUE(life.resting());
  EXPECT_EQ(life.row().copies.size(), 2u);
  // Its node lists it again, as shorter than the row.
  life.reseal(NodeId{1});
  actions = life.fenced(NodeId{1}, 12288);
  EXPECT_EQ(all_of<Seal>(actions).at(0).length, 12288u);
  life.sealed(NodeId{1}, ok());
  EXPECT_TRUE(life.resting());
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

/// An index that forgets what was not synced, nodes that fail and come back, writers that append as they
/// please. Whatever happens, each copy that a row names has what was acknowledged, no two writers have one
/// grant, and in the end no block is leaked or doubly owned.
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
    if (what < 92) return toggle_node();
    if (what < 96) return retry_all();
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
    Result<R> result = f(node);
    if (!settling_ && chance(5)) return Error(Errc::timed_out);
    return result;
  }
  void carry_out(SegmentId segment, Allocate& action, bool) {
    auto place = call<BlockPlace>(action.node, [&](Node& node) -> Result<BlockPlace> {
      auto& block = node.blocks[segment];  // one that a forgotten life took is taken over
      if (block.generation > action.generation.value) return Error(Errc::stale_generation);
      block = {action.generation.value, 0, true, false};
      return BlockPlace{DeviceId{1}, static_cast<std::uint32_t>(segment.value)};
    });
    perform(segment, lives_.at(segment).allocated(action.node, std::move(place)));
  }
  void carry_out(SegmentId segment, Fence& action, bool) {
    auto fenced = call<FencedCopy>(action.node, [&](Node& node) -> Result<FencedCopy> {
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
    auto result = call<int>(action.node, [&](Node& node) -> Result<int> {
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
    auto result = call<int>(action.node, [&](Node& node) -> Result<int> {
      node.blocks.erase(segment);
      return 0;
    });
    Result<void> outcome = ok();
    if (!result) outcome = result.error();
    if (!lost) perform(segment, lives_.at(segment).freed(action.node, std::move(outcome)));
  }
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
    node.up = !node.up || chance(50);
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
              nodes_[action.node.value - 1].blocks.erase(pending.segment);
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
      index_ = synced_;
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
    return std::any_of(copies.begin(), copies.end(), [&](const auto& copy) { return copy.node == node; });
  }

  void settle() {
    settling_ = true;
    for (auto& node : nodes_) node.up = true;
    for (int round = 0; round < 20; ++round) {
      while (!pending_.empty()) act();
      retry_all();
      if (round == 5) {
        sessions_.clear();
        writers_.clear();
        for (const auto& [id, row] : std::map(index_.rows)) {
          if (row.state == SegmentState::open) perform(id, life_of(id).session_died());
        }
      }
      if (round == 10) {
        for (auto& node : nodes_) report(node);
      }
    }
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
        const auto& blocks = nodes_[copy.node.value - 1].blocks;
        ASSERT_TRUE(blocks.contains(id)) << "on node " << copy.node.value;
        const bool has_all = blocks.at(id).length >= acknowledged_[id];
        EXPECT_TRUE(has_all || is_hurt(id, copy.node) || !promised(id)) << "on node " << copy.node.value;
        longest = std::max(longest, blocks.at(id).length);
      }
      EXPECT_TRUE(longest >= acknowledged_[id] || !promised(id)) << "what was placed is nowhere";
      if (row.state != SegmentState::sealed) continue;
      EXPECT_TRUE(longest >= row.length || !promised(id)) << "one of them is whole";
    }
  }

  void check_at_rest() {
    check_copies();
    EXPECT_TRUE(pending_.empty());
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
        ++owned_blocks;
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
