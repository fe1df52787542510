#include "tests/sim/cluster/cluster.h"

#include <algorithm>
#include <cstring>

#include <boost/asio/co_spawn.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "common/async/timeout.h"
#include "common/base/assert.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"
#include "noded/device/device_file.h"
#include "noded/shm/shm_area.h"

namespace reelfs::sim {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBlockBytes = noded::kMinBlockBytes;
constexpr std::uint64_t kBlocks = 40;
const rpc::Endpoint kIndexEndpoint{"index", 7400};

/// Its process has ended otherwise than by being killed, which is a bug wherever it comes from.
void spawn(Process& process, asio::awaitable<void> coroutine) {
  asio::co_spawn(process.context, std::move(coroutine), [](const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
  });
}

template <class M>
M parsed(const std::string& message) {
  M made;
  REELFS_ASSERT(made.ParseFromString(message));
  return made;
}

}  // namespace

Cluster::Node::Node(std::string name, std::uint64_t disk_bytes, std::uint64_t disk_seed)
    : host{std::move(name)}, path("/dev/" + host.name), disk(disk_bytes, disk_seed) {}

Cluster::Cluster(World& world, std::uint64_t seed, const std::filesystem::path& directory)
    : world_(world), network_(world), cluster_([] {
        // No other process has it: shared memory has it in its names. Nothing else depends on it.
        Uuid id;
        const auto pid = getpid();
        std::memcpy(id.bytes.data(), &pid, sizeof pid);
        return id;
      }()) {
  set_network(&network_);
  const auto disk_bytes = (kBlocks + 1) * kBlockBytes;
  geometry_ = noded::plan_geometry(disk_bytes, kBlockBytes).value();
  const auto count = 3 + world_.below(2);
  for (std::uint64_t i = 1; i <= count; ++i) {
    nodes_.push_back(std::make_unique<Node>("node" + std::to_string(i), disk_bytes, seed * 16 + i));
  }
  index_.disk = std::make_unique<IndexDisk>(directory);
  min_copies_ = static_cast<std::uint32_t>(1 + world_.below(2));
  watch_messages();
}

void Cluster::clean_up() {
  for (const auto& node : nodes_) {
    for (const auto& name : noded::list_shm(noded::ShmNames(cluster_, node->host.name).prefix()))
      noded::remove_shm(name);
  }
}

// ---- programs. What they are made of is never destroyed, see Process

void Cluster::start_node(Node& node) {
  node.process = &world_.start(node.host, node.host.name);
  world_.run_as(*node.process, [&] {
    auto& context = node.process->context;
    auto* devices = new SimDevices({{node.path, &node.disk}});
    noded::Worker::Options options;
    options.identity.cluster = cluster_;
    options.identity.node_name = node.host.name;
    options.identity.worker = WorkerId(1);
    options.identity.process = noded::ProcessIdentity::self();
    options.identity.boot = node.host.boot;
    options.indexes = {kIndexEndpoint};
    options.addresses = {{node.host.name, 0}};
    options.internal_port = static_cast<std::uint16_t>(
        9000 + std::distance(nodes_.begin(), std::find_if(nodes_.begin(), nodes_.end(),
                                                          [&](const auto& n) { return n.get() == &node; })));
    options.leader.devices = {node.path};
    options.scrub.worker = WorkerId(1);
    options.scrub.period = Duration::zero();
    auto* pool = new BlockingPool(1, "describe");
    auto* registry = new prometheus::Registry;
    auto* worker = new noded::Worker(context, world_.clock(), *pool, *devices, *registry, std::move(options));
    spawn(*node.process, serve_node(*worker));
  });
}

asio::awaitable<void> Cluster::serve_node(noded::Worker& worker) {
  const auto ended = co_await worker.run();
  world_.violated("a node ended: " + (ended ? std::string("just so") : ended.error().describe()));
}

void Cluster::start_index() {
  index_.serving = false;
  index_.process = &world_.start(index_.host, "index");
  world_.run_as(*index_.process, [&] {
    set_index_disk(index_.disk.get());
    auto executor = indexd::Executor::open({});
    spawn(*index_.process, serve_index(*std::move(executor).value().release()));
  });
}

