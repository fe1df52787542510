#include "indexd/tree/audit.h"

#include <map>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "indexd/tree/acl.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {
namespace {

struct Seen {
  std::uint64_t names = 0;
  std::uint64_t entries = 0;         // of a directory
  std::uint64_t subdirectories = 0;  // of a directory
  std::uint64_t stored_bytes = 0;
  std::uint64_t extents_end = 0;
  std::uint32_t flags = 0;
};

class Audit {
 public:
  explicit Audit(const Reader& reader) : reader_(reader) {}

  Result<std::vector<std::string>> run() {
    REELFS_TRY(read_inodes());
    REELFS_TRY(read_names());
    REELFS_TRY(read_extents());
    REELFS_TRY(read_acls());
    check_inodes();
    REELFS_TRY(check_orphans());
    REELFS_TRY(check_holds());
    REELFS_TRY(check_segments());
    REELFS_TRY(check_channels());
    REELFS_TRY(check_recordings());
    REELFS_TRY(check_gaps());
    return std::move(found_);
  }

 private:
  template <class... T>
  void expect(bool holds, fmt::format_string<T...> text, T&&... facts) {
    if (!holds) found_.push_back(fmt::format(text, std::forward<T>(facts)...));
  }

  Result<void> read_inodes() {
    return reader_.scan_table<InodeKey>([&](const InodeKey& key, const InodeRow& row) {
      inodes_.emplace(key.inode, row);
      return true;
    });
  }

  Result<void> read_names() {
    std::map<std::pair<InodeId, std::string>, DirentRow> names;
    REELFS_TRY(reader_.scan_table<DirentKey>([&](const DirentKey& key, const DirentRow& row) {
      names.emplace(std::pair(key.parent, key.name), row);
      ++seen_[row.inode].names;
      auto& parent = seen_[key.parent];
      ++parent.entries;
      if (S_ISDIR(row.type)) ++parent.subdirectories;
      const auto inode = inodes_.find(row.inode);
      expect(inode != inodes_.end() && (inode->second.mode & S_IFMT) == row.type,
             "name {} of inode {}: no such inode, or of another type", key.name, row.inode.value);
      expect(inodes_.contains(key.parent), "name {} is in inode {}, which is not there", key.name,
             key.parent.value);
      if (inode != inodes_.end() && S_ISDIR(row.type)) {
        expect(inode->second.parent == key.parent, "directory {} does not know its parent", row.inode.value);
      }
      return true;
    }));
    std::size_t in_order = 0;
    REELFS_TRY(reader_.scan_table<DirectoryOrderKey>(
        [&](const DirectoryOrderKey& key, const DirectoryOrderRow& row) {
          const auto name = names.find({key.parent, row.name});
          expect(name != names.end() && name->second.inode == row.inode && name->second.cookie == key.cookie,
                 "place {} of directory {} is of another name", key.cookie, key.parent.value);
          ++in_order;
          return true;
        }));
    std::size_t by_inode = 0;
    REELFS_TRY(reader_.scan_table<NameKey>([&](const NameKey& key, const NameRow&) {
      const auto name = names.find({key.parent, key.name});
      expect(name != names.end() && name->second.inode == key.inode, "inode {} does not have the name {}",
             key.inode.value, key.name);
      ++by_inode;
      return true;
    }));
    expect(in_order == names.size() && by_inode == names.size(), "{} names, {} in order, {} by inode",
           names.size(), in_order, by_inode);
    return ok();
  }

  Result<void> read_extents() {
    return reader_.scan_table<ExtentKey>([&](const ExtentKey& key, const ExtentRow& row) {
      auto& file = seen_[key.inode];
      expect(key.file_offset >= file.extents_end, "extents of inode {} overlap at {}", key.inode.value,
             key.file_offset);
      file.extents_end = key.file_offset + row.length;
      file.stored_bytes += row.length;
      live_[{row.segment, key.inode}] += row.length;
      return true;
    });
  }

