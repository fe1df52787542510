#include "indexd/service/segment_service.h"

#include <algorithm>

#include <fmt/format.h>

#include "indexd/journal/executor.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/overwriter.h"
#include "indexd/service/roll_forward.h"
#include "indexd/service/segment_keeper.h"
#include "indexd/service/sessions.h"
#include "indexd/tree/policy.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint32_t kMaxGrants = 8;  // a writer holds one and a few spares
constexpr int kMaxAvoided = 1024;
/// A spare that is not needed for the next rollover is given while so much of the space is free.
constexpr std::uint64_t kPlenty = 4;

/// Errors that mean there is no spare just now.
bool may_change(Errc code) {
  return code == Errc::unavailable || code == Errc::no_space || code == Errc::timed_out;
}

/// Within the two seconds in which no call may stall.
constexpr auto kRoomPatience = std::chrono::milliseconds(1500);

}  // namespace

void SegmentService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::open_segment, *this, &SegmentService::open_segment);
  dispatcher.add(wire::Method::close_segment, *this, &SegmentService::close_segment);
}

Task<wire::OpenSegmentReply> SegmentService::open_segment(wire::OpenSegmentRequest request) {
  OpenParams params;
  params.session = SessionId{request.session()};
  params.channel = InodeId{request.channel()};
  params.count = std::clamp<std::uint32_t>(request.count(), 1, kMaxGrants);
  REELFS_CO_TRY(sessions_.renew(params.session));
  if (request.avoid_nodes_size() > kMaxAvoided)
    co_return Error(Errc::invalid, "more nodes to avoid than there can be");
  for (const auto node : request.avoid_nodes()) params.avoid.push_back(NodeId{node});
  auto read = [channel = params.channel](const View& view) { return view.find(ChannelKey{channel}); };
  REELFS_CO_TRY(const auto channel, co_await index_.read(std::move(read)));
  if (!channel) co_return Error(Errc::not_found, fmt::format("there is no channel {}", params.channel.value));
  params.copies = channel->copies;
  auto read_policy = [id = params.channel](const View& view) { return tree::policy_of(view, id); };
  REELFS_CO_TRY(const auto policy, co_await index_.read(std::move(read_policy)));
  params.min_copies = std::min(policy.min_copies, params.copies);
  params.use = request.use();
  wire::OpenSegmentReply reply;
  if (params.use == wire::GRANT_COVER && !has_plenty(params.copies)) co_return reply;
  auto granted = co_await segments_.open(params);
  const auto until = Deadline::after(clock_, kRoomPatience);
  while (!granted && granted.error().code() == Errc::no_space) {
    sessions_.space_is_short();
    const auto room = co_await overwriter_.free_a_block(until);
    if (!room || !room.value()) break;
    granted = co_await segments_.open(params);
  }
  const bool is_spare = params.use != wire::GRANT_NOW;
  if (!granted && is_spare && may_change(granted.error().code())) co_return reply;
  if (!granted) co_return granted.error();
  for (const auto& [segment, row] : granted.value()) {
    auto& grant = *reply.add_grants();
    grant.set_segment(segment.value);
    grant.set_generation(row.generation.value);
    grant.set_channel(row.channel.value);
    grant.set_offset(row.length);
    grant.set_block_bytes(row.block_bytes);
    grant.set_min_copies(params.min_copies);
    grant.set_wanted_copies(params.copies);
    for (const auto& copy : row.copies) {
      auto addresses = nodes_.workers(copy.node, copy.worker);
      auto& address = *grant.add_copies();
      if (!addresses.empty()) {
        address = std::move(addresses.front());
      } else {  // silent since it took the block: the writer finds out and goes on in a spare
        address.set_node(copy.node.value);
        address.set_worker(copy.worker.value);
      }
    }
  }
  co_return reply;
}

bool SegmentService::has_plenty(std::uint32_t copies) const {
  const auto space = nodes_.net_space(copies);
  return space.free_bytes >= space.present_bytes / kPlenty;
}

Task<wire::Empty> SegmentService::close_segment(wire::CloseSegmentRequest request) {
  const SessionId session{request.session()};
  REELFS_CO_TRY(sessions_.renew(session));
  const Closing closing{session, Generation{request.generation()}, request.length(), request.failed()};
  const SegmentId segment{request.segment()};
  REELFS_CO_TRY(co_await segments_.close(segment, closing));
  const tree::Grant grant{session, segment, closing.generation, request.last_sequence()};
  REELFS_CO_TRY(co_await roll_forward_.closed(grant));
  co_return wire::Empty();
}

}  // namespace reelfs::indexd
