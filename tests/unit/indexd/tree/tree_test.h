#pragma once

#include <memory>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/base/units.h"
#include "indexd/schema/store.h"
#include "indexd/schema/transaction.h"
#include "indexd/schema/view.h"
#include "indexd/tree/answers.h"
#include "indexd/tree/attributes.h"
#include "indexd/tree/audit.h"
#include "indexd/tree/extents.h"
#include "indexd/tree/names.h"
#include "tests/unit/indexd/temp_directory.h"

namespace reelfs::indexd::tree {

/// The code of an error, or none: for comparing outcomes.
template <class T>
std::optional<Errc> code(const Result<T>& result) {
  return result ? std::nullopt : std::optional(result.error().code());
}

/// A store with a root, channels cam1 and cam2, and a transaction. Whatever a test did, the audit finds
/// nothing after it.
class TreeTest : public ::testing::Test {
 protected:
  TreeTest() {
    Store::Options options;
    options.directory = directory_.path() / "rocksdb";
    options.cache_bytes = 1 << 20;
    store_ = Store::open(options).value();
    txn_ = std::make_unique<Transaction>(*store_);
    EXPECT_TRUE(make_root(*txn_, 1));
    cam1_ = make(kRootInode, "cam1", S_IFDIR | 0755);
    cam2_ = make(kRootInode, "cam2", S_IFDIR | 0755);
    txn_->keep();
  }
  void TearDown() override { expect_sound(); }

  void expect_sound() {
    const auto found = audit(*txn_);
    ASSERT_TRUE(found) << found.error().describe();
    for (const auto& contradiction : found.value()) ADD_FAILURE() << contradiction;
  }

  /// Runs an operation as the executor would.
  template <class Op>
  auto run(Op op) {
    ++now_;
    auto result = op();
    result ? void(txn_->keep()) : txn_->undo();
    return result;
  }
  Result<Inode> try_make(InodeId parent, const std::string& name, std::uint32_t mode) {
    CreateParams params;
    params.parent = parent;
    params.name = name;
    params.mode = mode;
    params.symlink_target = S_ISLNK(mode) ? "target" : "";
    return run([&] { return create(*txn_, params, now_); });
  }
  InodeId make(InodeId parent, const std::string& name, std::uint32_t mode = S_IFREG | 0644) {
    const auto made = try_make(parent, name, mode);
    EXPECT_TRUE(made) << name << ": " << made.error().describe();
    return made ? made.value().id : InodeId{};
  }
  Result<Inode> remove(InodeId parent, const std::string& name, bool directory = false) {
    return run([&] { return unlink(*txn_, {.parent = parent, .name = name, .directory = directory}, now_); });
  }
  Result<Inode> add_link(InodeId inode, InodeId parent, const std::string& name) {
    return run([&] { return link(*txn_, {.inode = inode, .parent = parent, .name = name}, now_); });
  }
  Result<Renamed> move(InodeId parent, const std::string& name, InodeId new_parent,
                       const std::string& new_name, std::uint32_t flags = 0) {
    return run([&] {
      return rename(
          *txn_,
          {.parent = parent, .name = name, .new_parent = new_parent, .new_name = new_name, .flags = flags},
          now_);
    });
  }
  Result<Changed> set(const SetAttributesParams& params) {
    return run([&] { return set_attributes(*txn_, params, now_); });
  }
  /// A commit of one file; its refusal is an error.
  Result<Committed> put(InodeId inode, std::vector<Extent> extents, std::optional<std::uint64_t> size = {}) {
    FileCommit file;
    file.inode = inode;
    file.extents = std::move(extents);
    file.size = size;
    return run([&]() -> Result<Committed> {
      REELFS_TRY(auto committed, commit(*txn_, {&file, 1}, {}, now_));
      if (!committed.refused.empty()) return std::move(committed.refused.front().error);
      return committed;
    });
  }
  InodeRow row(InodeId inode) {
    const auto found = get_inode(*txn_, inode);
    EXPECT_TRUE(found);
    return found ? found.value().row : InodeRow{};
  }
  ChannelRow channel(InodeId inode) { return txn_->get(ChannelKey{inode}).value(); }
  SegmentRow segment(std::uint64_t number) { return txn_->get(SegmentKey{SegmentId{number}}).value(); }
  void make_segment(std::uint64_t number, SegmentState state = SegmentState::open, std::uint64_t length = 0) {
    SegmentRow segment;
    segment.state = state;
    segment.channel = cam1_;
    segment.block_bytes = kGiB;
    segment.length = length;
    txn_->put(SegmentKey{SegmentId{number}}, segment);
    txn_->keep();
  }
  static Extent extent(std::uint64_t offset, std::uint64_t length, std::uint64_t in, std::uint32_t record = 0,
                       std::uint32_t payload = 0) {
    return {
        .file_offset = offset,
        .row = {
            .length = length, .segment = SegmentId{in}, .record_offset = record, .payload_offset = payload}};
  }
  std::vector<Extent> extents_of(InodeId inode) {
    return get_extents(*txn_, {.inode = inode, .offset = 0, .length = kMaxFileSize, .limit = 100'000})
        .value()
        .extents;
  }

  testing::TempDirectory directory_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Transaction> txn_;
  InodeId cam1_, cam2_;
  WallNs now_ = 1000;
};

}  // namespace reelfs::indexd::tree
