#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "noded/device/descriptor.h"
#include "noded/shm/shm_area.h"
#include "noded/shm/shm_lock.h"

namespace reelfs::noded {

/// The unfilled-block shared memory, one for the node: open blocks with room left that no process writes, by
/// their segments (a hash table with linear probing). A segment that is to have a writer again is looked for
/// here first, which is one look instead of one at each device. Also what the node's processes must know
/// together: the highest epoch of the index that any of them heard of, and the lock under which a segment
/// gets its block, so that two requests for one segment through two workers take one block.
class UnfilledTable {
 public:
  struct Entry {
    std::uint64_t segment = 0;
    std::uint64_t length = 0;
    std::uint32_t device = 0;
    std::uint32_t block = 0;
  };

  static Result<std::unique_ptr<UnfilledTable>> create(const std::string& name, const Uuid& cluster,
                                                       const Uuid& node_incarnation, std::uint32_t capacity);
  /// @param node_incarnation  nil: any. @errors those of ShmArea::attach
  static Result<std::unique_ptr<UnfilledTable>> attach(const std::string& name, const Uuid& cluster,
                                                       const Uuid& node_incarnation);

  Uuid node_incarnation() const;

  /// Notes a segment's unfilled block; replaces what was noted of it. Where the table is full it is left out:
  /// the table is a shortcut, the device tables know all. @pre entry.segment is neither 0 nor UINT64_MAX
  void put(const Entry& entry);
  /// As it was noted: whether the block is the segment's still, the device table tells.
  std::optional<Entry> find(SegmentId segment);
  void remove(SegmentId segment);
  std::vector<Entry> entries();

  Epoch epoch() const;
  /// Remembers the higher one. @return false where `epoch` is lower than one that was heard of
  bool observe_epoch(Epoch epoch);

  /// Held for a moment while a segment is looked up on all devices and given a block.
  class AllocationLock {
   public:
    explicit AllocationLock(UnfilledTable& table) : lock_(table.allocation_mutex(), *this) {}
    void repair() {}  // it guards a sequence, not data

   private:
    ShmLock<AllocationLock> lock_;
  };

 private:
  friend class ShmLock<UnfilledTable>;
  struct Head;
  explicit UnfilledTable(std::unique_ptr<ShmArea> area);
  void repair();
  Head& head() const;
  Entry* slots() const;
  Entry* find_locked(std::uint64_t segment);
  std::uint32_t capacity() const;
  ShmMutex& allocation_mutex();

  std::unique_ptr<ShmArea> area_;
};

}  // namespace reelfs::noded
