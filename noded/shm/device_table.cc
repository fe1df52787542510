#include "noded/shm/device_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>
#include <functional>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/assert.h"
#include "noded/shm/crash_point.h"

namespace reelfs::noded {
namespace {

constexpr std::size_t kMaxPathBytes = 1024;
constexpr std::size_t kMaxReasonBytes = 256;

std::uint64_t hash_of(std::uint64_t segment) {  // splitmix64: segments are numbered in sequence
  segment += 0x9e3779b97f4a7c15;
  segment = (segment ^ (segment >> 30)) * 0xbf58476d1ce4e5b9;
  segment = (segment ^ (segment >> 27)) * 0x94d049bb133111eb;
  return segment ^ (segment >> 31);
}

std::uint64_t bucket_count(std::uint64_t blocks) { return std::bit_ceil(blocks); }

}  // namespace

std::string_view to_string(DeviceHealth health) {
  switch (health) {
    case DeviceHealth::serving:
      return "online";
    case DeviceHealth::stuck:
    case DeviceHealth::failed:
      return "failed";
    case DeviceHealth::offline:
      return "offline";
    case DeviceHealth::removed:
      return "removed";
  }
  return "unknown";
}

struct DeviceTable::Head {
  ShmHeader header;
  ShmMutex mutex;
  std::atomic<std::uint32_t> redo_valid;
  std::uint32_t redo_block;
  BlockSlot redo;
  // derived
  BlockCounts counts;
  std::uint32_t free_head;            // index + 1; 0: none
  std::atomic<std::uint32_t> health;  // DeviceHealth, stored after its reason
  std::int64_t health_since_ns;
  std::array<char, kMaxReasonBytes> health_reason;
  std::uint64_t life;
  FlushBoard flushes;
  ScrubBoard scrub;
  // fixed
  std::uint64_t boot;
  SuperblockPage superblock;
  std::array<char, kMaxPathBytes> path;
};

namespace {

struct Layout {
  std::uint64_t slots = 0;
  std::uint64_t buckets = 0;
  std::uint64_t pages = 0;
  std::uint64_t total = 0;
};

Layout layout_of(std::uint64_t head_bytes, std::uint64_t blocks) {
  Layout layout;
  layout.slots = round_up(head_bytes, 64);
  layout.pages = layout.slots + blocks * sizeof(BlockSlot);
  layout.buckets = layout.pages + table_pages(blocks) * sizeof(PageSlot);
  layout.total = round_up(layout.buckets + bucket_count(blocks) * sizeof(std::uint32_t), kPageBytes);
  return layout;
}

}  // namespace

DeviceTable::DeviceTable(std::unique_ptr<ShmArea> area) : area_(std::move(area)) {}

DeviceTable::Head& DeviceTable::head() { return *reinterpret_cast<Head*>(area_->data()); }

Result<std::unique_ptr<DeviceTable>> DeviceTable::create(const std::string& name, const Identity& identity,
                                                         std::span<const Found> blocks) {
  const auto& geometry = identity.superblock.geometry;
  REELFS_ASSERT(blocks.size() == geometry.block_count);
  if (identity.path.size() >= kMaxPathBytes) return Error(Errc::name_too_long, identity.path);
  const auto layout = layout_of(sizeof(Head), blocks.size());
  REELFS_TRY(auto area,
             ShmArea::create(
                 name, shape_of<Head, BlockSlot>(ShmKind::device, identity.cluster, identity.incarnation),
                 blocks.size(), layout.total));
  auto table = std::unique_ptr<DeviceTable>(new DeviceTable(std::move(area)));
  auto& head = table->head();
  head.mutex.init();
  const auto page = encode_superblock(identity.superblock);
  std::memcpy(&head.superblock, page.data(), sizeof head.superblock);
  std::copy(identity.path.begin(), identity.path.end(), head.path.begin());
  const auto life = Uuid::random();
  std::memcpy(&head.life, life.bytes.data(), sizeof head.life);
  head.boot = identity.boot;
  table->geometry_ = geometry;
  table->bucket_mask_ = static_cast<std::uint32_t>(bucket_count(blocks.size()) - 1);
  table->slots_ = reinterpret_cast<BlockSlot*>(table->area_->data() + layout.slots);
  table->pages_ = reinterpret_cast<PageSlot*>(table->area_->data() + layout.pages);
  table->buckets_ = reinterpret_cast<std::uint32_t*>(table->area_->data() + layout.buckets);
  for (std::uint32_t block = 0; block < blocks.size(); ++block) {
    table->slots_[block].descriptor = blocks[block].descriptor;
    table->slots_[block].end = blocks[block].end;
    if (blocks[block].rewrite) ++table->pages_[page_of(block)].changes;
  }
  table->rebuild();
  table->area_->publish();
  return table;
}

Result<std::unique_ptr<DeviceTable>> DeviceTable::attach(const std::string& name, const Uuid& cluster,
                                                         const Uuid& incarnation) {
  REELFS_TRY(auto area,
             ShmArea::attach(name, shape_of<Head, BlockSlot>(ShmKind::device, cluster, incarnation)));
  auto table = std::unique_ptr<DeviceTable>(new DeviceTable(std::move(area)));
  REELFS_TRY(const auto superblock,
             decode_superblock(std::as_bytes(std::span(&table->head().superblock, 1))));
  const auto layout = layout_of(sizeof(Head), superblock.geometry.block_count);
  if (layout.total != table->area_->size()) {
    return Error(Errc::corrupt, "shared memory " + name + " does not fit its device");
  }
  table->geometry_ = superblock.geometry;
  table->bucket_mask_ = static_cast<std::uint32_t>(bucket_count(superblock.geometry.block_count) - 1);
  table->slots_ = reinterpret_cast<BlockSlot*>(table->area_->data() + layout.slots);
  table->pages_ = reinterpret_cast<PageSlot*>(table->area_->data() + layout.pages);
  table->buckets_ = reinterpret_cast<std::uint32_t*>(table->area_->data() + layout.buckets);
  return table;
}

DeviceId DeviceTable::device() const {
  return DeviceId(const_cast<DeviceTable*>(this)->head().superblock.device);
}

Uuid DeviceTable::uuid() const {
  Uuid uuid;
  uuid.bytes = const_cast<DeviceTable*>(this)->head().superblock.uuid;
  return uuid;
}

std::string DeviceTable::path() const {
  const auto& path = const_cast<DeviceTable*>(this)->head().path;
  return {path.data(), strnlen(path.data(), path.size() - 1)};
}

Geometry DeviceTable::geometry() const { return geometry_; }

std::uint64_t DeviceTable::life() const { return const_cast<DeviceTable*>(this)->head().life; }

// ---- health

bool DeviceTable::serving() const {
  const auto health = const_cast<DeviceTable*>(this)->head().health.load(std::memory_order_acquire);
  return health == static_cast<std::uint32_t>(DeviceHealth::serving);
}

DeviceVerdict DeviceTable::verdict() const {
  DeviceVerdict verdict;
  std::array<char, kMaxReasonBytes> reason{};
  {
    auto& table = const_cast<DeviceTable&>(*this);
    auto& head = table.head();
    const ShmLock lock(head.mutex, table);
    verdict.health = static_cast<DeviceHealth>(head.health.load());
    if (verdict.health == DeviceHealth::serving) return verdict;  // who died half-way may have left a reason
    verdict.since_ns = head.health_since_ns;
    reason = head.health_reason;
  }
  verdict.reason.assign(reason.data(), strnlen(reason.data(), reason.size()));
  // It goes into messages that must be UTF-8, and may have been cut within a character.
  const auto plain = [](char c) { return c >= ' ' && c <= '~'; };
  std::replace_if(verdict.reason.begin(), verdict.reason.end(), std::not_fn(plain), '?');
  return verdict;
}

bool DeviceTable::retire(DeviceHealth health, std::string_view reason, std::int64_t now_ns) {
  {
    const ShmLock lock(head().mutex, *this);
    const auto value = static_cast<std::uint32_t>(health);
    if (head().health.load() >= value) return false;
    auto& kept = head().health_reason;
    kept.fill(0);
    std::copy_n(reason.begin(), std::min(reason.size(), kept.size() - 1), kept.begin());
    head().health_since_ns = now_ns;
    crash_point("table.retire.filled");
    head().health.store(value, std::memory_order_release);
  }
  ring();
  return true;
}

// ---- repair: under the lock, whose last owner died

void DeviceTable::repair() {
  auto& head = this->head();
  if (head.redo_valid.load() == 1 && head.redo_block < geometry_.block_count) {
    slots_[head.redo_block] = head.redo;
    ++pages_[page_of(head.redo_block)].changes;
    crash_point("table.repair.redone");
  }
  head.redo_valid.exchange(0);
  rebuild();
  area_->header().repair_count.fetch_add(1);
}

/// Makes free list, segment index and counters anew from the slots.
void DeviceTable::rebuild() {
  auto& head = this->head();
  std::fill_n(buckets_, bucket_mask_ + std::size_t{1}, 0);
  head.free_head = 0;
  head.counts = BlockCounts{};
  head.counts.blocks = geometry_.block_count;
  for (std::uint32_t block = geometry_.block_count; block-- > 0;) link(block);  // low blocks are taken first
}

// ---- changes: under the lock

std::uint32_t& DeviceTable::chain_of(const BlockSlot& slot) {
  if (slot.descriptor.state == BlockState::free) return head().free_head;
  return buckets_[hash_of(slot.descriptor.segment) & bucket_mask_];
}

void DeviceTable::link(std::uint32_t block) {
  auto& slot = slots_[block];
  auto& counts = head().counts;
  slot.next = 0;
  if (slot.descriptor.state == BlockState::free) {
    if (slot.discarding != 0) return;
    ++counts.free;
  } else {
    ++(slot.descriptor.state == BlockState::open ? counts.open : counts.sealed);
  }
  auto& chain = chain_of(slot);
  slot.next = chain;
  chain = block + 1;
}

void DeviceTable::unlink(std::uint32_t block) {
  auto& slot = slots_[block];
  auto& counts = head().counts;
  if (slot.descriptor.state == BlockState::free) {
    if (slot.discarding != 0) return;
    --counts.free;
  } else {
    --(slot.descriptor.state == BlockState::open ? counts.open : counts.sealed);
  }
  auto* at = &chain_of(slot);
  for (std::uint32_t steps = 0; *at != 0 && *at <= geometry_.block_count && steps < geometry_.block_count;
       ++steps) {
    if (*at == block + 1) {
      *at = slot.next;
      return;
    }
    at = &slots_[*at - 1].next;
  }
}

/// The one way in which a slot changes in more than one word.
void DeviceTable::change(std::uint32_t block, const BlockSlot& to) {
  auto& head = this->head();
  head.redo = to;
  head.redo_block = block;
  crash_point("table.redo.filled");
  head.redo_valid.exchange(1);
  crash_point("table.redo.published");
  apply(block, to);
  crash_point("table.change.applied");
  head.redo_valid.exchange(0);
}

void DeviceTable::apply(std::uint32_t block, const BlockSlot& to) {
  auto& slot = slots_[block];
  const bool on_disk = slot.descriptor != to.descriptor;
  unlink(block);
  crash_point("table.change.unlinked");
  slot.descriptor = to.descriptor;
  crash_point("table.change.half");
  slot = to;
  link(block);
  if (on_disk) ++pages_[page_of(block)].changes;
}

std::uint32_t DeviceTable::find_locked(SegmentId segment) {
  auto next = buckets_[hash_of(segment.value) & bucket_mask_];
  for (std::uint32_t steps = 0; next != 0 && next <= geometry_.block_count && steps < geometry_.block_count;
       ++steps) {
    const auto& slot = slots_[next - 1];
    if (slot.descriptor.segment == segment.value) return next;
    next = slot.next;
  }
  return 0;
}

Result<BlockSlot> DeviceTable::holder(std::uint32_t block, SegmentId segment) {
  REELFS_ASSERT(block < geometry_.block_count);
  const auto& slot = slots_[block];
  if (slot.descriptor.state == BlockState::free || slot.descriptor.segment != segment.value)
    return Error(Errc::not_found);
  return slot;
}

// ---- looking

BlockCounts DeviceTable::counts() {
  const ShmLock lock(head().mutex, *this);
  return head().counts;
}

std::optional<std::uint32_t> DeviceTable::find(SegmentId segment) {
  if (!segment) return std::nullopt;
  const ShmLock lock(head().mutex, *this);
  const auto found = find_locked(segment);
  if (found == 0) return std::nullopt;
  return found - 1;
}

BlockSlot DeviceTable::slot(std::uint32_t block) {
  REELFS_ASSERT(block < geometry_.block_count);
  const ShmLock lock(head().mutex, *this);
  return slots_[block];
}

bool DeviceTable::torn(std::uint32_t block) {
  REELFS_ASSERT(block < geometry_.block_count);
  const ShmLock lock(head().mutex, *this);
  const auto& descriptor = slots_[block].descriptor;
  if (descriptor.state != BlockState::open || descriptor.boot == kBootStable) return false;
  return descriptor.boot == kBootUnknown || descriptor.boot != head().boot;
}

std::size_t DeviceTable::copy_slots(std::uint32_t first, std::span<BlockSlot> out) {
  if (first >= geometry_.block_count) return 0;
  const auto count = std::min<std::size_t>(out.size(), geometry_.block_count - first);
  const ShmLock lock(head().mutex, *this);
  std::copy_n(slots_ + first, count, out.begin());
  return count;
}

// ---- a block's life

Result<std::uint32_t> DeviceTable::allocate(SegmentId segment, Generation generation, InodeId channel,
                                            WorkerId worker, std::int64_t now_ns) {
  const ShmLock lock(head().mutex, *this);
  const auto first = head().free_head;
  if (first == 0 || first > geometry_.block_count) return Error(Errc::no_space);
  const auto block = first - 1;
  BlockSlot slot = slots_[block];
  const auto counter = slot.descriptor.update_counter;
  slot.descriptor = BlockDescriptor{};
  slot.descriptor.segment = segment.value;
  slot.descriptor.generation = generation.value;
  slot.descriptor.channel = channel.value;
  slot.descriptor.fence_generation = generation.value;
  slot.descriptor.update_counter = counter + 1;
  slot.descriptor.allocated_at_ns = now_ns;
  slot.descriptor.boot = head().boot;
  slot.descriptor.worker = worker.value;
  slot.descriptor.state = BlockState::open;
  slot.end = 0;
  slot.owner = 0;  // until it appends: an owner notes the block in its process shared memory first
  slot.in_flight = 0;
  change(block, slot);
  return block;
}

Result<BlockSlot> DeviceTable::fence(std::uint32_t block, SegmentId segment, Generation generation) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(auto slot, holder(block, segment));
  if (generation.value < slot.descriptor.generation) return Error(Errc::stale_generation);
  if (slot.descriptor.state == BlockState::sealed) return slot;
  if (slot.descriptor.fenced == 1 && slot.descriptor.generation == generation.value) return slot;
  slot.descriptor.generation = generation.value;
  slot.descriptor.fenced = 1;
  ++slot.descriptor.update_counter;
  change(block, slot);
  return slot;
}

