#include "client/writer/syncer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "client/index_client.h"
#include "common/async/timeout.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"

namespace reelfs::client {
namespace {

constexpr Duration kFirstPause = std::chrono::milliseconds(20);
constexpr int kTries = 6;

/// Errors of the process or the path to it, not of the device.
bool another_may_do_it(Errc code) {
  return code == Errc::unavailable || code == Errc::timed_out || code == Errc::busy || code == Errc::protocol;
}

}  // namespace

struct Syncer::Call {
  explicit Call(asio::io_context& context) : ended(context) {}

  std::size_t flushes = 0;  // that it waits for
  std::optional<Error> error;
  asio::steady_timer ended;  // cancelled when the last flush has ended
};

struct Syncer::Flush {
  std::set<SegmentId> segments;
  std::vector<std::shared_ptr<Call>> calls;
  Deadline deadline;  // of the most patient caller
};

Syncer::Syncer(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes)
    : context_(context), clock_(clock), index_(index), nodes_(nodes), tasks_(context.get_executor()) {}

void Syncer::written(SegmentId segment, const std::vector<WorkerAddress>& workers) {
  auto& copies = unsynced_[segment];
  const auto number = ++writes_;
  for (const auto& worker : workers) {
    const auto same_node = [&](const Copy& copy) { return copy.worker.node == worker.node; };
    auto copy = std::find_if(copies.begin(), copies.end(), same_node);
    if (copy == copies.end()) copy = copies.insert(copies.end(), Copy{});
    copy->worker = worker;
    copy->written = number;
  }
}

Task<void> Syncer::sync(std::vector<SegmentId> segments, Deadline deadline) {
  const auto call = std::make_shared<Call>(context_);
  for (const auto segment : segments) {
    const auto known = unsynced_.find(segment);
    if (known == unsynced_.end()) continue;
    for (const auto& copy : known->second) {
      if (copy.synced < copy.written) join(copy.worker, segment, call, deadline);
    }
  }
  if (call->flushes == 0) co_return ok();
  call->ended.expires_after(std::max(deadline.left(clock_), Duration::zero()));
  while (call->flushes > 0) {
    const auto [why] = co_await call->ended.async_wait(asio::as_tuple(asio::use_awaitable));
    if (call->flushes == 0) break;
    if (!why) co_return Error(Errc::timed_out, "waiting for a flush");
    co_return Error(Errc::cancelled, "waiting for a flush");
  }
  if (call->error) co_return *call->error;
  co_return ok();
}

void Syncer::join(const WorkerAddress& worker, SegmentId segment, const std::shared_ptr<Call>& call,
                  Deadline deadline) {
  auto& lane = lanes_[worker.endpoint];
  lane.worker = worker;
  if (!lane.next) lane.next = std::make_shared<Flush>();
  auto& flush = *lane.next;
  flush.segments.insert(segment);
  flush.deadline.at = std::max(flush.deadline.at, deadline.at);
  if (flush.calls.empty() || flush.calls.back() != call) {
    flush.calls.push_back(call);
    ++call->flushes;
  }
  if (std::exchange(lane.running, true)) return;
  tasks_.spawn(run(lane));
}

asio::awaitable<void> Syncer::run(Lane& lane) {
  while (lane.next) {
    const auto flushed = std::exchange(lane.next, nullptr);
    const auto worker = lane.worker;
    // Only what was acknowledged before the request is covered by its answer.
    const auto covered = written_on(worker.node, flushed->segments);
    std::vector<SegmentId> segments(flushed->segments.begin(), flushed->segments.end());
    const auto result = co_await flush(worker, std::move(segments), flushed->deadline);
    if (result) synced(worker.node, covered);
    for (const auto& call : flushed->calls) {
      if (!result) call->error = result.error();
      if (--call->flushes == 0) call->ended.cancel();
    }
  }
  lane.running = false;
}

Task<void> Syncer::flush(WorkerAddress worker, std::vector<SegmentId> segments, Deadline deadline) {
  // Half of the time is left for another process of the node.
  const auto first_deadline = Deadline::after(clock_, deadline.left(clock_) / 2);
  auto first = co_await flush_on(worker, segments, first_deadline);
  if (first) co_return ok();
  if (first.error().code() == Errc::not_found) {
    co_return co_await flush_rest(std::move(worker), std::move(segments), deadline);
  }
  if (!another_may_do_it(first.error().code())) co_return std::move(first).error();
  auto located = co_await locate(segments, deadline);
  if (located) {
    for (const auto& other : of_node(located.value(), worker.node)) {
      if (other.endpoint == worker.endpoint) continue;
      const auto flushed = co_await flush_on(other, segments, deadline);
      if (flushed) co_return ok();
    }
  }
  co_return std::move(first).error();
}

/// Some of the segments are not on the node any more: those that the index has given up, as nothing lives in
/// them, need no flush. Between the node's forgetting a segment and the index's lies the freeing of its other
/// copies, so it is asked again a few times; asking and flushing change nothing that a repetition could harm.
Task<void> Syncer::flush_rest(WorkerAddress worker, std::vector<SegmentId> segments, Deadline deadline) {
  auto pause = kFirstPause;
  for (int tries = 0; tries < kTries; ++tries) {
    REELFS_CO_TRY(const auto located, co_await locate(segments, deadline));
    std::erase_if(segments, [&](SegmentId segment) { return !located.contains(segment); });
    if (segments.empty()) co_return ok();
    const auto flushed = co_await flush_on(worker, segments, deadline);
    if (flushed || flushed.error().code() != Errc::not_found) co_return flushed;
    co_await sleep_for(pause);
    pause *= 2;
  }
  co_return Error(Errc::io, "a copy is gone from " + worker.endpoint.to_string());
}

Task<void> Syncer::flush_on(WorkerAddress worker, std::vector<SegmentId> segments, Deadline deadline) {
  wire::SyncSegmentsRequest request;
  for (const auto segment : segments) request.add_segments(segment.value);
  auto reply = co_await nodes_.for_appends(worker).call(wire::Method::sync_segments, request, deadline);
  if (reply) co_return ok();
  co_return std::move(reply).error().within("syncing at " + worker.endpoint.to_string());
}

Task<Syncer::Locations> Syncer::locate(std::vector<SegmentId> segments, Deadline deadline) {
  wire::LocateSegmentsRequest request;
  for (const auto segment : segments) request.add_segments(segment.value);
  REELFS_CO_TRY(const auto reply, co_await index_.call<wire::LocateSegmentsReply>(
                                      wire::Method::locate_segments, std::move(request), deadline));
  Locations located;
  for (const auto& location : reply.locations()) {
    auto& workers = located[SegmentId(location.segment())];
    for (const auto& copy : location.copies()) {
      rpc::Endpoint endpoint{copy.endpoint().host(), static_cast<std::uint16_t>(copy.endpoint().port())};
      workers.push_back({NodeId(copy.node()), WorkerId(copy.worker()), std::move(endpoint)});
    }
  }
  co_return located;
}

std::vector<WorkerAddress> Syncer::of_node(const Locations& located, NodeId node) {
  std::map<rpc::Endpoint, WorkerAddress> found;
  for (const auto& [segment, workers] : located) {
    for (const auto& worker : workers) {
      if (worker.node == node) found.emplace(worker.endpoint, worker);
    }
  }
  std::vector<WorkerAddress> workers;
  for (auto& [endpoint, worker] : found) workers.push_back(std::move(worker));
  return workers;
}

Syncer::Written Syncer::written_on(NodeId node, const std::set<SegmentId>& segments) const {
  Written written;
  for (const auto segment : segments) {
    const auto known = unsynced_.find(segment);
    if (known == unsynced_.end()) continue;
    for (const auto& copy : known->second) {
      if (copy.worker.node == node) written.emplace_back(segment, copy.written);
    }
  }
  return written;
}

void Syncer::synced(NodeId node, const Written& written) {
  for (const auto& [segment, number] : written) {
    const auto known = unsynced_.find(segment);
    if (known == unsynced_.end()) continue;
    auto& copies = known->second;
    for (auto& copy : copies) {
      if (copy.worker.node == node) copy.synced = std::max(copy.synced, number);
    }
    const auto clean = [](const Copy& copy) { return copy.synced == copy.written; };
    if (std::all_of(copies.begin(), copies.end(), clean)) unsynced_.erase(known);
  }
}

asio::awaitable<void> Syncer::stop() { co_await tasks_.stop(); }

}  // namespace reelfs::client
