#include "indexd/service/rebuilder.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"
#include "indexd/journal/executor.h"
#include "indexd/nodelog/assembly.h"
#include "indexd/nodelog/replay.h"
#include "indexd/schema/change.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/restore.h"

namespace reelfs::indexd {

namespace {

spdlog::logger& log() {
  static auto& instance = logger("indexd.rebuild");
  return instance;
}

/// The payload of a record as a node answers with it. @errors corrupt, protocol
Result<std::string> payload_of(const wire::ReadRecordReply& reply, std::span<const std::byte> bytes) {
  REELFS_TRY(const auto record, wire::decode_record_header(bytes));
  const auto& header = record.header;
  if (reply.first_chunk() != 0 || reply.header_bytes() != header.header_bytes ||
      bytes.size() < std::size_t{header.header_bytes} + header.payload_bytes)
    return Error(Errc::protocol, "a node answers with another piece of a record than was asked for");
  const auto payload = bytes.subspan(header.header_bytes, header.payload_bytes);
  for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk) {
    REELFS_TRY(wire::verify_chunk(
        record, chunk, payload.subspan(std::size_t{chunk} * header.chunk_bytes, record.chunk_length(chunk))));
  }
  return std::string(reinterpret_cast<const char*>(payload.data()), payload.size());
}

/// Nodes that are to have copies, as the log knows them. @errors corrupt, io, those of replay
Result<std::set<std::string>> nodes_in(const RebuildPlan& plan, const PieceFile& pieces) {
  std::map<std::string, NodeRow> rows;
  const auto visit = [&rows](std::string_view changes) -> Result<void> {
    Result<void> outcome = ok();
    const auto take = [&](std::string_view key, std::optional<std::string_view> value) {
      if (key.empty() || key.front() != static_cast<char>(Table::node)) return;
      if (!value) {
        rows.erase(std::string(key));
        return;
      }
      auto row = decode_row<NodeRow>(*value);
      if (row) {
        rows[std::string(key)] = std::move(row).value();
      } else {
        outcome = std::move(row).error();
      }
    };
    REELFS_TRY(for_each_change(changes, take));
    return outcome;
  };
  REELFS_TRY(replay(plan, pieces, visit));
  std::set<std::string> names;
  for (const auto& [key, row] : rows) {
    if (row.service != NodeService::removed) names.insert(row.name);
  }
  return names;
}

}  // namespace

Rebuilder::Rebuilder(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
                     const ServiceOptions& options)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      options_(options),
      pool_(1, "rebuild"),
      group_(std::move(executor)) {}

Result<void> Rebuilder::start() {
  if (options_.data_dir.empty()) return ok();
  REELFS_TRY(const auto bytes, read_file(RebuildFiles(options_.data_dir).report));
  if (!report_.ParseFromString(bytes))
    return Error(Errc::corrupt, "the report of the last rebuild does not parse");
  return ok();
}

asio::awaitable<void> Rebuilder::stop() { co_await group_.stop(); }

Task<void> Rebuilder::begin(std::vector<std::string> without) {
  if (report_.state() == wire::RebuildReport::COLLECTING)
    co_return Error(Errc::busy, "a rebuild is under way");
  auto look = [](const View& view) -> Result<bool> {
    std::size_t rows = 0;
    REELFS_TRY(view.scan_table<InodeKey>([&](const InodeKey& key, const InodeRow&) {
      rows += key.inode != kRootInode;
      return rows == 0;
    }));
    REELFS_TRY(view.scan_table<SegmentKey>([&](const SegmentKey&, const SegmentRow&) {
      ++rows;
      return false;
    }));
    return rows > 0;
  };
  REELFS_CO_TRY(const auto has_something, co_await index_.read(std::move(look)));
  if (has_something) {
    co_return Error(
        Errc::not_permitted,
        "this index server has an index: to make another one of what the nodes have, stop it, move its "
        "data_dir away, and start it");
  }
  if (nodes_.online_nodes() == 0)
    co_return Error(Errc::unavailable, "no storage node has registered yet: start their noded processes");
  if (report_.state() == wire::RebuildReport::COLLECTING)
    co_return Error(Errc::busy, "a rebuild is under way");
  report_ = {};
  report_.set_state(wire::RebuildReport::COLLECTING);
  report_.set_began_ns(clock_.wall().time_since_epoch().count());
  without_ = {without.begin(), without.end()};
  group_.spawn(run());
  co_return ok();
}

asio::awaitable<void> Rebuilder::run() {
  const auto done = co_await collect();
  if (done) {
    log().info("collected log_segments={} log_bytes={}", report_.log_segments(), report_.log_bytes());
    if (collected_) collected_();
    co_return;
  }
  report_.set_state(wire::RebuildReport::FAILED);
  report_.set_error(done.error().describe());
  report_.set_ended_ns(clock_.wall().time_since_epoch().count());
  log().error("not rebuilt why=\"{}\"", report_.error());
}

