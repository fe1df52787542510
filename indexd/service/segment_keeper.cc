#include "indexd/service/segment_keeper.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/nodelog/piece.h"
#include "indexd/service/copy_orders.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/repair_log.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint64_t kNumbersReserved = 64;  // lost at a crash: there are enough
constexpr int kRounds = 3;                      // of choosing nodes until one grant succeeds

/// A node tells its free blocks with each heartbeat.
constexpr Duration kFreeIsTold = std::chrono::seconds(1);
constexpr std::size_t kMostStale = 4096;  // copies of one node that are told of
constexpr Duration kStaleLook = std::chrono::seconds(5);

spdlog::logger& log() {
  static auto& instance = logger("indexd.segments");
  return instance;
}

bool same_nodes(const std::vector<SegmentCopy>& copies, const std::set<NodeId>& nodes) {
  return copies.size() == nodes.size() && std::all_of(copies.begin(), copies.end(), [&](const auto& copy) {
           return nodes.contains(copy.node);
         });
}

/// What SegmentLife decides on. The rest of a row changes with commits.
bool same_life(const SegmentRow& a, const SegmentRow& b) {
  return a.state == b.state && a.generation == b.generation && a.session == b.session && a.copies == b.copies;
}

Result<void> without_value(const Result<rpc::Reply>& reply) {
  if (reply) return ok();
  return reply.error();
}

}  // namespace

/// The grants of one OpenSegment.
struct SegmentKeeper::Batch {
  std::size_t left = 0;
  Event done;
  bool abandoned = false;
  std::vector<SegmentId> under_way;
  std::vector<Granted> granted;
  std::optional<Error> error;
  std::vector<NodeId> failed;
};

SegmentKeeper::SegmentKeeper(asio::any_io_executor executor, const Clock& clock, Executor& index,
                             NodeRegistry& nodes, CopyOrders& copies, RepairLog& repair_log,
                             const ServiceOptions& options)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      copies_(copies),
      repair_log_(repair_log),
      options_(options),
      group_(std::move(executor)) {}

SegmentKeeper::~SegmentKeeper() = default;

Task<void> SegmentKeeper::start(std::function<bool(SessionId)> alive) {
  alive_ = std::move(alive);
  started_ = clock_.now();
  // What is freed now was made dead by entries that must not be lost any more.
  REELFS_CO_TRY(co_await index_.sync_here());
  for (bool end = false; !end;) {
    REELFS_CO_TRY(end, co_await look_at_rows(options_.sweep_rows, true));
  }
  log().info("segments read open={} unfilled_channels={} to_go_on_with={}", writer_.size(), unfilled_.size(),
             backlog_.size());
  group_.spawn(work());
  group_.spawn(sweep());
  co_return ok();
}

asio::awaitable<void> SegmentKeeper::stop() { co_await group_.stop(); }

// ---- lives

SegmentKeeper::Tracked& SegmentKeeper::add(SegmentId segment, SegmentRow row) {
  auto tracked = std::make_unique<Tracked>(
      Tracked{SegmentLife(segment, std::move(row)), ++last_serial_, SessionId{}, nullptr, nullptr, {}});
  return *(lives_[segment] = std::move(tracked));
}

Task<SegmentKeeper::Tracked*> SegmentKeeper::track(SegmentId segment) {
  for (;;) {
    if (const auto found = lives_.find(segment); found != lives_.end()) co_return found->second.get();
    const auto seen = stored_;
    auto find = [segment](const View& view) { return view.find(SegmentKey{segment}); };
    REELFS_CO_TRY(auto row, co_await index_.read(std::move(find)));
    if (lives_.contains(segment) || stored_ != seen)
      continue;  // the row may be older than a life that ended meanwhile
    if (!row) co_return Error(Errc::not_found, fmt::format("no segment {}", segment.value));
    co_return &add(segment, std::move(*row));
  }
}

void SegmentKeeper::perform(SegmentId segment, Actions actions) {
  auto& tracked = *lives_.at(segment);
  const auto serial = tracked.serial;
  for (auto& action : actions) {
    if (auto* persist = std::get_if<Persist>(&action)) {
      group_.spawn(store(segment, serial, std::move(*persist)));
    } else if (std::holds_alternative<Erase>(action)) {
      group_.spawn(erase(segment, serial));
    } else if (const auto* to_allocate = std::get_if<Allocate>(&action)) {
      group_.spawn(allocate(segment, serial, *to_allocate, tracked.life.row().channel));
    } else if (const auto* to_fence = std::get_if<Fence>(&action)) {
      group_.spawn(fence(segment, serial, *to_fence));
    } else if (const auto* to_seal = std::get_if<Seal>(&action)) {
      group_.spawn(seal(segment, serial, *to_seal));
    } else if (const auto* to_free = std::get_if<Free>(&action)) {
      group_.spawn(free(segment, serial, *to_free));
    } else if (auto* to_complete = std::get_if<Complete>(&action)) {
      group_.spawn(complete(segment, serial, std::move(*to_complete), tracked.life.row().channel));
    } else if (const auto* to_release = std::get_if<Release>(&action)) {
      group_.spawn(release(segment, *to_release));
    } else if (auto* answer = std::get_if<Answer>(&action)) {
      const auto answered = std::exchange(tracked.answered, nullptr);
      if (answered) answered(std::move(answer->result));
    } else if (auto* ended = std::get_if<Repaired>(&action)) {
      const auto repaired = std::exchange(tracked.repaired, nullptr);
      if (repaired) repaired(std::move(ended->result));
    }
  }
  settle(segment);
}

