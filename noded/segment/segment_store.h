#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/record.h"
#include "noded/segment/append_queue.h"
#include "noded/segment/device.h"
#include "noded/shm/process_table.h"
#include "noded/shm/unfilled_table.h"

namespace reelfs::noded {

/// A segment's copy on this node, whichever process took its block.
struct SegmentBlock {
  SegmentId segment;
  BlockAddress address;
  BlockSlot slot;
};

/// The segments of a node as one of its worker processes serves them: taking blocks, appending, reading,
/// fencing, freeing.
///
/// State that outlives the process is in the device tables; here is only what is under way. Runs on one loop;
/// `stop()` before destroying. Design: docs/design/node.md, "A segment's copy".
class SegmentStore {
 public:
  struct Options {
    WorkerId worker;
    std::size_t window = 8;                                // writes under way at once on one segment
    Duration device_call_limit = std::chrono::seconds(3);  // then the device is taken out of service
  };

  SegmentStore(asio::any_io_executor executor, const Clock& clock, Options options);
  ~SegmentStore();
  SegmentStore(const SegmentStore&) = delete;
  SegmentStore& operator=(const SegmentStore&) = delete;

  /// The node's shared tables, before anything else is asked. They outlive the store.
  void attach(ProcessTable& process, UnfilledTable& unfilled);
  Device& add_device(std::unique_ptr<DeviceFile> file, std::unique_ptr<DeviceTable> table);
  /// Empty where there is none.
  DevicePtr find_device(DeviceId device);
  const std::vector<DevicePtr>& devices() const { return devices_; }
  /// Lets go of a device that is out of service: its file and its shared memory are released when the last
  /// call has ended.
  void drop_device(DeviceId device);

  /// The copy of a segment here. @errors not_found; io: it is on a device that does not serve
  Result<SegmentBlock> find(SegmentId segment);
  /// Blocks that are not free, of the devices that serve: of segments from this one on and in their order,
  /// the first so many.
  std::vector<SegmentBlock> list(SegmentId from = SegmentId(), std::size_t most = SIZE_MAX);

  /// Takes a block for a new segment, from the device that has most free blocks for the calls waiting on it,
  /// and writes its descriptor. Asked again for a segment that has one, it answers with that.
  /// @errors no_space, stale_generation, io
  Task<BlockAddress> allocate(SegmentId segment, Generation generation, InodeId channel);

  struct Fenced {
    BlockAddress address;
    std::uint64_t length = 0;  // of what is valid here, on stable storage
    bool torn = false;         // it may have lost what was not flushed before
  };
  /// From now on no lower generation appends, here or through another worker; durable when it returns.
  /// @errors not_found, stale_generation, timed_out (a write under way does not end), io
  Task<Fenced> fence(SegmentId segment, Generation generation, Deadline deadline);

  enum class After {
    sealed,    // closed for ever
    reopened,  // ready for a writer of this generation
  };
  /// Cuts the copy to `length`; durable when it returns. Repeating it is safe.
  /// @errors not_found, stale_generation, invalid (the copy is shorter), timed_out, io
  Task<void> cut(SegmentId segment, Generation generation, std::uint64_t length, After after,
                 Deadline deadline);

  /// Gives the block back; its space is handed to the device in the background before it is taken again. What
  /// is not here is freed.
  /// @param newest  none, or: only a copy that was told of no later generation
  /// @errors timed_out, io, stale_generation (it was made anew since)
  Task<void> free(SegmentId segment, Generation newest, Deadline deadline);

  /// The writer of this generation is done with it: an unfilled block now, which nobody owns.
  /// @errors not_found (not open), stale_generation (it has another writer), busy (writes under way), io
  Result<void> release(SegmentId segment, Generation generation);

  /// Writes an append unit (wire/record.h) at `offset`. Appends of one segment that are under way together
  /// are written together and answered in order; one that is there already is answered at once.
  /// @return the end of this append: every byte before it is written
  /// @errors not_found, stale_generation, no_space, busy, corrupt, io; invalid (a gap, an overlap, not whole
  /// pages)
  Task<std::uint64_t> append(SegmentId segment, Generation generation, std::uint64_t offset, Buffer unit);
  struct Flushed {
    Flushed() = default;
    Flushed(SegmentId which)
        : segment(which) {}  // NOLINT(google-explicit-constructor): whatever is there of it
    Flushed(SegmentId which, std::uint64_t upto) : segment(which), length(upto) {}
    SegmentId segment;
    std::uint64_t length = 0;  // that is to be there; 0: whatever is
  };
  /// What was acknowledged of these segments is on stable storage. A device of which that once failed is out
  /// of service: a later flush that succeeds would say nothing of the bytes before it.
  /// @errors not_found (it is not here, or shorter), io
  Task<void> sync(std::vector<Flushed> segments);

  struct RecordRange {
    SegmentId segment;
    std::uint32_t record_offset = 0;
    std::uint32_t payload_offset = 0;
    std::uint32_t length = 0;
  };
  struct RecordPiece {
    std::shared_ptr<Buffer> bytes;
    std::size_t begin = 0;  // header and chunk table, then whole chunks from first_chunk on
    std::size_t size = 0;
    std::uint32_t header_bytes = 0;
    std::uint32_t first_chunk = 0;
  };
  /// The chunks of a record that hold a range of its payload, as they stand on disk; the reader compares the
  /// checksums.
  /// @errors not_found, invalid (beyond the record), corrupt (no such record there), io
  Task<RecordPiece> read(RecordRange range);

