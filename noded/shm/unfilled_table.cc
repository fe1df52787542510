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

constexpr std::uint64_t kNever = 0;                    // no entry was ever here: a search ends
constexpr std::uint64_t kGone = UINT64_MAX;            // one was: a search goes on
constexpr std::uint64_t kSpread = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio (Knuth, TAOCP 3, 6.4)

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

/// The entry of the segment; else the first place for it; null where there is none.
UnfilledTable::Entry* UnfilledTable::find_locked(std::uint64_t segment) {
  Entry* place = nullptr;
  auto at = static_cast<std::uint32_t>((segment * kSpread >> 32) % capacity());
  for (std::uint32_t step = 0; step < capacity(); ++step) {
    auto& slot = slots()[at];
    if (slot.segment == segment) return &slot;
    if (place == nullptr && (slot.segment == kNever || slot.segment == kGone)) place = &slot;
    if (slot.segment == kNever) break;
    at = at + 1 == capacity() ? 0 : at + 1;
  }
  return place;
}

void UnfilledTable::put(const Entry& entry) {
  const ShmLock lock(head().mutex, *this);
  auto* const place = find_locked(entry.segment);
  if (place == nullptr) return;
  std::atomic_ref(place->segment).store(kGone);
  place->length = entry.length;
  place->device = entry.device;
  place->block = entry.block;
  crash_point("unfilled.filled");
  std::atomic_ref(place->segment).store(entry.segment);
}

std::optional<UnfilledTable::Entry> UnfilledTable::find(SegmentId segment) {
  const ShmLock lock(head().mutex, *this);
  const auto* const entry = find_locked(segment.value);
  if (entry == nullptr || entry->segment != segment.value) return std::nullopt;
  return *entry;
}

void UnfilledTable::remove(SegmentId segment) {
  const ShmLock lock(head().mutex, *this);
  auto* const entry = find_locked(segment.value);
  if (entry == nullptr || entry->segment != segment.value) return;
  const auto last = capacity() - 1;
  auto at = static_cast<std::uint32_t>(entry - slots());
  std::atomic_ref(slots()[at].segment).store(kGone);
  // Where no search goes on behind it, none needs to come this far.
  while (slots()[at].segment == kGone && slots()[at == last ? 0 : at + 1].segment == kNever) {
    std::atomic_ref(slots()[at].segment).store(kNever);
    at = at == 0 ? last : at - 1;
  }
}

std::vector<UnfilledTable::Entry> UnfilledTable::entries() {
  std::vector<Entry> copy(capacity());
  {
    const ShmLock lock(head().mutex, *this);
    std::copy_n(slots(), copy.size(), copy.begin());
  }
  std::erase_if(copy, [](const Entry& entry) { return entry.segment == kNever || entry.segment == kGone; });
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