void SegmentKeeper::settle(SegmentId segment) {
  const auto found = lives_.find(segment);
  const auto& life = found->second->life;
  waiting_.erase(segment);
  if (life.gone()) {
    forget_row(segment);
    lives_.erase(found);
  } else if (life.resting()) {
    note_row(segment, life.row());
    lives_.erase(found);
  } else if (life.waiting()) {
    waiting_.insert(segment);
  }
  work_there_.set();
}

template <class Event>
void SegmentKeeper::tell(SegmentId segment, std::uint64_t serial, Event event) {
  const auto found = lives_.find(segment);
  if (found == lives_.end() || found->second->serial != serial) return;  // of an earlier life
  perform(segment, event(found->second->life));
}

asio::awaitable<void> SegmentKeeper::store(SegmentId segment, std::uint64_t serial, Persist action) {
  auto row = action.row;
  if (action.create) row.created_ns = clock_.wall().time_since_epoch().count();
  const auto basis = lives_.at(segment)->life.row();
  if (row.state == SegmentState::sealed && basis.state != SegmentState::sealed)
    row.sealed_ns = clock_.wall().time_since_epoch().count();
  const auto how = std::pair(action.create, action.only_if_dead);
  const bool is_grant = row.state == SegmentState::open && row.session &&
                        (basis.state != SegmentState::open || basis.generation != row.generation);
  const tree::Grant grant{row.session, segment, row.generation, 0};
  bool noted = false;
  auto change = [segment, row, basis, how, grant, is_grant,
                 &noted](Transaction& txn) -> Result<std::optional<SegmentRow>> {
    const auto [create, only_if_dead] = how;
    auto stored_row = row;
    REELFS_TRY(const auto stored, txn.find(SegmentKey{segment}));
    if (create == stored.has_value() || (stored && !same_life(*stored, basis))) {
      return Error(Errc::busy, fmt::format("segment {} is not as it was", segment.value));
    }
    if (stored) {
      if (only_if_dead && stored->live_bytes > 0) return std::optional<SegmentRow>();
      stored_row.live_bytes = stored->live_bytes;
      stored_row.length = std::max(row.length, stored->length);
    }
    txn.put(SegmentKey{segment}, stored_row);
    if (is_grant) {
      REELFS_TRY(noted, tree::note_grant(txn, grant));
    }
    return std::optional(stored_row);
  };
  auto result = co_await index_.run(std::move(change));
  if (result && action.sync) {
    // The log of the journal cannot wait for itself.
    const bool is_log = action.row.channel == kNodeLogChannel;
    auto synced = is_log ? index_.sync_here() : index_.sync();
    if (auto done = co_await std::move(synced); !done) result = std::move(done).error();
  }
  ++stored_;
  if (noted && granted_) granted_(grant);
  if (!result) {
    log().error("segment not stored segment={} state={} why=\"{}\"", segment.value,
                to_string(action.row.state), result.error().describe());
    tell(segment, serial, [&](SegmentLife& life) { return life.persist_failed(std::move(result).error()); });
  } else if (!result.value()) {
    tell(segment, serial, [](SegmentLife& life) { return life.persist_refused(); });
  } else {
    if (action.create) ++segments_;
    if (row.sealed_ns != basis.sealed_ns && row.copies.size() < row.wanted_copies)
      note(RepairEvent::too_few_copies, segment, NodeId(), row.length);
    if (reports_read_ > 0 && row.copies != basis.copies) new_copies_.insert(segment);
    note_row(segment, *result.value());
    log().debug("segment segment={} state={} generation={} length={} session={}", segment.value,
                to_string(result.value()->state), result.value()->generation.value, result.value()->length,
                result.value()->session.value);
    tell(segment, serial, [&](SegmentLife& life) { return life.persisted(std::move(*result.value())); });
  }
}

asio::awaitable<void> SegmentKeeper::erase(SegmentId segment, std::uint64_t serial) {
  auto change = [segment](Transaction& txn) -> Result<void> {
    txn.erase(SegmentKey{segment});
    return ok();
  };
  auto result = co_await index_.run(std::move(change));
  ++stored_;
  if (result) --segments_;
  tell(segment, serial, [&](SegmentLife& life) {
    return result ? life.erased() : life.persist_failed(std::move(result).error());
  });
}