asio::awaitable<void> Cluster::serve_index(indexd::Executor& executor) {
  auto& context = world_.current()->context;
  const auto claimed = co_await indexd::claim_cluster(executor, world_.clock(), {cluster_, kBlockBytes});
  REELFS_ASSERT(claimed.has_value());
  indexd::ServiceOptions options;
  options.cluster = cluster_;
  options.epoch = executor.epoch();
  options.boot_id = std::to_string(index_.host.boot);
  options.block_bytes = kBlockBytes;
  options.adopt_blank_devices = true;
  options.repair_delay = 12s;
  auto* registry = new prometheus::Registry;
  auto* service =
      new indexd::IndexService(context, world_.clock(), executor, std::move(options), {}, *registry);
  const auto started = co_await service->start();
  if (!started) {
    world_.violated("the index server does not start: " + started.error().describe());
    co_return;
  }
  auto* server = new rpc::Server(context, world_.clock(), {}, [service](rpc::Request request) {
    return service->handle(std::move(request));
  });
  server->on_disconnect([service](std::uint64_t connection) { service->disconnected(connection); });
  REELFS_ASSERT(server->listen(kIndexEndpoint).has_value());
  index_.serving = true;
}

void Cluster::start_mount(Mount& mount) {
  mount.process = &world_.start(mount.host, mount.host.name);
  world_.run_as(*mount.process, [&] {
    client::ClusterConfig config;
    config.cluster = cluster_;
    config.indexes = {kIndexEndpoint};
    client::FileSystemOptions options;
    options.purpose = mount.host.name;
    mount.fs = new client::FileSystem(mount.process->context, world_.clock(), std::move(config), options);
  });
}

/// As by SIGKILL, or by the loss of power where the host has none any more.
void Cluster::kill(Process*& process) {
  if (process == nullptr) return;
  world_.note("{} is killed", process->name);
  world_.kill(*process);
  network_.process_killed(*process);
  // What a node's processes shared goes with the last of them: here there is one.
  for (const auto& name : noded::list_shm(noded::ShmNames(cluster_, process->host.name).prefix()))
    noded::remove_shm(name);
  process = nullptr;
}

asio::awaitable<void> Cluster::make_channels(Mount& mount) {
  const auto begun = co_await mount.fs->start();
  REELFS_ASSERT(begun.has_value());
  for (int number = 1; number <= 2; ++number) {
    client::CreateOptions options;
    options.parent = kRootInode;
    options.name = "cam" + std::to_string(number);
    options.mode = S_IFDIR | 0755;
    const auto made = co_await mount.fs->create(std::move(options));
    REELFS_ASSERT(made.has_value());
    channels_.push_back(made.value().inode);
    client::XattrSetting setting;
    setting.inode = channels_.back();
    setting.name = "user.reel.min_copies";
    setting.value = std::to_string(min_copies_);
    const auto set = co_await mount.fs->set_xattr(std::move(setting));
    REELFS_ASSERT(set.has_value());
  }
  const auto synced = co_await mount.fs->sync_directory(kRootInode);
  REELFS_ASSERT(synced.has_value());
  mount.started = true;
}

asio::awaitable<void> Cluster::record(Mount& mount) {
  if (!mount.started) {
    (void)co_await mount.fs->start();  // else it goes on trying
    mount.started = true;
  }
  mount.recorder = new Recorder(
      world_, mount.host.name, *mount.fs, channels_[world_.below(channels_.size())],
      [this](const RecordedFile& file) { check_synced(file); }, [this] { return all_copies_may_be_hurt(); });
  recorders_.push_back(mount.recorder);
  if (healed_) mount.recorder->finish();
  co_await mount.recorder->run();
  co_await unmount(mount);
}

bool Cluster::all_copies_may_be_hurt() const {
  return std::count_if(nodes_.begin(), nodes_.end(), [](const auto& node) { return node->hurt; }) > 1;
}

asio::awaitable<void> Cluster::unmount(Mount& mount) {
  co_await mount.fs->stop();
  mount.stopped = true;
}

// ---- what happens

