#pragma once

#include <concepts>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

#include "indexd/schema/keys.h"

namespace reelfs::indexd {

/// Typed reads, the same from a Transaction (which sees its own changes) and from a View (which sees a
/// moment).
class Reader {
 public:
  virtual ~Reader() = default;

  /// The row, if it is there. @errors corrupt, io
  template <class Key>
  Result<std::optional<typename Key::Row>> find(const Key& key) const {
    REELFS_TRY(auto bytes, find_bytes(encode_key(key)));
    std::optional<typename Key::Row> row;
    if (bytes) {
      REELFS_TRY(auto decoded, decode_row<typename Key::Row>(*bytes));
      row = std::move(decoded);
    }
    return row;
  }

  /// The row. @errors not_found, corrupt, io
  template <class Key>
  Result<typename Key::Row> get(const Key& key) const {
    REELFS_TRY(auto row, find(key));
    if (!row) return Error(Errc::not_found);
    return std::move(*row);
  }

  template <class Key>
  Result<bool> has(const Key& key) const {
    REELFS_TRY(auto bytes, find_bytes(encode_key(key)));
    return bytes.has_value();
  }

  /// Calls visit(Key, Row) for the keys in [from, upto), ascending, as long as it returns true.
  /// The visitor must not change the transaction it reads: collect, then change. @errors corrupt, io
  template <class Key, std::predicate<Key, typename Key::Row> Visit>
  Result<void> scan(const Key& from, const Key& upto, Visit visit) const {
    return walk<Key>(from, upto, Direction::ascending, std::move(visit));
  }

  /// The same, descending from just below `upto`.
  template <class Key, std::predicate<Key, typename Key::Row> Visit>
  Result<void> scan_back(const Key& from, const Key& upto, Visit visit) const {
    return walk<Key>(from, upto, Direction::descending, std::move(visit));
  }

  /// Every key of the table, ascending, as long as visit(Key, Row) returns true.
  template <class Key, std::predicate<Key, typename Key::Row> Visit>
  Result<void> scan_table(Visit visit) const {
    const auto table = static_cast<char>(Key::kTable);
    return walk_bytes<Key>({&table, 1}, std::string(1, static_cast<char>(table + 1)), Direction::ascending,
                           std::move(visit));
  }

  /// Every row of every table as bytes; for comparing and dumping.
  Result<void> scan_all(
      const std::function<bool(std::string_view key, std::string_view value)>& visit) const {
    return scan_bytes("", "\x7f", Direction::ascending, visit);
  }

 protected:
  enum class Direction { ascending, descending };

 private:
  virtual Result<std::optional<std::string>> find_bytes(std::string_view key) const = 0;
  virtual Result<void> scan_bytes(
      std::string_view from, std::string_view upto, Direction direction,
      const std::function<bool(std::string_view, std::string_view)>& visit) const = 0;

  template <class Key, class Visit>
  Result<void> walk(const Key& from, const Key& upto, Direction direction, Visit visit) const {
    return walk_bytes<Key>(encode_key(from), encode_key(upto), direction, std::move(visit));
  }

  template <class Key, class Visit>
  Result<void> walk_bytes(std::string_view from, std::string_view upto, Direction direction,
                          Visit visit) const {
    Result<void> outcome = ok();
    const auto decode = [&](std::string_view key_bytes, std::string_view row_bytes) {
      auto key = decode_key<Key>(key_bytes);
      auto row = decode_row<typename Key::Row>(row_bytes);
      if (!key || !row) {
        outcome = !key ? std::move(key).error() : std::move(row).error();
        return false;
      }
      return static_cast<bool>(visit(std::move(key).value(), std::move(row).value()));
    };
    REELFS_TRY(scan_bytes(from, upto, direction, decode));
    return outcome;
  }
};

}  // namespace reelfs::indexd
