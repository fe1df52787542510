#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "noded/device/descriptor.h"
#include "noded/device/superblock.h"
#include "noded/shm/flush_board.h"
#include "noded/shm/scrub_board.h"
#include "noded/shm/shm_area.h"
#include "noded/shm/shm_lock.h"

namespace reelfs::noded {

/// One block in the device shared memory: what the disk knows of it, and what only the running node does.
struct BlockSlot {
  BlockDescriptor descriptor;
  std::uint64_t end = 0;        // every byte before it is written; at most this is read
  std::uint32_t owner = 0;      // WorkerId that writes it or discards it; 0: nobody
  std::uint32_t in_flight = 0;  // the owner's writes under way
  std::uint32_t next = 0;       // derived: next in the free list or in the segment's bucket, as index + 1
  std::uint32_t discarding =
      0;  // free, but its space is still being given back to the device: not yet to be taken
};
static_assert(sizeof(BlockSlot) == 112 && std::is_trivially_copyable_v<BlockSlot>);

/// How much of the descriptor table page is on disk.
struct PageSlot {
  std::uint64_t changes = 0;  // of descriptors in it
  std::uint64_t written = 0;  // the value of `changes` when the page was last copied out and then written
  std::uint32_t writer = 0;   // WorkerId that is writing it: one at a time
  std::uint32_t writer_pid = 0;
  std::uint32_t late = 0;  // WorkerId that was stopped in a write, which may still reach the device: somebody
                           // else has written the page instead, and is to be made good for then
  std::uint32_t reserved = 0;
};
static_assert(sizeof(PageSlot) == 32);

struct BlockCounts {
  std::uint32_t blocks = 0;
  std::uint32_t free = 0;
  std::uint32_t open = 0;
  std::uint32_t sealed = 0;
  friend bool operator==(const BlockCounts&, const BlockCounts&) = default;
};

/// Whether a device serves. What stopped serving never does again under the same area: it comes back as
/// another life.
enum class DeviceHealth : std::uint32_t {
  serving = 0,
  stuck = 1,    // a call did not end in time: it may come back by itself
  failed = 2,   // an I/O error
  offline = 3,  // it is not there any more
  removed = 4,  // taken out of service by an administrator
};
std::string_view to_string(DeviceHealth health);

/// Why a device does not serve.
struct DeviceVerdict {
  DeviceHealth health = DeviceHealth::serving;
  std::string reason;
  std::int64_t since_ns = 0;  // wall time
};

/// A device's block descriptors in shared memory: the authority while the node lives, written through to the
/// device page by page.
///
/// Each operation takes the area's robust mutex for a moment, and refuses with a bare code: sentences would
/// be allocated under it. A descriptor changes by way of a redo slot, so that whoever finds the mutex's owner
/// dead finishes or drops the change, then rebuilds free list, segment index and counters from the
/// descriptors. Steps and what a death between them leaves: docs/formats/shm.md.
class DeviceTable {
 public:
  struct Identity {
    Uuid cluster;
    Uuid incarnation;  // of the node
    Superblock superblock;
    std::string path;                   // of the device
    std::uint64_t boot = kBootUnknown;  // of the machine: what it loses with power is another's
  };
  /// A block as it is found when the node starts.
  struct Found {
    BlockDescriptor descriptor;
    std::uint64_t end = 0;
    bool rewrite = false;  // the device does not have the descriptor like this
  };

  /// Makes the area. @errors no_space, io
  static Result<std::unique_ptr<DeviceTable>> create(const std::string& name, const Identity& identity,
                                                     std::span<const Found> blocks);
  /// Maps what a leader made. @param incarnation  nil: any. @errors those of ShmArea::attach
  static Result<std::unique_ptr<DeviceTable>> attach(const std::string& name, const Uuid& cluster,
                                                     const Uuid& incarnation);

  const std::string& name() const { return area_->name(); }
  DeviceId device() const;
  Uuid uuid() const;
  std::string path() const;
  Geometry geometry() const;
  std::uint64_t repair_count() const { return area_->header().repair_count.load(); }
  /// Tells this area from others that the device had, or will have when it comes back.
  std::uint64_t life() const;

  // ---- health, which all processes of the node see at once

  bool serving() const;
  DeviceVerdict verdict() const;
  /// Takes the device out of service. A verdict is only replaced by one that stands below it in DeviceHealth.
  /// @return whether this call changed it
  bool retire(DeviceHealth health, std::string_view reason, std::int64_t now_ns);

  // ---- looking

  BlockCounts counts();
  std::optional<std::uint32_t> find(SegmentId segment);
  /// @pre block < block count
  BlockSlot slot(std::uint32_t block);
  /// Copies up to out.size() slots from `first` on. @return how many
  std::size_t copy_slots(std::uint32_t first, std::span<BlockSlot> out);
  /// Whether the block was open when its machine lost power or its device was away: it may have lost what was
  /// not flushed. @pre block < block count
  bool torn(std::uint32_t block);
  /// What must always hold: each block is free, open or sealed once, linked once, counted once. For tests and
  /// `reelctl`.
  /// @errors corrupt, naming the first that does not
  Result<void> check();