void Cluster::run() {
  start_index();
  for (const auto& node : nodes_) start_node(*node);
  mounts_.push_back(std::make_unique<Mount>("mount1"));
  auto& first = *mounts_.front();
  start_mount(first);
  spawn(*first.process, make_channels(first));
  world_.run_until([&] { return first.started; }, 30s);
  // Until each node has its device.
  const auto ready = world_.run_until(
      [&] {
        std::size_t devices = 0;
        for (const auto& [key, value] : index_.disk->stable())
          devices += static_cast<std::size_t>(key[0] == static_cast<char>(indexd::Table::device));
        return first.started && devices == nodes_.size();
      },
      30s);
  if (!ready) return world_.violated("the cluster does not begin");
  world_.run_until([] { return false; }, 2s);

  const auto mounts = 1 + world_.below(3);
  while (mounts_.size() < mounts) {
    mounts_.push_back(std::make_unique<Mount>("mount" + std::to_string(mounts_.size() + 1)));
    start_mount(*mounts_.back());
  }
  for (const auto& mount : mounts_) {
    world_.run_as(*mount->process, [&] { spawn(*mount->process, record(*mount)); });
  }
  plan_faults();
  const auto recording = world_.between(10s, 22s);
  world_.run_until([&] { return !world_.violations().empty(); }, recording);
  heal();

  const auto all_ended = [&] {
    return !world_.violations().empty() ||
           std::all_of(mounts_.begin(), mounts_.end(), [](const auto& mount) { return mount->stopped; });
  };
  if (!world_.run_until(all_ended, 120s)) world_.violated("a recorder does not end though all is well");
  if (!world_.violations().empty()) return;
  std::string why;
  const auto settled = [&] { return (why = unsettled()).empty(); };
  for (int second = 0; second < 180 && !settled(); ++second) world_.run_until([] { return false; }, 1s);
  if (!settled()) return world_.violated("it does not come to rest: " + why);
  for (const auto* recorder : recorders_) {
    for (const auto& file : recorder->files()) file->overwritten_may_be_lost = all_copies_may_be_hurt();
  }
  check_blocks();

  mounts_.push_back(std::make_unique<Mount>("reader"));
  auto& reader = *mounts_.back();
  start_mount(reader);
  world_.run_as(*reader.process, [&] { spawn(*reader.process, read_all(reader)); });
  if (!world_.run_until([this] { return all_read_; }, 120s)) world_.violated("reading does not end");
  for (const auto* recorder : recorders_) {
    figures_.syncs += recorder->syncs();
    figures_.errors += recorder->errors();
    for (const auto& file : recorder->files()) figures_.acknowledged_bytes += file->acknowledged_bytes();
  }
}

std::vector<Host*> Cluster::hosts() {
  std::vector<Host*> all = {&index_.host};
  for (const auto& node : nodes_) all.push_back(&node->host);
  for (const auto& mount : mounts_) all.push_back(&mount->host);
  return all;
}

void Cluster::plan_faults() {
  for (auto faults = world_.below(12); faults > 0; --faults) {
    const auto at = world_.between(0ms, 14s);
    const auto longest = world_.one_in(4) ? 12s : 3s;
    const auto lasts = world_.between(1ms, longest);
    world_.after(at, [this, lasts] {
      if (!healed_) fault(lasts);
    });
  }
}

void Cluster::fault(Duration lasts) {
  ++figures_.faults;
  auto& node = *nodes_[world_.below(nodes_.size())];
  auto& mount = *mounts_[world_.below(mounts_.size())];
  const auto ms = lasts / 1ms;
  const auto stop_for = [&](Process* process) {
    if (process == nullptr || process->stopped) return;
    world_.note("FAULT {} is stopped for {} ms", process->name, ms);
    world_.stop(*process);
    world_.after(lasts, [this, process] {
      if (process->alive) world_.go_on(*process);
    });
  };
  switch (world_.below(13)) {
    case 0:  // killed
    case 1:
      if (node.process == nullptr) return;
      world_.note("FAULT {} is killed, for {} ms", node.host.name, ms);
      kill(node.process);
      world_.after(lasts, [this, &node] {
        if (node.process == nullptr && node.host.powered) start_node(node);
      });
      return;
    case 2:
    case 3:
      return node_loses_power(node, lasts);
    case 4:
      return stop_for(node.process);
    case 5:
      if (index_.process == nullptr) return;
      world_.note("FAULT the index server is killed, for {} ms", ms / 4);
      kill(index_.process);
      world_.after(lasts / 4, [this] {
        if (index_.process == nullptr && index_.host.powered) start_index();
      });
      return;
    case 6:
      return index_loses_power(lasts);
    case 7:
      return stop_for(index_.process);
    case 8:
      if (world_.one_in(2)) return stop_for(mount.process);
      return mount_dies(lasts);
    case 9: {  // two hosts hear each other no more, or one hears nobody
      const auto all = hosts();
      auto* const a = all[world_.below(all.size())];
      std::vector<Host*> others = {all[world_.below(all.size())]};
      if (world_.one_in(2)) others = all;
      for (auto* const b : others) {
        if (a == b) continue;
        world_.note("FAULT {} and {} are cut off for {} ms", a->name, b->name, ms);
        network_.cut(*a, *b);
        world_.after(lasts, [this, a, b] { network_.heal(*a, *b); });
      }
      return;
    }
    case 10: {
      const auto all = hosts();
      auto* const slow = all[world_.below(all.size())];
      const auto most = world_.between(5ms, 600ms);
      world_.note("FAULT {} is slow for {} ms, up to {} ms", slow->name, ms, most / 1ms);
      network_.slow_down(*slow, most);
      world_.after(lasts, [this, slow] { network_.slow_down(*slow, 0ms); });
      return;
    }
    case 11:
      if (world_.one_in(2)) {
        if (node.process == nullptr) return;
        world_.note("FAULT connections of {} break", node.host.name);
        return network_.reset_links(*node.process);
      }
      world_.note("FAULT the disk of {} hangs for {} ms", node.host.name, ms);
      node.disk.hangs_until = std::max(node.disk.hangs_until, world_.now() + lasts);
      return;
    default:  // all of them lose power at once
      if (!world_.one_in(3)) return;
      world_.note("FAULT everything loses power");
      for (const auto& each : nodes_) node_loses_power(*each, world_.between(100ms, 5s));
      index_loses_power(world_.between(100ms, 5s));
      return;
  }
}

