#include "indexd/locks/lock_table.h"

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

using Outcome = LockTable::Outcome;

constexpr InodeId kFile{7};
constexpr InodeId kOther{8};

/// The table, and the rows that result from what it says: an image of what is held.
class Tables : public ::testing::Test {
 protected:
  void SetUp() override {
    for (std::uint64_t session = 1; session <= 3; ++session) begin_session(SessionId{session});
  }

  void begin_session(SessionId session) {
    apply(table_.assert_locks(session, ++assertions_[session], {}).effect);
  }

  static Lock make(std::uint64_t session, std::uint64_t owner, LockType type, ByteRange range,
                   LockKind kind = LockKind::posix, InodeId inode = kFile) {
    return {inode, {kind, SessionId{session}, owner}, range, type, 42};
  }

  std::vector<WaitId> apply(const LockTable::Effect& effect) {
    for (const auto& change : effect.changes) {
      if (change.row) {
        rows_[change.key] = *change.row;
      } else {
        rows_.erase(change.key);
      }
    }
    granted_.insert(effect.granted.begin(), effect.granted.end());
    return effect.granted;
  }

  Outcome set(const Lock& lock, std::uint64_t wait = 0) {
    LockTable::Request request;
    request.lock = lock;
    request.wait = wait;
    return ask(request);
  }
  void unlock(const Lock& lock) {
    LockTable::Request request;
    request.lock = lock;
    request.unlock = true;
    EXPECT_EQ(ask(request), Outcome::granted);
  }
  Outcome ask(LockTable::Request request) {
    request.assertion = assertions_[request.lock.owner.session];
    auto answer = table_.set(request);
    EXPECT_TRUE(answer) << answer.error().describe();
    apply(answer.value().effect);
    return answer.value().outcome;
  }
  bool was_granted(std::uint64_t session, std::uint64_t wait) const {
    return granted_.contains(WaitId{SessionId{session}, wait});
  }
  std::optional<Lock> test(const Lock& wanted) {
    return table_.test(wanted, assertions_[wanted.owner.session]).value();
  }

  /// What is held, from the table itself.
  std::map<LockKey, LockRow> held() const {
    std::map<LockKey, LockRow> all;
    for (const auto& [lock, waiting] : table_.list(InodeId{}, SIZE_MAX)) {
      if (waiting) continue;
      const LockKey key{lock.inode, lock.owner.kind, lock.owner.session, lock.owner.id, lock.range.first};
      all[key] = {lock.range.last, lock.type, lock.pid};
    }
    return all;
  }
  /// Begins again from the rows.
  void restart(LockTable::Loss loss, std::set<std::uint64_t> sessions) {
    table_ = LockTable();
    for (const auto session : sessions) table_.load(SessionId{session});
    for (const auto& [key, row] : rows_) table_.load(key, row);
    apply(table_.begin(loss));
  }

  LockTable table_;
  std::map<LockKey, LockRow> rows_;
  std::set<WaitId> granted_;
  std::map<SessionId, std::uint64_t> assertions_;
};

// ---- the model: a byte array for each owner

constexpr std::size_t kBytes = 40;
struct ModelOwner {
  std::uint64_t session = 0;
  std::uint64_t id = 0;
  std::array<int, kBytes> bytes{};  // 0: free, else a LockType
};

class Model {
 public:
  ModelOwner& owner(const Lock& lock) {
    for (auto& owner : owners_) {
      if (owner.session == lock.owner.session.value && owner.id == lock.owner.id) return owner;
    }
    owners_.push_back({lock.owner.session.value, lock.owner.id, {}});
    return owners_.back();
  }
  bool blocked(const Lock& lock) {
    const auto& mine = owner(lock);
    for (const auto& other : owners_) {
      if (&other == &mine) continue;
      for (auto at = lock.range.first; at <= lock.range.last; ++at) {
        if (other.bytes[at] != 0 && conflict(static_cast<LockType>(other.bytes[at]), lock.type)) return true;
      }
    }
    return false;
  }
  void set(const Lock& lock, int to) {
    auto& bytes = owner(lock).bytes;
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(lock.range.first),
              bytes.begin() + static_cast<std::ptrdiff_t>(lock.range.last) + 1, to);
  }
  void drop(std::uint64_t session) {
    std::erase_if(owners_, [session](const auto& owner) { return owner.session == session; });
  }
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::size_t>, int> bytes() const {
    std::map<std::tuple<std::uint64_t, std::uint64_t, std::size_t>, int> all;
    for (const auto& owner : owners_) {
      for (std::size_t at = 0; at < kBytes; ++at) {
        if (owner.bytes[at] != 0) all[{owner.session, owner.id, at}] = owner.bytes[at];
      }
    }
    return all;
  }

 private:
  std::vector<ModelOwner> owners_;
};