Result<std::uint64_t> DeviceTable::settle_fence(std::uint32_t block, SegmentId segment,
                                                Generation generation) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(auto slot, holder(block, segment));
  if (slot.descriptor.state == BlockState::sealed) return slot.descriptor.length;
  if (generation.value < slot.descriptor.generation) return Error(Errc::stale_generation);
  if (slot.in_flight > 0) return Error(Errc::busy);
  if (slot.descriptor.fence_generation == generation.value && slot.descriptor.fence_length == slot.end &&
      slot.descriptor.length == slot.end) {
    return slot.end;
  }
  slot.descriptor.length = slot.end;
  slot.descriptor.fence_generation = generation.value;
  slot.descriptor.fence_length = slot.end;
  if (slot.descriptor.boot == head().boot) slot.descriptor.boot = kBootStable;
  ++slot.descriptor.update_counter;
  slot.owner = 0;
  change(block, slot);
  return slot.end;
}

Result<void> DeviceTable::seal(std::uint32_t block, SegmentId segment, Generation generation,
                               std::uint64_t length) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(auto slot, holder(block, segment));
  if (slot.descriptor.state == BlockState::sealed && slot.descriptor.length == length) return ok();
  if (generation.value < slot.descriptor.generation) return Error(Errc::stale_generation);
  if (slot.in_flight > 0) return Error(Errc::busy);
  if (length > slot.end) return Error(Errc::invalid);
  slot.descriptor.state = BlockState::sealed;
  slot.descriptor.fenced = 0;
  slot.descriptor.generation = generation.value;
  slot.descriptor.length = length;
  slot.descriptor.fence_generation = generation.value;
  slot.descriptor.fence_length = length;
  ++slot.descriptor.update_counter;
  slot.end = length;
  slot.owner = 0;
  change(block, slot);
  return ok();
}

