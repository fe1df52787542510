#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/locks/lock_ranges.h"

namespace reelfs::indexd {

/// Wall time as files carry it: nanoseconds since 1970.
using WallNs = std::int64_t;

// The values that RocksDB holds. Byte tables: docs/formats/index.md. Keys: keys.h.

/// A file, directory, symlink, fifo, socket or device node.
struct InodeRow {
  std::uint32_t mode = 0;  // S_IFMT and permissions
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t nlink = 0;
  std::uint64_t rdev = 0;
  std::uint64_t size = 0;
  std::uint64_t stored_bytes = 0;  // sum of its extents' lengths
  WallNs atime_ns = 0;
  WallNs mtime_ns = 0;
  WallNs ctime_ns = 0;
  WallNs btime_ns = 0;
  InodeId channel;                // none for the root
  InodeId parent;                 // directories only; the root is its own
  std::uint64_t version = 0;      // grows with every change of data or attributes
  std::uint64_t generation = 0;   // differs from that of an earlier file with the same number
  std::uint32_t flags = 0;        // kInodeHas…
  std::uint64_t entries = 0;      // directories: names in it
  std::uint64_t last_cookie = 0;  // directories: of the newest entry; only grows
  // Files: when the index learnt of the first byte (0: there was none yet), and of the newest; or of the
  // file.
  WallNs first_ns = 0;
  WallNs last_ns = 0;
  friend bool operator==(const InodeRow&, const InodeRow&) = default;
};

/// InodeRow::flags: the inode has this list as an extended attribute. Told with the attributes, so that
/// nobody asks for lists that are not there. They are wire::Attributes::flags, too.
inline constexpr std::uint32_t kInodeHasAccessAcl = 1;
inline constexpr std::uint32_t kInodeHasDefaultAcl = 2;

/// A name in a directory.
struct DirentRow {
  InodeId inode;
  std::uint32_t type = 0;    // S_IFMT bits
  std::uint64_t cookie = 0;  // its place in the directory's order
  friend bool operator==(const DirentRow&, const DirentRow&) = default;
};

/// The same name, found by its place.
struct DirectoryOrderRow {
  InodeId inode;
  std::string name;
  friend bool operator==(const DirectoryOrderRow&, const DirectoryOrderRow&) = default;
};

/// A name of an inode: the key says which. Leads from a file to its path.
struct NameRow {
  friend bool operator==(const NameRow&, const NameRow&) = default;
};

struct SymlinkRow {
  std::string target;
  friend bool operator==(const SymlinkRow&, const SymlinkRow&) = default;
};

struct XattrRow {
  std::string value;
  friend bool operator==(const XattrRow&, const XattrRow&) = default;
};

/// Where a piece of a file is: payload bytes from payload_offset on of the record at record_offset of the
/// segment.
struct ExtentRow {
  std::uint64_t length = 0;
  SegmentId segment;
  std::uint32_t record_offset = 0;
  std::uint32_t payload_offset = 0;
  InodeId origin{};                 // the file the record was written for; none: this one, at this place
  std::uint64_t origin_offset = 0;  // with origin: where in it the record's first payload byte was
  friend bool operator==(const ExtentRow&, const ExtentRow&) = default;
};

/// How much of a segment belongs to one file.
struct SegmentFileRow {
  std::uint64_t live_bytes = 0;  // never 0: the row goes with the last byte
  friend bool operator==(const SegmentFileRow&, const SegmentFileRow&) = default;
};

/// The values are those of wire::SegmentState.
enum class SegmentState : std::uint8_t {
  allocating = 1,  // blocks are being taken on the nodes
  open = 2,        // granted to a writer
  unfilled = 3,    // no writer, room left
  sealed = 4,
  freeing = 5,  // nothing lives in it; blocks are being given back
};

struct SegmentCopy {
  NodeId node;
  WorkerId worker;  // that took the block
  DeviceId device;
  std::uint32_t block = 0;
  friend bool operator==(const SegmentCopy&, const SegmentCopy&) = default;
};

struct SegmentRow {
  SegmentState state = SegmentState::allocating;
  InodeId channel;
  Generation generation;
  std::uint64_t length = 0;      // sealed or unfilled: exact; open: as far as committed
  std::uint64_t live_bytes = 0;  // payload bytes that extents point at
  std::uint64_t block_bytes = 0;
  SessionId session;  // that writes it
  WallNs created_ns = 0;
  WallNs sealed_ns = 0;  // 0 until then
  std::vector<SegmentCopy> copies;
  std::uint32_t wanted_copies =
      0;                    // more than there are: so many nodes were not to be had. 0: as many as there are
  std::uint32_t async = 0;  // 1: its writer was acknowledged by the first copy alone. docs/design/async.md
  // What was committed went up to here, and no copy has what lies behind `length`; there is a LossRow.
  std::uint64_t lost_upto = 0;  // 0: nothing is lost
  friend bool operator==(const SegmentRow&, const SegmentRow&) = default;
};

/// The end of a segment is in no copy any more; the key says of which. Goes with the segment.
/// docs/design/async.md
struct LossRow {
  WallNs since_ns = 0;  // when that was decided
  NodeId node;          // the one that had it
  std::uint64_t from = 0;
  std::uint64_t upto = 0;  // > from
  friend bool operator==(const LossRow&, const LossRow&) = default;
};

/// A directory at the root, and what is counted and decided for all below it.
struct ChannelRow {
  std::string name;
  std::uint32_t copies = 2;
  std::uint64_t files = 0;       // inodes that have a name in it, of any type; its own directory not counted
  std::uint64_t live_bytes = 0;  // sum of the stored bytes of its files, those without a name included
  friend bool operator==(const ChannelRow&, const ChannelRow&) = default;
};

/// A file of a channel; the key says when its newest byte came.
struct RecordingRow {
  friend bool operator==(const RecordingRow&, const RecordingRow&) = default;
};

/// What was decided for a channel, or as the root's row for all that decide nothing themselves. 0: nothing.
struct PolicyRow {
  static constexpr std::uint64_t kNoLimit = UINT64_MAX;
  enum class Switch : std::uint8_t { undecided = 0, on = 1, off = 2 };
  enum class Replication : std::uint8_t {
    undecided = 0,
    sync = 1,   // acknowledged by every copy
    async = 2,  // by the first, which sends it on
  };
  /// What fsync waits for, of the copies that acknowledge.
  enum class Acknowledge : std::uint8_t {
    undecided = 0,
    disks = 1,            // on the disks of all
    disk_and_memory = 2,  // on the disk of one, and in the memory of the others
    memory = 3,           // in the memory of all
  };

