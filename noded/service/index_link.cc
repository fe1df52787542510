#include "noded/service/index_link.h"

#include <algorithm>
#include <utility>

#include <boost/asio/io_context.hpp>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/service/device_status.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr Duration kCallLimit = 2s;
constexpr Duration kRetryPause = 250ms;
constexpr Duration kFreeLimit = 10s;
constexpr std::size_t kReportPart = 65536;  // blocks in one message, at most 44 bytes each
constexpr std::chrono::milliseconds kShortestHeartbeat{50};
constexpr std::chrono::milliseconds kLongestHeartbeat{
    1000};  // the index is to know of load and health within a second

spdlog::logger& log() {
  static auto& instance = logger("noded.index");
  return instance;
}

void fill_device(const DeviceStatus& status, std::uint32_t node, SegmentStore& store,
                 wire::DeviceInfo& info) {
  to_wire(status, info);
  info.set_node(node);
  const auto device = store.find_device(status.device);
  if (!device || device->table().path() != status.path.string()) return;
  const auto counts = device->table().counts();
  info.set_block_bytes(device->table().geometry().block_bytes);
  info.set_blocks(counts.blocks);
  info.set_free_blocks(counts.free);
  info.set_open_blocks(counts.open);
  info.set_sealed_blocks(counts.sealed);
}

void fill_status(const NodeIdentity& identity, const IndexLink::Situation& situation, std::uint32_t node,
                 SegmentStore& store, wire::WorkerStatus& status) {
  status.set_worker(identity.worker.value);
  *status.mutable_endpoint() = situation.endpoint.to_wire();
  status.set_pid(identity.process.pid);
  status.set_leader(situation.leader);
  status.set_appends_in_flight(static_cast<std::uint32_t>(store.appends_under_way()));
  if (!situation.leader) return;
  for (const auto& device : situation.devices) {
    auto& info = *status.add_devices();
    fill_device(device, node, store, info);
    const auto scrub = situation.scrubs.find(device.device);
    if (scrub != situation.scrubs.end()) *info.mutable_scrub() = scrub->second;
  }
}

}  // namespace

IndexLink::IndexLink(asio::io_context& context, const Clock& clock, NodeIdentity identity, Options options,
                     SegmentStore& store, UnfilledTable& unfilled, std::function<Situation()> situation)
    : clock_(clock),
      identity_(std::move(identity)),
      options_(std::move(options)),
      store_(store),
      unfilled_(unfilled),
      situation_(std::move(situation)),
      incarnation_(Uuid::random()),
      group_(context.get_executor()) {
  for (const auto& endpoint : options_.indexes) {
    clients_.push_back(std::make_unique<rpc::Client>(context, clock, endpoint, options_.client));
  }
}

IndexLink::~IndexLink() = default;

void IndexLink::changed() { wake_.set(); }

asio::awaitable<void> IndexLink::stop() {
  co_await group_.stop();
  for (const auto& client : clients_) co_await client->stop();
}

Deadline IndexLink::call_deadline() const { return Deadline::after(clock_, kCallLimit); }

/// An index server that does not know its time is over must not say which blocks to free.
Result<void> IndexLink::learn_epoch(std::uint64_t epoch) {
  if (epoch == 0) return ok();
  if (!unfilled_.observe_epoch(Epoch(epoch))) {
    return Error(Errc::stale_epoch, "epoch " + std::to_string(epoch) + " is over, this is " +
                                        std::to_string(unfilled_.epoch().value));
  }
  for (const auto& client : clients_) client->set_epoch(unfilled_.epoch());
  return ok();
}

asio::awaitable<void> IndexLink::pause(Duration duration) {
  (void)co_await with_timeout(clock_, Deadline::after(clock_, duration), wait_for(wake_));
}

asio::awaitable<void> IndexLink::run() {
  std::string last_trouble;
  for (std::size_t next = 0;; next = (next + 1) % clients_.size()) {
    auto& index = *clients_[next];
    const auto ended = co_await stay_in_touch(index);
    current_ = nullptr;
    // Said once for each reason: an index that is away for a night is one event.
    if (ended.has_error() && last_trouble != ended.error().describe()) {
      last_trouble = ended.error().describe();
      log().warn("index not reachable, trying on index={} why=\"{}\"", index.endpoint().to_string(),
                 last_trouble);
    }
    co_await sleep_for(kRetryPause);
  }
}

/// Returns why it lost touch.
Task<void> IndexLink::stay_in_touch(rpc::Client& index) {
  REELFS_CO_TRY(co_await register_worker(index));
  for (;;) {
    co_await pause(heartbeat_);
    REELFS_CO_TRY(co_await heartbeat(index));
  }
}

