// The tree against models simple enough to be seen to be right: names as maps of maps, a file as a map of its
// bytes.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include <linux/fs.h>

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

/// REELFS_SEED=n repeats one.
std::uint64_t seed() {
  const auto* const given = std::getenv("REELFS_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

class ModelTest : public TreeTest {
 protected:
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }
  template <class Container>
  auto any_of(const Container& container) {
    return *std::next(container.begin(), static_cast<std::ptrdiff_t>(pick(container.size())));
  }
  /// As the executor would after a group.
  void apply_sometimes() {
    if (pick(40) == 0) {
      EXPECT_TRUE(store_->apply(*txn_, {.epoch = Epoch{1}, .index = ++index_}));
    }
  }
  const std::uint64_t seed_ = seed();
  std::mt19937_64 random_{seed_};
  std::uint64_t index_ = 0;
};

// ---- names

struct ModelNode {
  bool is_directory = false;
  InodeId parent;  // directories only
  InodeId channel;
  std::map<std::string, InodeId> entries;
};

class NamesModel : public ModelTest {
 protected:
  using Outcome = std::optional<Errc>;

  NamesModel() {
    nodes_[kRootInode] = {.is_directory = true,
                          .parent = kRootInode,
                          .channel = {},
                          .entries = {{"cam1", cam1_}, {"cam2", cam2_}}};
    for (const auto id : {cam1_, cam2_}) {
      nodes_[id] = {.is_directory = true, .parent = kRootInode, .channel = id, .entries = {}};
    }
  }

  std::string any_name() { return std::string(1, static_cast<char>('a' + pick(6))); }
  InodeId any_directory() {
    std::vector<InodeId> directories;
    for (const auto& [id, node] : nodes_) {
      if (node.is_directory && id != kRootInode) directories.push_back(id);
    }
    return pick(20) == 0 || directories.empty() ? kRootInode : any_of(directories);
  }
  std::optional<InodeId> find(InodeId parent, const std::string& name) {
    const auto& entries = nodes_.at(parent).entries;
    const auto found = entries.find(name);
    return found == entries.end() ? std::nullopt : std::optional(found->second);
  }
  std::size_t names_of(InodeId id) {
    std::size_t count = 0;
    for (const auto& [directory, node] : nodes_) {
      for (const auto& [name, inode] : node.entries) count += inode == id ? 1 : 0;
    }
    return count;
  }
  void forget_if_nameless(InodeId id) {
    if (names_of(id) == 0) nodes_.erase(id);
  }
  bool is_within(InodeId inode, InodeId directory) {
    for (auto at = inode;; at = nodes_.at(at).parent) {
      if (at == directory) return true;
      if (at == kRootInode) return false;
    }
  }

  void step_create() {
    const auto parent = any_directory();
    const auto name = any_name();
    const bool is_directory = pick(2) == 0;
    const Outcome expected = find(parent, name)                      ? Outcome(Errc::exists)
                             : parent == kRootInode && !is_directory ? Outcome(Errc::not_permitted)
                                                                     : Outcome();
    const auto made = try_make(parent, name, is_directory ? S_IFDIR | 0755 : S_IFREG | 0644);
    ASSERT_EQ(code(made), expected);
    if (!made) return;
    const auto id = made.value().id;
    ASSERT_FALSE(nodes_.contains(id));
    nodes_[parent].entries[name] = id;
    nodes_[id] = {.is_directory = is_directory,
                  .parent = parent,
                  .channel = parent == kRootInode ? id : nodes_[parent].channel,
                  .entries = {}};
  }

  void step_link() {
    const auto parent = any_directory();
    const auto name = any_name();
    const auto [inode, node] = any_of(nodes_);
    const Outcome expected = node.is_directory                           ? Outcome(Errc::not_permitted)
                             : find(parent, name)                        ? Outcome(Errc::exists)
                             : nodes_.at(parent).channel != node.channel ? Outcome(Errc::cross_channel)
                                                                         : Outcome();
    ASSERT_EQ(code(add_link(inode, parent, name)), expected);
    if (!expected) nodes_[parent].entries[name] = inode;
  }

  void step_unlink() {
    const auto parent = any_directory();
    const auto name = any_name();
    const bool directory = pick(2) == 0;
    const auto inode = find(parent, name);
    const Outcome expected = !inode                                            ? Outcome(Errc::not_found)
                             : directory && !nodes_.at(*inode).is_directory    ? Outcome(Errc::not_directory)
                             : !directory && nodes_.at(*inode).is_directory    ? Outcome(Errc::is_directory)
                             : directory && !nodes_.at(*inode).entries.empty() ? Outcome(Errc::not_empty)
                                                                               : Outcome();
    ASSERT_EQ(code(remove(parent, name, directory)), expected);
    if (expected) return;
    nodes_[parent].entries.erase(name);
    reap_if_nameless(*inode);
  }

  /// renameat2(2), in the order in which it is documented to look.
  Outcome expected_of_rename(InodeId parent, InodeId new_parent, std::optional<InodeId> moved,
                             std::optional<InodeId> target, std::uint32_t flags) {
    if (!moved) return Errc::not_found;
    if (nodes_.at(parent).channel != nodes_.at(new_parent).channel) return Errc::cross_channel;
    if (target && flags == RENAME_NOREPLACE) return Errc::exists;
    if (!target && flags == RENAME_EXCHANGE) return Errc::not_found;
    if (is_within(new_parent, *moved)) return Errc::invalid;
    if (!target || *target == *moved) return {};
    if (flags == RENAME_EXCHANGE) return is_within(parent, *target) ? Outcome(Errc::invalid) : Outcome();
    const auto& from = nodes_.at(*moved);
    const auto& to = nodes_.at(*target);
    if (from.is_directory && !to.is_directory) return Errc::not_directory;
    if (!from.is_directory && to.is_directory) return Errc::is_directory;
    if (!to.entries.empty()) return Errc::not_empty;
    return {};
  }

  void step_rename() {
    static constexpr std::array<std::uint32_t, 4> kFlags{0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    const auto parent = any_directory();
    const auto new_parent = any_directory();
    const auto name = any_name();
    const auto new_name = any_name();
    const auto flags = kFlags.at(pick(4));
    const auto moved = find(parent, name);
    const auto target = find(new_parent, new_name);
    const auto expected = expected_of_rename(parent, new_parent, moved, target, flags);
    ASSERT_EQ(code(move(parent, name, new_parent, new_name, flags)), expected)
        << parent.value << "/" << name << " to " << new_parent.value << "/" << new_name << " flags " << flags;
    if (expected || (target && *target == *moved)) return;
    if (flags == RENAME_EXCHANGE) {
      nodes_[parent].entries[name] = *target;
      nodes_[*target].parent = parent;
    } else {
      nodes_[parent].entries.erase(name);
    }
    nodes_[new_parent].entries[new_name] = *moved;
    nodes_[*moved].parent = new_parent;
    if (target && flags != RENAME_EXCHANGE) reap_if_nameless(*target);
  }

  void reap_if_nameless(InodeId id) {
    forget_if_nameless(id);
    ASSERT_EQ(txn_->has(OrphanKey{id}).value(), !nodes_.contains(id));
    // Some stay for a while, as if open.
    if (nodes_.contains(id) || pick(2) == 0) return;
    ASSERT_TRUE(run([&] { return reap_orphan(*txn_, id, 1); }).value().done);
  }

  void compare() {
    std::map<InodeId, std::size_t> names;
    for (const auto& [id, node] : nodes_) {
      for (const auto& [name, inode] : node.entries) ++names[inode];
    }
    for (const auto& [id, node] : nodes_) {
      ASSERT_EQ(row(id).channel, node.channel);
      if (!node.is_directory) {
        ASSERT_EQ(row(id).nlink, names[id]);
        continue;
      }
      std::map<std::string, InodeId> listed;
      const auto page = read_directory(*txn_, id, 0, 10'000).value();
      for (const auto& entry : page.entries) listed.emplace(entry.name, entry.inode.id);
      ASSERT_EQ(listed, node.entries) << "directory " << id.value;
    }
    expect_sound();
  }

  std::map<InodeId, ModelNode> nodes_;  // with a name
};

TEST_F(NamesModel, BehavesAsTheModel) {
  SCOPED_TRACE(fmt::format("seed={}", seed_));
  for (int step = 1; step <= 20'000 && !HasFatalFailure(); ++step) {
    SCOPED_TRACE(step);
    switch (pick(8)) {
      case 0:
      case 1:
      case 2:
        step_create();
        break;
      case 3:
        step_link();
        break;
      case 4:
        step_unlink();
        break;
      default:
        step_rename();
        break;
    }
    apply_sometimes();
    if (step % 1000 == 0) compare();
  }
}

// ---- extents

constexpr std::uint64_t kFileBytes = 600;
constexpr std::uint64_t kSegments = 8;

/// Where one byte of a file is.
struct Place {
  std::uint64_t segment = 0;
  std::uint32_t record = 0;
  std::uint64_t in_payload = 0;
  InodeId named;  // by the record
  std::uint64_t named_offset = 0;
  friend bool operator==(const Place&, const Place&) = default;
};
struct ModelFile {
  InodeId id;
  std::uint64_t size = 0;
  std::map<std::uint64_t, Place> bytes;  // holes are not in it
};

class ExtentsModel : public ModelTest {
 protected:
  ExtentsModel() {
    for (std::uint64_t i = 1; i <= kSegments; ++i)
      make_segment(i, i % 2 == 0 ? SegmentState::open : SegmentState::sealed, 1 << 30);
    for (auto& file : files_) file.id = make(cam1_, fmt::format("{}", ++named_));
  }

  ModelFile& any_file() { return files_.at(pick(files_.size())); }
  static void cut(ModelFile& file, std::uint64_t from, std::uint64_t upto) {
    file.bytes.erase(file.bytes.lower_bound(from), file.bytes.lower_bound(upto));
  }
  std::map<std::uint64_t, std::uint64_t> live_bytes() {
    std::array<std::uint64_t, kSegments + 1> sums{};
    for (const auto& file : files_) {
      for (const auto& [offset, place] : file.bytes) ++sums.at(place.segment);
    }
    std::map<std::uint64_t, std::uint64_t> live;
    for (std::uint64_t i = 1; i <= kSegments; ++i) {
      if (sums.at(i) > 0) live[i] = sums.at(i);
    }
    return live;
  }
  /// Sealed segments that have become empty have been told, and none in which something lives.
  void expect_emptied(const std::map<std::uint64_t, std::uint64_t>& before,
                      const std::vector<SegmentId>& told) {
    const auto after = live_bytes();
    for (const auto& [id, bytes] : before) {
      if (id % 2 == 0 || after.contains(id)) continue;
      ASSERT_EQ(std::count(told.begin(), told.end(), SegmentId{id}), 1) << "segment " << id;
    }
    for (const auto id : told) {
      ASSERT_FALSE(after.contains(id.value) || id.value % 2 == 0) << "segment " << id.value;
    }
  }

  void step_commit() {
    std::vector<FileCommit> commits;
    const auto before = live_bytes();
    for (auto count = pick(3) + 1; count > 0; --count) {
      auto& file = any_file();
      FileCommit commit_of_one;
      commit_of_one.inode = file.id;
      for (auto extents = pick(4); extents > 0; --extents) {
        const auto offset = pick(kFileBytes);
        const auto length = pick(kFileBytes / 4) + 1;
        const auto segment = pick(kSegments) + 1;
        const auto record = static_cast<std::uint32_t>(pick(1000) * 64);
        const auto payload = static_cast<std::uint32_t>(pick(500));
        commit_of_one.extents.push_back(extent(offset, length, segment, record, payload));
        for (std::uint64_t i = 0; i < length; ++i)
          file.bytes[offset + i] = {segment, record, payload + i, file.id, offset - payload};
        file.size = std::max(file.size, offset + length);
      }
      if (pick(2) == 0) {
        commit_of_one.size = pick(kFileBytes * 2);
        file.size = std::max(file.size, *commit_of_one.size);
      }
      commits.push_back(std::move(commit_of_one));
    }
    const auto done = run([&] { return commit(*txn_, commits, {}, now_); });
    ASSERT_TRUE(done) << done.error().describe();
    expect_emptied(before, done.value().emptied);
  }

  void step_truncate() {
    auto& file = any_file();
    const auto before = live_bytes();
    SetAttributesParams params;
    params.inode = file.id;
    params.size = pick(kFileBytes * 2);
    cut(file, *params.size, ~0ULL);
    file.size = *params.size;
    const auto changed = set(params);
    ASSERT_TRUE(changed);
    expect_emptied(before, changed.value().emptied);
  }

  void step_punch() {
    auto& file = any_file();
    const auto before = live_bytes();
    const HoleParams params{.inode = file.id, .offset = pick(kFileBytes), .length = pick(kFileBytes) + 1};
    cut(file, params.offset, params.offset + params.length);
    const auto changed = run([&] { return punch_hole(*txn_, params, now_); });
    ASSERT_TRUE(changed);
    expect_emptied(before, changed.value().emptied);
  }

  void step_clone() {
    auto& target = any_file();
    const auto& source = any_file();
    const auto before = live_bytes();
    CloneParams params{.source = source.id, .target = target.id};
    params.source_offset = pick(kFileBytes);
    params.target_offset = pick(kFileBytes);
    params.length = pick(kFileBytes / 2);
    params.max_extents = pick(2) == 0 ? 1000 : pick(5) + 1;
    const auto length = std::min(params.length, source.size - std::min(source.size, params.source_offset));
    const auto apart = std::max(params.source_offset, params.target_offset) -
                       std::min(params.source_offset, params.target_offset);
    const auto cloned = run([&] { return clone_range(*txn_, params, now_); });
    if (source.id == target.id && apart < length) {
      ASSERT_EQ(code(cloned), Errc::invalid);
      return;
    }
    ASSERT_TRUE(cloned);
    const auto done = cloned.value().length;
    ASSERT_TRUE(done == length || (done > 0 && done < length && params.max_extents < 1000));
    std::map<std::uint64_t, Place> moved;
    for (std::uint64_t i = 0; i < done; ++i) {
      const auto byte = source.bytes.find(params.source_offset + i);
      if (byte != source.bytes.end()) moved[params.target_offset + i] = byte->second;
    }
    cut(target, params.target_offset, params.target_offset + done);
    target.bytes.merge(moved);
    if (done > 0) target.size = std::max(target.size, params.target_offset + done);
    expect_emptied(before, cloned.value().emptied);
  }

  void step_remove() {
    auto& file = any_file();
    const auto name = path_of(*txn_, file.id).value().substr(5);
    ASSERT_TRUE(remove(cam1_, name));
    const auto limit = pick(5) + 1;
    for (bool done = false; !done;) {
      const auto before = row(file.id).stored_bytes;
      const auto reaped = run([&] { return reap_orphan(*txn_, file.id, limit); });
      ASSERT_TRUE(reaped);
      done = reaped.value().done;
      ASSERT_TRUE(done || row(file.id).stored_bytes < before);
    }
    file = {};
    file.id = make(cam1_, fmt::format("{}", ++named_));
  }

  void compare(const ModelFile& file) {
    const auto offset = pick(kFileBytes);
    const auto length = pick(kFileBytes) + 1;
    const auto limit = pick(2) == 0 ? 1000 : pick(5) + 1;
    const auto found =
        get_extents(*txn_, {.inode = file.id, .offset = offset, .length = length, .limit = limit}).value();
    ASSERT_EQ(found.inode.row.size, file.size);
    ASSERT_EQ(found.inode.row.stored_bytes, file.bytes.size());
    ASSERT_LE(found.extents.size(), limit);
    std::map<std::uint64_t, Place> bytes;
    for (const auto& piece : found.extents) {
      for (std::uint64_t i = 0; i < piece.row.length; ++i) {
        bytes[piece.file_offset + i] = {
            piece.row.segment.value, piece.row.record_offset, piece.row.payload_offset + i,
            piece.row.origin ? piece.row.origin : file.id,
            piece.row.origin ? piece.row.origin_offset : piece.file_offset - piece.row.payload_offset};
      }
    }
    const auto upto = found.more ? found.extents.back().end() : offset + length;
    for (auto at = offset; at < upto; ++at) {
      const auto expected = file.bytes.find(at);
      const auto actual = bytes.find(at);
      ASSERT_EQ(actual == bytes.end(), expected == file.bytes.end()) << "byte " << at;
      if (actual != bytes.end()) {
        ASSERT_EQ(actual->second, expected->second) << "byte " << at;
      }
    }
  }

  std::array<ModelFile, 5> files_;
  int named_ = 0;
};

TEST_F(ExtentsModel, EveryByteIsWhereTheModelHasIt) {
  SCOPED_TRACE(fmt::format("seed={}", seed_));
  for (int step = 1; step <= 20'000 && !HasFatalFailure(); ++step) {
    SCOPED_TRACE(step);
    switch (pick(16)) {
      case 0:
        step_remove();
        break;
      case 1:
        step_truncate();
        break;
      case 2:
      case 3:
        step_punch();
        break;
      case 4:
      case 5:
        step_clone();
        break;
      default:
        step_commit();
        break;
    }
    compare(any_file());
    apply_sometimes();
    if (step % 1000 == 0) expect_sound();
  }
}

}  // namespace
}  // namespace reelfs::indexd::tree
