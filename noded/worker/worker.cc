#include "noded/worker/worker.h"

#include <chrono>
#include <filesystem>
#include <utility>

#include <boost/asio/io_context.hpp>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/service/device_status.h"
#include "noded/service/leader_service.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr const char* kInternalHost = "127.0.0.1";
constexpr Duration kJoinLimit = 2s;
constexpr Duration kJoinPause = 50ms;    // while the leader is not ready
constexpr Duration kWatchPause = 200ms;  // between looks at what the leader has
constexpr Duration kReleasePause = 250ms;
constexpr Duration kLookLimit = 500ms;  // the index waits for its answer
constexpr Duration kEndLimit = 1s;      // of what is cancelled: then it is in a call that hangs
constexpr Duration kFlushSlack = 1s;    // to notice that a device does not end its calls

spdlog::logger& log() {
  static auto& instance = logger("noded.worker");
  return instance;
}

SegmentStore::Options store_options(const Worker::Options& options) {
  SegmentStore::Options store;
  store.worker = options.identity.worker;
  store.device_call_limit = options.device_limit;
  return store;
}

}  // namespace

/// Something that goes on by itself until it has ended.
struct Worker::Ending {
  Event told;
  bool over = false;
};

Worker::Worker(asio::io_context& context, const Clock& clock, BlockingPool& pool, DeviceAccess& devices,
               prometheus::Registry& registry, Options options)
    : context_(context),
      clock_(clock),
      pool_(pool),
      options_(std::move(options)),
      metrics_(registry),
      store_(context.get_executor(), clock, store_options(options_)),
      state_(context.get_executor(), options_.identity, devices, store_),
      group_(context.get_executor()),
      stopping_(context.get_executor()) {}

Worker::~Worker() = default;

Task<void> Worker::run() {
  for (;;) {
    REELFS_CO_TRY(const bool leading, co_await try_to_lead());
    if (leading) co_return co_await lead();
    REELFS_CO_TRY(co_await follow());
    log().info("leader lost, standing for election worker={}", options_.identity.worker.value);
  }
}

Task<bool> Worker::try_to_lead() {
  rpc::ServerOptions server_options;
  internal_server_ = std::make_unique<rpc::Server>(
      context_, clock_, server_options,
      [this](rpc::Request request) { return answer_follower(std::move(request)); });
  internal_server_->on_disconnect([this](std::uint64_t) { connection_lost_.set(); });
  rpc::Endpoint internal;
  internal.host = kInternalHost;
  internal.port = options_.internal_port;
  const auto bound = internal_server_->listen(internal);
  if (bound) co_return true;
  co_await internal_server_->stop();
  internal_server_.reset();
  if (bound.error().code() != Errc::busy) co_return bound.error();
  co_return false;
}

Task<rpc::Response> Worker::answer_follower(rpc::Request request) {
  if (!ready_to_be_joined_) co_return Error(Errc::busy, "the leader is not ready");
  co_return co_await serve_follower(*leader_, state_.identity, std::move(request));
}

/// A living process of another version of noded must be neither followed nor replaced: what it has in shared
/// memory cannot be read, and it goes on writing to the devices.
Result<void> Worker::refuse_other_versions() const {
  for (const auto& name : state_.own_areas(state_.names.process_prefix())) {
    const auto owner = ProcessTable::owner_of(name);
    if (!owner || owner.value().layout_version == kShmLayoutVersion) continue;
    const auto& process = owner.value().process;
    if (!is_running(process)) continue;
    return Error(Errc::unsupported, "process " + std::to_string(process.pid) +
                                        " of this node is of another version of noded: its " +
                                        "shared memory has layout version " +
                                        std::to_string(owner.value().layout_version) + " and not " +
                                        std::to_string(kShmLayoutVersion) +
                                        "; stop all processes of the node, then start them in one version");
  }
  return ok();
}

Task<void> Worker::lead() {
  REELFS_CO_TRY(refuse_other_versions());
  leader_ = std::make_unique<Leader>(context_.get_executor(), state_, clock_, options_.leader);
  REELFS_CO_TRY(co_await leader_->start());
  ready_to_be_joined_ = true;
  leader_pid_ = state_.identity.process.pid;
  REELFS_CO_TRY(co_await serve());
  leader_->on_change([this] { index_link_->changed(); });
  index_link_->changed();
  group_.spawn(leader_->watch_devices());
  for (;;) {
    (void)co_await with_timeout(clock_, Deadline::after(clock_, kReleasePause), wait_for(connection_lost_));
    co_await leader_->release_dead();
    metrics_.devices(device_figures());
    metrics_.scrubbed(scrubber_->counts());
  }
}