asio::awaitable<void> SegmentKeeper::allocate(SegmentId segment, std::uint64_t serial, Allocate action,
                                              InodeId channel) {
  auto request = std::make_shared<wire::AllocateBlockRequest>();
  request->set_segment(segment.value);
  request->set_generation(action.generation.value);
  request->set_channel(channel.value);
  const auto limit = lives_.at(segment)->allocate_limit;
  const auto reply =
      co_await nodes_.call(action.node, action.worker, wire::Method::allocate_block, request, limit);
  Result<BlockPlace> place = Error(Errc::protocol, "reply does not parse");
  wire::AllocateBlockReply message;
  if (!reply) {
    place = reply.error();
  } else if (message.ParseFromString(reply.value().message)) {
    place = BlockPlace{DeviceId{message.device()}, message.block()};
  }
  if (place) {
    nodes_.block_taken(action.node);
  } else {
    nodes_.want_block_report(action.node);  // it may have taken one and carry out a late repetition
    if (const auto found = lives_.find(segment); found != lives_.end())
      found->second->failed.push_back(action.node);
    log().warn("no block segment={} node={} why=\"{}\"", segment.value, nodes_.name(action.node),
               place.error().describe());
  }
  tell(segment, serial, [&](SegmentLife& life) { return life.allocated(action.node, std::move(place)); });
}

asio::awaitable<void> SegmentKeeper::fence(SegmentId segment, std::uint64_t serial, Fence action) {
  auto request = std::make_shared<wire::FenceSegmentRequest>();
  request->set_segment(segment.value);
  request->set_generation(action.generation.value);
  const auto reply = co_await nodes_.call(action.node, action.worker, wire::Method::fence_segment, request);
  Result<FencedCopy> fenced = Error(Errc::protocol, "reply does not parse");
  wire::FenceSegmentReply message;
  if (!reply) {
    fenced = reply.error();
  } else if (message.ParseFromString(reply.value().message)) {
    fenced = FencedCopy(message.length(), message.torn());
  }
  if (!fenced) log().debug("not fenced segment={} why=\"{}\"", segment.value, fenced.error().describe());
  // Whether that is so, or the process does not have the device yet, its leader's list says.
  if (!fenced && fenced.error().code() == Errc::not_found) nodes_.want_block_report(action.node);
  tell(segment, serial, [&](SegmentLife& life) { return life.fenced(action.node, std::move(fenced)); });
}

asio::awaitable<void> SegmentKeeper::seal(SegmentId segment, std::uint64_t serial, Seal action) {
  auto request = std::make_shared<wire::SealSegmentRequest>();
  request->set_segment(segment.value);
  request->set_generation(action.generation.value);
  request->set_length(action.length);
  request->set_reopen(action.reopen);
  const auto reply = co_await nodes_.call(action.node, action.worker, wire::Method::seal_segment, request);
  if (!reply) log().debug("not sealed segment={} why=\"{}\"", segment.value, reply.error().describe());
  tell(segment, serial, [&](SegmentLife& life) { return life.sealed(action.node, without_value(reply)); });
}

asio::awaitable<void> SegmentKeeper::free(SegmentId segment, std::uint64_t serial, Free action) {
  if (nodes_.removed(action.node)) {  // with what it had
    tell(segment, serial, [&](SegmentLife& life) { return life.freed(action.node, ok()); });
    co_return;
  }
  auto request = std::make_shared<wire::FreeSegmentRequest>();
  request->set_segment(segment.value);
  request->set_generation(action.newest.value);
  request->set_device(action.device.value);
  const auto reply = co_await nodes_.call(action.node, action.worker, wire::Method::free_segment, request);
  if (!reply) {
    nodes_.want_block_report(action.node);
    log().debug("not freed segment={} why=\"{}\"", segment.value, reply.error().describe());
  }
  tell(segment, serial, [&](SegmentLife& life) { return life.freed(action.node, without_value(reply)); });
}

void SegmentKeeper::note(RepairEvent event, SegmentId segment, NodeId node, std::uint64_t bytes) {
  RepairLogRow row;
  row.event = event;
  row.segment = segment;
  row.node = node;
  row.bytes = bytes;
  repair_log_.note(std::move(row));
}

asio::awaitable<void> SegmentKeeper::complete(SegmentId segment, std::uint64_t serial, Complete action,
                                              InodeId channel) {
  // A new one is noted by those who wanted it.
  const auto& tracked = *lives_.at(segment);
  const bool is_behind = !tracked.life.makes_copy_on(action.node);
  const auto length = action.length;
  if (is_behind) note(RepairEvent::copy_behind, segment, action.node, length);
  CopyOrder order;
  order.segment = segment;
  order.channel = channel;
  order.node = action.node;
  order.worker = action.worker;
  order.generation = action.generation;
  order.length = action.length;
  order.sources = std::move(action.sources);
  order.device = action.device;
  if (!is_behind) order.use = tracked.copy_use;
  auto place = co_await copies_.carry_out(std::move(order));
  if (!place) {
    repair_log_.note_failure(segment, action.node, place.error());
  } else if (is_behind) {
    note(RepairEvent::copy_completed, segment, action.node, length);
  }
  tell(segment, serial, [&](SegmentLife& life) { return life.completed(action.node, std::move(place)); });
}

asio::awaitable<void> SegmentKeeper::release(SegmentId segment, Release action) {
  auto request = std::make_shared<wire::ReleaseSegmentRequest>();
  request->set_segment(segment.value);
  request->set_generation(action.generation.value);
  const auto reply = co_await nodes_.call(action.node, action.worker, wire::Method::release_segment, request);
  if (!reply) log().debug("not released segment={} why=\"{}\"", segment.value, reply.error().describe());
}

