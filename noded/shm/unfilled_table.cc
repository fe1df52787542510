#include "noded/shm/unfilled_table.h"

#include <algorithm>

#include "noded/shm/crash_point.h"

namespace reelfs::noded {

struct UnfilledTable::Head {
  ShmHeader header;
  ShmMutex mutex;
  ShmMutex allocation_mutex;
  std::atomic<std::uint64_t> epoch;
};

namespace {

bool is_of(const UnfilledTable::Entry& entry, BlockAddress address) {
  return entry.segment != 0 && entry.device == address.device.value && entry.block == address.block;
}

}  // namespace

UnfilledTable::UnfilledTable(std::unique_ptr<ShmArea> area) : area_(std::move(area)) {}

UnfilledTable::Head& UnfilledTable::head() const { return *reinterpret_cast<Head*>(area_->data()); }

UnfilledTable::Entry* UnfilledTable::slots() const {
  return reinterpret_cast<Entry*>(area_->data() + sizeof(Head));
}

std::uint32_t UnfilledTable::capacity() const {
  return static_cast<std::uint32_t>((area_->size() - sizeof(Head)) / sizeof(Entry));
}

ShmMutex& UnfilledTable::allocation_mutex() { return head().allocation_mutex; }

Result<std::unique_ptr<UnfilledTable>> UnfilledTable::create(const std::string& name, const Uuid& cluster,
                                                             const Uuid& node_incarnation,
                                                             std::uint32_t capacity) {
  REELFS_TRY(auto area,
             ShmArea::create(name, shape_of<Head, Entry>(ShmKind::unfilled, cluster, node_incarnation),
                             capacity, sizeof(Head) + capacity * sizeof(Entry)));
  auto table = std::unique_ptr<UnfilledTable>(new UnfilledTable(std::move(area)));
  table->head().mutex.init();
  table->head().allocation_mutex.init();
  table->area_->publish();
  return table;
}

Result<std::unique_ptr<UnfilledTable>> UnfilledTable::attach(const std::string& name, const Uuid& cluster,
                                                             const Uuid& node_incarnation) {
  REELFS_TRY(auto area,
             ShmArea::attach(name, shape_of<Head, Entry>(ShmKind::unfilled, cluster, node_incarnation)));
  return std::unique_ptr<UnfilledTable>(new UnfilledTable(std::move(area)));
}

Uuid UnfilledTable::node_incarnation() const { return area_->incarnation(); }

/// An entry is whole where its segment is set: that is written last and cleared first.
void UnfilledTable::repair() { area_->header().repair_count.fetch_add(1); }

void UnfilledTable::put(const Entry& entry) {
  const BlockAddress address{DeviceId(entry.device), entry.block};
  const ShmLock lock(head().mutex, *this);
  Entry* unused = nullptr;
  for (std::uint32_t i = 0; i < capacity(); ++i) {
    auto& slot = slots()[i];
    if (is_of(slot, address)) {
      unused = &slot;
      break;
    }
    if (slot.segment == 0 && unused == nullptr) unused = &slot;
  }
  if (unused == nullptr) return;
  std::atomic_ref(unused->segment).store(0);
  unused->length = entry.length;
  unused->device = entry.device;
  unused->block = entry.block;
  crash_point("unfilled.filled");
  std::atomic_ref(unused->segment).store(entry.segment);
}

void UnfilledTable::remove(BlockAddress address) {
  const ShmLock lock(head().mutex, *this);
  for (std::uint32_t i = 0; i < capacity(); ++i) {
    if (is_of(slots()[i], address)) std::atomic_ref(slots()[i].segment).store(0);
  }
}

std::vector<UnfilledTable::Entry> UnfilledTable::entries() {
  std::vector<Entry> copy(capacity());
  {
    const ShmLock lock(head().mutex, *this);
    std::copy_n(slots(), copy.size(), copy.begin());
  }
  std::erase_if(copy, [](const Entry& entry) { return entry.segment == 0; });
  return copy;
}

Epoch UnfilledTable::epoch() const { return Epoch(head().epoch.load()); }

bool UnfilledTable::observe_epoch(Epoch epoch) {
  auto& known = head().epoch;
  auto highest = known.load();
  while (highest < epoch.value) {
    if (known.compare_exchange_weak(highest, epoch.value)) return true;
  }
  return highest == epoch.value;
}

}  // namespace reelfs::noded
