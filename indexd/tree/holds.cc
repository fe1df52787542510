#include "indexd/tree/holds.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sys/stat.h>

#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {
namespace {

void put_count(Transaction& txn, std::uint64_t holds) {
  if (holds > 0) {
    txn.put(HoldCountKey{}, HoldCountRow{holds});
  } else {
    txn.erase(HoldCountKey{});
  }
}

Result<void> check_line(std::string_view text, const char* what) {
  if (text.size() > kMaxHoldText)
    return Error(Errc::too_big, fmt::format("{} of a hold has at most {} bytes", what, kMaxHoldText));
  const bool is_line = std::none_of(text.begin(), text.end(), [](char letter) {
    const auto byte = static_cast<unsigned char>(letter);
    return byte < 0x20 || byte == 0x7f;
  });
  if (text.empty() || !is_line)
    return Error(Errc::invalid, fmt::format("{} of a hold is one line of text", what));
  return ok();
}

Error refusal(const Hold& hold) {
  return Error(Errc::not_permitted, fmt::format("held by {}: {}", hold.row.who, hold.row.reason));
}

Result<std::set<InodeId>> parents_of(const Reader& reader, InodeId inode) {
  std::set<InodeId> parents;
  REELFS_TRY(reader.scan(NameKey{inode, {}, {}}, NameKey{InodeId{inode.value + 1}, {}, {}},
                         [&](const NameKey& key, const NameRow&) {
                           parents.insert(key.parent);
                           return true;
                         }));
  return parents;
}

/// The holds on a directory and on those above it, the nearest first.
Result<std::vector<Hold>> holds_over(const Reader& reader, InodeId directory) {
  std::vector<Hold> found;
  for (auto at = directory;;) {
    REELFS_TRY(auto row, reader.find(HoldKey{at}));
    if (row) found.push_back({at, std::move(*row)});
    if (at == kRootInode) return found;
    REELFS_TRY(const auto inode, reader.find(InodeKey{at}));
    if (!inode) return found;  // removed, and its parent may be too
    at = inode->parent;
  }
}

constexpr auto kAll = std::numeric_limits<std::uint64_t>::max();

/// Adds up what is held, from the inodes that holds are on downwards.
class HeldBytesSum {
 public:
  HeldBytesSum(const Reader& reader, std::size_t most) : reader_(reader), left_(most) {}

  Result<void> add(InodeId held) {
    if (held == kRootInode) {
      return reader_.scan_table<ChannelKey>([this](const ChannelKey& key, const ChannelRow&) {
        sum_.channels[key.inode] = kAll;
        return true;
      });
    }
    std::vector<InodeId> found{held};
    while (!found.empty()) {
      const auto inode = found.back();
      found.pop_back();
      REELFS_TRY(const auto row, reader_.find(InodeKey{inode}));
      if (!row) continue;
      auto& bytes = sum_.channels[row->channel];
      if (bytes == kAll) return ok();
      const bool is_directory = S_ISDIR(row->mode);
      if (left_ == 0 || inode == row->channel) {
        bytes = kAll;
        return ok();
      }
      --left_;
      if (!is_directory) {
        if (sum_.files.insert(inode).second) bytes += row->stored_bytes;
        continue;
      }
      REELFS_TRY(reader_.scan(DirentKey{inode, {}}, DirentKey{InodeId{inode.value + 1}, {}},
                              [&](const DirentKey&, const DirentRow& entry) {
                                found.push_back(entry.inode);
                                return found.size() <= left_;
                              }));
      if (found.size() > left_) left_ = 0;  // so that it counts as a whole
    }
    return ok();
  }
  HeldBytes take() { return std::move(sum_); }

 private:
  const Reader& reader_;
  std::size_t left_;
  HeldBytes sum_;
};

}  // namespace

Result<void> hold(Transaction& txn, const HoldParams& params, WallNs now) {
  REELFS_TRY(check_line(params.reason, "the reason"));
  REELFS_TRY(check_line(params.who, "the person"));
  REELFS_TRY(const auto inode, get_inode(txn, params.inode));
  if (inode.row.nlink == 0) return Error(Errc::not_found, "the file has been removed");
  const HoldKey key{params.inode};
  REELFS_TRY(const auto before, txn.find(key));
  if (before && before->reason == params.reason && before->who == params.who) return ok();
  if (!before) {
    REELFS_TRY(const auto holds, count_holds(txn));
    put_count(txn, holds + 1);
  }
  txn.put(key, HoldRow{.reason = params.reason, .who = params.who, .since_ns = now});
  return ok();
}

Result<void> release(Transaction& txn, InodeId inode) {
  const HoldKey key{inode};
  REELFS_TRY(const auto is_there, txn.has(key));
  if (!is_there) return Error(Errc::no_attribute, "there is no hold on it");
  REELFS_TRY(const auto holds, count_holds(txn));
  if (holds == 0) return Error(Errc::corrupt, "there are more holds than were counted");
  put_count(txn, holds - 1);
  txn.erase(key);
  return ok();
}

Result<std::uint64_t> count_holds(const Reader& reader) {
  REELFS_TRY(const auto row, reader.find(HoldCountKey{}));
  return row ? row->holds : std::uint64_t{0};
}

Result<std::optional<Hold>> held_by(const Reader& reader, InodeId inode) {
  REELFS_TRY(const auto holds, count_holds(reader));
  if (holds == 0) return std::optional<Hold>();
  REELFS_TRY(auto own, reader.find(HoldKey{inode}));
  if (own) return std::optional(Hold{inode, std::move(*own)});
  REELFS_TRY(const auto parents, parents_of(reader, inode));
  for (const auto parent : parents) {
    REELFS_TRY(auto above, holds_over(reader, parent));
    if (!above.empty()) return std::optional(std::move(above.front()));
  }
  return std::optional<Hold>();
}

Result<HeldBytes> held_bytes(const Reader& reader, std::size_t most) {
  std::vector<InodeId> holds;
  REELFS_TRY(reader.scan_table<HoldKey>([&](const HoldKey& key, const HoldRow&) {
    holds.push_back(key.inode);
    return true;
  }));
  HeldBytesSum sum(reader, most);
  for (const auto held : holds) {
    REELFS_TRY(sum.add(held));
  }
  return sum.take();
}

Result<void> check_not_held(const Reader& reader, InodeId inode) {
  REELFS_TRY(const auto found, held_by(reader, inode));
  if (found) return refusal(*found);
  return ok();
}

Result<void> check_stays_held(const Reader& reader, InodeId inode, InodeId from, InodeId into) {
  REELFS_TRY(const auto holds, count_holds(reader));
  if (holds == 0) return ok();
  REELFS_TRY(auto own, reader.find(HoldKey{inode}));
  if (own) return refusal({inode, std::move(*own)});
  if (from == into) return ok();
  REELFS_TRY(const auto before, holds_over(reader, from));
  REELFS_TRY(const auto after, holds_over(reader, into));
  for (const auto& hold : before) {
    const bool stays =
        std::any_of(after.begin(), after.end(), [&](const Hold& other) { return other.inode == hold.inode; });
    if (!stays) return refusal(hold);
  }
  return ok();
}

}  // namespace reelfs::indexd::tree