Result<void> DeviceTable::reopen(std::uint32_t block, SegmentId segment, Generation generation,
                                 std::uint64_t length) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(auto slot, holder(block, segment));
  if (generation.value < slot.descriptor.generation) return Error(Errc::stale_generation);
  const bool done = slot.descriptor.state == BlockState::open && slot.descriptor.fenced == 0 &&
                    slot.descriptor.generation == generation.value &&
                    slot.descriptor.fence_generation == generation.value &&
                    slot.descriptor.fence_length == length;
  if (done) return ok();  // a repetition: the writer may have gone on meanwhile
  if (slot.in_flight > 0 || rewritten_locked(block)) return Error(Errc::busy);
  if (length > slot.end) return Error(Errc::invalid);
  slot.descriptor.state = BlockState::open;
  slot.descriptor.fenced = 0;
  slot.descriptor.generation = generation.value;
  slot.descriptor.length = std::min(slot.descriptor.length, length);
  slot.descriptor.boot = head().boot;
  slot.descriptor.fence_generation = generation.value;
  slot.descriptor.fence_length = length;
  ++slot.descriptor.update_counter;
  slot.end = length;
  slot.owner = 0;
  change(block, slot);
  return ok();
}

Result<void> DeviceTable::begin_free(std::uint32_t block, SegmentId segment, WorkerId worker,
                                     Generation newest) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(auto slot, holder(block, segment));
  if (newest && slot.descriptor.generation > newest.value) return Error(Errc::stale_generation);
  if (slot.in_flight > 0 || rewritten_locked(block)) return Error(Errc::busy);
  const auto counter = slot.descriptor.update_counter;
  slot.descriptor = BlockDescriptor{};
  slot.descriptor.update_counter = counter + 1;
  slot.end = 0;
  slot.owner = worker.value;
  slot.discarding = 1;
  change(block, slot);
  return ok();
}

