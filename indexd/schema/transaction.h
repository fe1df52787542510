#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "indexd/schema/reader.h"

namespace reelfs::indexd {

class Store;

/// Changes that are not yet in the store, and reads that see them. It takes several operations one after the
/// other, each of which is kept or undone as a whole; Store::apply takes all that were kept. The writer's
/// thread only; the store outlives it.
class Transaction final : public Reader {
 public:
  explicit Transaction(const Store& store) : store_(store) {}
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  template <class Key>
  void put(const Key& key, const typename Key::Row& row) {
    change(encode_key(key), encode_row(row));
  }
  /// Erasing what is not there is no error.
  template <class Key>
  void erase(const Key& key) {
    change(encode_key(key), std::nullopt);
  }
  /// The next number of a counter; the first is 1, the first inode 2 (1 is the root).
  Result<std::uint64_t> next(Counter counter);

  /// What the running operation's changes take in the journal so far.
  std::size_t operation_bytes() const { return operation_changes_.size(); }
  /// Ends an operation: what it changed stays. @return its changes as the journal carries them; empty if
  /// there are none
  std::string keep();
  /// Ends an operation: what it changed is undone.
  void undo();

 private:
  friend class Store;
  using Changes = std::map<std::string, std::optional<std::string>, std::less<>>;

  Result<std::optional<std::string>> find_bytes(std::string_view key) const override;
  Result<void> scan_bytes(
      std::string_view from, std::string_view upto, Direction direction,
      const std::function<bool(std::string_view, std::string_view)>& visit) const override;
  void change(std::string key, std::optional<std::string> value);

  struct Undo {
    Changes::iterator place;
    bool was_changed;                     // by an earlier change
    std::optional<std::string> previous;  // to what, then
  };
  const Store& store_;
  Changes changes_;                // kept and of the running operation; no value: erased
  std::vector<Undo> undo_;         // of the running operation
  std::string operation_changes_;  // of the running operation
};

}  // namespace reelfs::indexd