  // ---- a block's life. Each leaves a changed page, to be written before anybody is told (claim_page)

  /// Takes a free block for a segment that has none on this device. @errors no_space
  Result<std::uint32_t> allocate(SegmentId segment, Generation generation, InodeId channel, WorkerId worker,
                                 std::int64_t now_ns);
  /// From now on nobody appends until it is reopened; lower generations never again. Writes under way may
  /// still be: the caller waits until none is before it goes on with settle_fence, seal or reopen. A sealed
  /// block stays as it is.
  /// @errors not_found, stale_generation
  Result<BlockSlot> fence(std::uint32_t block, SegmentId segment, Generation generation);
  /// Makes the fence final. @pre no write is under way  @return the length of what counts
  Result<std::uint64_t> settle_fence(std::uint32_t block, SegmentId segment, Generation generation);
  /// Closes it for ever at `length`. @errors not_found, stale_generation, busy (writes under way), invalid
  /// (longer than it is)
  Result<void> seal(std::uint32_t block, SegmentId segment, Generation generation, std::uint64_t length);
  /// Cuts it to `length` and readies it for a writer of this generation. @errors as seal
  Result<void> reopen(std::uint32_t block, SegmentId segment, Generation generation, std::uint64_t length);
  /// Frees it, but keeps it for `worker` to discard until finish_free. @param newest  none, or: no copy that
  /// was told of a later generation  @errors not_found, busy (writes under way, in place too),
  /// stale_generation
  Result<void> begin_free(std::uint32_t block, SegmentId segment, WorkerId worker, Generation newest = {});
  void finish_free(std::uint32_t block);

  // ---- appending: changes no descriptor

  struct Append {
    std::uint32_t block = 0;
    SegmentId segment;
    Generation generation;
    WorkerId worker;
  };
  enum class AppendStart {
    begun,    // counted as under way: end_append must follow
    present,  // these bytes are there already: a repetition
  };
  /// Counts a write that is about to begin, and makes `worker` the block's owner.
  /// @param follows  the caller has writes under way which end where this one begins; otherwise it must begin
  /// at the end
  /// @errors not_found, stale_generation, invalid (a gap), no_space, busy (another worker's writes are under
  /// way)
  Result<AppendStart> begin_append(const Append& append, std::uint64_t offset, std::uint64_t bytes,
                                   bool follows);
  /// Ends one such write. @param end  every byte before it is written now; not larger: nothing is
  /// @errors stale_generation: it was fenced, cut or freed meanwhile, and the bytes do not count
  Result<void> end_append(const Append& append, std::uint64_t end);

  /// Nobody writes it for now: its owner need not be looked after. @return the slot as it was
  /// @errors not_found (not open), stale_generation (it has another), busy (writes under way)
  Result<BlockSlot> release(std::uint32_t block, SegmentId segment, Generation generation);

  // ---- after a worker's death

  /// Releases what a dead worker had of this block. @return the slot as it is now; empty where the worker did
  /// not own it
  std::optional<BlockSlot> disown(std::uint32_t block, WorkerId worker);
  /// Blocks that it owns.
  std::vector<std::uint32_t> owned_by(WorkerId worker);
  /// Releases the table pages that it was writing, or was late with, and the flush for which others wait.
  void release_claims(WorkerId worker);
  /// Counts bytes that were found behind the end, unless anything happened since. @return whether it did
  /// count them
  bool extend_end(std::uint32_t block, SegmentId segment, std::uint64_t from, std::uint64_t to);

  // ---- scrubbing: see ScrubBoard

  struct ScrubState {
    std::int64_t ordered_ns = 0;
    std::uint64_t read_bytes = 0;
    std::uint64_t damaged_blocks = 0;
  };
  ScrubState scrub_state();
  /// All blocks are to be verified now that were not since then.
  void order_scrub(std::int64_t wall_ns);
  /// The pass that was ordered then is over, unless another was ordered since.
  void end_ordered_scrub(std::int64_t wall_ns);
  struct ScrubClaim {
    std::uint32_t block = 0;
    WorkerId worker;
    std::int64_t now_ns = 0;       // of the machine's steady clock
    std::int64_t patience_ns = 0;  // a claim on which nothing was done for so long is taken over
  };
  /// One block of a device is verified at a time. @return the number of the claim; empty: another is verified
  std::optional<std::uint64_t> claim_scrub(const ScrubClaim& claim);
  /// Whether nobody holds a claim, and nobody did anything under one for so long.
  bool scrub_idle_for(std::int64_t now_ns, std::int64_t long_ns);
  /// So many more bytes were read. @return whether the claim is still held
  bool keep_scrub(std::uint64_t number, std::int64_t now_ns, std::uint64_t bytes);
  void end_scrub(std::uint64_t number, bool damaged);
  /// The block was read and was right, or is known to be damaged: it is not looked at again for a while.
  /// @param as_it_was  nothing is noted where another segment has the block since
  /// @return whether it was noted: the page is to be written then
  bool note_verified(std::uint32_t block, const BlockSlot& as_it_was, std::int64_t wall_ns);

