#include "indexd/schema/view.h"

#include "indexd/schema/rocks.h"
#include "indexd/schema/store.h"

namespace reelfs::indexd {

View::View(const Store& store, Source source)
    : db_(store.db()), snapshot_(db_.GetSnapshot()), source_(source) {}

View::~View() { db_.ReleaseSnapshot(snapshot_); }

rocksdb::ReadOptions View::read_options() const {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot_;
  if (source_ == Source::memory) options.read_tier = rocksdb::kBlockCacheTier;
  return options;
}

Result<void> View::count_row() const {
  if (source_ == Source::memory_and_disk || ++rows_ <= kMaxRows) return ok();
  fell_short_ = true;
  return Error(Errc::too_big, "more rows than are read from memory");
}

Error View::failure(const rocksdb::Status& status, std::string_view what) const {
  if (status.IsIncomplete()) fell_short_ = true;
  return from_rocksdb(status, what);
}

Result<std::optional<std::string>> View::find_bytes(std::string_view key) const {
  REELFS_TRY(count_row());
  std::string value;
  const auto status = db_.Get(read_options(), slice(key), &value);
  if (status.IsNotFound()) return std::nullopt;
  if (!status.ok()) return failure(status, "reading");
  return value;
}

Result<void> View::scan_bytes(std::string_view from, std::string_view upto, Direction direction,
                              const std::function<bool(std::string_view, std::string_view)>& visit) const {
  const auto lower = slice(from);
  const auto upper = slice(upto);
  auto options = read_options();
  options.iterate_lower_bound = &lower;
  options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> rows(db_.NewIterator(options));
  const bool ascending = direction == Direction::ascending;
  ascending ? rows->SeekToFirst() : rows->SeekToLast();
  while (rows->Valid()) {
    REELFS_TRY(count_row());
    if (!visit(view_of(rows->key()), view_of(rows->value()))) return ok();
    ascending ? rows->Next() : rows->Prev();
  }
  if (!rows->status().ok()) return failure(rows->status(), "scanning");
  return ok();
}

}  // namespace reelfs::indexd
