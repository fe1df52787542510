#include "indexd/service/index_service.h"

#include <chrono>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "indexd/journal/executor.h"
#include "indexd/tree/inode.h"
#include "indexd/tree/recordings.h"

namespace reelfs::indexd {

namespace {

/// An index that has nothing waits so long for nodes that may know of another: they register within a second.
constexpr Duration kNodesCome = std::chrono::seconds(3);

}  // namespace

IndexService::IndexService(asio::io_context& context, const Clock& clock, Executor& index,
                           ServiceOptions options, rpc::ClientOptions client_options,
                           prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      options_(std::move(options)),
      nodes_(context, clock, index, options_, std::move(client_options)),
      sessions_(context.get_executor(), clock, index, options_),
      leases_(clock, options_.cache_lease, registry),
      repair_log_(context.get_executor(), clock, index, nodes_),
      copies_(clock, nodes_, options_, registry),
      segments_(context.get_executor(), clock, index, nodes_, copies_, repair_log_, options_),
      node_log_(context.get_executor(), clock, index, nodes_, segments_, options_, registry),
      rebuilder_(context.get_executor(), clock, index, nodes_, options_),
      repairer_(context.get_executor(), clock, index, nodes_, segments_, copies_, repair_log_, options_,
                registry),
      overwriter_(context.get_executor(), clock, index, sessions_, nodes_, segments_, leases_, options_,
                  registry),
      roll_forward_(context.get_executor(), clock, index, nodes_, leases_, overwriter_, options_, registry),
      compactor_(context.get_executor(), clock, index, nodes_, segments_, overwriter_, options_, registry),
      changes_(index, sessions_, clock),
      names_(index, sessions_, changes_, leases_, options_),
      holds_(clock, index, sessions_, changes_, leases_, registry),
      recordings_(clock, index, sessions_),
      files_(clock, index, sessions_, changes_, leases_, nodes_, segments_, holds_, overwriter_,
             roll_forward_),
      grants_(clock, index, sessions_, nodes_, segments_, overwriter_, roll_forward_),
      locks_(context.get_executor(), clock, index, sessions_, options_, registry),
      gaps_(context.get_executor(), clock, index, sessions_, options_, registry),
      scrubs_(context.get_executor(), clock, index, nodes_, repair_log_, registry),
      admin_(index, sessions_, nodes_, segments_, overwriter_, gaps_, compactor_, repairer_, repair_log_,
             scrubs_, node_log_, options_),
      dispatcher_(clock, registry),
      began_(clock.now()) {
  dispatcher_.add(wire::Method::open_session, *this, &IndexService::open_session);
  dispatcher_.add(wire::Method::renew_session, *this, &IndexService::renew_session);
  dispatcher_.add(wire::Method::watch_changes, *this, &IndexService::watch_changes);
  dispatcher_.add(wire::Method::close_session, *this, &IndexService::close_session);
  dispatcher_.add(wire::Method::register_worker, *this, &IndexService::register_worker);
  dispatcher_.add(wire::Method::heartbeat, *this, &IndexService::heartbeat);
  dispatcher_.add(wire::Method::report_blocks, *this, &IndexService::report_blocks);
  dispatcher_.add(wire::Method::index_status, *this, &IndexService::index_status);
  dispatcher_.add(wire::Method::rebuild_index, *this, &IndexService::rebuild_index);
  names_.register_with(dispatcher_);
  files_.register_with(dispatcher_);
  grants_.register_with(dispatcher_);
  locks_.register_with(dispatcher_);
  holds_.register_with(dispatcher_);
  recordings_.register_with(dispatcher_);
  gaps_.register_with(dispatcher_);
  scrubs_.register_with(dispatcher_);
  admin_.register_with(dispatcher_);
  repair_log_.register_with(dispatcher_);
  nodes_.on_changed([this] {
    repairer_.situation_changed();
    repair_log_.situation_changed();
  });
  nodes_.on_node_returned([this](NodeId node) {
    segments_.node_returned(node);
    scrubs_.node_returned(node);
  });
  sessions_.on_ended([this](SessionId session) {
    leases_.session_ended(session);
    segments_.session_ended(session);
    roll_forward_.session_ended(session);
    locks_.session_ended(session);
    gaps_.session_ended(session);
  });
  segments_.on_granted([this](const tree::Grant& grant) { roll_forward_.granted(grant); });
  segments_.keep_where(
      [this](SegmentId segment) { return roll_forward_.holds(segment) || node_log_.holds(segment); });
  roll_forward_.on_emptied([this](const std::vector<SegmentId>& segments) { segments_.emptied(segments); });
  sessions_.on_emptied([this](const std::vector<SegmentId>& segments) { segments_.emptied(segments); });
}

Task<void> IndexService::start() {
  REELFS_CO_TRY(co_await nodes_.start());
  REELFS_CO_TRY(co_await repair_log_.start());
  REELFS_CO_TRY(co_await sessions_.start());
  REELFS_CO_TRY(co_await locks_.start());
  REELFS_CO_TRY(co_await holds_.start());
  auto alive = [this](SessionId session) {
    return sessions_.alive(session) || compactor_.is_own(session) || node_log_.is_own(session);
  };
  REELFS_CO_TRY(rebuilder_.start());
  // First what must not be freed.
  REELFS_CO_TRY(co_await node_log_.start());
  REELFS_CO_TRY(co_await roll_forward_.start(alive));
  REELFS_CO_TRY(co_await segments_.start(std::move(alive)));
  REELFS_CO_TRY(co_await gaps_.start());
  REELFS_CO_TRY(co_await scrubs_.start());
  overwriter_.start();
  repairer_.start();
  co_return co_await compactor_.start();
}

Task<rpc::Response> IndexService::handle(rpc::Request request) {
  return dispatcher_.dispatch(std::move(request));
}

asio::awaitable<void> IndexService::stop() {
  co_await rebuilder_.stop();
  co_await node_log_.stop();
  co_await gaps_.stop();
  co_await scrubs_.stop();
  co_await compactor_.stop();
  co_await roll_forward_.stop();
  co_await overwriter_.stop();
  co_await repairer_.stop();
  co_await sessions_.stop();
  co_await locks_.stop();
  co_await segments_.stop();
  co_await repair_log_.stop();
  co_await nodes_.stop();
}

Task<wire::OpenSessionReply> IndexService::open_session(wire::OpenSessionRequest request) {
  if (const auto why = withheld(); !why.empty() && !request.opens_nothing())
    co_return Error(Errc::unavailable, why);
  REELFS_CO_TRY(const auto session, co_await sessions_.open(request));
  wire::OpenSessionReply reply;
  REELFS_CO_TRY(co_await locks_.opened(session, request, reply));
  reply.set_session(session.value);
  reply.set_cluster(options_.cluster.raw());
  reply.set_epoch(options_.epoch.value);
  reply.set_block_bytes(options_.block_bytes);
  reply.set_lease_ms(static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.lease).count()));
  reply.set_root(kRootInode.value);
  co_return reply;
}