  std::uint64_t quota_bytes = 0;
  std::uint64_t max_age_s = 0;
  std::uint64_t min_age_s = 0;
  Switch overwrite = Switch::undecided;
  std::uint32_t copies = 0;      // the root's alone: of new channels
  std::uint32_t min_copies = 0;  // with which recording goes on
  Replication replication = Replication::undecided;
  Acknowledge acknowledge = Acknowledge::undecided;
  friend bool operator==(const PolicyRow&, const PolicyRow&) = default;
};

/// Whether a node is to have copies. The values keep their meaning for ever.
enum class NodeService : std::uint8_t {
  in_service = 0,
  leaving = 1,  // its copies are made anew elsewhere
  removed = 2,  // for ever: what it had is written off
};

struct NodeRow {
  std::string name;
  std::string rack;
  NodeService service = NodeService::in_service;
  friend bool operator==(const NodeRow&, const NodeRow&) = default;
};

/// What is to be remembered of a node while index servers come and go; no row: nothing is.
struct NodeTimesRow {
  WallNs away_since_ns = 0;  // no process of it has answered since then; 0: one did when this was noted last
  WallNs scrub_ordered_ns = 0;  // a pass over all its copies was ordered then and is not over; 0: none
  friend bool operator==(const NodeTimesRow&, const NodeTimesRow&) = default;
};

struct DeviceRow {
  Uuid uuid;
  NodeId node;
  std::string path;
  std::uint64_t block_bytes = 0;
  std::uint32_t blocks = 0;
  friend bool operator==(const DeviceRow&, const DeviceRow&) = default;
};

struct SessionRow {
  std::string host;
  std::uint32_t pid = 0;
  std::string purpose;
  WallNs opened_ns = 0;
  std::uint32_t opens_nothing = 0;  // 1: it never has an inode open
  friend bool operator==(const SessionRow&, const SessionRow&) = default;
};

/// Answers to a session's requests below this one have arrived there and are forgotten here.
struct AcknowledgedRow {
  std::uint64_t below = 0;
  friend bool operator==(const AcknowledgedRow&, const AcknowledgedRow&) = default;
};

/// The first answer to a request, for its repetitions.
struct AnswerRow {
  std::string answer;
  friend bool operator==(const AnswerRow&, const AnswerRow&) = default;
};

/// An inode without a name: it goes when nobody has it open.
struct OrphanRow {
  WallNs since_ns = 0;
  friend bool operator==(const OrphanRow&, const OrphanRow&) = default;
};

/// A segment that was granted to a session and may hold records of it whose extents are not there yet; the
/// key says which. docs/design/roll-forward.md
struct GrantRow {
  std::uint64_t last_sequence = 0;  // of its records; 0: not known, it may be written still
  friend bool operator==(const GrantRow&, const GrantRow&) = default;
};

/// How far a session's commits of a file have got; with inode 0 in the key, those of all files.
struct ProgressRow {
  std::uint64_t sequence = 0;  // records up to this one are not to be rolled forward
  WallNs mtime_ns = 0;         // of the file then: another one tells that somebody changed it since
  std::uint32_t more = 0;      // 1: further records of it were under way
  friend bool operator==(const ProgressRow&, const ProgressRow&) = default;
};

/// A piece of a file that is locked; the key has the owner and the first byte.
struct LockRow {
  std::uint64_t last = 0;  // byte
  LockType type = LockType::read;
  std::uint32_t pid = 0;  // on the session's machine
  friend bool operator==(const LockRow&, const LockRow&) = default;
};

/// What must stay as it is: docs/guide/operations.md, "Holds".
struct HoldRow {
  std::string reason;  // never empty
  std::string who;
  WallNs since_ns = 0;
  friend bool operator==(const HoldRow&, const HoldRow&) = default;
};

/// How many holds there are; no row: none.
struct HoldCountRow {
  std::uint64_t holds = 0;  // never 0
  friend bool operator==(const HoldCountRow&, const HoldCountRow&) = default;
};

/// Why nothing was recorded. The values are those of wire::GapCause.
enum class GapCause : std::uint8_t {
  source_silent = 1,  // a recorder was there
  recorder_gone = 2,
  store_stalled = 3,
};

/// A time in which nothing was recorded; the key says when it began. docs/design/gaps.md
struct GapRow {
  WallNs end_ns = 0;  // 0: it lasts
  GapCause cause = GapCause::source_silent;
  std::uint64_t longest_stall_ms = 0;  // of a call of the recorder in it
  friend bool operator==(const GapRow&, const GapRow&) = default;
};

/// What is known of a channel that is recorded to, or was.
struct WatchRow {
  WallNs since_ns = 0;  // the first byte that came
  std::uint64_t cadence_ms = 0;
  std::uint64_t longest_stall_ms = 0;  // ever
  std::uint64_t gaps = 0;              // rows of the channel
  WallNs open_ns = 0;                  // start of the one that lasts; 0: none
  friend bool operator==(const WatchRow&, const WatchRow&) = default;
};

/// A range of a segment.
struct DamagedRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // never 0
  friend bool operator==(const DamagedRange&, const DamagedRange&) = default;
};

