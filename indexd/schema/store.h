#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "indexd/schema/rows.h"

namespace rocksdb {
class DB;
}

namespace reelfs::indexd {

class Transaction;
class View;

/// The rows on disk: RocksDB without a log of its own, for the journal is one. What it holds is always the
/// result of a whole number of journal entries, and it knows of which: position(). One thread changes it; any
/// thread reads.
class Store {
 public:
  struct Options {
    std::filesystem::path directory;  // made where it is missing
    std::uint64_t cache_bytes = 256ULL
                                << 20;  // of blocks read: holds the names of some hundred thousand files
    std::uint64_t buffer_bytes = 32ULL << 20;  // changes kept in memory before they go to a file
    /// Called on a RocksDB thread before changes go to a file; returns when the journal has them on stable
    /// storage.
    std::function<void()> before_flush;
    /// Called on a RocksDB thread when changes have gone to a file: persisted() has moved on. Must not block.
    std::function<void()> after_flush;
  };

  /// @errors io, corrupt, busy (another process has it)
  static Result<std::unique_ptr<Store>> open(Options options);
  ~Store();  // what is in memory goes to a file first
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// Of the newest entry applied.
  JournalPosition position() const;
  /// Of the newest entry that would still be there after a crash now.
  Result<JournalPosition> persisted() const;

  /// Makes everything the transaction holds the state, in one batch with its position, and empties it.
  Result<void> apply(Transaction& transaction, JournalPosition position);
  /// The same for the changes of one journal entry. @errors corrupt, io
  Result<void> apply(std::string_view changes, JournalPosition position);

  /// Makes a change of a journal entry, whatever it is of, a part of the transaction. No value: the key is
  /// erased.
  static void repeat(Transaction& transaction, std::string_view key, std::optional<std::string_view> value);

  /// The state as of now, for reading.
  View view() const;
  /// The same, of what can be read without waiting for the disk: View::Source::memory.
  View view_in_memory() const;
  /// Starts writing what is in memory to a file. Does not wait.
  Result<void> request_flush();
  /// Writes what is in memory to a file, and waits for it.
  Result<void> flush();

  /// For Transaction and View.
  rocksdb::DB& db() const;

 private:
  struct State;
  explicit Store(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::indexd