std::vector<NodeMetrics::DeviceFigures> Worker::device_figures() const {
  std::vector<NodeMetrics::DeviceFigures> devices;
  for (const auto& status : leader_->devices()) {
    if (status.state == DeviceStatus::State::removed) continue;
    NodeMetrics::DeviceFigures figures;
    figures.device = status.device;
    figures.path = status.path.string();
    const auto device = state_.store.find_device(status.device);
    figures.serving = status.state == DeviceStatus::State::online && device != nullptr;
    if (figures.serving) figures.blocks = device->table().counts();
    devices.push_back(std::move(figures));
  }
  return devices;
}

/// Returns ok when the leader is gone.
Task<void> Worker::follow() {
  rpc::Endpoint internal;
  internal.host = kInternalHost;
  internal.port = options_.internal_port;
  if (leader_client_) co_await leader_client_->stop();
  leader_client_ = std::make_unique<rpc::Client>(context_, clock_, internal, rpc::ClientOptions());
  bool waiting = false;
  const auto predecessor_ends = Deadline::after(clock_, kPredecessorLimit);
  for (;;) {
    Joins joins;
    joins.first = !state_.attached();
    joins.sees_device = std::exchange(sees_device_, false);
    const auto areas =
        co_await join_node(*leader_client_, state_.identity, joins, Deadline::after(clock_, kJoinLimit));
    if (!areas) {
      const auto code = areas.error().code();
      leader_pid_ = 0;
      if (code == Errc::unavailable) co_return ok();
      const bool may_pass = code == Errc::busy || code == Errc::timed_out ||
                            (code == Errc::exists && predecessor_ends.left(clock_) > Duration::zero());
      if (!may_pass) co_return areas.error();
      if (!std::exchange(waiting, true)) log().info("waiting to join why=\"{}\"", areas.error().describe());
      co_await sleep_for(kJoinPause);
      continue;
    }
    REELFS_CO_TRY(state_.attach(areas.value()));
    leader_pid_ = areas.value().leader_pid;
    begin_to_look_at(areas.value().awaited);
    if (joins.first) co_await state_.settle(clock_, kBringUpLimit);
    REELFS_CO_TRY(co_await serve());
    metrics_.scrubbed(scrubber_->counts());
    co_await sleep_for(kWatchPause);
  }
}

/// One look at a time at each path: it may hang, and then only itself waits.
void Worker::begin_to_look_at(const std::vector<std::filesystem::path>& paths) {
  for (const auto& path : paths) {
    if (looked_at_.insert(path).second) group_.spawn(look_at(path));
  }
}

asio::awaitable<void> Worker::look_at(std::filesystem::path path) {
  const auto sight = co_await state_.access.look(path);
  looked_at_.erase(path);
  if (sight && sight.value().present) sees_device_ = true;
}

/// Opens the external port and begins to talk to the index, once.
Task<void> Worker::serve() {
  if (server_) co_return ok();
  rpc::ClientOptions client_options;
  client_options.tls = options_.tls;
  auto peer_options = client_options;
  peer_options.traffic = rpc::Traffic::copies;
  copier_ = std::make_unique<RecordCopier>(context_, clock_, store_, peer_options);
  segment_copier_ = std::make_unique<SegmentCopier>(context_, clock_, store_, peer_options);
  peers_ = std::make_unique<PeerReader>(context_, clock_, peer_options);
  auto fetch = [this](RangeRewriter::Wanted wanted, Deadline deadline) {
    return peers_->read(std::move(wanted), state_.unfilled->epoch(), deadline);
  };
  rewriter_ = std::make_unique<RangeRewriter>(store_, options_.identity.worker, std::move(fetch));
  service_ = std::make_unique<NodeService>(state_.identity, clock_, pool_, store_, *state_.unfilled, *copier_,
                                           *segment_copier_, metrics_, hooks());
  rpc::ServerOptions server_options;
  server_options.tls = options_.tls;
  server_ = std::make_unique<rpc::Server>(context_, clock_, server_options, [this](rpc::Request request) {
    return service_->handle(std::move(request));
  });
  std::vector<rpc::Endpoint> listening;
  for (const auto& address : options_.addresses) {
    REELFS_CO_TRY(auto endpoint, server_->listen(address));
    log().info("serving worker={} endpoint={}", options_.identity.worker.value, endpoint.to_string());
    listening.push_back(std::move(endpoint));
  }
  endpoint_ = listening.front();
  endpoint_.others.assign(listening.begin() + 1, listening.end());
  IndexLink::Options link_options;
  link_options.indexes = options_.indexes;
  link_options.rack = options_.rack;
  link_options.client = std::move(client_options);
  index_link_ = std::make_unique<IndexLink>(context_, clock_, state_.identity, std::move(link_options),
                                            store_, *state_.unfilled, [this] { return situation(); });
  auto report = [this](wire::Damage damage) { return index_link_->report_damage(std::move(damage)); };
  scrubber_ =
      std::make_unique<Scrubber>(context_.get_executor(), clock_, store_, options_.scrub, std::move(report));
  group_.spawn(index_link_->run());
  group_.spawn(scrubber_->run());
  co_return ok();
}