std::string IndexService::withheld() const {
  if (!options_.is_new) return {};
  if (rebuilder_.report().state() == wire::RebuildReport::COLLECTING) return "the index is being made again";
  if (nodes_.withholds_any()) {
    return "nodes hold recordings that this index does not know: give it the data_dir that it had, or where "
           "that is "
           "lost: reelctl index rebuild";
  }
  const bool may_come = !nodes_.any_devices_told() && clock_.now() - began_ < kNodesCome;
  return may_come ? "nodes have not told yet what they hold" : "";
}

Task<wire::IndexStatusReply> IndexService::index_status(wire::IndexStatusRequest) {
  wire::IndexStatusReply reply;
  reply.set_cluster(options_.cluster.raw());
  reply.set_epoch(options_.epoch.value);
  reply.set_journal_index(index_.journal_index());
  reply.set_journal_synced_index(index_.synced_index());
  reply.set_pid(static_cast<std::uint32_t>(getpid()));
  *reply.mutable_log() = node_log_.status();
  *reply.mutable_rebuild() = rebuilder_.report();
  reply.set_withheld(withheld());
  co_return reply;
}

Task<wire::RebuildIndexReply> IndexService::rebuild_index(wire::RebuildIndexRequest request) {
  if (options_.data_dir.empty())
    co_return Error(Errc::unsupported, "this index server has no place to rebuild in");
  std::vector<std::string> without(request.without().begin(), request.without().end());
  REELFS_CO_TRY(co_await rebuilder_.begin(std::move(without)));
  co_return wire::RebuildIndexReply();
}

Task<wire::RenewSessionReply> IndexService::renew_session(wire::RenewSessionRequest request) {
  REELFS_CO_TRY(sessions_.renew(SessionId{request.session()}));
  wire::RenewSessionReply reply;
  reply.set_lease_ms(static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.lease).count()));
  co_return reply;
}

Task<wire::WatchChangesReply> IndexService::watch_changes(wire::WatchChangesRequest request) {
  REELFS_CO_TRY(sessions_.renew(SessionId{request.session()}));
  co_return co_await leases_.watch(std::move(request));
}