void DeviceTable::finish_free(std::uint32_t block) {
  REELFS_ASSERT(block < geometry_.block_count);
  const ShmLock lock(head().mutex, *this);
  auto slot = slots_[block];
  if (slot.descriptor.state != BlockState::free || slot.discarding == 0) return;
  slot.discarding = 0;
  slot.owner = 0;
  change(block, slot);
}

// ---- appending

Result<DeviceTable::AppendStart> DeviceTable::begin_append(const Append& append, std::uint64_t offset,
                                                           std::uint64_t bytes, bool follows) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(const auto found, holder(append.block, append.segment));
  const auto& descriptor = found.descriptor;
  if (append.generation.value < descriptor.generation || descriptor.fenced == 1 ||
      descriptor.state == BlockState::sealed) {
    return Error(Errc::stale_generation);
  }
  if (append.generation.value > descriptor.generation) {
    return Error(Errc::invalid);
  }
  if (offset > geometry_.block_bytes || bytes > geometry_.block_bytes - offset) {
    return Error(Errc::no_space);
  }
  if (offset + bytes <= found.end) return AppendStart::present;
  const bool others = found.owner != append.worker.value && found.in_flight > 0;
  if (others || (follows && found.owner != append.worker.value)) {
    return Error(Errc::busy);
  }
  if (!follows && offset != found.end) {
    return Error(Errc::invalid);
  }
  auto& slot = slots_[append.block];
  slot.owner = append.worker.value;
  crash_point("table.append.owned");
  ++slot.in_flight;
  crash_point("table.append.counted");
  return AppendStart::begun;
}