void Cluster::node_loses_power(Node& node, Duration lasts) {
  if (!node.host.powered) return;
  world_.note("FAULT {} loses power, for {} ms", node.host.name, lasts / 1ms);
  node.host.powered = false;
  node.hurt = true;
  kill(node.process);
  const CrashFault faults[] = {CrashFault::lose_unsynced, CrashFault::reorder_unsynced,
                               CrashFault::tear_unsynced};
  node.disk.disk.crash(faults[world_.below(3)]);
  node.disk.hangs_until = {};
  world_.after(lasts, [this, &node] {
    if (node.host.powered) return;
    ++node.host.boot;
    node.host.powered = true;
    network_.host_back(node.host);
    start_node(node);
  });
}

void Cluster::index_loses_power(Duration lasts) {
  if (!index_.host.powered) return;
  world_.note("FAULT the index server's host loses power, for {} ms", lasts / 1ms);
  index_.host.powered = false;
  index_.hurt = true;
  kill(index_.process);
  index_.disk->lose_power(world_.one_in(2) ? 0 : world_.below(index_.disk->unsynced() + 1));
  world_.after(lasts, [this] {
    if (index_.host.powered) return;
    ++index_.host.boot;
    index_.host.powered = true;
    network_.host_back(index_.host);
    start_index();
  });
}

/// Another takes its place, with files of its own.
void Cluster::mount_dies(Duration lasts) {
  if (mounts_.size() > 6) return;
  auto& mount = *mounts_[world_.below(mounts_.size())];
  if (mount.process == nullptr) return;
  world_.note("FAULT {} is killed", mount.host.name);
  kill(mount.process);
  mount.stopped = true;
  world_.after(lasts, [this] {
    if (healed_) return;
    mounts_.push_back(std::make_unique<Mount>("mount" + std::to_string(mounts_.size() + 1)));
    auto& next = *mounts_.back();
    start_mount(next);
    world_.run_as(*next.process, [&] { spawn(*next.process, record(next)); });
  });
}

void Cluster::heal() {
  world_.note("all is healed");
  healed_ = true;
  const auto all = hosts();
  for (auto* a : all) {
    network_.slow_down(*a, 0ms);
    for (auto* b : all) {
      if (a != b) network_.heal(*a, *b);
    }
  }
  if (!index_.host.powered) {
    ++index_.host.boot;
    index_.host.powered = true;
    network_.host_back(index_.host);
  }
  if (index_.process == nullptr) start_index();
  if (index_.process->stopped) world_.go_on(*index_.process);
  for (const auto& node : nodes_) {
    node->disk.hangs_until = {};
    if (!node->host.powered) {
      ++node->host.boot;
      node->host.powered = true;
      network_.host_back(node->host);
    }
    if (node->process == nullptr) start_node(*node);
    if (node->process->stopped) world_.go_on(*node->process);
  }
  for (const auto& mount : mounts_) {
    if (mount->process == nullptr) continue;
    if (mount->process->stopped) world_.go_on(*mount->process);
    if (mount->recorder != nullptr) mount->recorder->finish();
  }
}

// ---- what must hold