  /// While bytes of a block are written in place it is neither freed nor reopened.
  /// @errors not_found (it is another's), busy (too many are rewritten)
  Result<void> begin_rewrite(std::uint32_t block, SegmentId segment, WorkerId worker);
  void end_rewrite(std::uint32_t block, WorkerId worker);
  bool is_rewritten(std::uint32_t block);

  // ---- flushing: see FlushBoard

  struct FlushState {
    std::uint64_t begun = 0;
    std::uint64_t stable = 0;
    WorkerId flusher;
    std::uint32_t lost = 0;
  };
  FlushState flushes();
  struct FlushWish {
    WorkerId worker;
    std::uint64_t wanted = 0;   // this flush or a later one: the first that begins after what it is to cover
    std::uint32_t trusts = 0;   // the number of lost flushes when the caller last flushed itself
    std::uint64_t in_vain = 0;  // the flush that it waited for long enough
  };
  FlushTurn join_flush(const FlushWish& wish);
  /// @param succeeded  false: the device is out of service already
  void end_flush(std::uint64_t number, WorkerId worker, bool succeeded);
  /// Returns when the bell has changed, after the limit, or for no reason.
  void wait_for_flush(std::uint32_t bell, Duration limit);

  // ---- writing the table through

  static std::uint32_t page_of(std::uint32_t block) { return block / kDescriptorsPerPage; }
  std::uint32_t page_count() const { return static_cast<std::uint32_t>(table_pages(geometry_.block_count)); }
  /// What must be on disk for the page as it is now.
  std::uint64_t page_changes(std::uint32_t page);
  enum class PageClaim {
    written,  // `wanted` is on disk
    claimed,  // it is the caller's to write: `copy` is filled
    busy,     // somebody is writing it: wait and ask again
  };
  struct ClaimedPage {
    PageClaim claim = PageClaim::busy;
    std::uint64_t changes = 0;     // that the copy holds
    WorkerId writer;               // busy: who writes it
    std::uint32_t writer_pid = 0;  // and its pid
  };
  struct PageWriter {
    WorkerId worker;
    std::uint32_t pid = 0;
    WorkerId instead_of;  // takes the claim over from this worker, all of whose threads are stopped
  };
  /// @param copy  one page
  ClaimedPage claim_page(std::uint32_t page, PageWriter writer, std::uint64_t wanted,
                         std::span<std::byte> copy);
  /// @param written  false: the write failed, the page stays dirty
  /// @return whether another worker had taken the claim over: what it wrote may have been overwritten, and
  /// the page is dirty once more
  bool release_page(std::uint32_t page, WorkerId worker, std::uint64_t changes, bool written);
  /// Copies up to out.size() pages' states from `first` on. @return how many
  std::size_t copy_pages(std::uint32_t first, std::span<PageSlot> out);
  /// The page as it would be written now. @param copy  one page  @return how much of it is on disk
  PageSlot copy_page(std::uint32_t page, std::span<std::byte> copy);
  /// Pages with changes that are not on disk.
  std::vector<std::uint32_t> dirty_pages();

 private:
  friend class ShmLock<DeviceTable>;
  struct Head;
  struct Tally;
  bool rewritten_locked(std::uint32_t block);
  explicit DeviceTable(std::unique_ptr<ShmArea> area);

  void repair();
  void rebuild();
  Tally tally();
  void change(std::uint32_t block, const BlockSlot& to);
  void apply(std::uint32_t block, const BlockSlot& to);
  void link(std::uint32_t block);
  void unlink(std::uint32_t block);
  std::uint32_t& chain_of(const BlockSlot& slot);
  using PageDescriptors = std::array<BlockDescriptor, kDescriptorsPerPage>;
  PageDescriptors copy_descriptors(std::uint32_t page) const;
  void encode_page(std::uint32_t page, const PageDescriptors& descriptors, std::span<std::byte> copy) const;
  std::uint32_t find_locked(SegmentId segment);
  Result<BlockSlot> holder(std::uint32_t block, SegmentId segment);
  Head& head();
  void ring();

  std::unique_ptr<ShmArea> area_;
  Geometry geometry_;
  std::uint32_t bucket_mask_ = 0;
  BlockSlot* slots_ = nullptr;
  std::uint32_t* buckets_ = nullptr;
  PageSlot* pages_ = nullptr;
};

}  // namespace reelfs::noded