Result<void> DeviceTable::end_append(const Append& append, std::uint64_t end) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(const auto found, holder(append.block, append.segment));
  auto& slot = slots_[append.block];
  const bool current = found.descriptor.state == BlockState::open && found.descriptor.fenced == 0 &&
                       found.descriptor.generation == append.generation.value &&
                       found.owner == append.worker.value;
  if (current) slot.end = std::max(found.end, std::min(end, geometry_.block_bytes));
  crash_point("table.append.advanced");
  if (found.owner == append.worker.value && found.in_flight > 0) --slot.in_flight;
  if (!current) return Error(Errc::stale_generation);
  return ok();
}

// ---- after a worker's death

Result<BlockSlot> DeviceTable::release(std::uint32_t block, SegmentId segment, Generation generation) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(const auto was, holder(block, segment));
  if (was.descriptor.state != BlockState::open || was.descriptor.fenced == 1) return Error(Errc::not_found);
  if (was.descriptor.generation != generation.value) return Error(Errc::stale_generation);
  if (was.in_flight != 0) return Error(Errc::busy);
  slots_[block].owner = 0;
  return was;
}

std::optional<BlockSlot> DeviceTable::disown(std::uint32_t block, WorkerId worker) {
  REELFS_ASSERT(block < geometry_.block_count);
  const ShmLock lock(head().mutex, *this);
  auto slot = slots_[block];
  if (slot.owner != worker.value) return std::nullopt;
  slot.owner = 0;
  slot.in_flight = 0;
  slot.discarding = 0;
  change(block, slot);
  return slots_[block];
}

std::vector<std::uint32_t> DeviceTable::owned_by(WorkerId worker) {
  std::vector<std::uint32_t> owned;
  std::array<BlockSlot, 256> step;
  std::uint32_t first = 0;
  while (const auto count = copy_slots(first, step)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      if (step[i].owner == worker.value) owned.push_back(first + i);
    }
    first += static_cast<std::uint32_t>(count);
  }
  return owned;
}

