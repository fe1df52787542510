#pragma once

#include "indexd/schema/reader.h"

namespace rocksdb {
class DB;
class Snapshot;
}  // namespace rocksdb

namespace reelfs::indexd {

class Store;

/// The rows as they were at one moment. Any thread; the store outlives it.
class View final : public Reader {
 public:
  explicit View(const Store& store);
  ~View() override;
  View(const View&) = delete;
  View& operator=(const View&) = delete;

 private:
  Result<std::optional<std::string>> find_bytes(std::string_view key) const override;
  Result<void> scan_bytes(
      std::string_view from, std::string_view upto, Direction direction,
      const std::function<bool(std::string_view, std::string_view)>& visit) const override;
  rocksdb::DB& db_;
  const rocksdb::Snapshot* snapshot_;
};

}  // namespace reelfs::indexd
