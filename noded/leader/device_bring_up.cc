#include "noded/leader/device_bring_up.h"

#include <chrono>
#include <unordered_set>
#include <vector>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/device/device_file.h"

namespace reelfs::noded {
namespace {

spdlog::logger& log() {
  static auto& instance = logger("noded.device");
  return instance;
}

using namespace std::chrono_literals;

constexpr int kOpenTries = 10;
constexpr Duration kOpenPause = 100ms;  // other workers let go of a device within 250 ms

using Blocks = std::vector<DeviceTable::Found>;

/// Descriptors as read, the lost ones made up from the records where they can be.
Task<Blocks> find_blocks(io::DiskFile& file, Superblock superblock, std::string path) {
  const auto geometry = superblock.geometry;
  REELFS_CO_TRY(const auto descriptors, co_await load_table(file, superblock.device, geometry));
  Blocks blocks(geometry.block_count);
  std::unordered_set<std::uint64_t> segments;
  for (std::uint32_t block = 0; block < geometry.block_count; ++block) {
    if (!descriptors[block]) continue;
    blocks[block].descriptor = *descriptors[block];
    if (descriptors[block]->state != BlockState::free) segments.insert(descriptors[block]->segment);
  }
  for (std::uint32_t block = 0; block < geometry.block_count; ++block) {
    if (descriptors[block]) continue;
    blocks[block].rewrite = true;
    REELFS_CO_TRY(const auto recovered, co_await recover_descriptor(file, geometry, block));
    // Bytes of an earlier life of the block name a segment that lies elsewhere now, or that the index will
    // have freed.
    const bool kept = recovered && segments.insert(recovered->segment).second;
    if (kept) blocks[block].descriptor = *recovered;
    log().warn("block descriptor damaged device={} block={} segment={} outcome={}", path, block,
               recovered ? recovered->segment : 0, kept ? "recovered from its records" : "freed");
  }
  for (std::uint32_t block = 0; block < geometry.block_count; ++block) {
    auto& found = blocks[block];
    if (found.descriptor.state == BlockState::sealed) found.end = found.descriptor.length;
    if (found.descriptor.state != BlockState::open) continue;
    REELFS_CO_TRY(const auto walked, co_await find_block_end(file, geometry, block, found.descriptor));
    found.end = walked.end;
    log().info("open block found device={} block={} segment={} bytes={} records={}", path, block,
               found.descriptor.segment, walked.end, walked.records);
  }
  co_return std::move(blocks);
}

/// What open blocks had not flushed may be lost; what was fenced has been flushed.
void forget_boots(Blocks& blocks) {
  for (auto& block : blocks) {
    auto& descriptor = block.descriptor;
    if (descriptor.state != BlockState::open || descriptor.boot == kBootStable) continue;
    block.rewrite = block.rewrite || descriptor.boot != kBootUnknown;
    descriptor.boot = kBootUnknown;
  }
}

/// Waits for processes of this node, where there are any, to close the device: until then a call of an
/// earlier life may still write to it.
Task<std::unique_ptr<DeviceFile>> open_first(DeviceAccess& access, std::filesystem::path path) {
  auto tries = kOpenTries;
  for (;;) {
    auto file = co_await access.open(path, DeviceAccess::Use::first);
    if (file || file.error().code() != Errc::busy || --tries == 0) co_return std::move(file);
    co_await sleep_for(kOpenPause);
  }
}

/// It, or the device that it is a copy of, is in use.
void refuse(DeviceStatus& status, const Error& why) {
  status.state = DeviceStatus::State::foreign;
  status.reason = why.message();
  status.in_use = true;
}

Task<void> bring_up(const NodeIdentity& identity, Uuid incarnation, DeviceAccess& access,
                    const AdmitDevice& admit, const WasAway& was_away, BroughtUp& device) {
  auto& status = device.status;
  const auto path = status.path.string();
  status.state = DeviceStatus::State::failed;
  auto opened = co_await open_first(access, status.path);
  // It is ours, and free again when what an earlier life began has ended.
  if (!opened && opened.error().code() == Errc::busy) {
    status.state = DeviceStatus::State::offline;
    status.reason = opened.error().message();
    co_return ok();
  }
  if (!opened && opened.error().code() == Errc::not_permitted) {
    refuse(status, opened.error());
    co_return ok();
  }
  REELFS_CO_TRY(auto file, std::move(opened));
  status.bytes = file->size();
  REELFS_CO_TRY(const auto probe, co_await probe_device(*file));
  if (probe.kind == DeviceProbe::Kind::blank) {
    status.state = DeviceStatus::State::blank;
    status.reason = "not initialised";
    co_return ok();
  }
  status.state = DeviceStatus::State::foreign;
  status.reason = probe.reason;
  if (probe.kind == DeviceProbe::Kind::foreign) co_return ok();
  const auto& superblock = probe.superblock;
  if (superblock.cluster != identity.cluster) {
    status.reason = "it belongs to cluster " + superblock.cluster.to_string();
    co_return ok();
  }
  if (superblock.node_name != identity.node_name) {
    status.reason = "it belongs to node " + superblock.node_name;
    co_return ok();
  }
  if (const auto admitted = admit(superblock); !admitted) {
    refuse(status, admitted.error());
    co_return ok();
  }
  status.device = superblock.device;
  status.uuid = superblock.uuid;
  status.state = DeviceStatus::State::failed;
  if (probe.primary_damaged || probe.copy_damaged) {
    log().warn("superblock damaged, written anew device={} which={}", path,
               probe.primary_damaged ? "first" : "copy");
    REELFS_CO_TRY(co_await repair_superblocks(*file, probe));
  }
  REELFS_CO_TRY(auto blocks, co_await find_blocks(*file, superblock, path));
  if (was_away(superblock.device)) forget_boots(blocks);
  // A copy of it, read beside it, may be in service by now; from here to there nobody else runs.
  if (const auto admitted = admit(superblock); !admitted) {
    refuse(status, admitted.error());
    status.device = DeviceId();
    status.uuid = Uuid();
    co_return ok();
  }
  DeviceTable::Identity table_identity;
  table_identity.cluster = identity.cluster;
  table_identity.incarnation = incarnation;
  table_identity.superblock = superblock;
  table_identity.path = path;
  table_identity.boot = identity.boot;
  const ShmNames names(identity.cluster, identity.node_name);
  REELFS_CO_TRY(device.table, DeviceTable::create(names.device(superblock.device), table_identity, blocks));
  device.file = std::move(file);
  status.state = DeviceStatus::State::online;
  status.reason.clear();
  co_return ok();
}

}  // namespace

asio::awaitable<BroughtUp> bring_up_device(NodeIdentity identity, Uuid incarnation,
                                           std::filesystem::path path, DeviceAccess& access,
                                           AdmitDevice admit, WasAway was_away) {
  BroughtUp device;
  device.status.path = path;
  const auto done = co_await bring_up(identity, incarnation, access, admit, was_away, device);
  const auto& status = device.status;
  if (!done) {
    device.status.state = DeviceStatus::State::failed;
    device.status.reason = done.error().describe();
    log().error("device not usable device={} why=\"{}\"", path.string(), status.reason);
  } else if (status.state == DeviceStatus::State::foreign) {
    log().error("device refused device={} why=\"{}\"", path.string(), status.reason);
  } else if (status.state == DeviceStatus::State::offline) {
    log().warn("device not free yet device={} why=\"{}\"", path.string(), status.reason);
  } else if (status.state == DeviceStatus::State::blank) {
    log().info("device is blank, waiting for the index to have it initialised device={}", path.string());
  } else {
    const auto counts = device.table->counts();
    log().info("device online device={} id={} blocks={} free={} open={} sealed={}", path.string(),
               status.device.value, counts.blocks, counts.free, counts.open, counts.sealed);
  }
  co_return std::move(device);
}

Task<void> initialise_blank_device(NodeIdentity identity, NewDevice device, std::int64_t now_ns,
                                   DeviceAccess& access) {
  REELFS_CO_TRY(const auto file, co_await open_first(access, device.path));
  REELFS_CO_TRY(const auto probe, co_await probe_device(*file));
  if (probe.kind != DeviceProbe::Kind::blank) {
    const auto reason = probe.kind == DeviceProbe::Kind::reelfs ? "it has a reelfs superblock" : probe.reason;
    co_return Error(Errc::not_permitted, device.path.string() + " is not blank: " + reason);
  }
  Superblock superblock;
  superblock.cluster = identity.cluster;
  superblock.uuid = device.uuid;
  superblock.device = device.device;
  superblock.node_name = identity.node_name;
  superblock.created_at_ns = now_ns;
  REELFS_CO_TRY(superblock.geometry, plan_geometry(file->size(), device.block_bytes));
  REELFS_CO_TRY(co_await format_device(*file, superblock));
  log().info("device initialised device={} id={} blocks={} block_bytes={}", device.path.string(),
             device.device.value, superblock.geometry.block_count, device.block_bytes);
  co_return ok();
}

}  // namespace reelfs::noded