void DeviceTable::release_claims(WorkerId worker) {
  bool flushed = false;
  {
    const ShmLock lock(head().mutex, *this);
    for (std::uint32_t page = 0; page < page_count(); ++page) {
      auto& slot = pages_[page];
      if (slot.writer == worker.value) slot.writer = 0;
      if (slot.late != worker.value) continue;
      ++slot.changes;
      slot.late = 0;
    }
    auto& scrub = head().scrub;
    if (scrub.worker == worker.value) scrub.claim = 0;
    for (auto& rewrite : scrub.rewrites) {
      if (rewrite.worker == worker.value) rewrite.worker = 0;
    }
    auto& board = head().flushes;
    flushed = board.flusher == worker.value;
    if (flushed) {
      ++board.lost;
      board.flusher = 0;
    }
  }
  if (flushed) ring();
}

bool DeviceTable::extend_end(std::uint32_t block, SegmentId segment, std::uint64_t from, std::uint64_t to) {
  REELFS_ASSERT(block < geometry_.block_count && to <= geometry_.block_bytes);
  const ShmLock lock(head().mutex, *this);
  auto& slot = slots_[block];
  const bool untouched = slot.descriptor.segment == segment.value &&
                         slot.descriptor.state == BlockState::open && slot.descriptor.fenced == 0 &&
                         slot.owner == 0 && slot.in_flight == 0 && slot.end == from;
  if (untouched) slot.end = std::max(from, to);
  return untouched;
}

// ---- scrubbing

DeviceTable::ScrubState DeviceTable::scrub_state() {
  const ShmLock lock(head().mutex, *this);
  const auto& board = head().scrub;
  return {board.ordered_ns, board.read_bytes, board.damaged_blocks};
}

void DeviceTable::order_scrub(std::int64_t wall_ns) {
  const ShmLock lock(head().mutex, *this);
  head().scrub.ordered_ns = wall_ns;
}

void DeviceTable::end_ordered_scrub(std::int64_t wall_ns) {
  const ShmLock lock(head().mutex, *this);
  auto& ordered = head().scrub.ordered_ns;
  if (ordered == wall_ns) ordered = 0;
}

std::optional<std::uint64_t> DeviceTable::claim_scrub(const ScrubClaim& claim) {
  const ShmLock lock(head().mutex, *this);
  auto& board = head().scrub;
  if (board.claim != 0 && claim.now_ns - board.touched_ns < claim.patience_ns) return std::nullopt;
  board.block = claim.block;
  board.worker = claim.worker.value;
  board.touched_ns = claim.now_ns;
  board.claim = ++board.claims;
  return board.claim;
}

bool DeviceTable::scrub_idle_for(std::int64_t now_ns, std::int64_t long_ns) {
  const ShmLock lock(head().mutex, *this);
  const auto& board = head().scrub;
  return board.claim == 0 && now_ns - board.touched_ns >= long_ns;
}

bool DeviceTable::keep_scrub(std::uint64_t number, std::int64_t now_ns, std::uint64_t bytes) {
  const ShmLock lock(head().mutex, *this);
  auto& board = head().scrub;
  board.read_bytes += bytes;
  if (board.claim != number) return false;
  board.touched_ns = now_ns;
  return true;
}

void DeviceTable::end_scrub(std::uint64_t number, bool damaged) {
  const ShmLock lock(head().mutex, *this);
  auto& board = head().scrub;
  if (damaged) ++board.damaged_blocks;
  if (board.claim == number) board.claim = 0;
}

bool DeviceTable::note_verified(std::uint32_t block, const BlockSlot& as_it_was, std::int64_t wall_ns) {
  REELFS_ASSERT(block < geometry_.block_count);
  const ShmLock lock(head().mutex, *this);
  auto slot = slots_[block];
  const auto& was = as_it_was.descriptor;
  const bool same = slot.descriptor.state != BlockState::free && slot.descriptor.segment == was.segment &&
                    slot.descriptor.allocated_at_ns == was.allocated_at_ns;
  if (!same) return false;
  slot.descriptor.verified_at_ns = wall_ns;
  change(block, slot);
  return true;
}

bool DeviceTable::rewritten_locked(std::uint32_t block) {
  const auto& rewrites = head().scrub.rewrites;
  return std::any_of(rewrites.begin(), rewrites.end(),
                     [&](const auto& rewrite) { return rewrite.worker != 0 && rewrite.block == block; });
}

bool DeviceTable::is_rewritten(std::uint32_t block) {
  const ShmLock lock(head().mutex, *this);
  return rewritten_locked(block);
}

Result<void> DeviceTable::begin_rewrite(std::uint32_t block, SegmentId segment, WorkerId worker) {
  const ShmLock lock(head().mutex, *this);
  REELFS_TRY(holder(block, segment));
  if (rewritten_locked(block)) return Error(Errc::busy);
  for (auto& rewrite : head().scrub.rewrites) {
    if (rewrite.worker != 0) continue;
    rewrite.block = block;
    rewrite.worker = worker.value;
    return ok();
  }
  return Error(Errc::busy);
}