NodeService::Hooks Worker::hooks() {
  NodeService::Hooks hooks;
  hooks.initialise_device = [this](NewDevice device, Deadline deadline) {
    return initialise_device(std::move(device), deadline);
  };
  hooks.attach_device = [this](wire::AttachDeviceRequest request, Deadline deadline) {
    return attach_device(std::move(request), deadline);
  };
  hooks.detach_device = [this](wire::DetachDeviceRequest request, Deadline deadline) {
    return detach_device(std::move(request), deadline);
  };
  hooks.look_for_devices = [this] { return look_for_devices(); };
  hooks.order_scrub = [this] { scrubber_->order(); };
  hooks.rewrite_ranges = [this](wire::RewriteRangesRequest request, Deadline deadline) {
    return rewriter_->rewrite(std::move(request), deadline);
  };
  hooks.look_at_ranges = [this](wire::RewriteRangesRequest request) {
    return rewriter_->look(std::move(request));
  };
  hooks.to_be_described = [this] { return to_be_described(); };
  return hooks;
}

/// @errors busy: neither this process nor one that it knows
Result<bool> Worker::leads() const {
  if (leader_ != nullptr && ready_to_be_joined_) return true;
  if (leader_client_) return false;
  return Error(Errc::busy, "no leader yet");
}

Task<wire::DeviceInfo> Worker::attach_device(wire::AttachDeviceRequest request, Deadline deadline) {
  REELFS_CO_TRY(const bool leads_here, leads());
  if (!leads_here) co_return co_await forward_attach_device(*leader_client_, std::move(request), deadline);
  REELFS_CO_TRY(leader_->heed(request.path(), request.command()));
  REELFS_CO_TRY(const auto status, co_await leader_->add_device(request.path(), request.block_bytes()));
  wire::DeviceInfo info;
  to_wire(status, info);
  co_return std::move(info);
}

Task<wire::DeviceInfo> Worker::detach_device(wire::DetachDeviceRequest request, Deadline deadline) {
  REELFS_CO_TRY(const bool leads_here, leads());
  if (!leads_here) co_return co_await forward_detach_device(*leader_client_, std::move(request), deadline);
  REELFS_CO_TRY(leader_->heed(request.path(), request.command()));
  REELFS_CO_TRY(const auto status, co_await leader_->remove_device(request.path()));
  wire::DeviceInfo info;
  to_wire(status, info);
  co_return std::move(info);
}

/// For a request that found nothing: the leader may have brought something up a moment ago.
asio::awaitable<void> Worker::look_for_devices() {
  if (leading() || !leader_client_) co_return;
  const auto areas =
      co_await join_node(*leader_client_, state_.identity, Joins(), Deadline::after(clock_, kLookLimit));
  if (!areas || !state_.attach(areas.value())) co_return;
  co_await state_.settle(clock_, kLookLimit);
}

Task<void> Worker::initialise_device(NewDevice device, Deadline deadline) {
  REELFS_CO_TRY(const bool leads_here, leads());
  if (leads_here) co_return co_await leader_->initialise_device(std::move(device));
  co_return co_await forward_initialise_device(*leader_client_, state_.identity.cluster, std::move(device),
                                               deadline);
}

IndexLink::Situation Worker::situation() const {
  IndexLink::Situation situation;
  situation.endpoint = endpoint_;
  situation.leader = leading() && ready_to_be_joined_;
  if (!situation.leader) return situation;
  situation.devices = leader_->devices();
  for (const auto& device : situation.devices) {
    if (auto progress = scrubber_->progress(device.device))
      situation.scrubs[device.device] = std::move(*progress);
  }
  return situation;
}