void Cluster::watch_messages() {
  network_.watch([this](Process& server, wire::Method method, const std::string& asked,
                        const Result<rpc::Response>& response) {
    if (method == wire::Method::heartbeat || method == wire::Method::watch_changes) return;
    const auto outcome = response ? std::string("done") : response.error().describe();
    const auto& name = server.name;
    if (method == wire::Method::append) {
      const auto request = parsed<wire::AppendRequest>(asked);
      world_.note("append segment={} generation={} offset={}: {}", request.segment(), request.generation(),
                  request.offset(), outcome);
      const auto fenced = fenced_.find({name, request.segment()});
      if (!response || fenced == fenced_.end()) return;
      const auto end = parsed<wire::AppendReply>(response.value().message).end();
      if (request.generation() < fenced->second.generation && end > fenced->second.length) {
        world_.violated(
            fmt::format("{} accepts an append to segment {} up to {} of generation {}, after it was "
                        "fenced with {} at {}",
                        name, request.segment(), end, request.generation(), fenced->second.generation,
                        fenced->second.length));
      }
    } else if (method == wire::Method::fence_segment) {
      const auto request = parsed<wire::FenceSegmentRequest>(asked);
      if (!response) return world_.note("fence segment={}: {}", request.segment(), outcome);
      const auto reply = parsed<wire::FenceSegmentReply>(response.value().message);
      world_.note("fence segment={} generation={}: length={} torn={}", request.segment(),
                  request.generation(), reply.length(), reply.torn());
      ++figures_.fences;
      if (reply.torn()) ++figures_.torn;
      auto& fenced = fenced_[{name, request.segment()}];
      fenced = {std::max(fenced.generation, request.generation()), reply.length()};
    } else if (method == wire::Method::seal_segment) {
      const auto request = parsed<wire::SealSegmentRequest>(asked);
      world_.note("seal segment={} generation={} length={} reopen={}: {}", request.segment(),
                  request.generation(), request.length(), request.reopen(), outcome);
    } else if (method == wire::Method::free_segment) {
      const auto request = parsed<wire::FreeSegmentRequest>(asked);
      world_.note("free segment={} upto_generation={}: {}", request.segment(), request.generation(), outcome);
      if (response) {
        fenced_.erase({name, request.segment()});
        check_freed(server, SegmentId(request.segment()));
      }
    } else if (method == wire::Method::copy_segment) {
      const auto request = parsed<wire::CopySegmentRequest>(asked);
      world_.note("copy segment={} generation={} length={}: {}", request.segment(), request.generation(),
                  request.length(), outcome);
      if (response) ++figures_.completed;
    } else if (method == wire::Method::sync_segments) {
      const auto request = parsed<wire::SyncSegmentsRequest>(asked);
      std::string what;
      for (int i = 0; i < request.segments_size(); ++i) {
        what +=
            fmt::format(" {}:{}", request.segments(i), request.lengths_size() > i ? request.lengths(i) : 0);
      }
      world_.note("flush{}: {}", what, outcome);
    } else if (method == wire::Method::commit) {
      const auto request = parsed<wire::CommitRequest>(asked);
      std::string what;
      for (const auto& file : request.files()) {
        for (const auto& extent : file.extents())
          what += fmt::format(" {}@{}={}+{}", file.inode(), extent.file_offset(), extent.segment(),
                              extent.record_offset());
      }
      world_.note("commit{}: {}", what, outcome);
      if (response && parsed<wire::CommitReply>(response.value().message).refused().empty())
        check_committed(request);
    } else {
      world_.note("{}: {}", wire::to_string(method), outcome);
    }
  });
}

std::map<std::string, std::string> Cluster::rows_now() {
  std::map<std::string, std::string> rows;
  const auto scanned =
      index_.disk->store().view().scan_all([&](std::string_view key, std::string_view value) {
        rows.emplace(key, value);
        return true;
      });
  REELFS_ASSERT(scanned.has_value());
  return rows;
}

Cluster::Rows Cluster::decoded(const std::map<std::string, std::string>& rows, InodeId only) {
  Rows decoded;
  const auto each = [&](const std::string& from, const std::string& upto, const auto& take) {
    for (auto row = rows.lower_bound(from); row != rows.end() && row->first < upto; ++row)
      take(row->first, row->second);
  };
  using indexd::encode_key;
  each(encode_key(indexd::SegmentKey{}), encode_key(indexd::SegmentKey{SegmentId(UINT64_MAX)}),
       [&](const std::string& key, const std::string& value) {
         decoded.segments.emplace(indexd::decode_key<indexd::SegmentKey>(key).value().segment,
                                  indexd::decode_row<indexd::SegmentRow>(value).value());
       });
  each(encode_key(indexd::NodeKey{}), encode_key(indexd::NodeKey{NodeId(UINT32_MAX)}),
       [&](const std::string& key, const std::string& value) {
         decoded.nodes.emplace(indexd::decode_key<indexd::NodeKey>(key).value().node,
                               indexd::decode_row<indexd::NodeRow>(value).value().name);
       });
  const InodeId last(only ? only.value + 1 : UINT64_MAX);
  each(encode_key(indexd::ExtentKey{only, 0}), encode_key(indexd::ExtentKey{last, 0}),
       [&](const std::string& key, const std::string& value) {
         const auto extent = indexd::decode_key<indexd::ExtentKey>(key).value();
         decoded.extents.emplace(std::pair(extent.inode, extent.file_offset),
                                 indexd::decode_row<indexd::ExtentRow>(value).value());
       });
  return decoded;
}