// ---- opening

Task<SegmentId> SegmentKeeper::next_segment() {
  if (next_segment_ >= reserved_below_) {
    auto reserve = [](Transaction& txn) -> Result<std::uint64_t> {
      const CounterKey key{Counter::segment};
      REELFS_TRY(const auto last, txn.find(key));
      const auto given = last ? last->value : 0;
      txn.put(key, CounterRow{given + kNumbersReserved});
      return given;
    };
    REELFS_CO_TRY(const auto given, co_await index_.run(std::move(reserve)));
    // An order to take a block may come late, after the index's machine has lost power: not for another
    // segment. A rebuilt index leaves out more numbers than could have been reserved.
    REELFS_CO_TRY(co_await index_.sync_here());
    if (next_segment_ >= reserved_below_) {  // else another was quicker, and these numbers are left out
      next_segment_ = given + 1;
      reserved_below_ = given + kNumbersReserved + 1;
    }
  }
  co_return SegmentId{next_segment_++};
}

std::vector<SegmentId> SegmentKeeper::claim_unfilled(const OpenParams& params) {
  std::vector<SegmentId> claimed;
  const auto channel = unfilled_.find(params.channel);
  if (channel == unfilled_.end()) return claimed;
  const bool has_choice = nodes_.online_nodes() > params.copies;
  std::vector<std::set<NodeId>> node_sets;
  for (auto at = channel->second.begin(); at != channel->second.end() && claimed.size() < params.count;) {
    const auto& copies = at->second;
    const bool fits =
        copies.size() == params.copies && !lives_.contains(at->first) &&
        std::all_of(copies.begin(), copies.end(), [&](const auto& copy) {
          const bool avoided =
              std::find(params.avoid.begin(), params.avoid.end(), copy.node) != params.avoid.end();
          return nodes_.healthy(copy.node) && nodes_.reachable(copy.node, copy.device) && !avoided;
        });
    // A spare is to be on other nodes, where there are any.
    const bool repeats = std::any_of(node_sets.begin(), node_sets.end(),
                                     [&](const auto& nodes) { return same_nodes(copies, nodes); });
    if (!fits || (repeats && has_choice)) {
      ++at;
      continue;
    }
    std::set<NodeId> nodes;
    for (const auto& copy : copies) nodes.insert(copy.node);
    node_sets.push_back(std::move(nodes));
    claimed.push_back(at->first);
    at = channel->second.erase(at);
  }
  if (channel->second.empty()) unfilled_.erase(channel);
  return claimed;
}

void SegmentKeeper::finish(Batch& batch, SegmentId segment, Result<void> result) {
  std::erase(batch.under_way, segment);
  const auto found = lives_.find(segment);
  if (found != lives_.end()) {
    batch.failed.insert(batch.failed.end(), found->second->failed.begin(), found->second->failed.end());
  }
  if (!result) {
    batch.error = std::move(result).error();
  } else if (batch.abandoned) {
    group_.spawn(give_back({segment, found->second->life.row()}));
  } else {
    batch.granted.push_back({segment, found->second->life.row()});
  }
  if (--batch.left == 0) batch.done.set();
}

void SegmentKeeper::expect_answer(Tracked& tracked, const std::shared_ptr<Batch>& batch, SessionId session) {
  tracked.session = session;
  batch->under_way.push_back(tracked.life.id());
  tracked.answered = [this, batch, segment = tracked.life.id()](Result<void> result) {
    finish(*batch, segment, std::move(result));
  };
}

asio::awaitable<void> SegmentKeeper::open_new(std::shared_ptr<Batch> batch, OpenParams params,
                                              SegmentPlace place) {
  auto number = co_await next_segment();
  if (!number) {
    finish(*batch, SegmentId{}, std::move(number).error());
    co_return;
  }
  SegmentRow row;
  row.channel = params.channel;
  row.generation = Generation{1};
  row.session = params.session;
  row.block_bytes = options_.block_bytes;
  for (const auto& copy : place) row.copies.push_back({copy.node, copy.worker, {}, 0});
  if (row.copies.size() < params.copies) row.wanted_copies = params.copies;
  auto& tracked = add(number.value(), std::move(row));
  tracked.allocate_limit = params.allocate_limit;
  expect_answer(tracked, batch, params.session);
  if (batch->abandoned) tracked.life.abandon();
  perform(number.value(), tracked.life.begin());
}

asio::awaitable<void> SegmentKeeper::open_again(std::shared_ptr<Batch> batch, OpenParams params,
                                                SegmentId segment) {
  auto tracked = co_await track(segment);
  if (!tracked) {
    finish(*batch, SegmentId{}, std::move(tracked).error());
    co_return;
  }
  auto& life = tracked.value()->life;
  auto copies = life.row().copies;
  bool answers = life.resting() && life.row().state == SegmentState::unfilled && !batch->abandoned;
  for (auto& copy : copies) {
    copy.worker = nodes_.any_worker(copy.node, copy.worker);
    answers = answers && copy.worker;
  }
  if (!answers) {
    settle(segment);
    finish(*batch, SegmentId{}, Error(Errc::unavailable, "a segment's nodes do not answer any more"));
    co_return;
  }
  expect_answer(*tracked.value(), batch, params.session);
  perform(segment, life.reopen(params.session, std::move(copies)));
}

