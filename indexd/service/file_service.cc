#include "indexd/service/file_service.h"

#include <algorithm>
#include <map>
#include <set>

#include "indexd/service/convert.h"
#include "indexd/service/hold_service.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/overwriter.h"
#include "indexd/service/roll_forward.h"
#include "indexd/service/segment_keeper.h"
#include "indexd/tree/attributes.h"
#include "indexd/tree/extents.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/policy.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint32_t kMaxExtents = 4096;
constexpr int kMaxLocated = 4096;
constexpr std::size_t kExtentsAtOnce = 1024;  // changed in one operation: others wait for no more
constexpr int kMaxReadsNoted = 4096;
constexpr auto kLookPatience = std::chrono::seconds(1);
constexpr auto kReapPatience = std::chrono::milliseconds(500);

/// In words, who sets or removes an extended attribute.
template <class Request>
Result<std::string> asker(const Reader& reader, const Request& request) {
  const auto uid = request.has_uid() ? std::optional(request.uid()) : std::nullopt;
  return HoldService::who(reader, SessionId{request.header().session()}, uid);
}

Result<bool> is_held(const Reader& reader, InodeId inode) {
  REELFS_TRY(const auto hold, tree::held_by(reader, inode));
  return hold.has_value();
}

}  // namespace

void FileService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::get_attributes, *this, &FileService::get_attributes);
  dispatcher.add(wire::Method::set_attributes, *this, &FileService::set_attributes);
  dispatcher.add(wire::Method::get_xattr, *this, &FileService::get_xattr);
  dispatcher.add(wire::Method::list_xattr, *this, &FileService::list_xattr);
  dispatcher.add(wire::Method::set_xattr, *this, &FileService::set_xattr);
  dispatcher.add(wire::Method::remove_xattr, *this, &FileService::remove_xattr);
  dispatcher.add(wire::Method::open, *this, &FileService::open);
  dispatcher.add(wire::Method::release, *this, &FileService::release);
  dispatcher.add(wire::Method::get_extents, *this, &FileService::get_extents);
  dispatcher.add(wire::Method::locate_segments, *this, &FileService::locate_segments);
  dispatcher.add(wire::Method::commit, *this, &FileService::commit);
  dispatcher.add(wire::Method::punch_hole, *this, &FileService::punch_hole);
  dispatcher.add(wire::Method::clone_range, *this, &FileService::clone_range);
  dispatcher.add(wire::Method::note_reads, *this, &FileService::note_reads);
  dispatcher.add(wire::Method::sync, *this, &FileService::sync);
  dispatcher.add(wire::Method::statfs, *this, &FileService::statfs);
}

// ---- attributes

Task<wire::AttributesReply> FileService::get_attributes(wire::GetAttributesRequest request) {
  const InodeId id{request.inode()};
  const auto mark = leases_.mark();
  auto read = [id](const View& view) { return tree::get_inode(view, id); };
  REELFS_CO_TRY(const auto inode, co_await index_.peek(std::move(read)));
  auto reply = attributes_reply(inode);
  reply.set_lease_ms(leases_.grant(SessionId{request.session()}, {id}, mark));
  co_return reply;
}

asio::awaitable<void> FileService::tell_of(InodeId inode, const wire::RequestHeader& header) {
  return leases_.changed(SessionId{header.session()}, {{inode}, {}});
}

Task<void> FileService::empty_in_steps(wire::RequestHeader header, tree::HoleParams range) {
  const SessionId session{header.session()};
  range.max_extents = kExtentsAtOnce;
  for (;;) {
    REELFS_CO_TRY(sessions_.renew(session));
    auto look = [&range](const View& view) {
      return tree::get_extents(view, {range.inode, range.offset, range.length, kExtentsAtOnce});
    };
    const auto found = co_await index_.peek(std::move(look));
    if (!found || !found.value().more) co_return ok();  // what is wrong the operation itself will tell
    using Emptied = std::optional<std::vector<SegmentId>>;
    const auto request = Changes::request_of(header);
    const auto now = changes_.wall_ns();
    auto step = [&range, request, now](Transaction& txn) -> Result<Emptied> {
      REELFS_TRY(const auto is_answered, tree::is_answered(txn, request));
      if (is_answered) return Emptied();
      REELFS_TRY(auto changed, tree::punch_hole(txn, range, now));
      return Emptied(std::move(changed.emptied));
    };
    REELFS_CO_TRY(const auto emptied, co_await index_.run(std::move(step)));
    if (!emptied) co_return ok();
    segments_.emptied(*emptied);
    co_await tell_of(range.inode, header);
  }
}

