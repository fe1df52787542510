#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "indexd/schema/rows.h"

namespace reelfs::indexd {

/// First byte of a key. Values keep their meaning for ever.
enum class Table : char {
  applied = '!',
  cluster = '#',
  counter = '+',
  hold_count = '&',
  loss = 'L',
  boot = '@',
  node_times = '=',
  answer = 'a',
  acknowledged = 'b',
  directory_order = 'c',
  dirent = 'd',
  extent = 'e',
  lock = 'f',
  hold = 'g',
  channel = 'h',
  inode = 'i',
  grant = 'j',
  name = 'k',
  symlink = 'l',
  progress = 'm',
  node = 'n',
  session = 'o',
  orphan = 'p',
  policy = 'q',
  repair_log = 'r',
  segment = 's',
  recording = 't',
  segment_file = 'u',
  device = 'v',
  watch = 'w',
  xattr = 'x',
  gap = 'y',
  damage = 'z',
};

// Keys sort by their fields in the order of declaration; a range of keys is given by two of them.

struct InodeKey {
  using Row = InodeRow;
  static constexpr Table kTable = Table::inode;
  InodeId inode;
};
struct DirentKey {
  using Row = DirentRow;
  static constexpr Table kTable = Table::dirent;
  InodeId parent;
  std::string name;
};
struct DirectoryOrderKey {
  using Row = DirectoryOrderRow;
  static constexpr Table kTable = Table::directory_order;
  InodeId parent;
  std::uint64_t cookie = 0;
};
struct NameKey {
  using Row = NameRow;
  static constexpr Table kTable = Table::name;
  InodeId inode;
  InodeId parent;
  std::string name;
};
struct SymlinkKey {
  using Row = SymlinkRow;
  static constexpr Table kTable = Table::symlink;
  InodeId inode;
};
struct XattrKey {
  using Row = XattrRow;
  static constexpr Table kTable = Table::xattr;
  InodeId inode;
  std::string name;
};
struct ExtentKey {
  using Row = ExtentRow;
  static constexpr Table kTable = Table::extent;
  InodeId inode;
  std::uint64_t file_offset = 0;
};
struct SegmentKey {
  using Row = SegmentRow;
  static constexpr Table kTable = Table::segment;
  SegmentId segment;
};
struct SegmentFileKey {
  using Row = SegmentFileRow;
  static constexpr Table kTable = Table::segment_file;
  SegmentId segment;
  InodeId inode;
};
/// A segment whose end is lost.
struct LossKey {
  using Row = LossRow;
  static constexpr Table kTable = Table::loss;
  SegmentId segment;
};
struct ChannelKey {
  using Row = ChannelRow;
  static constexpr Table kTable = Table::channel;
  InodeId inode;
};
/// Files of a channel in the order in which their newest bytes came.
struct RecordingKey {
  using Row = RecordingRow;
  static constexpr Table kTable = Table::recording;
  InodeId channel;
  std::uint64_t last_ns = 0;  // InodeRow::last_ns
  InodeId inode;
};
struct PolicyKey {
  using Row = PolicyRow;
  static constexpr Table kTable = Table::policy;
  InodeId inode;  // of a channel's directory, or of the root
};
struct NodeKey {
  using Row = NodeRow;
  static constexpr Table kTable = Table::node;
  NodeId node;
};
struct NodeTimesKey {
  using Row = NodeTimesRow;
  static constexpr Table kTable = Table::node_times;
  NodeId node;
};
struct DeviceKey {
  using Row = DeviceRow;
  static constexpr Table kTable = Table::device;
  DeviceId device;
};
struct SessionKey {
  using Row = SessionRow;
  static constexpr Table kTable = Table::session;
  SessionId session;
};
struct AcknowledgedKey {
  using Row = AcknowledgedRow;
  static constexpr Table kTable = Table::acknowledged;
  SessionId session;
};
struct AnswerKey {
  using Row = AnswerRow;
  static constexpr Table kTable = Table::answer;
  SessionId session;
  std::uint64_t request = 0;
};
/// A segment that a session was granted.
struct GrantKey {
  using Row = GrantRow;
  static constexpr Table kTable = Table::grant;
  SessionId session;
  SegmentId segment;
  Generation generation;  // that its records bear
};
/// What a session has committed of a file.
struct ProgressKey {
  using Row = ProgressRow;
  static constexpr Table kTable = Table::progress;
  SessionId session;
  InodeId inode;  // none: of all files
};
struct OrphanKey {
  using Row = OrphanRow;
  static constexpr Table kTable = Table::orphan;
  InodeId inode;
};

/// Which of the two sorts of locks, which do not see each other. Values keep their meaning for ever.
enum class LockKind : std::uint8_t {
  posix = 1,  // fcntl(2): byte ranges of a process, or of an open file description
  flock = 2,  // flock(2): whole files, of an open file description
};
struct LockKey {
  using Row = LockRow;
  static constexpr Table kTable = Table::lock;
  InodeId inode;
  LockKind kind = LockKind::posix;
  SessionId session;
  std::uint64_t owner = 0;  // as the session tells its owners apart
  std::uint64_t first = 0;  // byte
  friend auto operator<=>(const LockKey&, const LockKey&) = default;
};
/// A file or directory on which there is a hold.
struct HoldKey {
  using Row = HoldRow;
  static constexpr Table kTable = Table::hold;
  InodeId inode;
};
struct HoldCountKey {
  using Row = HoldCountRow;
  static constexpr Table kTable = Table::hold_count;
};
/// A channel that is recorded to.
struct WatchKey {
  using Row = WatchRow;
  static constexpr Table kTable = Table::watch;
  InodeId channel;
};
/// A time in which nothing was recorded, though it should have been.
struct GapKey {
  using Row = GapRow;
  static constexpr Table kTable = Table::gap;
  InodeId channel;
  std::uint64_t start_ns = 0;  // wall time of the last byte before it
};
/// A copy of a segment that is damaged.
struct DamageKey {
  using Row = DamageRow;
  static constexpr Table kTable = Table::damage;
  SegmentId segment;
  NodeId node;
};
/// What was found and done about copies, by the order of noting.
struct RepairLogKey {
  using Row = RepairLogRow;
  static constexpr Table kTable = Table::repair_log;
  std::uint64_t number = 0;
};
struct BootKey {
  using Row = BootRow;
  static constexpr Table kTable = Table::boot;
};

/// What is numbered. Values keep their meaning for ever.
enum class Counter : std::uint8_t { inode = 1, segment = 2, session = 3, node = 4, device = 5 };
struct CounterKey {
  using Row = CounterRow;
  static constexpr Table kTable = Table::counter;
  Counter counter = Counter::inode;
};
struct ClusterKey {
  using Row = ClusterRow;
  static constexpr Table kTable = Table::cluster;
};
struct AppliedKey {
  using Row = JournalPosition;
  static constexpr Table kTable = Table::applied;
};

/// The key's bytes: the table, then big-endian numbers, so that they sort; a name is last and goes to the
/// end.
template <class Key>
std::string encode_key(const Key& key);

/// @errors corrupt: of another table, or of a wrong length
template <class Key>
Result<Key> decode_key(std::string_view bytes);

/// Decodes a key and its value, whichever table they are of; for tools and fuzzing. @errors corrupt
Result<void> check_row(std::string_view key, std::string_view value);

}  // namespace reelfs::indexd