TEST_F(Tables, DoesWhatByteArraysDo) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    table_ = LockTable();
    rows_.clear();
    assertions_.clear();
    SetUp();
    Model model;
    std::vector<std::pair<std::uint64_t, Lock>> waiting;  // in order
    std::uint64_t last_wait = 0;
    std::mt19937_64 random(seed);
    const auto below = [&random](std::uint64_t limit) { return random() % limit; };
    const auto serve = [&] {
      for (bool again = true; again;) {
        again = false;
        for (auto at = waiting.begin(); at != waiting.end(); ++at) {
          if (model.blocked(at->second)) continue;
          model.set(at->second, static_cast<int>(at->second.type));
          EXPECT_TRUE(was_granted(at->second.owner.session.value, at->first));
          waiting.erase(at);
          again = true;
          break;
        }
      }
    };
    for (int step = 0; step < 400; ++step) {
      const auto first = below(kBytes);
      const auto last = first + below(kBytes - first);
      auto lock =
          make(1 + below(3), below(3), below(2) == 0 ? LockType::read : LockType::write, {first, last});
      switch (below(10)) {
        case 0: {  // a mount dies and comes back
          const auto session = lock.owner.session;
          std::erase_if(waiting,
                        [session](const auto& wait) { return wait.second.owner.session == session; });
          model.drop(session.value);
          apply(table_.end(session));
          begin_session(session);
          serve();
          break;
        }
        case 1:
        case 2:
        case 3:
          unlock(lock);
          model.set(lock, 0);
          serve();
          break;
        case 4: {
          const auto blocking = test(lock);
          EXPECT_EQ(blocking.has_value(), model.blocked(lock));
          break;
        }
        case 5: {  // waits, unless that would be for ever
          const auto wait = ++last_wait;
          const bool blocked = model.blocked(lock);
          const auto outcome = set(lock, wait);
          if (!blocked) {
            EXPECT_EQ(outcome, Outcome::granted);
            model.set(lock, static_cast<int>(lock.type));
            serve();
          } else if (outcome == Outcome::waiting) {
            waiting.emplace_back(wait, lock);
          } else {
            EXPECT_EQ(outcome, Outcome::deadlock);
          }
          break;
        }
        default: {
          const bool blocked = model.blocked(lock);
          EXPECT_EQ(set(lock), blocked ? Outcome::refused : Outcome::granted);
          if (!blocked) {
            model.set(lock, static_cast<int>(lock.type));
            serve();
          }
        }
      }
      // The same bytes, in pieces that do not touch where they are of one type.
      std::map<std::tuple<std::uint64_t, std::uint64_t, std::size_t>, int> bytes;
      const LockKey* before = nullptr;
      const LockRow* row_before = nullptr;
      const auto all = held();
      for (const auto& [key, row] : all) {
        for (auto at = key.first; at <= row.last; ++at)
          bytes[{key.session.value, key.owner, at}] = static_cast<int>(row.type);
        if (before != nullptr && before->session == key.session && before->owner == key.owner) {
          EXPECT_LT(row_before->last, key.first);
          EXPECT_FALSE(row_before->last + 1 == key.first && row_before->type == row.type);
        }
        before = &key;
        row_before = &row;
      }
      ASSERT_EQ(bytes, model.bytes()) << "step " << step;
      ASSERT_EQ(rows_, all) << "step " << step;
      ASSERT_EQ(table_.held(), all.size());
      ASSERT_EQ(table_.waiting(), waiting.size());
    }
  }
}

// ---- fcntl

