#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

/// What is in force for a channel: what was decided for it, else for all (at the root), else the default.
struct Policy {
  std::optional<std::uint64_t> quota_bytes;
  std::optional<std::chrono::seconds> max_age;  // since a recording's newest byte
  std::chrono::seconds min_age{0};              // younger ones are never overwritten
  bool overwrite = true;                        // the oldest recordings, for new ones
  std::uint32_t min_copies = 1;  // recording goes on with so many where no more nodes are to be had
};
Result<Policy> policy_of(const Reader& reader, InodeId channel);
/// Copies of what is recorded into new channels; none: undecided.
Result<std::optional<std::uint32_t>> copies_of_new_channels(const Reader& reader);

// Policies are set and read as extended attributes of a channel's directory or of the root, with any tool.
//
//     user.reel.quota        bytes ("500G"), or "none"
//     user.reel.max_age      a time ("30d", "1d12h", seconds), or "none"
//     user.reel.min_age      the same
//     user.reel.overwrite    "on", "off"
//     user.reel.copies       1 to 4
//     user.reel.min_copies   1 to 4; as many as copies where it is more
//     user.reel.replication  "sync"

inline constexpr std::uint32_t kMaxCopies = 4;

/// Whether it is an attribute of the name above, or would be if there were one.
bool is_policy(std::string_view attribute);
/// @errors invalid: no such setting, not a value of it, or the inode is no channel
Result<void> set_policy(Transaction& txn, const Inode& inode, std::string_view attribute,
                        std::string_view value);
/// From now on it is as decided for all. @errors no_attribute: it was
Result<void> reset_policy(Transaction& txn, const Inode& inode, std::string_view attribute);
/// What is in force. @errors no_attribute
Result<std::string> show_policy(const Reader& reader, const Inode& inode, std::string_view attribute);
/// Attributes that were set for this very inode.
Result<std::vector<std::string>> decided_policies(const Reader& reader, InodeId inode);

}  // namespace reelfs::indexd::tree
