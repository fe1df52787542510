#include "client/writer/syncer.h"

#include <algorithm>

#include <boost/asio/io_context.hpp>

#include "client/index_client.h"
#include "common/async/event.h"
#include "common/async/timeout.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"

namespace reelfs::client {
namespace {

constexpr Duration kFirstPause = std::chrono::milliseconds(20);
constexpr int kTries = 6;
/// A node takes a device out of service whose sync takes three seconds.
constexpr Duration kFlushLimit = std::chrono::seconds(5);
constexpr Duration kRetryPause = std::chrono::milliseconds(100);

/// Errors of the process or the path to it, not of the device.
bool another_may_do_it(Errc code) {
  return code == Errc::unavailable || code == Errc::timed_out || code == Errc::busy || code == Errc::protocol;
}

}  // namespace

struct Syncer::Call {
  Numbers wanted;
  TimePoint began;
  std::set<std::pair<SegmentId, NodeId>> told;  // sick copies
  std::optional<Error> error;                   // of one of them
  Event changed;                                // a flush has ended, or a segment was left
};

Syncer::Syncer(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes,
               Options options)
    : context_(context),
      clock_(clock),
      index_(index),
      nodes_(nodes),
      options_(options),
      tasks_(context.get_executor()) {}

std::size_t Syncer::Segment::synced(std::uint64_t number) const {
  return static_cast<std::size_t>(
      std::count_if(copies.begin(), copies.end(), [&](const Copy& copy) { return copy.synced >= number; }));
}

void Syncer::written(const Written& write) {
  auto& segment = unsynced_[write.segment];
  segment.written = ++writes_;
  segment.needed = write.needed;
  segment.end = std::max(segment.end, write.end);
  for (const auto& worker : write.copies) {
    const auto same_node = [&](const Copy& copy) { return copy.worker.node == worker.node; };
    auto copy = std::find_if(segment.copies.begin(), segment.copies.end(), same_node);
    if (copy == segment.copies.end()) copy = segment.copies.insert(copy, Copy{});
    copy->worker = worker;
  }
}

void Syncer::left(SegmentId segment) {
  const auto known = unsynced_.find(segment);
  if (known == unsynced_.end()) return;
  known->second.left = true;
  wake_calls();
}

void Syncer::suspect(NodeId node) {
  suspects_[node] = clock_.now() + options_.suspicion;
  wake_calls();
}

bool Syncer::is_suspect(NodeId node) const {
  const auto found = suspects_.find(node);
  return found != suspects_.end() && clock_.now() < found->second;
}

void Syncer::wake_calls() {
  for (const auto& call : calls_) call->changed.set();
}

Task<void> Syncer::sync(std::vector<SegmentId> segments, Deadline deadline) {
  const auto call = std::make_shared<Call>();
  call->wanted = written_now(std::set<SegmentId>(segments.begin(), segments.end()));
  call->began = clock_.now();
  calls_.insert(call);
  std::optional<Result<void>> result;
  while (!result) {
    auto outlook = look(*call);
    if (outlook.done) {
      result = ok();
    } else if (outlook.error) {
      result = std::move(*outlook.error);
    } else if (deadline.left(clock_) <= Duration::zero()) {
      result =
          Error(Errc::timed_out, "waiting for a flush" + (call->error ? ": " + call->error->describe() : ""));
    } else {
      const auto until = Deadline{std::min(outlook.next.value_or(deadline.at), deadline.at)};
      const auto waited = co_await with_timeout(clock_, until, wait_for(call->changed));
      if (!waited && waited.error().code() == Errc::cancelled)
        result = Error(Errc::cancelled, "waiting for a flush");
    }
  }
  calls_.erase(call);
  co_return std::move(*result);
}

Syncer::Outlook Syncer::look(Call& call) {
  Outlook outlook;
  outlook.done = true;
  for (const auto& [segment, number] : call.wanted) look_at(call, segment, number, outlook);
  return outlook;
}

void Syncer::look_at(Call& call, SegmentId id, std::uint64_t number, Outlook& outlook) {
  const auto known = unsynced_.find(id);
  if (known == unsynced_.end()) return;
  auto& segment = known->second;
  const auto synced = segment.synced(number);
  if (synced == segment.copies.size()) return;
  const auto now = clock_.now();
  const auto look_again = [&](TimePoint at) { outlook.next = std::min(outlook.next.value_or(at), at); };
  std::size_t lost = 0;
  bool others_are_sick = true;
  for (auto& copy : segment.copies) {
    if (copy.synced >= number) continue;
    const auto node = copy.worker.node;
    const auto sick_at = call.began + (is_suspect(node) ? options_.suspect_timeout : options_.flush_timeout);
    // Where too few have flushed it may be the load of all: leaving would not help.
    const bool lags = now >= sick_at && synced >= segment.needed;
    if (copy.error || lags) {
      if (lags) suspects_[node] = now + options_.suspicion;
      const auto why = copy.error.value_or(Error(Errc::timed_out, "no reply to a flush"));
      call.error = why;
      if (call.told.emplace(id, node).second && on_sick_copy_) on_sick_copy_(id, node, why);
    } else {
      others_are_sick = false;
      if (sick_at > now) look_again(sick_at);
    }
    if (copy.lost) {
      ++lost;
    } else if (copy.asked < number) {
      if (now >= copy.retry_at) {
        join(copy, id, number);
      } else {
        look_again(copy.retry_at);
      }
    }
  }
  if (segment.left && others_are_sick && synced >= segment.needed) {
    if (segment.synced(segment.written) >= segment.needed) unsynced_.erase(known);
    return;
  }
  outlook.done = false;
  if (segment.copies.size() - lost < std::max<std::size_t>(segment.needed, 1)) outlook.error = call.error;
}

/// Who joins before the lane's next flush begins is covered by it.
void Syncer::join(Copy& copy, SegmentId segment, std::uint64_t number) {
  copy.asked = number;
  auto& lane = lanes_[copy.worker.endpoint];
  lane.worker = copy.worker;
  lane.next.insert(segment);
  if (std::exchange(lane.running, true)) return;
  tasks_.spawn(run(lane));
}

asio::awaitable<void> Syncer::run(Lane& lane) {
  while (!lane.next.empty()) {
    const auto segments = std::exchange(lane.next, {});
    const auto worker = lane.worker;
    // Only what was acknowledged before the request is covered by its answer.
    const auto covered = written_now(segments);
    std::vector<SegmentId> ordered(segments.begin(), segments.end());
    const auto result = co_await flush(worker, std::move(ordered));
    flushed(worker.node, covered, result);
    wake_calls();
  }
  lane.running = false;
}

Task<void> Syncer::flush(WorkerAddress worker, std::vector<SegmentId> segments) {
  auto first = co_await flush_on(worker, segments);
  if (first) co_return ok();
  if (first.error().code() == Errc::not_found) {
    co_return co_await flush_rest(std::move(worker), std::move(segments));
  }
  if (!another_may_do_it(first.error().code())) co_return std::move(first).error();
  auto located = co_await locate(segments);
  if (located) {
    for (const auto& other : of_node(located.value(), worker.node)) {
      if (other.endpoint == worker.endpoint) continue;
      const auto flushed = co_await flush_on(other, segments);
      if (flushed) co_return ok();
      // The process that wrote it may never answer again.
      if (flushed.error().code() == Errc::not_found)
        co_return co_await flush_rest(other, std::move(segments));
    }
  }
  co_return std::move(first).error();
}

/// Some of the segments are not on the node any more: those that the index has given up, as nothing lives in
/// them, need no flush. Between the node's forgetting a segment and the index's lies the freeing of its other
/// copies, so it is asked again a few times; asking and flushing change nothing that a repetition could harm.
Task<void> Syncer::flush_rest(WorkerAddress worker, std::vector<SegmentId> segments) {
  auto pause = kFirstPause;
  for (int tries = 0; tries < kTries; ++tries) {
    REELFS_CO_TRY(const auto located, co_await locate(segments));
    std::erase_if(segments, [&](SegmentId segment) { return !located.contains(segment); });
    if (segments.empty()) co_return ok();
    const auto flushed = co_await flush_on(worker, segments);
    if (flushed || flushed.error().code() != Errc::not_found) co_return flushed;
    co_await sleep_for(pause);
    pause *= 2;
  }
  co_return Error(Errc::io, "a copy is gone from " + worker.endpoint.to_string());
}

Task<void> Syncer::flush_on(WorkerAddress worker, std::vector<SegmentId> segments) {
  const auto deadline = Deadline::after(clock_, kFlushLimit);
  wire::SyncSegmentsRequest request;
  for (const auto segment : segments) {
    const auto known = unsynced_.find(segment);
    request.add_segments(segment.value);
    request.add_lengths(known == unsynced_.end() ? 0 : known->second.end);
  }
  auto reply = co_await nodes_.for_appends(worker).call(wire::Method::sync_segments, request, deadline);
  if (reply) co_return ok();
  co_return std::move(reply).error().within("syncing at " + worker.endpoint.to_string());
}

Task<Syncer::Locations> Syncer::locate(std::vector<SegmentId> segments) {
  const auto deadline = Deadline::after(clock_, kFlushLimit);
  wire::LocateSegmentsRequest request;
  for (const auto segment : segments) request.add_segments(segment.value);
  REELFS_CO_TRY(const auto reply, co_await index_.call<wire::LocateSegmentsReply>(
                                      wire::Method::locate_segments, std::move(request), deadline));
  Locations located;
  for (const auto& location : reply.locations()) {
    auto& workers = located[SegmentId(location.segment())];
    for (const auto& copy : location.copies()) {
      auto endpoint = rpc::Endpoint::from(copy.endpoint());
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

Syncer::Numbers Syncer::written_now(const std::set<SegmentId>& segments) const {
  Numbers numbers;
  for (const auto segment : segments) {
    const auto known = unsynced_.find(segment);
    if (known != unsynced_.end()) numbers.emplace_back(segment, known->second.written);
  }
  return numbers;
}

void Syncer::flushed(NodeId node, const Numbers& covered, const Result<void>& result) {
  if (result) {
    suspects_.erase(node);
  } else {
    suspects_[node] = clock_.now() + options_.suspicion;
  }
  for (const auto& [segment, number] : covered) {
    const auto known = unsynced_.find(segment);
    if (known == unsynced_.end()) continue;
    for (auto& copy : known->second.copies) {
      if (copy.worker.node != node) continue;
      if (result) {
        copy.synced = std::max(copy.synced, number);
        copy.error.reset();
      } else {
        copy.error = result.error();
        copy.lost = !another_may_do_it(result.error().code());
        copy.asked = copy.synced;
        copy.retry_at = clock_.now() + kRetryPause;
      }
    }
    if (known->second.synced(known->second.written) == known->second.copies.size()) unsynced_.erase(known);
  }
}

asio::awaitable<void> Syncer::stop() { co_await tasks_.stop(); }

}  // namespace reelfs::client
