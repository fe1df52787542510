#include "indexd/schema/transaction.h"

#include <algorithm>

#include "indexd/schema/change.h"
#include "indexd/schema/rocks.h"
#include "indexd/schema/store.h"

namespace reelfs::indexd {

Result<std::uint64_t> Transaction::next(Counter counter) {
  const CounterKey key{counter};
  REELFS_TRY(auto row, find(key));
  const auto first = counter == Counter::inode ? kRootInode.value : 0;
  const CounterRow grown{std::max(first, row ? row->value : 0) + 1};
  put(key, grown);
  return grown.value;
}

std::string Transaction::keep() {
  undo_.clear();
  return std::exchange(operation_changes_, {});
}

void Transaction::undo() {
  for (auto step = undo_.rbegin(); step != undo_.rend(); ++step) {
    if (step->was_changed) {
      step->place->second = std::move(step->previous);
    } else {
      changes_.erase(step->place);
    }
  }
  undo_.clear();
  operation_changes_.clear();
}

void Transaction::change(std::string key, std::optional<std::string> value) {
  append_change(operation_changes_, key, value);
  const auto [place, is_new] = changes_.try_emplace(std::move(key));
  undo_.push_back(
      {.place = place, .was_changed = !is_new, .previous = std::exchange(place->second, std::move(value))});
}

Result<std::optional<std::string>> Transaction::find_bytes(std::string_view key) const {
  if (const auto changed = changes_.find(key); changed != changes_.end()) return changed->second;
  return find_in(store_.db(), {}, key);
}

Result<void> Transaction::scan_bytes(
    std::string_view from, std::string_view upto, Direction direction,
    const std::function<bool(std::string_view, std::string_view)>& visit) const {
  const auto lower = slice(from);
  const auto upper = slice(upto);
  rocksdb::ReadOptions options;
  options.iterate_lower_bound = &lower;
  options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> rows(store_.db().NewIterator(options));
  const bool ascending = direction == Direction::ascending;
  ascending ? rows->SeekToFirst() : rows->SeekToLast();

  // Two sorted sequences, merged; of two values of one key the transaction's counts.
  const auto merge = [&](auto changed, const auto end) -> Result<void> {
    while (rows->Valid() || changed != end) {
      const bool take_change =
          changed != end && (!rows->Valid() || (ascending ? changed->first <= view_of(rows->key())
                                                          : changed->first >= view_of(rows->key())));
      bool go_on = true;
      const bool hides_row = take_change && rows->Valid() && changed->first == view_of(rows->key());
      if (take_change) {
        if (changed->second) go_on = visit(changed->first, *changed->second);
        ++changed;
      } else {
        go_on = visit(view_of(rows->key()), view_of(rows->value()));
      }
      if (!go_on) return ok();
      if (!take_change || hides_row) ascending ? rows->Next() : rows->Prev();
    }
    if (!rows->status().ok()) return from_rocksdb(rows->status(), "scanning");
    return ok();
  };
  const auto first = changes_.lower_bound(from);
  const auto last = from < upto ? changes_.lower_bound(upto) : first;
  if (ascending) return merge(first, last);
  return merge(std::make_reverse_iterator(last), std::make_reverse_iterator(first));
}

}  // namespace reelfs::indexd