asio::awaitable<void> SegmentKeeper::give_back(Granted granted) {
  const Closing closing{granted.row.session, granted.row.generation, granted.row.length, false};
  const auto closed = co_await close(granted.segment, closing);
  if (!closed)
    log().warn("grant not taken back segment={} why=\"{}\"", granted.segment.value,
               closed.error().describe());
}

/// Opens all of them in parallel and waits for every one.
Task<void> SegmentKeeper::run_batch(std::shared_ptr<Batch> batch, const OpenParams& params,
                                    std::vector<SegmentId> again, std::vector<SegmentPlace> places) {
  batch->left = again.size() + places.size();
  if (batch->left == 0) co_return ok();
  for (const auto segment : again) group_.spawn(open_again(batch, params, segment));
  for (auto& place : places) group_.spawn(open_new(batch, params, std::move(place)));
  const bool all_ended = co_await batch->done.wait();
  if (all_ended) co_return ok();
  // The caller is gone. What was granted is given back, and what is under way when it is there.
  batch->abandoned = true;
  for (const auto segment : batch->under_way) {
    if (const auto found = lives_.find(segment); found != lives_.end()) found->second->life.abandon();
  }
  for (auto& granted : batch->granted) group_.spawn(give_back(std::move(granted)));
  co_return Error(Errc::cancelled);
}

Task<std::vector<Granted>> SegmentKeeper::open(OpenParams params) {
  const auto batch = std::make_shared<Batch>();
  const auto wanted = params.count;
  const bool ahead = params.use != wire::GRANT_NOW;
  if (clock_.now() - started_ < options_.start_grace) params.min_copies = params.copies;
  const int rounds = ahead ? 1 : kRounds;
  for (int round = 0; round < rounds && batch->granted.empty(); ++round) {
    // A node that hangs and is not known to is found out before its writer has waited for long.
    params.allocate_limit = round == 0 ? options_.first_allocate_limit : options_.node_call_limit;
    std::vector<SegmentId> again;
    if (round == 0) again = claim_unfilled(params);
    std::vector<SegmentPlace> places;
    if (again.size() < wanted) {
      PlacementRequest request;
      request.copies = params.copies;
      request.min_copies = params.min_copies;
      request.grants = wanted - static_cast<std::uint32_t>(again.size());
      request.avoid = params.avoid;
      request.ahead = ahead || !again.empty();
      auto placed = placer_.place(nodes_.loads(), request);
      if (placed) {
        places = std::move(placed).value();
      } else if (again.empty()) {
        co_return std::move(placed).error();
      }
    }
    REELFS_CO_TRY(co_await run_batch(batch, params, std::move(again), std::move(places)));
    params.avoid.insert(params.avoid.end(), batch->failed.begin(), batch->failed.end());
  }
  if (batch->granted.empty()) co_return std::move(*batch->error);
  if (!alive_(params.session)) {
    for (auto& granted : batch->granted) group_.spawn(give_back(std::move(granted)));
    co_return Error(Errc::no_session, "the session ended meanwhile");
  }
  // The first is written first: one that is begun, though a new one may have been ready before it.
  std::stable_partition(batch->granted.begin(), batch->granted.end(),
                        [](const Granted& granted) { return granted.row.length > 0; });
  co_return std::move(batch->granted);
}

// ---- closing

Task<void> SegmentKeeper::close(SegmentId segment, Closing closing) {
  struct Waiting {
    Event done;
    std::optional<Result<void>> result;
  };
  auto found = co_await track(segment);
  if (!found) {
    if (found.error().code() == Errc::not_found) co_return ok();  // repeated: it was empty and is freed
    co_return std::move(found).error();
  }
  auto& tracked = *found.value();
  if (tracked.answered)
    co_return Error(Errc::busy, fmt::format("segment {} is being opened or closed", segment.value));
  const auto waiting = std::make_shared<Waiting>();
  tracked.answered = [waiting](Result<void> result) {
    waiting->result = std::move(result);
    waiting->done.set();
  };
  perform(segment, tracked.life.close(closing));
  if (!waiting->result) {
    const bool woken = co_await waiting->done.wait();
    if (!woken) co_return Error(Errc::cancelled);
  }
  co_return std::move(*waiting->result);
}

Task<void> SegmentKeeper::add_copy(SegmentId segment, CopyPlace place, NodeId instead_of, CopyUse use) {
  struct Waiting {
    Event done;
    std::optional<Result<void>> result;
  };
  REELFS_CO_TRY(auto* tracked, co_await track(segment));
  if (tracked->repaired) co_return Error(Errc::busy, "another copy of it is being made");
  const auto waiting = std::make_shared<Waiting>();
  tracked->repaired = [waiting](Result<void> result) {
    waiting->result = std::move(result);
    waiting->done.set();
  };
  tracked->copy_use = use;
  perform(segment, tracked->life.add_copy(place.node, place.worker, instead_of, place.device));
  if (!waiting->result) {
    const bool woken = co_await waiting->done.wait();
    if (!woken) co_return Error(Errc::cancelled);
  }
  // What is left of an attempt that failed is found there.
  if (!*waiting->result) nodes_.want_block_report(place.node);
  co_return std::move(*waiting->result);
}