Cluster::Node* Cluster::node_of(const Rows& rows, NodeId id) {
  const auto name = rows.nodes.find(id);
  if (name == rows.nodes.end()) return nullptr;
  for (const auto& node : nodes_) {
    if (node->host.name == name->second) return node.get();
  }
  return nullptr;
}

/// Whether the copy has this piece of the file as it is to be.
bool Cluster::holds(Node& node, SimDisk::Image image, const indexd::SegmentCopy& copy, SegmentId segment,
                    const RecordedFile& file, std::uint64_t file_offset, const indexd::ExtentRow& extent) {
  if (copy.block >= geometry_.block_count) return false;
  const auto base = geometry_.block_offset(copy.block);
  const auto from = round_down(std::uint64_t{extent.record_offset}, kPageBytes);
  const auto upto = std::min(geometry_.block_bytes, round_up(extent.record_offset + wire::kMaxHeaderBytes +
                                                                 extent.payload_offset + extent.length,
                                                             kPageBytes));
  std::vector<std::byte> bytes(upto - from);
  node.disk.disk.peek(image, base + from, bytes);
  const auto record = std::span(bytes).subspan(extent.record_offset - from);
  const auto header = wire::decode_record_header(record);
  if (!header) return false;
  const auto& says = header.value().header;
  if (says.segment != segment.value || says.inode != file.inode.value) return false;
  const auto payload = record.subspan(says.header_bytes + extent.payload_offset, extent.length);
  return file.check(file_offset, payload).empty();
}

/// An fsync was answered just now: what it acknowledges is on stable storage, of as many copies as that
/// takes, and the index's machine may lose power.
void Cluster::check_synced(const RecordedFile& file) {
  const auto rows = decoded(index_.disk->stable(), file.inode);
  std::uint64_t covered = 0;
  auto at = rows.extents.lower_bound({file.inode, 0});
  for (; at != rows.extents.end() && at->first.first == file.inode; ++at) {
    const auto& extent = at->second;
    const auto offset = at->first.second;
    // Where the index lost power since, it has what it forgot when the session has ended: simulation.md, "Not
    // mended". What lies between is to be a hole, which nothing was acknowledged in.
    if (offset > covered && !index_.hurt) {
      const std::vector<std::byte> zeros(offset - covered);
      if (auto wrong = file.check(covered, zeros); !wrong.empty())
        return world_.violated("fsync was answered without the extent: " + wrong);
    }
    covered = offset + extent.length;
    if (!file.has_acknowledged(offset, extent.length)) continue;
    const auto row = rows.segments.find(extent.segment);
    if (row == rows.segments.end())
      return world_.violated(fmt::format("{}: segment {} has no row", file.name, extent.segment.value));
    std::size_t good = 0;
    for (const auto& copy : row->second.copies) {
      auto* const node = node_of(rows, copy.node);
      if (node != nullptr &&
          holds(*node, SimDisk::Image::durable, copy, extent.segment, file, offset, extent))
        ++good;
    }
    const auto needed = std::min<std::size_t>(min_copies_, row->second.copies.size());
    if (good < needed) {
      return world_.violated(
          fmt::format("fsync of {} was answered, and bytes {} to {} are on stable storage of {} copies of "
                      "segment {}, not {}",
                      file.name, offset, offset + extent.length, good, extent.segment.value, needed));
    }
  }
  if (covered < file.size() && !index_.hurt) {
    const std::vector<std::byte> zeros(file.size() - covered);
    if (auto wrong = file.check(covered, zeros); !wrong.empty())
      return world_.violated("fsync was answered without the extent: " + wrong);
  }
}

std::vector<std::optional<noded::BlockDescriptor>> Cluster::descriptors(Node& node) {
  std::vector<std::byte> table(noded::table_pages(geometry_.block_count) * kPageBytes);
  node.disk.disk.peek(SimDisk::Image::seen, geometry_.table_offset, table);
  std::vector<std::optional<noded::BlockDescriptor>> found(geometry_.block_count);
  std::vector<std::byte> first(kPageBytes);
  node.disk.disk.peek(SimDisk::Image::seen, 0, first);
  const auto superblock = noded::decode_superblock(first);
  if (!superblock) return found;
  for (std::uint32_t block = 0; block < geometry_.block_count; ++block) {
    const auto entry =
        std::span(table).subspan(block * sizeof(noded::DescriptorEntry), sizeof(noded::DescriptorEntry));
    auto decoded = noded::decode_descriptor({superblock.value().device, block}, kBlockBytes, entry);
    if (decoded) found[block] = decoded.value();
  }
  return found;
}