void DeviceTable::end_rewrite(std::uint32_t block, WorkerId worker) {
  const ShmLock lock(head().mutex, *this);
  for (auto& rewrite : head().scrub.rewrites) {
    if (rewrite.worker == worker.value && rewrite.block == block) rewrite.worker = 0;
  }
}

// ---- flushing

DeviceTable::FlushState DeviceTable::flushes() {
  const ShmLock lock(head().mutex, *this);
  const auto& board = head().flushes;
  return {board.begun, board.stable, WorkerId(board.flusher), board.lost};
}

FlushTurn DeviceTable::join_flush(const FlushWish& wish) {
  const ShmLock lock(head().mutex, *this);
  auto& board = head().flushes;
  FlushTurn turn;
  turn.bell = board.bell.load();
  turn.number = board.flushing;
  if (!serving()) {
    turn.kind = FlushTurn::Kind::out_of_service;
    return turn;
  }
  // The kernel tells each open file of a failed write once: after a flush of which nobody knows how it ended,
  // it has to be asked for by each process.
  const bool trusts = board.lost == wish.trusts;
  if (trusts && board.stable >= wish.wanted) {
    turn.kind = FlushTurn::Kind::served;
    return turn;
  }
  const bool in_vain = board.flusher != 0 && board.flushing == wish.in_vain;
  if (board.flusher != 0 && trusts && !in_vain) return turn;
  turn.kind = FlushTurn::Kind::mine;
  if (in_vain) ++board.lost;
  turn.lost = board.lost;
  turn.number = ++board.begun;
  crash_point("flush.counted");
  if (board.flusher != 0 && !in_vain) return turn;  // beside the flusher, for itself alone
  board.flushing = turn.number;
  board.flusher = wish.worker.value;
  crash_point("flush.claimed");
  return turn;
}

void DeviceTable::end_flush(std::uint64_t number, WorkerId worker, bool succeeded) {
  {
    const ShmLock lock(head().mutex, *this);
    auto& board = head().flushes;
    if (succeeded) board.stable = std::max(board.stable, number);
    crash_point("flush.counted_stable");
    if (board.flusher == worker.value && board.flushing == number) board.flusher = 0;
  }
  crash_point("flush.ended");
  ring();
}