bool SegmentKeeper::is_behind(SegmentId segment, NodeId node) const {
  const auto found = lives_.find(segment);
  return found != lives_.end() && found->second->life.is_behind(node);
}

std::vector<SegmentKeeper::StaleCopy> SegmentKeeper::stale_copies() const {
  std::vector<StaleCopy> stale;
  for (const auto& [node, listed] : stale_)
    stale.insert(stale.end(), listed.copies.begin(), listed.copies.end());
  return stale;
}

void SegmentKeeper::session_ended(SessionId session) {
  std::vector<SegmentId> being_opened;
  for (const auto& [segment, tracked] : lives_) {
    if (tracked->session == session || tracked->life.row().session == session)
      being_opened.push_back(segment);
  }
  for (const auto segment : being_opened) {
    if (lives_.contains(segment)) perform(segment, lives_.at(segment)->life.session_died());
  }
  if (const auto found = open_.find(session); found != open_.end()) {
    for (const auto segment : found->second) later(segment, Reason::session_died);
  }
  for (auto& [segment, ended] : ended_) {
    if (ended.session != session) continue;
    ended.since = TimePoint{};  // long ago
    later(segment, Reason::free_dead);
  }
}

void SegmentKeeper::emptied(const std::vector<SegmentId>& segments) {
  for (const auto segment : segments) {
    dead_.insert(segment);
    if (may_free(segment)) later(segment, Reason::free_dead);
  }
}

std::uint64_t SegmentKeeper::going() {
  while (!gone_.empty() && clock_.now() - gone_.front() >= kFreeIsTold) gone_.pop_front();
  const auto stuck = std::count_if(waiting_.begin(), waiting_.end(), [this](SegmentId segment) {
    return dead_.contains(segment) && !can_go_on(segment);
  });
  return dead_.size() - static_cast<std::size_t>(stuck) + gone_.size();
}

void SegmentKeeper::node_returned(NodeId) { retry_waiting(); }

/// Whether the node has a copy by the row, on a device that it says serves.
bool SegmentKeeper::serves_copy(const SegmentRow& row, NodeId node) const {
  return std::any_of(row.copies.begin(), row.copies.end(), [&](const SegmentCopy& copy) {
    return copy.node == node && copy.device && nodes_.reachable(node, copy.device);
  });
}