TEST_F(Tables, ReadersShareAndAWriterIsAlone) {
  EXPECT_EQ(set(make(1, 1, LockType::read, kWholeFile)), Outcome::granted);
  EXPECT_EQ(set(make(2, 1, LockType::read, kWholeFile)), Outcome::granted);
  EXPECT_EQ(set(make(3, 1, LockType::write, {5, 5})), Outcome::refused);
  EXPECT_EQ(set(make(1, 1, LockType::write, {5, 5})), Outcome::refused);  // an upgrade
  unlock(make(2, 1, LockType::read, {5, kLastByte}));
  EXPECT_EQ(set(make(1, 1, LockType::write, {5, 5})), Outcome::granted);
  const auto blocking = test(make(2, 1, LockType::read, {0, 100}));
  ASSERT_TRUE(blocking);
  EXPECT_EQ(blocking->range, (ByteRange{5, 5}));
  EXPECT_EQ(blocking->pid, 42U);
}

TEST_F(Tables, AnUpgradeThatFailsKeepsTheOldLock) {
  set(make(1, 1, LockType::read, {0, 9}));
  set(make(2, 1, LockType::read, {0, 9}));
  EXPECT_EQ(set(make(1, 1, LockType::write, {0, 9})), Outcome::refused);
  EXPECT_EQ(set(make(3, 1, LockType::write, {0, 9})), Outcome::refused);
  unlock(make(2, 1, LockType::read, {0, 9}));
  EXPECT_EQ(set(make(3, 1, LockType::write, {0, 9})), Outcome::refused);
}

TEST_F(Tables, TheNextInLineGetsWhatIsUnlocked) {
  set(make(1, 1, LockType::write, {0, 9}));
  EXPECT_EQ(set(make(2, 1, LockType::write, {0, 4}), 1), Outcome::waiting);
  EXPECT_EQ(set(make(3, 1, LockType::write, {0, 9}), 1), Outcome::waiting);
  EXPECT_EQ(set(make(2, 1, LockType::write, {0, 4}), 1), Outcome::waiting);  // asked again: the same wait
  EXPECT_EQ(table_.waiting(), 2U);
  unlock(make(1, 1, LockType::write, {0, 9}));
  EXPECT_TRUE(was_granted(2, 1));
  EXPECT_FALSE(was_granted(3, 1));
  EXPECT_EQ(set(make(2, 1, LockType::write, {0, 4}), 1), Outcome::granted);  // told again
  unlock(make(2, 1, LockType::write, {0, 4}));
  EXPECT_TRUE(was_granted(3, 1));
}

TEST_F(Tables, ACircleOfWaitsIsRefused) {
  set(make(1, 1, LockType::write, {0, 0}));
  set(make(2, 1, LockType::write, {1, 1}));
  set(make(3, 1, LockType::write, {2, 2}, LockKind::posix, kOther));
  EXPECT_EQ(set(make(1, 1, LockType::write, {1, 1}), 1), Outcome::waiting);
  EXPECT_EQ(set(make(2, 1, LockType::read, {2, 2}, LockKind::posix, kOther), 1), Outcome::waiting);
  EXPECT_EQ(set(make(3, 1, LockType::read, {0, 0}), 1), Outcome::deadlock);
  EXPECT_EQ(set(make(3, 2, LockType::read, {0, 0}), 2), Outcome::waiting);  // another owner may wait
  EXPECT_EQ(table_.waiting(), 3U);
  unlock(make(3, 1, LockType::write, {2, 2}, LockKind::posix, kOther));
  EXPECT_TRUE(was_granted(2, 1));
}

