#include "indexd/retention/victims.h"

#include <algorithm>
#include <map>
#include <random>

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd {
namespace {

class VictimsTest : public tree::TreeTest {
 protected:
  VictimsTest() { make_segment(1); }

  Victims take(const VictimsWanted& wanted) {
    return run([&] { return remove_victims(*txn_, wanted, now_); }).value();
  }
  VictimsWanted bytes(std::uint64_t count) const {
    VictimsWanted wanted;
    wanted.channel = cam1_;
    wanted.bytes = count;
    wanted.young_from_ns = now_ + 1'000'000;
    return wanted;
  }
  InodeId record(const std::string& name, std::uint64_t length) {
    const auto inode = make(cam1_, name);
    if (length > 0) {
      EXPECT_TRUE(put(inode, {extent(0, length, 1)}));
    }
    return inode;
  }
};

TEST_F(VictimsTest, TheOldestGoUntilItIsEnough) {
  const auto first = record("first", 100), second = record("second", 100);
  record("third", 100);
  const auto gone = take(bytes(101));
  ASSERT_EQ(gone.victims.size(), 2u);
  EXPECT_EQ(gone.bytes, 200u);
  EXPECT_EQ(gone.victims[0].inode, first);
  EXPECT_EQ(gone.victims[0].path, "cam1/first");
  EXPECT_EQ(gone.victims[1].inode, second);
  EXPECT_TRUE(gone.victims[1].removed.orphan);
  EXPECT_FALSE(gone.more);
}

TEST_F(VictimsTest, AFileWithSeveralNamesLosesAllOfThem) {
  const auto file = record("file", 100);
  ASSERT_TRUE(add_link(file, cam1_, "link"));
  const auto gone = take(bytes(1));
  ASSERT_EQ(gone.victims.size(), 1u);
  EXPECT_EQ(gone.victims[0].removed.names.size(), 2u);
  EXPECT_EQ(row(file).nlink, 0u);
}

TEST_F(VictimsTest, NewBytesMakeAFileYoung) {
  const auto first = record("first", 100), second = record("second", 100);
  ASSERT_TRUE(put(first, {extent(100, 50, 1, 4096)}));
  const auto gone = take(bytes(1));
  ASSERT_EQ(gone.victims.size(), 1u);
  EXPECT_EQ(gone.victims[0].inode, second);
}

/// What goes, of a channel of a thousand: as a plain list says.
TEST_F(VictimsTest, AreThoseOfAPlainModel) {
  struct Known {
    InodeId inode;
    WallNs last_ns = 0;
    std::uint64_t bytes = 0;
  };
  std::mt19937_64 dice(3);
  std::vector<Known> known;
  std::uint64_t names = 0;
  std::uint32_t place = 0;
  for (int round = 0; round < 400; ++round) {
    for (auto count = dice() % 4; count > 0; --count) {
      const auto length = dice() % 3 == 0 ? 0 : 1 + dice() % 1000;
      const auto inode = record(std::to_string(++names), length);
      known.push_back({inode, row(inode).last_ns, length});
    }
    if (!known.empty() && dice() % 2 == 0) {
      auto& grown = known[dice() % known.size()];
      ASSERT_TRUE(put(grown.inode, {extent(1'000'000, 10, 1, ++place * 4096)}));
      grown.bytes = row(grown.inode).stored_bytes;
      grown.last_ns = row(grown.inode).last_ns;
    }
    if (dice() % 3 != 0) continue;
    VictimsWanted wanted = bytes(dice() % 3000);
    wanted.young_from_ns = now_ - static_cast<WallNs>(dice() % 40);
    if (dice() % 3 == 0) wanted.older_than_ns = now_ - static_cast<WallNs>(dice() % 200);
    for (const auto& each : known) {
      if (dice() % 10 == 0) wanted.being_written.insert(each.inode);
    }
    std::sort(known.begin(), known.end(),
              [](const Known& a, const Known& b) { return a.last_ns < b.last_ns; });
    std::vector<InodeId> expected;
    std::uint64_t freed = 0;
    for (const auto& each : known) {
      const bool is_too_old = wanted.older_than_ns && each.last_ns < *wanted.older_than_ns;
      const bool may_go = each.last_ns < wanted.young_from_ns && !wanted.being_written.contains(each.inode);
      const bool must_go = is_too_old || (freed < wanted.bytes && each.bytes > 0);
      if (!may_go || !must_go || expected.size() == 64) continue;
      expected.push_back(each.inode);
      freed += each.bytes;
    }
    const auto gone = take(wanted);
    std::vector<InodeId> went;
    for (const auto& victim : gone.victims) went.push_back(victim.inode);
    ASSERT_EQ(went, expected) << "round " << round;
    EXPECT_EQ(gone.bytes, freed);
    std::erase_if(known, [&](const Known& each) {
      return std::find(went.begin(), went.end(), each.inode) != went.end();
    });
    expect_sound();
  }
}

}  // namespace
}  // namespace reelfs::indexd
