#pragma once

#include "indexd/schema/reader.h"

namespace rocksdb {
class DB;
class Snapshot;
class Status;
struct ReadOptions;
}  // namespace rocksdb

namespace reelfs::indexd {

class Store;

/// The rows as they were at one moment. Any thread; the store outlives it.
class View final : public Reader {
 public:
  static constexpr int kMaxRows =
      256;  // read from memory alone, so that it takes about a millisecond at most
  enum class Source { memory_and_disk, memory };
  /// @param source  memory: what would have to be read from a file, or goes beyond kMaxRows rows in all,
  /// fails, and fell_short() tells so
  explicit View(const Store& store, Source source = Source::memory_and_disk);
  ~View() override;
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  /// Every row of every table as bytes, from this key on, ascending, as long as visit(key, value) returns
  /// true.
  /// @errors io
  Result<void> scan_from(
      std::string_view from,
      const std::function<bool(std::string_view key, std::string_view value)>& visit) const {
    return scan_bytes(from, "\x7f", Direction::ascending, visit);
  }

  /// Source::memory was not enough: what was found is not the answer.
  bool fell_short() const { return fell_short_; }

 private:
  rocksdb::ReadOptions read_options() const;
  Result<void> count_row() const;
  Error failure(const rocksdb::Status& status, std::string_view what) const;
  Result<std::optional<std::string>> find_bytes(std::string_view key) const override;
  Result<void> scan_bytes(
      std::string_view from, std::string_view upto, Direction direction,
      const std::function<bool(std::string_view, std::string_view)>& visit) const override;
  rocksdb::DB& db_;
  const rocksdb::Snapshot* snapshot_;
  const Source source_;
  mutable int rows_ = 0;  // asked for so far
  mutable bool fell_short_ = false;
};

}  // namespace reelfs::indexd