  Result<void> read_acls() {
    return reader_.scan_table<XattrKey>([&](const XattrKey& key, const XattrRow& row) {
      const bool is_access = key.name == kAccessAcl;
      if (!is_access && key.name != kDefaultAcl) return true;
      seen_[key.inode].flags |= is_access ? kInodeHasAccessAcl : kInodeHasDefaultAcl;
      const auto inode = inodes_.find(key.inode);
      const auto acl = decode_acl(row.value);
      expect(acl.has_value(), "inode {} has an access control list that does not decode", key.inode.value);
      if (!acl || inode == inodes_.end() || !is_access) return true;
      expect(permission_bits(acl.value()) == (inode->second.mode & kPermissionBits) &&
                 !says_no_more_than_bits(acl.value()),
             "inode {} has mode {:o} and an access control list that says {:o}", key.inode.value,
             inode->second.mode, permission_bits(acl.value()));
      return true;
    });
  }

  void check_inodes() {
    for (const auto& [id, seen] : seen_)
      expect(inodes_.contains(id), "rows of inode {}, which is not there", id.value);
    for (const auto& [id, row] : inodes_) {
      const auto& seen = seen_[id];
      const bool is_directory = S_ISDIR(row.mode);
      const bool has_name = id == kRootInode || seen.names > 0;
      const auto nlink = is_directory ? (has_name ? 2 + seen.subdirectories : 0) : seen.names;
      expect(row.nlink == nlink, "inode {} has nlink {} and should have {}", id.value, row.nlink, nlink);
      expect(!is_directory || seen.names <= 1, "directory {} has {} names", id.value, seen.names);
      expect(row.entries == seen.entries, "directory {} has {} entries and says {}", id.value, seen.entries,
             row.entries);
      expect(!is_directory || row.size == row.entries * kDirectoryEntryBytes, "directory {} has a wrong size",
             id.value);
      expect(row.flags == seen.flags, "inode {} has flags {} and should have {}", id.value, row.flags,
             seen.flags);
      expect(row.stored_bytes == seen.stored_bytes, "inode {} has {} stored bytes and says {}", id.value,
             seen.stored_bytes, row.stored_bytes);
      expect(is_directory || seen.extents_end <= row.size, "inode {} has extents behind its end", id.value);
    }
  }

  Result<void> check_orphans() {
    std::size_t orphans = 0;
    REELFS_TRY(reader_.scan_table<OrphanKey>([&](const OrphanKey& key, const OrphanRow&) {
      const auto inode = inodes_.find(key.inode);
      expect(inode != inodes_.end() && inode->second.nlink == 0, "inode {} is no orphan", key.inode.value);
      ++orphans;
      return true;
    }));
    std::size_t nameless = 0;
    for (const auto& [id, row] : inodes_) nameless += row.nlink == 0 ? 1 : 0;
    expect(orphans == nameless, "{} inodes without a name, {} orphans", nameless, orphans);
    return ok();
  }

  Result<void> check_holds() {
    std::uint64_t holds = 0;
    REELFS_TRY(reader_.scan_table<HoldKey>([&](const HoldKey& key, const HoldRow&) {
      const auto inode = inodes_.find(key.inode);
      expect(inode != inodes_.end() && inode->second.nlink > 0, "inode {} is held and has no name",
             key.inode.value);
      ++holds;
      return true;
    }));
    REELFS_TRY(const auto counted, count_holds(reader_));
    expect(holds == counted, "{} holds, {} counted", holds, counted);
    return ok();
  }

  Result<void> check_segments() {
    std::size_t pairs = 0;
    REELFS_TRY(reader_.scan_table<SegmentFileKey>([&](const SegmentFileKey& key, const SegmentFileRow& row) {
      const auto live = live_.find({key.segment, key.inode});
      expect(live != live_.end() && live->second == row.live_bytes, "segment {} says {} bytes of inode {}",
             key.segment.value, row.live_bytes, key.inode.value);
      ++pairs;
      return true;
    }));
    expect(pairs == live_.size(), "{} files in segments, {} rows of them", live_.size(), pairs);
    std::map<SegmentId, std::uint64_t> sums;
    for (const auto& [key, bytes] : live_) sums[key.first] += bytes;
    REELFS_TRY(reader_.scan_table<SegmentKey>([&](const SegmentKey& key, const SegmentRow& row) {
      const auto sum = sums.extract(key.segment);
      const auto live = sum.empty() ? 0 : sum.mapped();
      expect(row.live_bytes == live, "segment {} has {} live bytes and says {}", key.segment.value, live,
             row.live_bytes);
      return true;
    }));
    for (const auto& [id, bytes] : sums)
      expect(false, "{} bytes in segment {}, which is not there", bytes, id.value);
    return ok();
  }