Task<std::vector<wire::BlockReport>> SegmentKeeper::report(Report report) {
  const auto node = report.node;
  auto& blocks = report.blocks;
  struct Found {
    std::map<SegmentId, SegmentRow> rows;  // of those reported
    std::vector<SegmentId> missing;        // are to have a copy here, and were not reported
  };
  auto find = [&blocks, node, from = report.from, upto = report.upto](const View& view) -> Result<Found> {
    Found found;
    std::set<SegmentId> listed;
    for (const auto& block : blocks) {
      const SegmentId segment{block.segment()};
      listed.insert(segment);
      REELFS_TRY(auto row, view.find(SegmentKey{segment}));
      if (row) found.rows.emplace(segment, std::move(*row));
    }
    const SegmentKey end{upto ? upto : SegmentId{UINT64_MAX}};
    REELFS_TRY(view.scan(SegmentKey{from}, end, [&](SegmentKey key, const SegmentRow& row) {
      const bool closed = row.state == SegmentState::sealed || row.state == SegmentState::unfilled;
      const bool here = std::any_of(row.copies.begin(), row.copies.end(),
                                    [&](const SegmentCopy& copy) { return copy.node == node; });
      if (closed && here && !listed.contains(key.segment)) found.missing.push_back(key.segment);
      return true;
    }));
    return found;
  };
  ++reports_read_;
  const auto read = co_await index_.read(std::move(find));
  const auto new_copies = new_copies_;
  if (--reports_read_ == 0) new_copies_.clear();
  REELFS_CO_TRY(const auto found, std::move(read));
  const auto& rows = found.rows;
  if (nodes_.withholds(node)) {
    nodes_.blocks_reported(node, !report.from, !report.upto);
    co_return std::vector<wire::BlockReport>();
  }
  std::vector<wire::BlockReport> to_free;
  auto& stale = stale_[node];
  if (!report.from) stale.copies.clear();
  stale.listed = clock_.now();
  std::vector<SegmentId> to_seal;
  std::set<SegmentId> reported;
  for (auto& block : blocks) {
    const SegmentId segment{block.segment()};
    reported.insert(segment);
    const auto life = lives_.find(segment);
    const auto stored = rows.find(segment);
    const SegmentRow* row = nullptr;
    if (life != lives_.end())
      row = &life->second->life.row();
    else if (stored != rows.end())
      row = &stored->second;
    // Another block than the one that is known was taken while the device of that was out of service.
    const auto is_block = [&](const SegmentCopy& copy) {
      const bool elsewhere = copy.device && DeviceId{block.device()} != copy.device;
      return copy.node == node && !elsewhere;
    };
    if (new_copies.contains(segment)) continue;
    if (life != lives_.end() && life->second->life.makes_copy_on(node)) continue;
    const bool ours = row != nullptr && std::any_of(row->copies.begin(), row->copies.end(), is_block);
    if (!ours || row->state == SegmentState::freeing) {
      // A device whose coming was not told of yet may be one of those that are to be withheld.
      if (!nodes_.reachable(node, DeviceId{block.device()})) continue;
      if (row != nullptr && row->state == SegmentState::sealed)
        note(RepairEvent::copy_stale, segment, node, block.length());
      if (stale.copies.size() < kMostStale)
        stale.copies.push_back({segment, node, DeviceId{block.device()}, block.block(), block.length()});
      to_free.push_back(std::move(block));
    } else if (row->state == SegmentState::sealed && (!block.sealed() || block.length() < row->length)) {
      to_seal.push_back(segment);
    }
  }
  std::vector<SegmentId> confirmed;
  for (const auto& [segment, tracked] : lives_) {
    const bool is_in_part = segment >= report.from && (!report.upto || segment < report.upto);
    const auto& row = tracked->life.row();
    const bool is_freed = row.state == SegmentState::freeing;
    if (is_in_part && !reported.contains(segment) && (is_freed || serves_copy(row, node)))
      confirmed.push_back(segment);
  }
  for (const auto segment : confirmed) perform(segment, lives_.at(segment)->life.reported_without(node));
  for (const auto segment : found.missing) {
    const auto tracked = co_await track(segment);
    if (!tracked) continue;
    const auto& life = tracked.value()->life;
    const bool is_missing = life.resting() && serves_copy(life.row(), node);
    if (is_missing && life.row().state == SegmentState::unfilled) later(segment, Reason::finish);
    if (!is_missing || life.row().state != SegmentState::sealed) {
      settle(segment);
      continue;
    }
    log().warn("copy missing, it is made anew segment={} node={}", segment.value, nodes_.name(node));
    perform(segment, tracked.value()->life.reported_without(node));
  }
  for (const auto segment : to_seal) {
    const auto tracked = co_await track(segment);
    if (tracked) perform(segment, tracked.value()->life.reseal(node));
  }
  log().info("blocks reported node={} blocks={} to_free={} to_seal={}", nodes_.name(node), blocks.size(),
             to_free.size(), to_seal.size());
  nodes_.blocks_reported(node, !report.from, !report.upto);
  co_return to_free;
}

// ---- what is remembered of segments at rest

void SegmentKeeper::note_row(SegmentId segment, const SegmentRow& row) {
  const auto writer = writer_.find(segment);
  const bool is_open = row.state == SegmentState::open && row.session;
  if (writer != writer_.end() && (!is_open || writer->second != row.session)) {
    const auto session = writer->second;
    const auto found = open_.find(session);
    found->second.erase(segment);
    if (found->second.empty()) open_.erase(found);
    writer_.erase(writer);
    ended_[segment] = {session, clock_.now()};
    if (!alive_(session)) ended_[segment].since = TimePoint{};
  }
  if (is_open) {
    open_[row.session].insert(segment);
    writer_[segment] = row.session;
    ended_.erase(segment);
  }
  const auto channel = unfilled_.find(row.channel);
  if (row.state == SegmentState::unfilled) {
    unfilled_[row.channel][segment] = row.copies;
  } else if (channel != unfilled_.end() && channel->second.erase(segment) > 0 && channel->second.empty()) {
    unfilled_.erase(channel);
  }
}

void SegmentKeeper::forget_row(SegmentId segment) {
  ended_.erase(segment);
  dead_.erase(segment);
  gone_.push_back(clock_.now());
}

bool SegmentKeeper::may_free(SegmentId segment) const {
  if (holds_ && holds_(segment)) return false;
  const auto ended = ended_.find(segment);
  return grace_is_over(ended != ended_.end() ? ended->second.since : started_);
}

bool SegmentKeeper::grace_is_over(TimePoint since) const {
  return since == TimePoint{} || clock_.now() - since >= options_.dead_segment_grace;
}

/// Whether what was told to go is gone, the node's next listing says.
void SegmentKeeper::look_after_stale() {
  const auto now = clock_.now();
  for (auto& [node, stale] : stale_) {
    if (stale.copies.empty() || now - stale.listed < kStaleLook || !nodes_.online(node)) continue;
    stale.listed = now;
    nodes_.want_block_report(node);
  }
}

void SegmentKeeper::forget_ended() {
  if (clock_.now() - started_ < options_.dead_segment_grace) return;  // not there would mean since the start
  std::erase_if(ended_, [this](const auto& entry) { return grace_is_over(entry.second.since); });
}

// ---- background

