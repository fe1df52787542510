#include "noded/shm/process_table.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "noded/shm/crash_point.h"

namespace reelfs::noded {
namespace {

constexpr std::uint32_t kEntries = 8192;  // blocks in use at once by one process; 64 KiB of memory

std::uint64_t pack(BlockAddress address) { return std::uint64_t{address.device.value} << 32 | address.block; }

BlockAddress unpack(std::uint64_t packed) {
  return {DeviceId(static_cast<std::uint32_t>(packed >> 32)), static_cast<std::uint32_t>(packed)};
}

std::uint64_t load(std::uint64_t& entry) { return std::atomic_ref(entry).load(); }
void store(std::uint64_t& entry, std::uint64_t value) { std::atomic_ref(entry).store(value); }

}  // namespace

struct ProcessTable::Head {
  ShmHeader header;
  ProcessIdentity process;
  std::uint32_t worker;
  std::atomic<std::uint32_t> overflowed;
};

ProcessTable::ProcessTable(std::unique_ptr<ShmArea> area) : area_(std::move(area)) {}

ProcessTable::Head& ProcessTable::head() const { return *reinterpret_cast<Head*>(area_->data()); }

std::uint64_t* ProcessTable::entries() const {
  return reinterpret_cast<std::uint64_t*>(area_->data() + sizeof(Head));
}

std::uint32_t ProcessTable::entry_count() const {
  return static_cast<std::uint32_t>((area_->size() - sizeof(Head)) / sizeof(std::uint64_t));
}

Result<std::unique_ptr<ProcessTable>> ProcessTable::create(const std::string& name, const Uuid& cluster,
                                                           const Uuid& node_incarnation, WorkerId worker,
                                                           const ProcessIdentity& process) {
  REELFS_TRY(auto area,
             ShmArea::create(name, shape_of<Head, std::uint64_t>(ShmKind::process, cluster, node_incarnation),
                             kEntries, sizeof(Head) + kEntries * sizeof(std::uint64_t)));
  auto table = std::unique_ptr<ProcessTable>(new ProcessTable(std::move(area)));
  table->head().process = process;
  table->head().worker = worker.value;
  table->area_->publish();
  return table;
}

Result<std::unique_ptr<ProcessTable>> ProcessTable::attach(const std::string& name, const Uuid& cluster,
                                                           const Uuid& node_incarnation) {
  REELFS_TRY(auto area, ShmArea::attach(name, shape_of<Head, std::uint64_t>(ShmKind::process, cluster,
                                                                            node_incarnation)));
  return std::unique_ptr<ProcessTable>(new ProcessTable(std::move(area)));
}

Result<ProcessTable::Owner> ProcessTable::owner_of(const std::string& name) {
  // These stand where they do in every version.
  static_assert(offsetof(ShmHeader, layout_version) == 8 && offsetof(ShmHeader, ready) == 76 &&
                offsetof(Head, process) == 88 && std::is_trivially_copyable_v<ProcessIdentity>);
  std::array<std::byte, offsetof(Head, process) + sizeof(ProcessIdentity)> bytes;
  REELFS_TRY(read_shm(name, bytes));
  const ShmHeader expected;
  if (std::memcmp(bytes.data(), expected.magic.data(), expected.magic.size()) != 0) {
    return Error(Errc::corrupt, "shared memory " + name + " has a damaged header");
  }
  std::uint32_t ready = 0;
  std::memcpy(&ready, &bytes[offsetof(ShmHeader, ready)], sizeof ready);
  if (ready != 1) return Error(Errc::busy, "shared memory " + name + " is being made");
  Owner owner;
  std::memcpy(&owner.layout_version, &bytes[offsetof(ShmHeader, layout_version)],
              sizeof owner.layout_version);
  std::memcpy(&owner.process, &bytes[offsetof(Head, process)], sizeof owner.process);
  return owner;
}

WorkerId ProcessTable::worker() const { return WorkerId(head().worker); }
ProcessIdentity ProcessTable::process() const { return head().process; }
bool ProcessTable::overflowed() const { return head().overflowed.load() != 0; }

Uuid ProcessTable::node_incarnation() const { return area_->incarnation(); }

bool ProcessTable::try_add(BlockAddress address) {
  const auto packed = pack(address);
  for (std::uint32_t i = 0; i < entry_count(); ++i) {
    const auto entry = load(entries()[i]);
    if (entry == packed) return true;
    if (entry != 0) continue;
    store(entries()[i], packed);
    return true;
  }
  return false;
}

void ProcessTable::add(BlockAddress address, const StillWorkedOn& still_worked_on) {
  bool added = try_add(address);
  if (!added && still_worked_on) {
    for (std::uint32_t i = 0; i < entry_count(); ++i) {
      if (!still_worked_on(unpack(load(entries()[i])))) store(entries()[i], 0);
    }
    added = try_add(address);
  }
  if (!added) head().overflowed.store(1);
  crash_point("process.added");
}

void ProcessTable::remove(BlockAddress address) {
  const auto packed = pack(address);
  for (std::uint32_t i = 0; i < entry_count(); ++i) {
    if (load(entries()[i]) == packed) store(entries()[i], 0);
  }
}

std::vector<BlockAddress> ProcessTable::blocks() const {
  std::vector<BlockAddress> blocks;
  for (std::uint32_t i = 0; i < entry_count(); ++i) {
    if (const auto entry = load(entries()[i]); entry != 0) blocks.push_back(unpack(entry));
  }
  return blocks;
}

}  // namespace reelfs::noded