  Result<void> check_channels() {
    std::map<InodeId, ChannelRow> sums;
    for (const auto& [id, row] : inodes_) {
      auto& sum = sums[row.channel];
      sum.live_bytes += row.stored_bytes;
      sum.files += row.nlink > 0 && row.channel != id ? 1 : 0;
    }
    std::size_t channels = 0;
    REELFS_TRY(reader_.scan_table<ChannelKey>([&](const ChannelKey& key, const ChannelRow& row) {
      const auto& sum = sums[key.inode];
      expect(row.files == sum.files && row.live_bytes == sum.live_bytes,
             "channel {} has {} files of {} bytes and says {} and {}", row.name, sum.files, sum.live_bytes,
             row.files, row.live_bytes);
      ++channels;
      return true;
    }));
    expect(channels == seen_[kRootInode].entries, "{} channels, {} names at the root", channels,
           seen_[kRootInode].entries);
    return ok();
  }

  Result<void> check_recordings() {
    std::size_t recordings = 0;
    REELFS_TRY(reader_.scan_table<RecordingKey>([&](const RecordingKey& key, const RecordingRow&) {
      const auto inode = inodes_.find(key.inode);
      expect(inode != inodes_.end() && inode->second.channel == key.channel &&
                 static_cast<std::uint64_t>(inode->second.last_ns) == key.last_ns,
             "recording {} of channel {} is no such file", key.inode.value, key.channel.value);
      ++recordings;
      return true;
    }));
    std::size_t files = 0;
    for (const auto& [id, row] : inodes_) {
      files += row.nlink > 0 && row.last_ns != 0 ? 1 : 0;
      expect(row.last_ns == 0 || S_ISREG(row.mode), "inode {} is no file and has the times of one", id.value);
      expect(row.first_ns <= row.last_ns, "inode {} has its last byte before its first", id.value);
    }
    expect(recordings == files, "{} files, {} recordings", files, recordings);
    return reader_.scan_table<PolicyKey>([&](const PolicyKey& key, const PolicyRow&) {
      const auto inode = inodes_.find(key.inode);
      expect(key.inode == kRootInode || (inode != inodes_.end() && inode->second.channel == key.inode),
             "a policy for inode {}, which is no channel", key.inode.value);
      return true;
    });
  }

  Result<void> check_gaps() {
    std::map<InodeId, WatchRow> watched;
    REELFS_TRY(reader_.scan_table<GapKey>([&](const GapKey& key, const GapRow& row) {
      auto& seen = watched[key.channel];
      ++seen.gaps;
      if (row.end_ns != 0) return true;
      expect(seen.open_ns == 0, "channel {} has two gaps that last", key.channel.value);
      seen.open_ns = static_cast<WallNs>(key.start_ns);
      return true;
    }));
    REELFS_TRY(reader_.scan_table<WatchKey>([&](const WatchKey& key, const WatchRow& row) {
      const auto inode = inodes_.find(key.channel);
      expect(inode != inodes_.end() && inode->second.channel == key.channel && inode->second.nlink > 0,
             "inode {} is watched and no channel", key.channel.value);
      const auto seen = watched.extract(key.channel);
      const auto gaps = seen.empty() ? WatchRow() : seen.mapped();
      expect(gaps.gaps == row.gaps && gaps.open_ns == row.open_ns, "channel {} has {} gaps and says {}",
             key.channel.value, gaps.gaps, row.gaps);
      return true;
    }));
    for (const auto& [channel, row] : watched)
      expect(false, "{} gaps of inode {}, which is not watched", row.gaps, channel.value);
    return ok();
  }

  const Reader& reader_;
  std::vector<std::string> found_;
  std::map<InodeId, InodeRow> inodes_;
  std::map<InodeId, Seen> seen_;
  std::map<std::pair<SegmentId, InodeId>, std::uint64_t> live_;
};

}  // namespace

Result<std::vector<std::string>> audit(const Reader& reader) { return Audit(reader).run(); }

}  // namespace reelfs::indexd::tree
