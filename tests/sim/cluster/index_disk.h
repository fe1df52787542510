#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "indexd/schema/store.h"
#include "tests/sim/cluster/world.h"

namespace reelfs::sim {

/// What an index server's machine keeps: the rows as they are, in a RocksDB of their own, and as they would
/// be after a loss of power, which are the same without the newest changes. Stands for journal and RocksDB
/// together: what was written is there after the process was killed, what was synced also after the machine
/// lost power. indexd::Executor is defined anew on top of it (executor.cc).
class IndexDisk {
 public:
  explicit IndexDisk(const std::filesystem::path& directory);

  indexd::Store& store() { return *store_; }
  /// The rows that are on stable storage, by their keys.
  const std::map<std::string, std::string>& stable() const { return stable_; }
  std::uint64_t newest() const { return newest_; }
  std::uint64_t synced() const { return newest_ - unsynced_.size(); }
  Epoch epoch() const { return epoch_; }

  /// One journal entry and its application.
  void commit(indexd::Transaction& transaction);
  /// Entries up to this one are on stable storage.
  void sync(std::uint64_t upto);
  void begin_reign();
  /// Some of the newest entries are gone, of those that were not synced.
  void lose_power(std::uint64_t entries_left_of_unsynced);
  std::uint64_t unsynced() const { return unsynced_.size(); }

 private:
  std::unique_ptr<indexd::Store> store_;
  std::map<std::string, std::string> stable_;
  std::vector<std::string> unsynced_;  // the changes of these entries
  std::uint64_t newest_ = 0;
  Epoch epoch_{0};
};

/// Which one Executor::open() is to take.
void set_index_disk(IndexDisk* disk);

}  // namespace reelfs::sim
