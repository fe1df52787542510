#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "noded/device/descriptor.h"
#include "noded/shm/process_identity.h"
#include "noded/shm/shm_area.h"

namespace reelfs::noded {

/// The process shared memory: which blocks a worker process is working on, for the leader to release when it
/// has died. Made by the leader, written by that process alone, entry before the block's owner changes; so it
/// names at least what the process owns.
class ProcessTable {
 public:
  static Result<std::unique_ptr<ProcessTable>> create(const std::string& name, const Uuid& cluster,
                                                      const Uuid& node_incarnation, WorkerId worker,
                                                      const ProcessIdentity& process);
  /// @param node_incarnation  nil: any. @errors those of ShmArea::attach
  static Result<std::unique_ptr<ProcessTable>> attach(const std::string& name, const Uuid& cluster,
                                                      const Uuid& node_incarnation);

  /// Whose an area is, also where its layout is another version's.
  struct Owner {
    ProcessIdentity process;
    std::uint32_t layout_version = 0;
  };
  /// @errors not_found, busy (it is being made), corrupt, io
  static Result<Owner> owner_of(const std::string& name);

  WorkerId worker() const;
  ProcessIdentity process() const;
  Uuid node_incarnation() const;

  using StillWorkedOn = std::function<bool(BlockAddress)>;
  /// Notes that the process works on a block. A full table drops those of which `still_worked_on` says no:
  /// other processes take, seal and free blocks without a word here. Where that does not help it notes that
  /// it is full instead, and every block counts as named.
  void add(BlockAddress address, const StillWorkedOn& still_worked_on = nullptr);
  void remove(BlockAddress address);
  /// The table was full once: it does not name every block.
  bool overflowed() const;
  std::vector<BlockAddress> blocks() const;

 private:
  struct Head;
  explicit ProcessTable(std::unique_ptr<ShmArea> area);
  bool try_add(BlockAddress address);
  Head& head() const;
  std::uint64_t* entries() const;
  std::uint32_t entry_count() const;

  std::unique_ptr<ShmArea> area_;
};

}  // namespace reelfs::noded
