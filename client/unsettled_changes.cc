#include "client/unsettled_changes.h"

#include <algorithm>
#include <utility>

#include "common/wire/index.pb.h"

namespace reelfs::client {

void UnsettledChanges::add(Change change) {
  numbers_.insert(change.number.value);
  kept_.emplace(++added_, Kept{std::move(change)});
}

void UnsettledChanges::marked(std::uint64_t added_then, const wire::JournalMark& mark) {
  const auto is_its = [&](const Kept& kept) { return kept.change.epoch.value == mark.epoch(); };
  for (auto& [order, kept] : kept_) {
    if (order > added_then) break;
    if (is_its(kept) && kept.index == 0) kept.index = mark.index();
  }
  std::erase_if(kept_, [&](const auto& each) {
    const auto& kept = each.second;
    const bool gone = is_its(kept) && kept.index != 0 && kept.index <= mark.synced();
    if (gone) numbers_.erase(kept.change.number.value);
    return gone;
  });
}

void UnsettledChanges::settled(std::uint64_t added_then) {
  const auto end = kept_.upper_bound(added_then);
  for (auto each = kept_.begin(); each != end; ++each) numbers_.erase(each->second.change.number.value);
  kept_.erase(kept_.begin(), end);
}

bool UnsettledChanges::any_before(Epoch epoch) const {
  return std::any_of(kept_.begin(), kept_.end(),
                     [&](const auto& each) { return each.second.change.epoch != epoch; });
}

std::vector<UnsettledChanges::Change> UnsettledChanges::all() const {
  std::vector<Change> changes;
  changes.reserve(kept_.size());
  for (const auto& [order, kept] : kept_) changes.push_back(kept.change);
  return changes;
}

std::optional<std::uint64_t> UnsettledChanges::lowest_number() const {
  if (numbers_.empty()) return std::nullopt;
  return *numbers_.begin();
}

void UnsettledChanges::number_anew() {
  numbers_.clear();
  for (const auto& [order, kept] : kept_) numbers_.insert(kept.change.number.value);
}

}  // namespace reelfs::client