Task<wire::Empty> IndexService::close_session(wire::CloseSessionRequest request) {
  REELFS_CO_TRY(co_await sessions_.close(SessionId{request.session()}));
  co_return wire::Empty();
}

Task<wire::RegisterWorkerReply> IndexService::register_worker(wire::RegisterWorkerRequest request,
                                                              std::uint64_t connection) {
  return nodes_.register_worker(std::move(request), connection);
}

Task<wire::HeartbeatReply> IndexService::heartbeat(wire::HeartbeatRequest request, std::uint64_t connection) {
  co_return nodes_.heartbeat(request, connection);
}

Task<wire::ReportBlocksReply> IndexService::report_blocks(wire::ReportBlocksRequest request) {
  SegmentKeeper::Report report;
  report.node = NodeId{request.node()};
  report.from = SegmentId{request.from_segment()};
  report.upto = SegmentId{request.upto_segment()};
  report.blocks.assign(request.blocks().begin(), request.blocks().end());
  REELFS_CO_TRY(const auto to_free, co_await segments_.report(std::move(report)));
  wire::ReportBlocksReply reply;
  for (const auto& block : to_free) *reply.add_free() = block;
  co_return reply;
}

namespace {

/// Lists the recordings of an index that was kept by a program that did not.
Task<void> upgrade(Executor& index) {
  constexpr std::size_t kInodesAtOnce = 1000;
  auto look = [](const View& view) { return view.get(ClusterKey{}); };
  REELFS_CO_TRY(const auto cluster, co_await index.read(std::move(look)));
  if (cluster.has_recordings != 0) co_return ok();
  for (std::optional<InodeId> from = kRootInode; from;) {
    auto list = [from](Transaction& txn) { return tree::list_recordings(txn, *from, kInodesAtOnce); };
    REELFS_CO_TRY(from, co_await index.run(std::move(list)));
  }
  auto note = [](Transaction& txn) -> Result<void> {
    REELFS_TRY(auto row, txn.get(ClusterKey{}));
    row.has_recordings = 1;
    txn.put(ClusterKey{}, row);
    return ok();
  };
  co_return co_await index.run(std::move(note));
}

/// No file, no directory but the root, and no segment.
Result<bool> has_nothing(const Reader& reader) {
  bool nothing = true;
  REELFS_TRY(reader.scan_table<InodeKey>([&](const InodeKey& key, const InodeRow&) {
    nothing = key.inode == kRootInode;
    return nothing;
  }));
  REELFS_TRY(
      reader.scan_table<SegmentKey>([&](const SegmentKey&, const SegmentRow&) { return nothing = false; }));
  return nothing;
}

}  // namespace

Task<ClusterIdentity> claim_cluster(Executor& index, const Clock& clock, ClusterIdentity wanted) {
  const WallNs now = clock.wall().time_since_epoch().count();
  auto claim = [wanted, now](Transaction& txn) -> Result<ClusterIdentity> {
    REELFS_TRY(const auto stored, txn.find(ClusterKey{}));
    REELFS_TRY(const bool is_new, has_nothing(txn));
    if (!stored) {
      txn.put(ClusterKey{}, ClusterRow{wanted.cluster, wanted.block_bytes, now, 1});
      // Sessions are numbered from the time on: where the index is made again of another one, none of this
      // one is taken for one of those.
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::nanoseconds(now));
      txn.put(CounterKey{Counter::session}, CounterRow{static_cast<std::uint64_t>(seconds.count()) << 20});
      REELFS_TRY(tree::make_root(txn, now));
      return ClusterIdentity{wanted.cluster, wanted.block_bytes, true};
    }
    if (stored->uuid != wanted.cluster) {
      return Error(Errc::bad_config,
                   fmt::format("data_dir holds the index of cluster {}, and the configuration says {}",
                               stored->uuid.to_string(), wanted.cluster.to_string()));
    }
    if (stored->block_bytes != wanted.block_bytes) {
      return Error(Errc::bad_config,
                   fmt::format("the cluster was made with blocks of {} bytes, and the configuration says {}",
                               stored->block_bytes, wanted.block_bytes));
    }
    return ClusterIdentity{stored->uuid, stored->block_bytes, is_new};
  };
  REELFS_CO_TRY(const auto identity, co_await index.run(std::move(claim)));
  REELFS_CO_TRY(co_await upgrade(index));
  REELFS_CO_TRY(co_await index.sync());
  co_return identity;
}

}  // namespace reelfs::indexd
