#include "indexd/schema/transaction.h"

#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "indexd/schema/store.h"
#include "indexd/schema/view.h"
#include "tests/unit/indexd/temp_directory.h"

namespace reelfs::indexd {
namespace {

using Model = std::map<std::uint64_t, std::uint64_t>;  // file offset to length, of inode 5

class TransactionTest : public ::testing::Test {
 protected:
  TransactionTest() {
    Store::Options options;
    options.directory = directory_.path() / "rocksdb";
    options.cache_bytes = 1 << 20;
    store_ = Store::open(options).value();
  }
  static ExtentKey key(std::uint64_t offset) { return {InodeId{5}, offset}; }
  static ExtentRow row(std::uint64_t length) {
    return {.length = length, .segment = {}, .record_offset = 0, .payload_offset = 0};
  }

  static std::vector<std::pair<std::uint64_t, std::uint64_t>> scan(const Reader& reader, std::uint64_t from,
                                                                   std::uint64_t upto, bool back) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> found;
    const auto visit = [&](const ExtentKey& at, const ExtentRow& found_row) {
      found.emplace_back(at.file_offset, found_row.length);
      return true;
    };
    EXPECT_TRUE(back ? reader.scan_back(key(from), key(upto), visit)
                     : reader.scan(key(from), key(upto), visit));
    return found;
  }
  static void expect_same(const Reader& reader, const Model& model, std::uint64_t from, std::uint64_t upto) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> expected;
    for (const auto& item : model) {
      if (item.first >= from && item.first < upto) expected.push_back(item);
    }
    EXPECT_EQ(scan(reader, from, upto, false), expected);
    std::reverse(expected.begin(), expected.end());
    EXPECT_EQ(scan(reader, from, upto, true), expected);
  }

  testing::TempDirectory directory_;
  std::unique_ptr<Store> store_;
};

TEST_F(TransactionTest, ReadsAndScansSeeItsOwnChangesMergedWithTheStore) {
  std::mt19937_64 random(20251122);
  Model model;  // with the transaction's changes
  Transaction txn(*store_);
  // Neighbours that no scan may touch.
  txn.put(ExtentKey{InodeId{4}, ~0ULL}, row(1));
  txn.put(ExtentKey{InodeId{6}, 0}, row(1));
  std::uint64_t index = 0;
  for (int step = 0; step < 4000; ++step) {
    Model before = model;
    const bool keeps = random() % 4 != 0;
    for (auto changes = random() % 4 + 1; changes > 0; --changes) {
      const auto offset = random() % 64;
      if (random() % 3 == 0) {
        txn.erase(key(offset));
        model.erase(offset);
      } else {
        txn.put(key(offset), row(step));
        model[offset] = static_cast<std::uint64_t>(step);
      }
    }
    const auto from = random() % 64;
    const auto upto = random() % 65;
    expect_same(txn, model, from, upto);
    if (keeps) {
      EXPECT_FALSE(txn.keep().empty());
    } else {
      txn.undo();
      model = before;
      expect_same(txn, model, from, upto);
    }
    if (random() % 16 == 0) {
      ASSERT_TRUE(store_->apply(txn, {.epoch = Epoch{1}, .index = ++index}));
      expect_same(store_->view(), model, from, upto);
    }
    const auto found = txn.find(key(from));
    ASSERT_TRUE(found);
    EXPECT_EQ(found.value().has_value(), model.contains(from));
    ASSERT_FALSE(HasFailure()) << "step " << step;
  }
}

TEST_F(TransactionTest, ItsChangesAppliedElsewhereGiveTheSame) {
  Transaction txn(*store_);
  txn.put(key(1), row(1));
  txn.put(key(2), row(2));
  txn.put(key(1), row(3));
  txn.erase(key(2));
  const auto changes = txn.keep();
  ASSERT_TRUE(store_->apply(changes, {.epoch = Epoch{1}, .index = 1}));
  EXPECT_EQ(scan(store_->view(), 0, 10, false),
            (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{1, 3}}));
  EXPECT_EQ(store_->position(), (JournalPosition{.epoch = Epoch{1}, .index = 1}));
  EXPECT_FALSE(store_->apply("nonsense", {.epoch = Epoch{1}, .index = 2}));
}

TEST_F(TransactionTest, CountersStartAfterWhatIsFixed) {
  Transaction txn(*store_);
  EXPECT_EQ(txn.next(Counter::inode).value(), 2U);
  EXPECT_EQ(txn.next(Counter::inode).value(), 3U);
  EXPECT_EQ(txn.next(Counter::segment).value(), 1U);
}

TEST_F(TransactionTest, AViewStaysAsItWas) {
  Transaction txn(*store_);
  txn.put(key(1), row(1));
  ASSERT_TRUE(store_->apply(txn, {.epoch = Epoch{1}, .index = 1}));
  const auto view = store_->view();
  txn.erase(key(1));
  ASSERT_TRUE(store_->apply(txn, {.epoch = Epoch{1}, .index = 2}));
  EXPECT_TRUE(view.has(key(1)).value());
  EXPECT_FALSE(store_->view().has(key(1)).value());
}

TEST_F(TransactionTest, OnlyWhatWasFlushedIsPersisted) {
  Transaction txn(*store_);
  txn.put(key(1), row(1));
  ASSERT_TRUE(store_->apply(txn, {.epoch = Epoch{1}, .index = 1}));
  EXPECT_EQ(store_->persisted().value().index, 0U);
  ASSERT_TRUE(store_->flush());
  EXPECT_EQ(store_->persisted().value().index, 1U);
  txn.put(key(2), row(2));
  ASSERT_TRUE(store_->apply(txn, {.epoch = Epoch{1}, .index = 2}));
  EXPECT_EQ(store_->persisted().value().index, 1U);
  EXPECT_EQ(store_->position().index, 2U);
}

TEST_F(TransactionTest, ADamagedRowIsAnError) {
  std::string changes(1, '\1');
  const auto bytes = encode_key(key(1));
  changes += '\1';
  changes += std::string("\x11\0\0\0", 4) + bytes + std::string("\3\0\0\0bad", 7);
  ASSERT_TRUE(store_->apply(changes, {.epoch = Epoch{1}, .index = 1}));
  const auto found = store_->view().find(key(1));
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code(), Errc::corrupt);
  const auto scanned =
      store_->view().scan(key(0), key(9), [](const ExtentKey&, const ExtentRow&) { return true; });
  ASSERT_FALSE(scanned);
  EXPECT_EQ(scanned.error().code(), Errc::corrupt);
}

}  // namespace
}  // namespace reelfs::indexd