Task<void> Rebuilder::collect() {
  const RebuildFiles files(options_.data_dir);
  std::error_code failure;
  std::filesystem::remove_all(files.directory, failure);
  if (!failure) std::filesystem::create_directories(files.directory, failure);
  if (failure) co_return from_errno(failure.value(), "creating " + files.directory.string());
  wire::Collected collected;
  std::set<std::string> listed;
  std::map<SegmentId, std::vector<std::pair<NodeId, std::uint64_t>>>
      copies;  // of the log: where, and how long
  for (auto& node : nodes_.list()) {
    const NodeId id{node.node()};
    if (!nodes_.online(id)) continue;
    REELFS_CO_TRY(auto described, co_await list_node(node));
    for (const auto& block : described.blocks()) {
      if (InodeId{block.channel()} == kNodeLogChannel)
        copies[SegmentId{block.segment()}].emplace_back(id, block.length());
    }
    listed.insert(described.name());
    *collected.add_nodes() = std::move(described);
  }
  log().info("rebuild begun nodes={} log_segments={}", listed.size(), copies.size());
  REELFS_CO_TRY(auto pieces, PieceFile::create(files.pieces));
  for (const auto& [segment, places] : copies) {
    std::uint64_t length = 0;
    for (const auto& [node, bytes] : places) length = std::max(length, bytes);
    bool whole = false;
    for (const auto& [node, bytes] : places) {
      if (whole) break;  // what one copy has all of the others need not be asked for
      const auto read = co_await read_copy(segment, node, length, pieces);
      whole = read && read.value();
      if (!read) {
        if (read.error().code() == Errc::cancelled) co_return read.error();
        log().warn("log not read segment={} node={} why=\"{}\"", segment.value, nodes_.name(node),
                   read.error().describe());
      }
    }
    report_.set_log_segments(report_.log_segments() + 1);
    report_.set_log_bytes(pieces.bytes());
  }
  REELFS_CO_TRY(co_await check(pieces, std::move(listed)));
  auto sync = [&pieces] { return pieces.sync(); };
  REELFS_CO_TRY(co_await pool_.run(std::move(sync)));
  for (const auto& name : without_) report_.add_without_nodes(name);
  *collected.mutable_report() = report_;
  collected.set_pieces_bytes(pieces.bytes());
  auto write = [path = files.collected, bytes = collected.SerializeAsString()] {
    return replace_file(path, bytes);
  };
  co_return co_await pool_.run(std::move(write));
}

Task<wire::CollectedNode> Rebuilder::list_node(wire::NodeInfo node) {
  wire::CollectedNode collected;
  collected.set_name(node.name());
  collected.set_rack(node.rack());
  *collected.mutable_devices() = node.devices();
  for (std::uint64_t from = 0;;) {
    auto request = std::make_shared<wire::ListBlocksRequest>();
    request->set_from_segment(from);
    REELFS_CO_TRY(const auto reply,
                  co_await nodes_.call(NodeId{node.node()}, {}, wire::Method::list_blocks, request));
    wire::ListBlocksReply message;
    if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
    collected.set_epoch(std::max(collected.epoch(), message.epoch()));
    for (auto& block : *message.mutable_blocks()) *collected.add_blocks() = std::move(block);
    if (message.next_segment() == 0) break;
    if (message.next_segment() <= from) co_return Error(Errc::protocol, "the node's list does not get on");
    from = message.next_segment();
  }
  co_return std::move(collected);
}

/// @return whether it was there up to `length`, and sound
Task<bool> Rebuilder::read_copy(SegmentId segment, NodeId node, std::uint64_t length, PieceFile& pieces) {
  std::uint64_t next = 0, end = 0;
  bool sound = true;
  do {
    auto request = std::make_shared<wire::ListRecordsRequest>();
    request->set_segment(segment.value);
    request->set_offset(next);
    REELFS_CO_TRY(const auto reply, co_await nodes_.call(node, {}, wire::Method::list_records, request));
    wire::ListRecordsReply list;
    if (!list.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
    if (list.next() != 0 && list.next() <= next) co_return Error(Errc::protocol, "it does not get on");
    next = list.next();
    sound = sound && list.unreadable() == 0;
    for (const auto& record : list.records()) {
      auto read = std::make_shared<wire::ReadRecordRequest>();
      read->set_segment(segment.value);
      read->set_record_offset(record.record_offset());
      read->set_length(record.payload_bytes());
      REELFS_CO_TRY(const auto answer, co_await nodes_.call(node, {}, wire::Method::read_record, read));
      wire::ReadRecordReply message;
      if (!message.ParseFromString(answer.message)) co_return Error(Errc::protocol, "reply does not parse");
      const auto payload = payload_of(message, answer.payload.span());
      const auto piece = payload ? decode_piece(payload.value()) : Result<Piece>(payload.error());
      if (piece) {
        REELFS_CO_TRY(pieces.add(payload.value()));
      } else {
        sound = false;
        log().warn("record of the log is damaged segment={} offset={} node={} why=\"{}\"", segment.value,
                   record.record_offset(), nodes_.name(node), piece.error().describe());
      }
      end = std::max(end, record.record_offset() + wire::record_bytes(record.payload_bytes()));
    }
  } while (next != 0);
  co_return sound&& round_up(end, kPageBytes) >= length;
}

/// Whether an index can be made of it, and what it would lack.
Task<void> Rebuilder::check(PieceFile& pieces, std::set<std::string> listed) {
  const auto plan = plan_rebuild(pieces.headers());
  if (!plan) {
    co_return Error(Errc::not_found,
                    "the nodes that are there have no whole checkpoint of an index: start the others, too");
  }
  auto look = [&plan, &pieces] { return nodes_in(*plan, pieces); };
  REELFS_CO_TRY(const auto known, co_await pool_.run(std::move(look)));
  std::string missing;
  for (const auto& name : known) {
    if (!listed.contains(name) && !without_.contains(name)) missing += (missing.empty() ? "" : ", ") + name;
  }
  if (missing.empty()) co_return ok();
  co_return Error(Errc::unavailable,
                  fmt::format("{} not there: start it, or give --without {} to do without what only it has",
                              missing, missing));
}

}  // namespace reelfs::indexd