DescriptionOrder Worker::to_be_described() const {
  DescriptionOrder order;
  order.cluster = state_.identity.cluster;
  order.incarnation = state_.incarnation;
  order.areas = state_.own_areas(state_.names.prefix());
  order.leader_pid = leader_pid_;
  order.wall_ns = clock_.wall().time_since_epoch().count();
  return order;
}

// ---- the end: docs/design/node.md, "Stopping"

asio::awaitable<void> Worker::run_to_end(asio::awaitable<void> work, std::shared_ptr<Ending> ending) {
  co_await std::move(work);
  ending->over = true;
  ending->told.set();
}

std::shared_ptr<Worker::Ending> Worker::begin(asio::awaitable<void> work) {
  auto ending = std::make_shared<Ending>();
  stopping_.spawn(run_to_end(std::move(work), ending));
  return ending;
}

asio::awaitable<bool> Worker::ends(std::shared_ptr<Ending> ending, Deadline deadline) {
  if (!ending->over) (void)co_await with_timeout(clock_, deadline, wait_for(ending->told));
  co_return ending->over;
}

asio::awaitable<void> Worker::end(asio::awaitable<void> stopping, const char* what) {
  const bool ended = co_await ends(begin(std::move(stopping)), Deadline::after(clock_, kEndLimit));
  if (ended) co_return;
  log().error("not waiting for calls that hang in the kernel of={}", what);
  hangs_ = true;
}

asio::awaitable<void> Worker::flush(DevicePtr device) {
  auto flushed = co_await device->persist_all();
  if (flushed) flushed = co_await device->sync();
  if (flushed) co_return;
  log().error("device not synced device={} why=\"{}\"", device->table().path(), flushed.error().describe());
}

/// All at once, so that one that hangs costs its own limit and nobody else's.
asio::awaitable<void> Worker::flush_devices() {
  std::vector<std::shared_ptr<Ending>> flushes;
  for (const auto& device : store_.devices()) {
    if (device->usable()) flushes.push_back(begin(flush(device)));
  }
  const auto deadline = Deadline::after(clock_, options_.device_limit + kFlushSlack);
  for (const auto& flush : flushes) (void)co_await ends(flush, deadline);
}

/// What hangs may still be written when it returns: until then nobody else may have blocks of the device.
void Worker::take_hanging_out_of_service() {
  for (const auto& device : store_.devices()) {
    if (device->queue_depth() == 0) continue;
    device->retire(DeviceHealth::stuck, "a call had not ended when worker " +
                                            std::to_string(state_.identity.worker.value) + " did");
  }
}

asio::awaitable<void> Worker::stop() {
  co_await end(group_.stop(), "the worker");
  if (leader_) co_await end(leader_->stop(), "the leader");
  co_await end(state_.stop(), "opening devices");
  if (scrubber_) co_await end(scrubber_->stop(), "what is verified");
  if (server_) co_await end(server_->stop(), "the external port");
  if (index_link_) co_await index_link_->stop();
  if (copier_) co_await end(copier_->stop(), "what is copied");
  if (segment_copier_) co_await end(segment_copier_->stop(), "copies of segments");
  if (peers_) co_await end(peers_->stop(), "what is read from other nodes");
  if (leader_client_) co_await leader_client_->stop();
  if (state_.attached()) co_await flush_devices();
  co_await end(store_.stop(), "devices");
  if (internal_server_) co_await end(internal_server_->stop(), "the internal port");
  take_hanging_out_of_service();
  if (state_.attached()) give_back();
  // Locks on devices go with their files. A process in which a call hangs keeps those that it has open.
  const auto devices = store_.devices();
  for (const auto& device : devices) store_.drop_device(device->id());
}

void Worker::give_back() {
  const auto worker = state_.identity.worker;
  for (const auto& [id, block] : store_.blocks_of(*state_.process)) {
    const auto device = store_.find_device(id);
    if (device && block < device->table().geometry().block_count) device->table().disown(block, worker);
  }
  for (const auto& device : store_.devices()) device->table().release_claims(worker);
  remove_shm(state_.names.process(worker));
  if (state_.node_is_alive()) return;
  for (const auto& name : state_.own_areas(state_.names.prefix())) remove_shm(name);
  log().info("last worker of the node, shared memory removed");
}

}  // namespace reelfs::noded