template <class Change>
Task<rpc::Response> FileService::change_file(wire::RequestHeader header, Change change) {
  const SessionId session{header.session()};
  std::vector<SegmentId> emptied;
  Touched touched;
  auto op = [&change, &emptied, &touched, session](Transaction& txn,
                                                   WallNs now) -> Result<wire::AttributesReply> {
    REELFS_TRY(auto changed, change(txn, now));
    REELFS_TRY(tree::note_changed(txn, session, changed.inode));
    emptied = std::move(changed.emptied);
    touched.inodes.push_back(changed.inode.id);
    return attributes_reply(changed.inode);
  };
  auto answered = co_await changes_.once(std::move(header), std::move(op));
  if (answered) {
    segments_.emptied(emptied);
    co_await leases_.changed(session, touched);
  }
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> FileService::set_attributes(wire::SetAttributesRequest request) {
  tree::SetAttributesParams params;
  params.inode = InodeId{request.inode()};
  if (request.has_mode()) params.mode = request.mode();
  if (request.has_uid()) params.uid = request.uid();
  if (request.has_gid()) params.gid = request.gid();
  if (request.has_size()) params.size = request.size();
  if (request.has_atime_ns()) params.atime_ns = request.atime_ns();
  if (request.has_mtime_ns()) params.mtime_ns = request.mtime_ns();
  params.atime_now = request.atime_now();
  params.mtime_now = request.mtime_now();
  if (request.has_ctime_ns()) params.ctime_ns = request.ctime_ns();
  params.clear_suid = request.clear_suid();
  if (params.size) {
    const tree::HoleParams beyond{.inode = params.inode, .offset = *params.size, .length = UINT64_MAX};
    REELFS_CO_TRY(co_await empty_in_steps(request.header(), beyond));
  }
  auto change = [&params](Transaction& txn, WallNs now) { return tree::set_attributes(txn, params, now); };
  co_return co_await change_file(request.header(), std::move(change));
}

Task<wire::GetXattrReply> FileService::get_xattr(wire::GetXattrRequest request) {
  auto read = [&request](const View& view) {
    return tree::get_xattr(view, InodeId{request.inode()}, request.name());
  };
  REELFS_CO_TRY(auto value, co_await index_.peek(std::move(read)));
  wire::GetXattrReply reply;
  reply.set_value(std::move(value));
  co_return reply;
}

Task<wire::ListXattrReply> FileService::list_xattr(wire::ListXattrRequest request) {
  auto read = [inode = InodeId{request.inode()}](const View& view) { return tree::list_xattr(view, inode); };
  REELFS_CO_TRY(auto names, co_await index_.peek(std::move(read)));
  wire::ListXattrReply reply;
  for (auto& name : names) reply.add_names(std::move(name));
  co_return reply;
}

Task<rpc::Response> FileService::set_xattr(wire::SetXattrRequest request) {
  tree::SetXattrParams params;
  params.inode = InodeId{request.inode()};
  params.name = request.name();
  params.value = request.value();
  params.flags = request.flags();
  params.clear_sgid = request.clear_sgid();
  std::optional<HoldService::Changed> hold;
  auto op = [&request, &params, &hold](Transaction& txn, WallNs now) -> Result<wire::Empty> {
    if (params.name == tree::kHoldXattr) {
      REELFS_TRY(params.who, asker(txn, request));
    }
    REELFS_TRY(tree::set_xattr(txn, params, now));
    if (params.name == tree::kHoldXattr) {
      REELFS_TRY(const auto holds, tree::count_holds(txn));
      hold = {.inode = params.inode, .who = params.who, .reason = params.value, .holds = holds};
    }
    return wire::Empty();
  };
  REELFS_CO_TRY(auto message, co_await changes_.once(request.header(), std::move(op)));
  if (hold) holds_.changed(*hold);
  co_await note_policy(params.name);
  co_await tell_of(params.inode, request.header());
  co_return Changes::response(std::move(message));
}

asio::awaitable<void> FileService::note_policy(std::string_view attribute) {
  if (!tree::is_policy(attribute)) co_return;
  // It is stored. Where the look takes long, it is in force a moment later.
  [[maybe_unused]] const auto looked = co_await overwriter_.look_now(Deadline::after(clock_, kLookPatience));
}

Task<rpc::Response> FileService::remove_xattr(wire::RemoveXattrRequest request) {
  std::optional<HoldService::Changed> hold;
  auto op = [&request, &hold](Transaction& txn, WallNs now) -> Result<wire::Empty> {
    const InodeId inode{request.inode()};
    REELFS_TRY(tree::remove_xattr(txn, inode, request.name(), now));
    if (request.name() == tree::kHoldXattr) {
      REELFS_TRY(auto who, asker(txn, request));
      REELFS_TRY(const auto holds, tree::count_holds(txn));
      hold = {.inode = inode, .who = std::move(who), .reason = std::nullopt, .holds = holds};
    }
    return wire::Empty();
  };
  REELFS_CO_TRY(auto message, co_await changes_.once(request.header(), std::move(op)));
  if (hold) holds_.changed(*hold);
  co_await note_policy(request.name());
  co_await tell_of(InodeId{request.inode()}, request.header());
  co_return Changes::response(std::move(message));
}

// ---- open files

Task<wire::AttributesReply> FileService::open(wire::OpenRequest request) {
  const SessionId session{request.session()};
  const InodeId inode{request.inode()};
  REELFS_CO_TRY(sessions_.renew(session));
  // First noted, then looked at: what is found is there to stay.
  REELFS_CO_TRY(sessions_.opened(session, inode));
  auto read = [inode](const View& view) -> Result<wire::AttributesReply> {
    REELFS_TRY(const auto found, tree::get_inode(view, inode));
    auto reply = attributes_reply(found);
    REELFS_TRY(const auto held, is_held(view, inode));
    reply.set_held(held);
    return reply;
  };
  auto reply = co_await index_.peek(std::move(read));
  if (!reply) sessions_.released(session, inode);
  co_return std::move(reply);
}

Task<wire::Empty> FileService::release(wire::ReleaseRequest request) {
  const SessionId session{request.session()};
  REELFS_CO_TRY(sessions_.renew(session));
  for (const auto inode : request.inodes()) sessions_.released(session, InodeId{inode});
  for (const auto inode : request.forgotten()) sessions_.forgotten(session, InodeId{inode});
  co_return wire::Empty();
}

// ---- what is in them

Result<std::vector<FileService::Located>> FileService::locate(const View& view,
                                                              const std::vector<SegmentId>& segments) {
  std::vector<Located> located;
  for (const auto segment : segments) {
    REELFS_TRY(auto row, view.find(SegmentKey{segment}));
    // Nothing lives in one that is being freed: who still asks for it has old extents.
    if (row && row->state != SegmentState::freeing) located.push_back({segment, std::move(row->copies)});
  }
  return located;
}

void FileService::describe(const Located& located, wire::SegmentLocation& out) const {
  out.set_segment(located.segment.value);
  for (const auto& copy : located.copies) {
    for (auto& address : nodes_.workers(copy.node, copy.worker)) *out.add_copies() = std::move(address);
  }
}

Task<wire::GetExtentsReply> FileService::get_extents(wire::GetExtentsRequest request) {
  std::vector<Located> located;
  bool held = false;
  auto read = [&request, &located, &held](const View& view) -> Result<tree::Extents> {
    REELFS_TRY(held, is_held(view, InodeId{request.inode()}));
    const auto limit = request.limit() == 0 ? kMaxExtents : std::min(request.limit(), kMaxExtents);
    REELFS_TRY(auto found, tree::get_extents(
                               view, {InodeId{request.inode()}, request.offset(), request.length(), limit}));
    std::set<SegmentId> segments;
    for (const auto& extent : found.extents) segments.insert(extent.row.segment);
    REELFS_TRY(auto places, locate(view, std::vector(segments.begin(), segments.end())));
    located = std::move(places);
    return found;
  };
  REELFS_CO_TRY(const auto found, co_await index_.peek(std::move(read)));
  wire::GetExtentsReply reply;
  to_wire(found.inode, *reply.mutable_attributes());
  for (const auto& extent : found.extents) to_wire(extent, *reply.add_extents());
  reply.set_more(found.more);
  reply.set_held(held);
  for (const auto& segment : located) describe(segment, *reply.add_locations());
  co_return reply;
}

Task<wire::LocateSegmentsReply> FileService::locate_segments(wire::LocateSegmentsRequest request) {
  if (request.segments_size() > kMaxLocated) co_return Error(Errc::too_big, "at most 4096 segments at once");
  auto read = [&request](const View& view) {
    std::vector<SegmentId> segments;
    for (const auto segment : request.segments()) segments.push_back(SegmentId{segment});
    return locate(view, segments);
  };
  REELFS_CO_TRY(const auto located, co_await index_.peek(std::move(read)));
  wire::LocateSegmentsReply reply;
  for (const auto& segment : located) describe(segment, *reply.add_locations());
  co_return reply;
}

/// Before the commit, where its bytes may go beyond a quota: the oldest go first, and what could not go a
/// moment ago may have been closed by now.
Task<void> FileService::make_room(const std::vector<tree::FileCommit>& files) {
  std::map<InodeId, std::uint64_t> bytes;
  std::uint64_t total = 0;
  for (const auto& file : files) {
    for (const auto& extent : file.extents) {
      bytes[file.inode] += extent.row.length;
      total += extent.row.length;
    }
  }
  if (total == 0 || !overwriter_.may_be_full(total)) co_return ok();
  auto read = [&bytes](const View& view) -> Result<std::map<InodeId, std::uint64_t>> {
    std::map<InodeId, std::uint64_t> by_channel;
    for (const auto& [inode, length] : bytes) {
      REELFS_TRY(const auto row, view.find(InodeKey{inode}));
      if (row) by_channel[row->channel] += length;
    }
    return by_channel;
  };
  REELFS_CO_TRY(const auto by_channel, co_await index_.peek(std::move(read)));
  for (const auto& [channel, length] : by_channel) {
    REELFS_CO_TRY(co_await overwriter_.make_room(channel, length, Deadline::after(clock_, kLookPatience)));
  }
  co_return ok();
}

Task<rpc::Response> FileService::commit(wire::CommitRequest request) {
  std::vector<tree::FileCommit> files;
  for (const auto& file : request.files()) files.push_back(from_wire(file));
  std::vector<SegmentId> emptied;
  const bool per_file = request.per_file();
  const SessionId session{request.header().session()};
  for (const auto& file : files) sessions_.wrote(session, file.inode);
  REELFS_CO_TRY(co_await make_room(files));
  std::map<InodeId, std::uint64_t> ingested;
  std::vector<tree::FileProgress> progress;
  for (const auto& file : request.files()) {
    progress.push_back({InodeId{file.inode()}, file.sequence(), 0, file.more()});
  }
  auto op = [&files, &emptied, &ingested, &progress, per_file, session, settled = request.settled(),
             limits = overwriter_.limits()](Transaction& txn, WallNs now) -> Result<wire::CommitReply> {
    REELFS_TRY(auto committed, tree::commit(txn, files, *limits, now));
    if (!per_file && !committed.refused.empty()) return std::move(committed.refused.front().error);
    emptied = std::move(committed.emptied);
    for (std::size_t index = 0; index < files.size(); ++index) {
      for (const auto& extent : files[index].extents)
        ingested[committed.inodes[index].row.channel] += extent.row.length;
      progress[index].mtime_ns = committed.inodes[index].row.mtime_ns;
    }
    REELFS_TRY(tree::note_progress(txn, session, settled, progress));
    wire::CommitReply reply;
    for (const auto& inode : committed.inodes) {
      auto& attributes = *reply.add_attributes();
      if (inode.id) to_wire(inode, attributes);
    }
    for (const auto& refused : committed.refused) to_wire(refused, *reply.add_refused());
    return reply;
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered) {
    segments_.emptied(emptied);
    roll_forward_.settled(session, request.settled());
    for (const auto& [channel, bytes] : ingested) overwriter_.note_ingest(channel, bytes);
    Touched touched;
    for (const auto& file : files) touched.inodes.push_back(file.inode);
    co_await leases_.changed(session, touched);
  }
  REELFS_CO_TRY(auto message, std::move(answered));
  if (request.sync()) {
    REELFS_CO_TRY(co_await index_.sync());
  }
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> FileService::punch_hole(wire::PunchHoleRequest request) {
  const tree::HoleParams params{
      .inode = InodeId{request.inode()}, .offset = request.offset(), .length = request.length()};
  REELFS_CO_TRY(co_await empty_in_steps(request.header(), params));
  auto change = [&params](Transaction& txn, WallNs now) { return tree::punch_hole(txn, params, now); };
  co_return co_await change_file(request.header(), std::move(change));
}

Task<rpc::Response> FileService::clone_range(wire::CloneRangeRequest request) {
  tree::CloneParams params;
  params.source = InodeId{request.source()};
  params.source_offset = request.source_offset();
  params.target = InodeId{request.target()};
  params.target_offset = request.target_offset();
  params.length = request.length();
  params.max_extents = kExtentsAtOnce;
  std::vector<SegmentId> emptied;
  const SessionId session{request.header().session()};
  auto op = [&params, &emptied, session](Transaction& txn, WallNs now) -> Result<wire::CloneRangeReply> {
    REELFS_TRY(auto cloned, tree::clone_range(txn, params, now));
    REELFS_TRY(tree::note_changed(txn, session, cloned.target));
    emptied = std::move(cloned.emptied);
    wire::CloneRangeReply reply;
    to_wire(cloned.target, *reply.mutable_attributes());
    reply.set_length(cloned.length);
    return reply;
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered) {
    segments_.emptied(emptied);
    co_await tell_of(params.target, request.header());
  }
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

Task<wire::Empty> FileService::note_reads(wire::NoteReadsRequest request) {
  REELFS_CO_TRY(sessions_.renew(SessionId{request.session()}));
  if (request.files_size() > kMaxReadsNoted) co_return Error(Errc::too_big, "at most 4096 files at once");
  const auto now = changes_.wall_ns();
  std::vector<tree::FileRead> reads;
  for (const auto& file : request.files()) {
    reads.push_back({.inode = InodeId{file.inode()}, .read_ns = std::min(file.read_ns(), now)});
  }
  auto note = [&reads](Transaction& txn) { return tree::note_reads(txn, reads); };
  // Who holds leases is not told: an atime is not worth that, and is seen when they end.
  REELFS_CO_TRY(co_await index_.run(std::move(note)));
  co_return wire::Empty();
}

Task<wire::Empty> FileService::sync(wire::SyncRequest) {
  REELFS_CO_TRY(co_await index_.sync());
  co_return wire::Empty();
}

Task<wire::StatFsReply> FileService::statfs(wire::StatFsRequest request) {
  struct Counted {
    std::uint64_t files = 0;
    InodeId channel;
    std::optional<ChannelRow> row;
    tree::Policy policy;
    std::uint64_t going_bytes = 0;  // of removed files that nobody has open
  };
  // What was removed and is open nowhere does not count. Where its removal takes long a part is shown.
  [[maybe_unused]] const auto reaped = co_await sessions_.reaped(Deadline::after(clock_, kReapPatience));
  auto read = [&request, kept = sessions_.kept()](const View& view) -> Result<Counted> {
    REELFS_TRY(const auto inode, tree::get_inode(view, InodeId{request.inode()}));
    Counted counted{1, inode.row.channel, std::nullopt, {}, 0};
    REELFS_TRY(view.scan_table<ChannelKey>([&](ChannelKey key, const ChannelRow& channel) {
      counted.files += 1 + channel.files;
      if (key.inode == inode.row.channel) counted.row = channel;
      return true;
    }));
    if (!counted.row) return counted;
    REELFS_TRY(counted.policy, tree::policy_of(view, counted.channel));
    if (!counted.policy.quota_bytes) return counted;
    counted.files = 1 + counted.row->files;
    for (const auto going : kept) {
      REELFS_TRY(const auto row, view.find(InodeKey{going}));
      if (row && row->channel == counted.channel) counted.going_bytes += row->stored_bytes;
    }
    return counted;
  };
  REELFS_CO_TRY(const auto counted, co_await index_.read(std::move(read)));
  const auto space = nodes_.net_space(counted.row ? counted.row->copies : 0);
  wire::StatFsReply reply;
  reply.set_total_bytes(space.total_bytes);
  reply.set_free_bytes(space.free_bytes);
  reply.set_available_bytes(
      std::min(space.total_bytes, space.free_bytes + overwriter_.reclaimable(kRootInode)));
  if (const auto& quota = counted.policy.quota_bytes) {
    const auto used = counted.row->live_bytes - std::min(counted.row->live_bytes, counted.going_bytes);
    const auto left = *quota - std::min(*quota, used);
    reply.set_total_bytes(*quota);
    reply.set_free_bytes(left);
    reply.set_available_bytes(
        std::min(left + overwriter_.reclaimable(counted.channel), reply.available_bytes()));
  }
  reply.set_files(counted.files);
  co_return reply;
}

}  // namespace reelfs::indexd