  struct ListedRecord {
    std::uint32_t offset = 0;  // of its header in the segment
    wire::RecordHeader header;
  };
  struct RecordList {
    std::vector<ListedRecord> records;  // ascending
    std::uint64_t next = 0;             // where to go on; 0: that was the end
    std::uint64_t unreadable = 0;       // bytes that were passed over: a record should have begun there
  };
  /// The headers of the copy's records from `from` on, at most `most`, of what is valid now. Reads little
  /// more than the headers; whoever reads the payloads compares their checksums. Ends early where much had to
  /// be read. @errors not_found, invalid (not a place where a record begins), io
  Task<RecordList> list_records(SegmentId segment, std::uint64_t from, std::size_t most);

  // ---- making a copy whole from another node's. docs/design/repair.md

  struct CopyStart {
    BlockAddress address;
    std::uint64_t valid = 0;  // bytes of the copy
    bool whole = false;       // it is sealed at its length: nothing is left to do
  };
  /// Readies the copy of a sealed segment for extend_copy: takes a block where there is none, else goes on
  /// with what is valid in it. @param generation  granted to no writer
  /// @errors no_space, stale_generation, invalid, timed_out (writes under way do not end), io
  Task<CopyStart> begin_copy(SegmentId segment, Generation generation, InodeId channel, std::uint64_t length,
                             Deadline deadline);
  /// Where the last append unit before `valid` begins. The copy may end within a unit of which the rest was
  /// lost, and then in the middle of a page: from here on it is to be written again.
  Task<std::uint64_t> last_unit(SegmentId segment, std::uint64_t valid);
  /// Adds bytes to it, which the caller has verified. What they have in common with it is written again.
  /// @param offset  at most where it ends
  /// @errors not_found, stale_generation, invalid (a gap), busy, no_space, io
  Task<void> extend_copy(SegmentId segment, Generation generation, std::uint64_t offset,
                         std::shared_ptr<const Buffer> bytes);

  struct RawPiece {
    std::shared_ptr<Buffer> bytes;
    std::uint64_t valid = 0;  // bytes of the copy
  };
  /// Bytes from `offset` on as they stand on the device, unverified: at most 1 MiB, less where the copy ends.
  /// @errors not_found, busy (somebody appends to it), invalid (nothing is there), io
  Task<RawPiece> read_raw(SegmentId segment, std::uint64_t offset, std::uint32_t length);

  /// The blocks that a process works on, and maybe others: what it names, and where it could not name them
  /// all, what the devices say.
  std::vector<BlockAddress> blocks_of(const ProcessTable& process);
  struct Adopted {
    std::size_t blocks = 0;           // released
    std::vector<DevicePtr> left_out;  // on which calls of the dead worker have not ended
  };
  /// Releases what a dead worker had: its blocks stay open, their ends found anew, with nobody as owner; what
  /// it was discarding is free; table pages it was writing are written. Any worker may do it; one is enough.
  /// Where the worker was killed and calls of it hang, the devices that they are on are left out.
  /// @pre every device of the node that serves is attached here; the worker does not run
  Task<Adopted> adopt(ProcessTable& dead);
  Duration device_call_limit() const { return options_.device_call_limit; }

  std::size_t appends_under_way() const { return appends_under_way_; }
  asio::awaitable<void> stop();

 private:
  struct Queue;
  class UnderWay;
  class CopyWrite;
  using QueuePtr = std::shared_ptr<Queue>;
  struct Located {
    SegmentBlock found;
    DevicePtr device;
  };

  Result<Located> locate(SegmentId segment);
  static Result<void> reaches(const Located& located, const Flushed& wanted);
  Task<RecordPiece> read_at(Located located, RecordRange range);
  Task<RecordList> list_at(Located located, std::uint64_t from, std::size_t most);
  Result<Located> locate_unfilled(SegmentId segment);
  static std::optional<Located> look(const DevicePtr& device, std::uint32_t block, SegmentId segment);
  void note_work(BlockAddress address);
  DevicePtr choose_device() const;
  Error no_free_block() const;
  asio::awaitable<void> look_after_devices();
  Result<void> may_append(const Queue& queue, Generation generation, std::uint64_t offset,
                          std::uint64_t bytes);
  void pump(const QueuePtr& queue);
  void decide(const QueuePtr& queue, const std::vector<AppendQueue::Decision>& decisions,
              const std::optional<Error>& error);
  void finish_write(const QueuePtr& queue, const DeviceTable::Append& append, std::uint64_t offset,
                    Result<void> outcome);
  asio::awaitable<void> write(UnderWay under_way, std::shared_ptr<Buffer> unit);
  asio::awaitable<void> write_copy(CopyWrite write, std::uint64_t place, std::shared_ptr<const Buffer> bytes);
  asio::awaitable<void> discard(DevicePtr device, std::uint32_t block);
  Task<void> drain(Located located, Deadline deadline);
  Task<void> adopt_on(DevicePtr device, WorkerId dead, const std::vector<BlockAddress>& blocks,
                      std::size_t& released);
  Task<void> adopt_block(DevicePtr device, std::uint32_t block, WorkerId dead, std::size_t& released);

  const Clock& clock_;
  const Options options_;
  ProcessTable* process_ = nullptr;
  UnfilledTable* unfilled_ = nullptr;
  std::vector<DevicePtr> devices_;
  std::map<DeviceId, std::string> dropped_;         // why it is not among them
  std::unordered_map<SegmentId, QueuePtr> queues_;  // of segments with appends under way
  AppendQueue::Ticket last_ticket_ = 0;
  std::size_t appends_under_way_ = 0;
  TaskGroup group_;  // last: stopped before what its coroutines use goes
};

}  // namespace reelfs::noded