Task<void> IndexLink::register_worker(rpc::Client& index) {
  wire::RegisterWorkerRequest request;
  request.set_cluster(identity_.cluster.raw());
  request.set_node_name(identity_.node_name);
  request.set_rack(options_.rack);
  request.set_incarnation(incarnation_.raw());
  fill_status(identity_, situation_(), node_, store_, *request.mutable_status());
  REELFS_CO_TRY(const auto reply, co_await index.call_for<wire::RegisterWorkerReply>(
                                      wire::Method::register_worker, request, call_deadline()));
  if (reply.cluster() != identity_.cluster.raw()) {
    co_return Error(Errc::bad_config, index.endpoint().to_string() + " serves another cluster");
  }
  REELFS_CO_TRY(learn_epoch(reply.epoch()));
  node_ = reply.node();
  current_ = &index;
  report_from_ = {};
  const std::chrono::milliseconds asked(reply.heartbeat_ms());
  if (asked.count() > 0) heartbeat_ = std::clamp(asked, kShortestHeartbeat, kLongestHeartbeat);
  log().info("registered index={} node={} epoch={} heartbeat_ms={}", index.endpoint().to_string(), node_,
             reply.epoch(), heartbeat_.count());
  co_return ok();
}

Task<void> IndexLink::heartbeat(rpc::Client& index) {
  wire::HeartbeatRequest request;
  request.set_node(node_);
  request.set_incarnation(incarnation_.raw());
  fill_status(identity_, situation_(), node_, store_, *request.mutable_status());
  REELFS_CO_TRY(const auto reply, co_await index.call_for<wire::HeartbeatReply>(wire::Method::heartbeat,
                                                                                request, call_deadline()));
  REELFS_CO_TRY(learn_epoch(reply.epoch()));
  if (reply.register_again()) co_return co_await register_worker(index);
  REELFS_CO_TRY(std::exchange(freed_, ok()));  // else they are listed anew after another registration
  if (reply.report_blocks() && situation_().leader && !freeing_) co_return co_await report_blocks(index);
  co_return ok();
}

Task<void> IndexLink::report_damage(wire::Damage damage) {
  if (current_ == nullptr) co_return Error(Errc::unavailable, "no index server is known");
  damage.set_node(node_);
  wire::ReportDamageRequest request;
  *request.add_damages() = std::move(damage);
  REELFS_CO_TRY(const auto reply, co_await current_->call_for<wire::ReportDamageReply>(
                                      wire::Method::report_damage, request, call_deadline()));
  if (reply.accepted() == 0) co_return Error(Errc::busy, "the index has too much damage to look at");
  co_return ok();
}

Task<void> IndexLink::report_blocks(rpc::Client& index) {
  auto blocks = store_.list(report_from_, kReportPart + 1);
  SegmentId upto;
  if (blocks.size() > kReportPart) {
    upto = blocks.back().segment;
    blocks.pop_back();
  }
  wire::ReportBlocksRequest request;
  request.set_node(node_);
  request.set_from_segment(report_from_.value);
  request.set_upto_segment(upto.value);
  for (const auto& found : blocks) {
    auto& block = *request.add_blocks();
    block.set_device(found.address.device.value);
    block.set_block(found.address.block);
    block.set_segment(found.segment.value);
    block.set_generation(found.slot.descriptor.generation);
    block.set_length(found.slot.end);
    block.set_sealed(found.slot.descriptor.state == BlockState::sealed);
  }
  log().info("reporting blocks index={} blocks={} from_segment={}", index.endpoint().to_string(),
             request.blocks_size(), report_from_.value);
  REELFS_CO_TRY(auto reply, co_await index.call_for<wire::ReportBlocksReply>(wire::Method::report_blocks,
                                                                             request, call_deadline()));
  report_from_ = upto;
  if (reply.free_size() == 0) co_return ok();
  freeing_ = true;
  group_.spawn(free_blocks(std::move(reply)));
  co_return ok();
}

/// Beside the heartbeats, which are not to wait for disks.
asio::awaitable<void> IndexLink::free_blocks(wire::ReportBlocksReply reply) {
  for (const auto& block : reply.free()) {
    const SegmentId segment(block.segment());
    const BlockAddress address{DeviceId(block.device()), block.block()};
    const auto found = store_.find(segment);
    if (!found || found.value().address != address) continue;  // gone or taken anew since the report
    log().info("freeing a block that the index does not know segment={} device={} block={}", segment.value,
               address.device.value, address.block);
    // One that was made anew since it was listed has a later generation.
    auto freed =
        co_await store_.free(segment, Generation(block.generation()), Deadline::after(clock_, kFreeLimit));
    if (!freed && freed.error().code() != Errc::stale_generation) freed_ = std::move(freed);
  }
  freeing_ = false;
}

}  // namespace reelfs::noded