/// What is known to be bad of a copy, until it is repaired; the key says of which. docs/design/scrub.md
struct DamageRow {
  WallNs since_ns = 0;
  std::uint32_t unrepairable = 0;    // 1: all copies were asked, and none has these bytes
  std::vector<DamagedRange> ranges;  // ascending, not overlapping, never none
  friend bool operator==(const DamageRow&, const DamageRow&) = default;
};

/// What became of a copy, or of what it is on. The values are those of wire::RepairEvent.
enum class RepairEvent : std::uint8_t {
  node_away = 1,
  node_back = 2,
  node_leaving = 3,  // it is to be drained
  node_staying = 4,  // and is not any more
  node_removed = 5,
  device_away = 6,
  device_back = 7,
  not_waited_for = 8,   // an operator: what is away is made again at once
  too_few_copies = 9,   // a segment was sealed with fewer copies than wanted
  copy_behind = 10,     // a sealed segment's copy lacks its end
  copy_completed = 11,  // it has it now
  copy_made = 12,
  copy_failed = 13,  // to be made or completed: why is in the details
  copy_stale = 14,   // a node still had a copy that counts no more, and frees it
  copy_damaged = 15,
  damage_repaired = 16,
  damage_everywhere = 17,  // no copy has these bytes
  tail_away = 18,          // only the node that is away has the end of a segment. bytes: of recordings in it
  tail_back = 19,          // the node is back, and the others are given what they lack
  tail_lost = 20,          // the node had it, and is lost
  rebalance_began = 40,    // nodes or devices are so unequally full that copies are moved
  rebalance_ended = 41,    // they are about equally full again, or no move brings them nearer
  copy_moved = 42,
  device_slow = 43,  // it is slower than its peers, and avoided
  device_fast = 44,  // and is not any more
};

/// An entry of the repair log; the key is its number. docs/design/repair.md, "The log"
struct RepairLogRow {
  WallNs at_ns = 0;
  RepairEvent event = RepairEvent::node_away;
  SegmentId segment;        // none: it is of a node or device
  NodeId node;              // whose copy it is
  NodeId other;             // copy_made, copy_moved: whose copy went instead
  DeviceId device;          // device_…; copy_moved within a node: where the copy is now
  std::uint64_t bytes = 0;  // of what it is about
  std::string details;      // for people
  friend bool operator==(const RepairLogRow&, const RepairLogRow&) = default;
};

/// Which run of which machine wrote here last: after another one, what had not been synced may be missing.
struct BootRow {
  std::string boot_id;
  friend bool operator==(const BootRow&, const BootRow&) = default;
};

/// The last number given.
struct CounterRow {
  std::uint64_t value = 0;
  friend bool operator==(const CounterRow&, const CounterRow&) = default;
};

struct ClusterRow {
  Uuid uuid;
  std::uint64_t block_bytes = 0;
  WallNs created_ns = 0;
  std::uint32_t has_recordings = 0;  // 1: each file is in the table of recordings
  friend bool operator==(const ClusterRow&, const ClusterRow&) = default;
};

/// A place in the journal. The one RocksDB holds is that of the newest entry it contains.
struct JournalPosition {
  Epoch epoch;
  std::uint64_t index = 0;  // 0: before the first entry
  friend bool operator==(const JournalPosition&, const JournalPosition&) = default;
};

/// The row's bytes: a version, then the fields.
template <class Row>
std::string encode_row(const Row& row);

/// @errors corrupt: unknown version, too short, too long, or a field that cannot be
template <class Row>
Result<Row> decode_row(std::string_view bytes);

}  // namespace reelfs::indexd
