#include "indexd/schema/view.h"

#include "indexd/schema/rocks.h"
#include "indexd/schema/store.h"

namespace reelfs::indexd {

View::View(const Store& store) : db_(store.db()), snapshot_(db_.GetSnapshot()) {}

View::~View() { db_.ReleaseSnapshot(snapshot_); }

Result<std::optional<std::string>> View::find_bytes(std::string_view key) const {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot_;
  return find_in(db_, options, key);
}

Result<void> View::scan_bytes(std::string_view from, std::string_view upto, Direction direction,
                              const std::function<bool(std::string_view, std::string_view)>& visit) const {
  const auto lower = slice(from);
  const auto upper = slice(upto);
  rocksdb::ReadOptions options;
  options.snapshot = snapshot_;
  options.iterate_lower_bound = &lower;
  options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> rows(db_.NewIterator(options));
  const bool ascending = direction == Direction::ascending;
  ascending ? rows->SeekToFirst() : rows->SeekToLast();
  while (rows->Valid()) {
    if (!visit(view_of(rows->key()), view_of(rows->value()))) return ok();
    ascending ? rows->Next() : rows->Prev();
  }
  if (!rows->status().ok()) return from_rocksdb(rows->status(), "scanning");
  return ok();
}

}  // namespace reelfs::indexd