asio::awaitable<void> SegmentKeeper::sweep() {
  for (;;) {
    co_await sleep_for(options_.sweep_interval);
    retry_waiting();
    const auto looked = co_await look_at_rows(options_.sweep_rows, false);
    if (!looked) log().warn("segments not looked at why=\"{}\"", looked.error().describe());
    forget_ended();
    look_after_stale();
  }
}

bool SegmentKeeper::can_go_on(SegmentId waiting) const {
  const auto& life = lives_.at(waiting)->life;
  const auto& copies = life.row().copies;
  const bool is_freed = life.row().state == SegmentState::freeing;
  return std::any_of(copies.begin(), copies.end(), [&](const auto& copy) {
    const bool answers = nodes_.reachable(copy.node, copy.device) || (is_freed && nodes_.removed(copy.node));
    return answers && life.waits_for(copy.node);
  });
}

void SegmentKeeper::retry_waiting() {
  std::vector<SegmentId> ready;
  std::copy_if(waiting_.begin(), waiting_.end(), std::back_inserter(ready),
               [this](SegmentId segment) { return can_go_on(segment); });
  for (const auto segment : ready) perform(segment, lives_.at(segment)->life.retry());
  std::vector<std::pair<SegmentId, NodeId>> given_up;
  for (const auto segment : waiting_) {
    for (const auto& copy : lives_.at(segment)->life.row().copies) {
      if (nodes_.removed(copy.node)) given_up.emplace_back(segment, copy.node);
    }
  }
  for (const auto& [segment, node] : given_up) {
    const auto life = lives_.find(segment);
    if (life != lives_.end()) perform(segment, life->second->life.give_up(node));
  }
}

/// @return whether these were the last rows of the table
Task<bool> SegmentKeeper::look_at_rows(std::size_t limit, bool first_time) {
  using Rows = std::vector<std::pair<SegmentId, SegmentRow>>;
  const auto seen = stored_;
  auto read = [from = sweep_from_, limit](const View& view) -> Result<Rows> {
    Rows rows;
    REELFS_TRY(
        view.scan(SegmentKey{from}, SegmentKey{SegmentId{UINT64_MAX}}, [&](SegmentKey key, SegmentRow row) {
          rows.emplace_back(key.segment, std::move(row));
          return rows.size() < limit;
        }));
    return rows;
  };
  REELFS_CO_TRY(auto rows, co_await index_.read(std::move(read)));
  const bool end = rows.size() < limit;
  sweep_from_ = end ? SegmentId{} : SegmentId{rows.back().first.value + 1};
  if (!first_time && stored_ != seen) co_return end;  // some are out of date: the next round will do
  for (const auto& [segment, row] : rows) {
    if (lives_.contains(segment)) continue;
    if (first_time) {
      ++segments_;
      note_row(segment, row);
    }
    look_at(segment, row);
  }
  co_return end;
}

void SegmentKeeper::look_at(SegmentId segment, const SegmentRow& row) {
  switch (row.state) {
    case SegmentState::freeing:
      dead_.insert(segment);
      [[fallthrough]];
    case SegmentState::allocating:
      return later(segment, Reason::resume);
    case SegmentState::open:
      dead_.erase(segment);
      if (!row.session || !alive_(row.session)) later(segment, Reason::resume);
      return;
    case SegmentState::unfilled:
    case SegmentState::sealed:
      if (row.live_bytes > 0) {
        dead_.erase(segment);  // something was committed to it all the same
        return;
      }
      if (row.channel == kNodeLogChannel && holds_ && holds_(segment)) return;
      dead_.insert(segment);
      if (may_free(segment)) later(segment, Reason::free_dead);
      return;
  }
}

void SegmentKeeper::later(SegmentId segment, Reason reason) {
  if (!in_backlog_.insert(segment).second) return;
  backlog_.push_back({segment, reason});
  work_there_.set();
}

std::size_t SegmentKeeper::busy() const { return lives_.size() - waiting_.size(); }

asio::awaitable<void> SegmentKeeper::work() {
  for (;;) {
    while (backlog_.empty() || busy() >= options_.max_active_lives) {
      const bool woken = co_await work_there_.wait();
      if (!woken) co_return;
    }
    const auto work = backlog_.front();
    backlog_.pop_front();
    in_backlog_.erase(work.segment);
    const auto begun = co_await begin(work);
    if (!begun && begun.error().code() != Errc::not_found) {
      log().warn("segment left for later segment={} why=\"{}\"", work.segment.value,
                 begun.error().describe());
    }
  }
}

Task<void> SegmentKeeper::begin(Work work) {
  REELFS_CO_TRY(auto* tracked, co_await track(work.segment));
  auto& life = tracked->life;
  Actions actions;
  switch (work.reason) {
    case Reason::resume:
      if (life.resting()) actions = life.resume(life.row().session && alive_(life.row().session));
      break;
    case Reason::session_died:
      if (!alive_(life.row().session)) actions = life.session_died();
      break;
    case Reason::free_dead:
      if (may_free(work.segment)) actions = life.free_dead();
      break;
    case Reason::finish:
      actions = life.finish();
      break;
  }
  perform(work.segment, std::move(actions));
  co_return ok();
}

}  // namespace reelfs::indexd
