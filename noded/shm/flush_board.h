#pragma once

#include <atomic>
#include <cstdint>

namespace reelfs::noded {

/// The flushes of a device by all processes of the node: stands in the device shared memory, under its mutex.
/// One process flushes at a time, and what it flushes is on stable storage for all of them; whoever waits for
/// it in vain flushes itself. Each word is true by itself, so there is nothing to repair after a death.
/// docs/design/node.md, "Flushing"
struct FlushBoard {
  std::uint64_t begun = 0;     // flushes, numbered as they begin
  std::uint64_t stable = 0;    // the last one that succeeded: what was written before it began is safe
  std::uint64_t flushing = 0;  // the number of the flusher's
  std::uint32_t flusher = 0;   // WorkerId of the process for which the others wait; 0: none
  std::uint32_t lost = 0;      // flushes that were waited for in vain: maybe they failed
  std::atomic<std::uint32_t> bell{
      0};  // a futex: changes when a flusher is done, and with the device's health
  std::uint32_t reserved = 0;
};
static_assert(sizeof(FlushBoard) == 40 && std::atomic<std::uint32_t>::is_always_lock_free);

/// What a process that wants a flush is to do.
struct FlushTurn {
  enum class Kind {
    served,          // a flush that began late enough has succeeded
    mine,            // flush, then tell of it: DeviceTable::end_flush
    wait,            // for the flusher, then ask again
    out_of_service,  // the device does not serve
  };
  Kind kind = Kind::wait;
  std::uint64_t number = 0;  // mine, wait: of that flush
  std::uint32_t lost = 0;    // mine: as it was when the flush began
  std::uint32_t bell = 0;    // wait: as it was
};

}  // namespace reelfs::noded