bool Cluster::has_block(Node& node, SegmentId segment) {
  const auto found = descriptors(node);
  return std::any_of(found.begin(), found.end(),
                     [&](const auto& block) { return block && block->segment == segment.value; });
}

/// All its copies lost power before what was placed was flushed: each is closed where it ends.
bool Cluster::is_beyond_repair(const Rows& rows, SegmentId segment, const indexd::SegmentRow& row) {
  return row.state == indexd::SegmentState::sealed &&
         std::all_of(row.copies.begin(), row.copies.end(), [&](const auto& copy) {
           auto* const node = node_of(rows, copy.node);
           if (node == nullptr || !node->hurt) return false;
           const auto block = descriptors(*node)[copy.block];
           return block && block->segment == segment.value && block->state == noded::BlockState::sealed &&
                  block->length < row.length;
         });
}

std::string Cluster::unsettled() {
  if (!index_.serving) return "the index server does not serve";
  const auto rows = decoded(rows_now());
  std::map<std::pair<std::string, std::uint64_t>, const indexd::SegmentRow*> named;  // node, segment
  for (const auto& [id, row] : rows.segments) {
    const bool rests =
        row.state == indexd::SegmentState::sealed || row.state == indexd::SegmentState::unfilled;
    if (!rests) return fmt::format("segment {} is {}", id.value, indexd::to_string(row.state));
    if (row.copies.size() < 2) return fmt::format("segment {} has one copy", id.value);
    for (const auto& copy : row.copies) {
      auto* const node = node_of(rows, copy.node);
      if (node == nullptr) return fmt::format("segment {} is on a node that is none", id.value);
      named[{node->host.name, id.value}] = &row;
    }
  }
  for (const auto& node : nodes_) {
    const auto found = descriptors(*node);
    for (std::uint32_t block = 0; block < found.size(); ++block) {
      if (!found[block]) return fmt::format("block {} of {} has no descriptor", block, node->host.name);
      const auto& descriptor = *found[block];
      if (descriptor.state == noded::BlockState::free) continue;
      const auto row = named.find({node->host.name, descriptor.segment});
      if (row == named.end()) {
        return fmt::format("block {} of {} has segment {}, which no row puts there", block, node->host.name,
                           descriptor.segment);
      }
      const bool sealed = row->second->state == indexd::SegmentState::sealed;
      if (is_beyond_repair(rows, SegmentId(descriptor.segment), *row->second)) {
        named.erase(row);
        continue;
      }
      if (sealed != (descriptor.state == noded::BlockState::sealed) ||
          (sealed && descriptor.length != row->second->length)) {
        return fmt::format("segment {} of {} bytes is {} on {} with {}", descriptor.segment,
                           row->second->length,
                           descriptor.state == noded::BlockState::sealed ? "sealed" : "open", node->host.name,
                           descriptor.length);
      }
      named.erase(row);
    }
  }
  if (named.empty()) return {};
  return fmt::format("segment {} has no block on {}", named.begin()->first.second,
                     named.begin()->first.first);
}

/// Nobody gives a copy back that a row names and in which something may be.
void Cluster::check_freed(const Process& server, SegmentId segment) {
  const auto rows = decoded(rows_now(), kRootInode);
  const auto row = rows.segments.find(segment);
  if (row == rows.segments.end() || row->second.state == indexd::SegmentState::freeing ||
      row->second.state == indexd::SegmentState::allocating)
    return;
  for (const auto& copy : row->second.copies) {
    auto* const node = node_of(rows, copy.node);
    if (node != nullptr && node->host.name == server.name && !has_block(*node, segment)) {
      world_.violated(fmt::format("{} gave back its copy of segment {}, which is {} and is to have it",
                                  server.name, segment.value, indexd::to_string(row->second.state)));
    }
  }
}

/// What a mount commits it has placed: every copy has it, those whose hosts lost power apart.
void Cluster::check_committed(const wire::CommitRequest& request) {
  const auto rows = decoded(rows_now(), kRootInode);
  for (const auto& file : request.files()) {
    for (const auto& extent : file.extents()) {
      const auto row = rows.segments.find(SegmentId(extent.segment()));
      if (row == rows.segments.end() || row->second.state == indexd::SegmentState::freeing) continue;
      for (const auto& copy : row->second.copies) {
        auto* const node = node_of(rows, copy.node);
        if (node == nullptr || node->hurt) continue;
        const auto place = geometry_.block_offset(copy.block) + extent.record_offset();
        std::vector<std::byte> bytes(3 * kPageBytes);
        const auto page = round_down(place, kPageBytes);
        node->disk.disk.peek(SimDisk::Image::seen, page, bytes);
        const auto header = wire::decode_record_header(std::span(bytes).subspan(place - page));
        const bool is_there = header && header.value().header.segment == extent.segment() &&
                              header.value().header.segment_offset == extent.record_offset();
        if (!is_there) {
          world_.violated(fmt::format("inode {} has bytes at {} of segment {}, which the copy on {} has not",
                                      file.inode(), extent.record_offset(), extent.segment(),
                                      node->host.name));
        }
      }
    }
  }
}