TEST_F(Tables, ACancelledWaitEndsOrTellsThatItWasServed) {
  set(make(1, 1, LockType::write, {0, 9}));
  set(make(2, 1, LockType::write, {0, 9}), 1);
  EXPECT_EQ(table_.cancel({SessionId{2}, 1}, assertions_[SessionId{2}]).value(), LockTable::Wait::ended);
  unlock(make(1, 1, LockType::write, {0, 9}));
  EXPECT_FALSE(was_granted(2, 1));
  EXPECT_TRUE(held().empty());
  set(make(1, 1, LockType::write, {0, 9}));
  set(make(2, 1, LockType::write, {0, 9}), 2);
  unlock(make(1, 1, LockType::write, {0, 9}));
  EXPECT_EQ(table_.cancel({SessionId{2}, 2}, assertions_[SessionId{2}]).value(),
            LockTable::Wait::had_been_granted);
  EXPECT_EQ(table_.cancel({SessionId{2}, 2}, assertions_[SessionId{2}]).value(), LockTable::Wait::ended);
  // One that was granted at once, too, until it is settled.
  EXPECT_EQ(set(make(2, 1, LockType::read, {20, 29}), 3), Outcome::granted);
  LockTable::Request later;
  later.lock = make(2, 1, LockType::read, {30, 39});
  later.settled_below = 4;
  EXPECT_EQ(ask(later), Outcome::granted);
  EXPECT_EQ(table_.cancel({SessionId{2}, 3}, assertions_[SessionId{2}]).value(), LockTable::Wait::ended);
}

// ---- flock

TEST_F(Tables, KindsDoNotSeeEachOther) {
  EXPECT_EQ(set(make(1, 1, LockType::write, kWholeFile, LockKind::flock)), Outcome::granted);
  EXPECT_EQ(set(make(2, 1, LockType::write, kWholeFile, LockKind::posix)), Outcome::granted);
  EXPECT_EQ(set(make(2, 1, LockType::read, kWholeFile, LockKind::flock)), Outcome::refused);
}

TEST_F(Tables, AConversionOfAnFlockGivesTheOldOneUp) {
  set(make(1, 1, LockType::read, kWholeFile, LockKind::flock));
  set(make(2, 1, LockType::read, kWholeFile, LockKind::flock));
  EXPECT_EQ(set(make(1, 1, LockType::write, kWholeFile, LockKind::flock)), Outcome::refused);
  EXPECT_EQ(set(make(2, 1, LockType::write, kWholeFile, LockKind::flock)), Outcome::granted);
  EXPECT_EQ(rows_, held());
  // Two who convert at once do not wait for each other.
  unlock(make(2, 1, LockType::write, kWholeFile, LockKind::flock));
  set(make(1, 1, LockType::read, kWholeFile, LockKind::flock));
  set(make(2, 1, LockType::read, kWholeFile, LockKind::flock));
  EXPECT_EQ(set(make(1, 1, LockType::write, kWholeFile, LockKind::flock), 1), Outcome::waiting);
  EXPECT_EQ(set(make(2, 1, LockType::write, kWholeFile, LockKind::flock), 1), Outcome::waiting);
  EXPECT_TRUE(was_granted(1, 1));
  EXPECT_EQ(rows_, held());
}

// ---- sessions

TEST_F(Tables, TheEndOfASessionServesThoseWhoWait) {
  set(make(1, 1, LockType::write, {0, 9}));
  set(make(1, 2, LockType::write, kWholeFile, LockKind::flock, kOther));
  set(make(2, 1, LockType::read, {3, 3}), 1);
  set(make(1, 3, LockType::read, {0, 9}), 1);
  apply(table_.end(SessionId{1}));
  EXPECT_TRUE(was_granted(2, 1));
  EXPECT_FALSE(was_granted(1, 1));
  EXPECT_EQ(held().size(), 1U);
  EXPECT_EQ(rows_, held());
  EXPECT_EQ(table_.waiting(), 0U);
  LockTable::Request late;
  late.lock = make(1, 1, LockType::read, {50, 50});
  late.assertion = assertions_[SessionId{1}];
  EXPECT_EQ(table_.set(late).error().code(), Errc::no_session);
}

TEST_F(Tables, WhatASessionDoesNotAssertIsUnlocked) {
  const auto kept = make(1, 1, LockType::write, {0, 9});
  set(kept);
  set(make(1, 1, LockType::write, {20, 29}));  // the answer was lost
  set(make(2, 1, LockType::write, {20, 29}), 1);
  set(make(1, 1, LockType::read, {60, 69}), 9);
  LockTable::Request late;
  late.lock = make(1, 1, LockType::write, {40, 49});
  late.assertion = assertions_[SessionId{1}];
  const auto asserted = table_.assert_locks(SessionId{1}, ++assertions_[SessionId{1}], {&kept, 1});
  apply(asserted.effect);
  EXPECT_TRUE(asserted.lost.empty());
  EXPECT_TRUE(was_granted(2, 1));
  EXPECT_EQ(held().size(), 2U);
  EXPECT_EQ(rows_, held());
  // What was on its way is not carried out any more, and nothing granted before counts.
  EXPECT_EQ(table_.set(late).error().code(), Errc::no_session);
  EXPECT_EQ(table_.cancel({SessionId{1}, 9}, assertions_[SessionId{1}]).value(), LockTable::Wait::ended);
}