void DeviceTable::ring() {
  auto& bell = head().flushes.bell;
  bell.fetch_add(1);
  syscall(SYS_futex, &bell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void DeviceTable::wait_for_flush(std::uint32_t bell, Duration limit) {
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(limit);
  timespec left{};
  left.tv_sec = whole.count();
  left.tv_nsec = (limit - whole).count();
  syscall(SYS_futex, &head().flushes.bell, FUTEX_WAIT, bell, &left, nullptr, 0);
}

// ---- writing the table through

std::uint64_t DeviceTable::page_changes(std::uint32_t page) {
  REELFS_ASSERT(page < page_count());
  const ShmLock lock(head().mutex, *this);
  return pages_[page].changes;
}

DeviceTable::ClaimedPage DeviceTable::claim_page(std::uint32_t page, PageWriter writer, std::uint64_t wanted,
                                                 std::span<std::byte> copy) {
  REELFS_ASSERT(page < page_count() && copy.size() == kPageBytes);
  PageDescriptors descriptors;
  ClaimedPage claimed;
  {
    const ShmLock lock(head().mutex, *this);
    auto& slot = pages_[page];
    if (slot.written >= wanted) {
      claimed.claim = PageClaim::written;
      return claimed;
    }
    claimed.writer = WorkerId(slot.writer);
    claimed.writer_pid = slot.writer_pid;
    if (slot.late == writer.worker.value) return claimed;  // its own two writes could pass each other
    if (slot.writer != 0) {
      const bool taken_over = slot.late == 0 && slot.writer == writer.instead_of.value;
      if (!taken_over) return claimed;
      slot.late = slot.writer;  // before it loses the claim: now both are told of by it
    }
    slot.writer_pid = writer.pid;
    slot.writer = writer.worker.value;
    crash_point("page.claimed");
    claimed.claim = PageClaim::claimed;
    claimed.changes = slot.changes;
    descriptors = copy_descriptors(page);
  }
  encode_page(page, descriptors, copy);
  return claimed;
}

PageSlot DeviceTable::copy_page(std::uint32_t page, std::span<std::byte> copy) {
  REELFS_ASSERT(page < page_count() && copy.size() == kPageBytes);
  PageDescriptors descriptors;
  PageSlot state;
  {
    const ShmLock lock(head().mutex, *this);
    descriptors = copy_descriptors(page);
    state = pages_[page];
  }
  encode_page(page, descriptors, copy);
  return state;
}

/// @pre the lock is held
DeviceTable::PageDescriptors DeviceTable::copy_descriptors(std::uint32_t page) const {
  PageDescriptors descriptors;
  const auto first = page * kDescriptorsPerPage;
  const auto count = std::min(kDescriptorsPerPage, geometry_.block_count - first);
  for (std::uint32_t i = 0; i < count; ++i) descriptors[i] = slots_[first + i].descriptor;
  return descriptors;
}

void DeviceTable::encode_page(std::uint32_t page, const PageDescriptors& descriptors,
                              std::span<std::byte> copy) const {
  std::memset(copy.data(), 0, copy.size());
  const auto first = page * kDescriptorsPerPage;
  const auto count = std::min(kDescriptorsPerPage, geometry_.block_count - first);
  for (std::uint32_t i = 0; i < count; ++i) {
    const BlockAddress address{device(), first + i};
    encode_descriptor(address, descriptors[i],
                      copy.subspan(i * sizeof(DescriptorEntry), sizeof(DescriptorEntry)));
  }
}

bool DeviceTable::release_page(std::uint32_t page, WorkerId worker, std::uint64_t changes, bool written) {
  REELFS_ASSERT(page < page_count());
  crash_point("page.written");
  const ShmLock lock(head().mutex, *this);
  auto& slot = pages_[page];
  if (slot.writer == worker.value) {
    if (written) slot.written = std::max(slot.written, changes);
    crash_point("page.marked");
    slot.writer = 0;
    return false;
  }
  if (slot.late != worker.value) return false;
  ++slot.changes;
  slot.late = 0;
  return true;
}

std::size_t DeviceTable::copy_pages(std::uint32_t first, std::span<PageSlot> out) {
  if (first >= page_count()) return 0;
  const auto count = std::min<std::size_t>(out.size(), page_count() - first);
  const ShmLock lock(head().mutex, *this);
  std::copy_n(pages_ + first, count, out.begin());
  return count;
}

std::vector<std::uint32_t> DeviceTable::dirty_pages() {
  std::vector<std::uint32_t> dirty(page_count());
  std::size_t count = 0;
  {
    const ShmLock lock(head().mutex, *this);
    for (std::uint32_t page = 0; page < page_count(); ++page) {
      if (pages_[page].written < pages_[page].changes) dirty[count++] = page;
    }
  }
  dirty.resize(count);
  return dirty;
}

// ---- what must always hold

struct DeviceTable::Tally {
  BlockCounts counts;
  std::uint32_t linked_free = 0;
  std::uint32_t bad_block = UINT32_MAX;
};

DeviceTable::Tally DeviceTable::tally() {
  Tally tally;
  tally.counts.blocks = geometry_.block_count;
  const ShmLock lock(head().mutex, *this);
  for (std::uint32_t block = 0; block < geometry_.block_count; ++block) {
    const auto& slot = slots_[block];
    const auto state = slot.descriptor.state;
    bool good = slot.end <= geometry_.block_bytes && (slot.in_flight == 0 || slot.owner != 0);
    if (state == BlockState::free) {
      good = good && slot.descriptor.segment == 0 && slot.end == 0;
      if (slot.discarding == 0) ++tally.counts.free;
    } else {
      ++(state == BlockState::open ? tally.counts.open : tally.counts.sealed);
      good = good && slot.descriptor.segment != 0 &&
             find_locked(SegmentId(slot.descriptor.segment)) == block + 1;
    }
    if (!good) tally.bad_block = std::min(tally.bad_block, block);
  }
  auto next = head().free_head;
  while (next != 0 && next <= geometry_.block_count && tally.linked_free <= geometry_.block_count) {
    ++tally.linked_free;
    next = slots_[next - 1].next;
  }
  if (head().counts != tally.counts) tally.counts.blocks = 0;
  return tally;
}

Result<void> DeviceTable::check() {
  const auto found = tally();
  if (found.bad_block != UINT32_MAX) {
    return Error(Errc::corrupt,
                 "block " + std::to_string(found.bad_block) + " contradicts itself or is not indexed once");
  }
  if (found.counts.blocks == 0) return Error(Errc::corrupt, "counters differ from the descriptors");
  if (found.linked_free != found.counts.free)
    return Error(Errc::corrupt, "free list differs from the descriptors");
  return ok();
}

}  // namespace reelfs::noded