/// At rest: rows and blocks agree (see unsettled()), all copies have the same bytes, and no extent names what
/// is not there.
void Cluster::check_blocks() {
  const auto rows = decoded(rows_now());
  figures_.segments = rows.segments.size();
  for (const auto& [id, row] : rows.segments) {
    if (is_beyond_repair(rows, id, row)) continue;
    std::vector<std::byte> first(row.length), other(row.length);
    for (std::size_t i = 0; i < row.copies.size(); ++i) {
      auto& node = *node_of(rows, row.copies[i].node);
      auto& bytes = i == 0 ? first : other;
      if (round_up(row.length, kPageBytes) != row.length)
        return world_.violated(fmt::format("segment {} ends within a page", id.value));
      node.disk.disk.peek(SimDisk::Image::seen, geometry_.block_offset(row.copies[i].block), bytes);
      if (i > 0 && first != other) {
        const auto differs = std::mismatch(first.begin(), first.end(), other.begin()).first - first.begin();
        return world_.violated(
            fmt::format("copies of segment {} differ at {} of {}", id.value, differs, row.length));
      }
    }
  }
  std::map<std::uint64_t, const RecordedFile*> files;
  for (const auto* recorder : recorders_) {
    for (const auto& file : recorder->files()) files[file->inode.value] = file.get();
  }
  for (const auto& [place, extent] : rows.extents) {
    const auto row = rows.segments.find(extent.segment);
    const auto name = fmt::format("byte {} of inode {}", place.second, place.first.value);
    if (row == rows.segments.end())
      return world_.violated(
          fmt::format("{} is in segment {}, which there is not", name, extent.segment.value));
    if (extent.record_offset + extent.payload_offset + extent.length > row->second.length) {
      return world_.violated(fmt::format("{} is behind the end of segment {}", name, extent.segment.value));
    }
    const auto file = files.find(place.first.value);
    if (file == files.end() || !file->second->has_acknowledged(place.second, extent.length)) continue;
    for (const auto& copy : row->second.copies) {
      if (!holds(*node_of(rows, copy.node), SimDisk::Image::seen, copy, extent.segment, *file->second,
                 place.second, extent)) {
        return world_.violated(fmt::format("{} ({}) is not on the copy of segment {} on node {}", name,
                                           file->second->name, extent.segment.value, copy.node.value));
      }
    }
  }
}

asio::awaitable<void> Cluster::read_all(Mount& mount) {
  const auto started = co_await mount.fs->start();
  if (!started) world_.violated("a mount does not start: " + started.error().describe());
  for (const auto* recorder : recorders_) {
    for (const auto& file : recorder->files()) {
      if (!file->inode || file->acknowledged_bytes() == 0) continue;
      auto opened = co_await mount.fs->open(file->inode);
      if (!opened) {
        world_.violated(fmt::format("{} cannot be opened: {}", file->name, opened.error().describe()));
        continue;
      }
      const auto handle = opened.value().handle;
      std::vector<std::byte> content(file->size());
      for (std::uint64_t at = 0; at < content.size();) {
        // Of the rest some may be lost, and reading it takes its time.
        const auto wanted = [&](std::uint64_t cell) {
          return file->has_acknowledged(cell, RecordedFile::kCellBytes);
        };
        auto upto = at;
        while (upto < content.size() && upto - at < kMiB && wanted(upto)) upto += RecordedFile::kCellBytes;
        if (upto == at) {
          at += RecordedFile::kCellBytes;
          continue;
        }
        const auto part = co_await handle->read(at, upto - at);
        if (!part || part.value().empty()) {
          world_.violated(fmt::format("{} cannot be read at {}: {}", file->name, at,
                                      part ? std::string("it ends") : part.error().describe()));
          break;
        }
        std::memcpy(content.data() + at, part.value().data(), part.value().size());
        at += part.value().size();
      }
      if (auto wrong = file->check(0, content); !wrong.empty()) world_.violated(std::move(wrong));
    }
  }
  all_read_ = true;
}

}  // namespace reelfs::sim