TEST_F(Tables, LocksHoldOverARestartBeforeTheirSessionIsHeard) {
  const auto lock = make(1, 1, LockType::write, {0, 9});
  set(lock);
  set(make(3, 1, LockType::write, {50, 59}));
  restart(LockTable::Loss::none, {1, 2});
  EXPECT_EQ(held().size(), 1U);  // a session that is not there any more holds nothing
  EXPECT_EQ(rows_, held());
  begin_session(SessionId{2});
  EXPECT_EQ(set(make(2, 1, LockType::write, {0, 0})), Outcome::refused);
  EXPECT_EQ(set(make(2, 1, LockType::write, {10, 19})), Outcome::granted);
  LockTable::Request early;
  early.lock = make(1, 1, LockType::read, {80, 89});
  early.assertion = assertions_[SessionId{1}];
  EXPECT_EQ(table_.set(early).error().code(), Errc::no_session);
  EXPECT_TRUE(table_.assert_locks(SessionId{1}, ++assertions_[SessionId{1}], {&lock, 1}).lost.empty());
}

TEST_F(Tables, WhereRowsMayBeMissingNobodyGetsALockBeforeAllAreHeard) {
  const auto stale = make(1, 1, LockType::write, {0, 9});
  set(stale);
  restart(LockTable::Loss::possible, {1, 2, 3});
  // 1 had unlocked it, and 2 had locked it then: both were forgotten.
  const auto newer = make(2, 1, LockType::write, {0, 4});
  auto asserted = table_.assert_locks(SessionId{2}, ++assertions_[SessionId{2}], {&newer, 1});
  apply(asserted.effect);
  EXPECT_TRUE(asserted.lost.empty());
  EXPECT_FALSE(asserted.effect.grace_ended);
  EXPECT_EQ(set(make(2, 1, LockType::read, {30, 39})), Outcome::grace);
  EXPECT_EQ(set(make(2, 1, LockType::read, {30, 39}), 1), Outcome::waiting);
  EXPECT_EQ(rows_, held());
  apply(table_.assert_locks(SessionId{1}, ++assertions_[SessionId{1}], {}).effect);
  EXPECT_FALSE(was_granted(2, 1));
  const auto ended = table_.end(SessionId{3});
  EXPECT_TRUE(ended.grace_ended);
  apply(ended);
  EXPECT_TRUE(was_granted(2, 1));
  EXPECT_EQ(held().size(), 2U);
  EXPECT_EQ(rows_, held());
}

TEST_F(Tables, ALockThatAnotherHasMeanwhileIsLost) {
  set(make(2, 1, LockType::write, {5, 5}));
  const std::array<Lock, 2> held_before{make(1, 1, LockType::write, {0, 3}),
                                        make(1, 1, LockType::read, {4, 9})};
  const auto asserted = table_.assert_locks(SessionId{1}, ++assertions_[SessionId{1}], held_before);
  apply(asserted.effect);
  ASSERT_EQ(asserted.lost.size(), 1U);
  EXPECT_EQ(asserted.lost.front(), held_before.back());
  EXPECT_EQ(rows_, held());
}

TEST_F(Tables, OneSessionCannotHaveLocksWithoutEnd) {
  for (std::uint64_t number = 0; number < LockTable::kMaxLocks; ++number) {
    ASSERT_EQ(set(make(1, 1, LockType::read, {2 * number, 2 * number})), Outcome::granted);
  }
  EXPECT_EQ(set(make(1, 1, LockType::read, {500'000, 500'000})), Outcome::too_many);
  EXPECT_EQ(set(make(2, 1, LockType::read, {500'000, 500'000})), Outcome::granted);
}

}  // namespace
}  // namespace reelfs::indexd
