#include "indexd/schema/rows.h"

#include <fmt/format.h>

#include "indexd/schema/codec.h"
#include "indexd/schema/keys.h"

namespace reelfs::indexd {
namespace {

template <class T, class Row>
concept Of = std::same_as<std::remove_const_t<T>, Row>;

}  // namespace

// The order of the fields is the format (docs/formats/index.md).

template <class Codec>
void fields(Codec& codec, Of<InodeRow> auto& row) {
  codec(row.mode, row.uid, row.gid, row.nlink, row.rdev, row.size, row.stored_bytes, row.atime_ns,
        row.mtime_ns, row.ctime_ns, row.btime_ns, row.channel, row.parent, row.version, row.generation,
        row.flags, row.entries, row.last_cookie);
}
template <class Codec>
void added_fields(Codec& codec, Of<InodeRow> auto& row) {
  codec(row.first_ns, row.last_ns);
}
template <class Codec>
void fields(Codec& codec, Of<DirentRow> auto& row) {
  codec(row.inode, row.type, row.cookie);
}
template <class Codec>
void fields(Codec& codec, Of<DirectoryOrderRow> auto& row) {
  codec(row.inode, row.name);
}
template <class Codec>
void fields(Codec&, Of<NameRow> auto&) {}
template <class Codec>
void fields(Codec& codec, Of<SymlinkRow> auto& row) {
  codec(row.target);
}
template <class Codec>
void fields(Codec& codec, Of<XattrRow> auto& row) {
  codec(row.value);
}
template <class Codec>
void fields(Codec& codec, Of<ExtentRow> auto& row) {
  codec(row.length, row.segment, row.record_offset, row.payload_offset);
}
template <class Codec>
void added_fields(Codec& codec, Of<ExtentRow> auto& row) {
  codec(row.origin, row.origin_offset);
}
template <class Codec>
void fields(Codec& codec, Of<SegmentFileRow> auto& row) {
  codec(row.live_bytes);
}
template <class Codec>
void fields(Codec& codec, Of<SegmentCopy> auto& row) {
  codec(row.node, row.worker, row.device, row.block);
}
template <class Codec>
void fields(Codec& codec, Of<SegmentRow> auto& row) {
  codec(row.state, row.channel, row.generation, row.length, row.live_bytes, row.block_bytes, row.session,
        row.created_ns, row.sealed_ns, row.copies);
}
template <class Codec>
void added_fields(Codec& codec, Of<SegmentRow> auto& row) {
  codec(row.wanted_copies);
}
template <class Codec>
void more_fields(Codec& codec, Of<SegmentRow> auto& row) {
  codec(row.async, row.lost_upto);
}
template <class Codec>
void fields(Codec& codec, Of<LossRow> auto& row) {
  codec(row.since_ns, row.node, row.from, row.upto);
}
template <class Codec>
void fields(Codec& codec, Of<ChannelRow> auto& row) {
  codec(row.name, row.copies, row.files, row.live_bytes);
}
template <class Codec>
void fields(Codec&, Of<RecordingRow> auto&) {}
template <class Codec>
void fields(Codec& codec, Of<PolicyRow> auto& row) {
  codec(row.quota_bytes, row.max_age_s, row.min_age_s, row.overwrite, row.copies);
}
template <class Codec>
void added_fields(Codec& codec, Of<PolicyRow> auto& row) {
  codec(row.min_copies);
}
template <class Codec>
void more_fields(Codec& codec, Of<PolicyRow> auto& row) {
  codec(row.replication, row.acknowledge);
}
template <class Codec>
void fields(Codec& codec, Of<NodeRow> auto& row) {
  codec(row.name, row.rack);
}
template <class Codec>
void added_fields(Codec& codec, Of<NodeRow> auto& row) {
  codec(row.service);
}
template <class Codec>
void fields(Codec& codec, Of<NodeTimesRow> auto& row) {
  codec(row.away_since_ns, row.scrub_ordered_ns);
}
template <class Codec>
void fields(Codec& codec, Of<DeviceRow> auto& row) {
  codec(row.uuid, row.node, row.path, row.block_bytes, row.blocks);
}
template <class Codec>
void fields(Codec& codec, Of<SessionRow> auto& row) {
  codec(row.host, row.pid, row.purpose, row.opened_ns);
}
template <class Codec>
void added_fields(Codec& codec, Of<SessionRow> auto& row) {
  codec(row.opens_nothing);
}
template <class Codec>
void fields(Codec& codec, Of<AcknowledgedRow> auto& row) {
  codec(row.below);
}
template <class Codec>
void fields(Codec& codec, Of<AnswerRow> auto& row) {
  codec(row.answer);
}
template <class Codec>
void fields(Codec& codec, Of<OrphanRow> auto& row) {
  codec(row.since_ns);
}
template <class Codec>
void fields(Codec& codec, Of<GrantRow> auto& row) {
  codec(row.last_sequence);
}
template <class Codec>
void fields(Codec& codec, Of<ProgressRow> auto& row) {
  codec(row.sequence, row.mtime_ns, row.more);
}
template <class Codec>
void fields(Codec& codec, Of<LockRow> auto& row) {
  codec(row.last, row.type, row.pid);
}
template <class Codec>
void fields(Codec& codec, Of<HoldRow> auto& row) {
  codec(row.reason, row.who, row.since_ns);
}
template <class Codec>
void fields(Codec& codec, Of<HoldCountRow> auto& row) {
  codec(row.holds);
}
template <class Codec>
void fields(Codec& codec, Of<GapRow> auto& row) {
  codec(row.end_ns, row.cause, row.longest_stall_ms);
}
template <class Codec>
void fields(Codec& codec, Of<WatchRow> auto& row) {
  codec(row.since_ns, row.cadence_ms, row.longest_stall_ms, row.gaps, row.open_ns);
}
template <class Codec>
void fields(Codec& codec, Of<DamagedRange> auto& range) {
  codec(range.offset, range.length);
}
template <class Codec>
void fields(Codec& codec, Of<DamageRow> auto& row) {
  codec(row.since_ns, row.unrepairable, row.ranges);
}
template <class Codec>
void fields(Codec& codec, Of<RepairLogRow> auto& row) {
  codec(row.at_ns, row.event, row.segment, row.node, row.other, row.device, row.bytes, row.details);
}
template <class Codec>
void fields(Codec& codec, Of<BootRow> auto& row) {
  codec(row.boot_id);
}
template <class Codec>
void fields(Codec& codec, Of<CounterRow> auto& row) {
  codec(row.value);
}
template <class Codec>
void fields(Codec& codec, Of<ClusterRow> auto& row) {
  codec(row.uuid, row.block_bytes, row.created_ns);
}
template <class Codec>
void added_fields(Codec& codec, Of<ClusterRow> auto& row) {
  codec(row.has_recordings);
}
template <class Codec>
void fields(Codec& codec, Of<JournalPosition> auto& row) {
  codec(row.epoch, row.index);
}

template <class Codec>
void fields(Codec& codec, Of<InodeKey> auto& key) {
  codec(key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<DirentKey> auto& key) {
  codec(key.parent, key.name);
}
template <class Codec>
void fields(Codec& codec, Of<DirectoryOrderKey> auto& key) {
  codec(key.parent, key.cookie);
}
template <class Codec>
void fields(Codec& codec, Of<NameKey> auto& key) {
  codec(key.inode, key.parent, key.name);
}
template <class Codec>
void fields(Codec& codec, Of<SymlinkKey> auto& key) {
  codec(key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<XattrKey> auto& key) {
  codec(key.inode, key.name);
}
template <class Codec>
void fields(Codec& codec, Of<ExtentKey> auto& key) {
  codec(key.inode, key.file_offset);
}
template <class Codec>
void fields(Codec& codec, Of<SegmentKey> auto& key) {
  codec(key.segment);
}
template <class Codec>
void fields(Codec& codec, Of<SegmentFileKey> auto& key) {
  codec(key.segment, key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<ChannelKey> auto& key) {
  codec(key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<RecordingKey> auto& key) {
  codec(key.channel, key.last_ns, key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<PolicyKey> auto& key) {
  codec(key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<NodeKey> auto& key) {
  codec(key.node);
}
template <class Codec>
void fields(Codec& codec, Of<NodeTimesKey> auto& key) {
  codec(key.node);
}
template <class Codec>
void fields(Codec& codec, Of<DeviceKey> auto& key) {
  codec(key.device);
}
template <class Codec>
void fields(Codec& codec, Of<SessionKey> auto& key) {
  codec(key.session);
}
template <class Codec>
void fields(Codec& codec, Of<AcknowledgedKey> auto& key) {
  codec(key.session);
}
template <class Codec>
void fields(Codec& codec, Of<AnswerKey> auto& key) {
  codec(key.session, key.request);
}
template <class Codec>
void fields(Codec& codec, Of<GrantKey> auto& key) {
  codec(key.session, key.segment, key.generation);
}
template <class Codec>
void fields(Codec& codec, Of<ProgressKey> auto& key) {
  codec(key.session, key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<OrphanKey> auto& key) {
  codec(key.inode);
}
template <class Codec>
void fields(Codec& codec, Of<LockKey> auto& key) {
  codec(key.inode, key.kind, key.session, key.owner, key.first);
}
template <class Codec>
void fields(Codec& codec, Of<HoldKey> auto& key) {
  codec(key.inode);
}
template <class Codec>
void fields(Codec&, Of<HoldCountKey> auto&) {}
template <class Codec>
void fields(Codec& codec, Of<WatchKey> auto& key) {
  codec(key.channel);
}
template <class Codec>
void fields(Codec& codec, Of<GapKey> auto& key) {
  codec(key.channel, key.start_ns);
}
template <class Codec>
void fields(Codec& codec, Of<LossKey> auto& key) {
  codec(key.segment);
}
template <class Codec>
void fields(Codec& codec, Of<DamageKey> auto& key) {
  codec(key.segment, key.node);
}
template <class Codec>
void fields(Codec& codec, Of<RepairLogKey> auto& key) {
  codec(key.number);
}
template <class Codec>
void fields(Codec&, Of<BootKey> auto&) {}
template <class Codec>
void fields(Codec& codec, Of<CounterKey> auto& key) {
  codec(key.counter);
}
template <class Codec>
void fields(Codec&, Of<ClusterKey> auto&) {}
template <class Codec>
void fields(Codec&, Of<AppliedKey> auto&) {}

namespace {

inline constexpr std::uint8_t kRowVersion = 1;
inline constexpr std::uint8_t kRowWithAddedFields = 2;
inline constexpr std::uint8_t kRowWithMoreFields = 3;  // those, and others that were added later

/// Of rows that can have added fields, most have none, and stay as they are.
template <class Row>
bool has_added_fields(const Row&) {
  return false;
}
bool has_added_fields(const ExtentRow& row) { return static_cast<bool>(row.origin); }
bool has_added_fields(const InodeRow& row) { return row.last_ns != 0; }
bool has_added_fields(const ClusterRow& row) { return row.has_recordings != 0; }
bool has_added_fields(const SessionRow& row) { return row.opens_nothing != 0; }
bool has_added_fields(const SegmentRow& row) { return row.wanted_copies != 0; }
bool has_added_fields(const PolicyRow& row) { return row.min_copies != 0; }
bool has_added_fields(const NodeRow& row) { return row.service != NodeService::in_service; }

/// The same, of fields that were added later still.
template <class Row>
bool has_more_fields(const Row&) {
  return false;
}
bool has_more_fields(const SegmentRow& row) { return row.async != 0 || row.lost_upto != 0; }
bool has_more_fields(const PolicyRow& row) {
  return row.replication != PolicyRow::Replication::undecided ||
         row.acknowledge != PolicyRow::Acknowledge::undecided;
}

template <class Row>
inline constexpr bool kCanHaveMoreFields = false;
template <>
inline constexpr bool kCanHaveMoreFields<SegmentRow> = true;
template <>
inline constexpr bool kCanHaveMoreFields<PolicyRow> = true;

template <class Row>
inline constexpr bool kCanHaveAddedFields = false;
template <>
inline constexpr bool kCanHaveAddedFields<ExtentRow> = true;
template <>
inline constexpr bool kCanHaveAddedFields<InodeRow> = true;
template <>
inline constexpr bool kCanHaveAddedFields<ClusterRow> = true;
template <>
inline constexpr bool kCanHaveAddedFields<SessionRow> = true;
template <>
inline constexpr bool kCanHaveAddedFields<SegmentRow> = true;
template <>
inline constexpr bool kCanHaveAddedFields<PolicyRow> = true;
template <>
inline constexpr bool kCanHaveAddedFields<NodeRow> = true;

template <class Row>
bool is_sound(const Row&) {
  return true;
}
bool is_sound(const SegmentRow& row) {
  const bool state = row.state >= SegmentState::allocating && row.state <= SegmentState::freeing;
  return state && row.async <= 1 && (row.lost_upto == 0 || row.lost_upto > row.length);
}
bool is_sound(const LossRow& row) { return row.upto > row.from; }

bool is_sound(const NodeRow& row) { return row.service <= NodeService::removed; }

bool is_sound(const NodeTimesRow& row) { return row.away_since_ns >= 0 && row.scrub_ordered_ns >= 0; }

bool is_sound(const PolicyRow& row) {
  return row.overwrite <= PolicyRow::Switch::off && row.replication <= PolicyRow::Replication::async &&
         row.acknowledge <= PolicyRow::Acknowledge::memory;
}

bool is_sound(const LockRow& row) {
  return row.last <= kLastByte && (row.type == LockType::read || row.type == LockType::write);
}

bool is_sound(const HoldRow& row) { return !row.reason.empty(); }
bool is_sound(const HoldCountRow& row) { return row.holds > 0; }
bool is_sound(const GapRow& row) {
  return row.end_ns >= 0 && row.cause >= GapCause::source_silent && row.cause <= GapCause::store_stalled;
}
bool is_sound(const DamageRow& row) {
  std::uint64_t end = 0;
  for (const auto& range : row.ranges) {
    if (range.length == 0 || range.offset < end || range.length > UINT64_MAX - range.offset) return false;
    end = range.offset + range.length;
  }
  return !row.ranges.empty() && row.unrepairable <= 1;
}

bool is_sound(const RepairLogRow& row) {
  const auto is_between = [&](RepairEvent first, RepairEvent last) {
    return row.event >= first && row.event <= last;
  };
  return is_between(RepairEvent::node_away, RepairEvent::tail_lost) ||
         is_between(RepairEvent::rebalance_began, RepairEvent::device_fast);
}

template <class Key>
bool is_sound_key(const Key&) {
  return true;
}
bool is_sound_key(const LockKey& key) {
  return key.first <= kLastByte && (key.kind == LockKind::posix || key.kind == LockKind::flock);
}

template <class Key>
Result<void> check_row_of(std::string_view key, std::string_view value) {
  REELFS_TRY(decode_key<Key>(key));
  REELFS_TRY(decode_row<typename Key::Row>(value));
  return ok();
}

}  // namespace

template <class Row>
std::string encode_row(const Row& row) {
  const auto version = has_more_fields(row)    ? kRowWithMoreFields
                       : has_added_fields(row) ? kRowWithAddedFields
                                               : kRowVersion;
  std::string out(1, static_cast<char>(version));
  codec::RowEncoder encoder(out);
  fields(encoder, row);
  if constexpr (kCanHaveAddedFields<Row>) {
    if (version >= kRowWithAddedFields) added_fields(encoder, row);
  }
  if constexpr (kCanHaveMoreFields<Row>) {
    if (version == kRowWithMoreFields) more_fields(encoder, row);
  }
  return out;
}

template <class Row>
Result<Row> decode_row(std::string_view bytes) {
  if (bytes.empty()) return Error(Errc::corrupt, "row is empty");
  constexpr auto kNewest = kCanHaveMoreFields<Row>    ? kRowWithMoreFields
                           : kCanHaveAddedFields<Row> ? kRowWithAddedFields
                                                      : kRowVersion;
  const auto version = static_cast<std::uint8_t>(bytes.front());
  if (version < kRowVersion || version > kNewest) {
    return Error(Errc::corrupt, fmt::format("row has version {}; this program reads {} to {}", version,
                                            kRowVersion, kNewest));
  }
  Row row;
  codec::RowDecoder decoder(bytes.substr(1));
  fields(decoder, row);
  if constexpr (kCanHaveAddedFields<Row>) {
    if (version >= kRowWithAddedFields) added_fields(decoder, row);
    if (version == kRowWithAddedFields && !has_added_fields(row)) decoder.refuse();
  }
  if constexpr (kCanHaveMoreFields<Row>) {
    if (version == kRowWithMoreFields) {
      more_fields(decoder, row);
      if (!has_more_fields(row)) decoder.refuse();
    }
  }
  if (!decoder.ok() || !decoder.at_end() || !is_sound(row)) {
    return Error(Errc::corrupt, fmt::format("row of {} bytes does not decode", bytes.size()));
  }
  return row;
}

template <class Key>
std::string encode_key(const Key& key) {
  std::string out(1, static_cast<char>(Key::kTable));
  codec::KeyEncoder encoder(out);
  fields(encoder, key);
  return out;
}

template <class Key>
Result<Key> decode_key(std::string_view bytes) {
  if (!bytes.starts_with(static_cast<char>(Key::kTable)))
    return Error(Errc::corrupt, "key is of another table");
  Key key;
  codec::KeyDecoder decoder(bytes.substr(1));
  fields(decoder, key);
  if (!decoder.whole() || !is_sound_key(key))
    return Error(Errc::corrupt, fmt::format("key of {} bytes does not decode", bytes.size()));
  return key;
}

Result<void> check_row(std::string_view key, std::string_view value) {
  if (key.empty()) return Error(Errc::corrupt, "key is empty");
  switch (static_cast<Table>(key.front())) {
    case Table::applied:
      return check_row_of<AppliedKey>(key, value);
    case Table::cluster:
      return check_row_of<ClusterKey>(key, value);
    case Table::counter:
      return check_row_of<CounterKey>(key, value);
    case Table::recording:
      return check_row_of<RecordingKey>(key, value);
    case Table::policy:
      return check_row_of<PolicyKey>(key, value);
    case Table::answer:
      return check_row_of<AnswerKey>(key, value);
    case Table::acknowledged:
      return check_row_of<AcknowledgedKey>(key, value);
    case Table::directory_order:
      return check_row_of<DirectoryOrderKey>(key, value);
    case Table::dirent:
      return check_row_of<DirentKey>(key, value);
    case Table::boot:
      return check_row_of<BootKey>(key, value);
    case Table::grant:
      return check_row_of<GrantKey>(key, value);
    case Table::progress:
      return check_row_of<ProgressKey>(key, value);
    case Table::lock:
      return check_row_of<LockKey>(key, value);
    case Table::hold:
      return check_row_of<HoldKey>(key, value);
    case Table::hold_count:
      return check_row_of<HoldCountKey>(key, value);
    case Table::extent:
      return check_row_of<ExtentKey>(key, value);
    case Table::channel:
      return check_row_of<ChannelKey>(key, value);
    case Table::inode:
      return check_row_of<InodeKey>(key, value);
    case Table::name:
      return check_row_of<NameKey>(key, value);
    case Table::symlink:
      return check_row_of<SymlinkKey>(key, value);
    case Table::node:
      return check_row_of<NodeKey>(key, value);
    case Table::node_times:
      return check_row_of<NodeTimesKey>(key, value);
    case Table::session:
      return check_row_of<SessionKey>(key, value);
    case Table::orphan:
      return check_row_of<OrphanKey>(key, value);
    case Table::segment:
      return check_row_of<SegmentKey>(key, value);
    case Table::segment_file:
      return check_row_of<SegmentFileKey>(key, value);
    case Table::device:
      return check_row_of<DeviceKey>(key, value);
    case Table::watch:
      return check_row_of<WatchKey>(key, value);
    case Table::gap:
      return check_row_of<GapKey>(key, value);
    case Table::damage:
      return check_row_of<DamageKey>(key, value);
    case Table::loss:
      return check_row_of<LossKey>(key, value);
    case Table::repair_log:
      return check_row_of<RepairLogKey>(key, value);
    case Table::xattr:
      return check_row_of<XattrKey>(key, value);
  }
  return Error(Errc::corrupt, "key is of an unknown table");
}

#define REELFS_INSTANTIATE(Key)                               \
  template std::string encode_key<Key>(const Key&);           \
  template Result<Key> decode_key<Key>(std::string_view);     \
  template std::string encode_row<Key::Row>(const Key::Row&); \
  template Result<Key::Row> decode_row<Key::Row>(std::string_view);
REELFS_INSTANTIATE(InodeKey)
REELFS_INSTANTIATE(DirentKey)
REELFS_INSTANTIATE(DirectoryOrderKey)
REELFS_INSTANTIATE(NameKey)
REELFS_INSTANTIATE(SymlinkKey)
REELFS_INSTANTIATE(XattrKey)
REELFS_INSTANTIATE(ExtentKey)
REELFS_INSTANTIATE(SegmentKey)
REELFS_INSTANTIATE(RecordingKey)
REELFS_INSTANTIATE(PolicyKey)
REELFS_INSTANTIATE(SegmentFileKey)
REELFS_INSTANTIATE(ChannelKey)
REELFS_INSTANTIATE(NodeKey)
REELFS_INSTANTIATE(NodeTimesKey)
REELFS_INSTANTIATE(DeviceKey)
REELFS_INSTANTIATE(SessionKey)
REELFS_INSTANTIATE(AcknowledgedKey)
REELFS_INSTANTIATE(AnswerKey)
REELFS_INSTANTIATE(OrphanKey)
REELFS_INSTANTIATE(GrantKey)
REELFS_INSTANTIATE(ProgressKey)
REELFS_INSTANTIATE(LockKey)
REELFS_INSTANTIATE(HoldKey)
REELFS_INSTANTIATE(HoldCountKey)
REELFS_INSTANTIATE(WatchKey)
REELFS_INSTANTIATE(GapKey)
REELFS_INSTANTIATE(DamageKey)
REELFS_INSTANTIATE(LossKey)
REELFS_INSTANTIATE(RepairLogKey)
REELFS_INSTANTIATE(BootKey)
REELFS_INSTANTIATE(CounterKey)
REELFS_INSTANTIATE(ClusterKey)
REELFS_INSTANTIATE(AppliedKey)
#undef REELFS_INSTANTIATE

}  // namespace reelfs::indexd
