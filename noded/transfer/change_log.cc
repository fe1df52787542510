#include "noded/transfer/change_log.h"

#include <algorithm>

#include "common/wire/common.pb.h"
#include "common/wire/record.h"

namespace reelfs::noded {

ChangeLog::ChangeLog(std::uint64_t most_kept) : most_kept_(most_kept) {}

/// The memory of one unit counts once, however many copies lack it, until the last has it.
SharedBuffer ChangeLog::keep(SharedBuffer bytes) {
  if (!bytes || *kept_ + bytes->size() > most_kept_) return nullptr;
  *kept_ += bytes->size();
  const auto* const raw = bytes.get();
  return {raw, [bytes = std::move(bytes), kept = kept_](const Buffer*) { *kept -= bytes->size(); }};
}

void ChangeLog::appended(const ChangeSource& source, const std::vector<wire::WorkerAddress>& others,
                         const Change& change) {
  auto kept = change;
  kept.bytes = keep(change.bytes);
  for (const auto& other : others) {
    const Place place{source.segment, NodeId(other.node())};
    auto known = copies_.find(place);
    if (known == copies_.end() || known->second.source.generation < source.generation) {
      // All copies were as long when this writer was granted the segment: docs/design/segment-life.md
      known = copies_.insert_or_assign(place, Copy{}).first;
      known->second.source = source;
      known->second.end = change.offset;
    }
    auto& copy = known->second;
    copy.address = other;
    if (copy.underived) continue;  // found when it is derived
    const auto upto = copy.changes.empty() ? copy.end : copy.changes.back().end;
    if (change.offset > upto) {
      copy.underived = true;
      copy.changes.clear();
      copy.sent = 0;
    } else if (change.offset == upto) {
      copy.changes.push_back(kept);
    }
  }
}

void ChangeLog::follow(const ChangeSource& source, const std::vector<wire::WorkerAddress>& others) {
  for (const auto& other : others) {
    const Place place{source.segment, NodeId(other.node())};
    const auto known = copies_.find(place);
    if (known != copies_.end() && known->second.source.generation >= source.generation) {
      known->second.address = other;  // its process may be another one by now
      continue;
    }
    Copy copy;
    copy.source = source;
    copy.address = other;
    copy.underived = true;
    copies_.insert_or_assign(place, std::move(copy));
  }
}

void ChangeLog::forget(SegmentId segment) {
  std::erase_if(copies_, [segment](const auto& each) { return each.first.segment == segment; });
}

bool ChangeLog::goes_to(const Copy& copy, const rpc::Endpoint& process) {
  return rpc::Endpoint::from(copy.address.endpoint()) == process;
}

bool ChangeLog::is_sendable(const Copy& copy) {
  if (copy.rewinds) return false;
  return copy.underived ? copy.in_flight == 0 : copy.sent < copy.changes.size();
}

std::optional<ChangeLog::Next> ChangeLog::next(const rpc::Endpoint& process, TimePoint now) const {
  const std::pair<const Place, Copy>* oldest = nullptr;
  const auto since = [](const Copy& copy) {
    return copy.underived ? TimePoint{} : copy.changes[copy.sent].since;
  };
  for (const auto& each : copies_) {
    const auto& copy = each.second;
    if (!goes_to(copy, process) || !is_sendable(copy) || copy.not_before > now) continue;
    if (oldest == nullptr || since(copy) < since(oldest->second)) oldest = &each;
  }
  if (oldest == nullptr) return std::nullopt;
  const auto& copy = oldest->second;
  Next next;
  next.place = oldest->first;
  next.generation = copy.source.generation;
  next.to = copy.address;
  next.underived = copy.underived;
  if (!copy.underived) next.change = copy.changes[copy.sent];
  return next;
}

std::optional<TimePoint> ChangeLog::next_at(const rpc::Endpoint& process, TimePoint now) const {
  std::optional<TimePoint> at;
  for (const auto& [place, copy] : copies_) {
    if (!goes_to(copy, process) || !is_sendable(copy)) continue;
    const auto ready = std::max(copy.not_before, now);
    if (!at || ready < *at) at = ready;
  }
  return at;
}

ChangeLog::Copy* ChangeLog::find(const Next& next) {
  const auto found = copies_.find(next.place);
  return found != copies_.end() && found->second.source.generation == next.generation ? &found->second
                                                                                      : nullptr;
}

void ChangeLog::sent(const Next& next) {
  auto* const copy = find(next);
  if (copy == nullptr) return;
  ++copy->in_flight;
  if (!next.underived) ++copy->sent;
}

/// A request of the copy's ended.
void ChangeLog::settle(Copy& copy) {
  if (copy.in_flight > 0) --copy.in_flight;
  if (copy.in_flight > 0 || !copy.rewinds) return;
  copy.rewinds = false;
  copy.sent = 0;
}

void ChangeLog::answered(const Next& next, std::uint64_t end) {
  auto* const copy = find(next);
  if (copy == nullptr) return;
  while (!copy->changes.empty() && copy->changes.front().end <= end) {
    copy->end = copy->changes.front().end;
    copy->changes.pop_front();
    if (copy->sent > 0) --copy->sent;
  }
  if (end < next.change.end) {
    copy->rewinds = true;
    // Less than it said before, or than all copies had when the segment was granted: its machine lost power.
    if (end < copy->end) {
      copy->underived = true;
      copy->changes.clear();
      copy->sent = 0;
    }
  }
  settle(*copy);
}

void ChangeLog::failed(const Next& next, TimePoint again) {
  auto* const copy = find(next);
  if (copy == nullptr) return;
  copy->not_before = again;
  copy->rewinds = true;
  settle(*copy);
}

void ChangeLog::derived(const Next& next, std::uint64_t end, std::vector<Change> changes) {
  auto* const copy = find(next);
  if (copy == nullptr) return;
  copy->underived = false;
  copy->end = end;
  copy->changes.assign(std::make_move_iterator(changes.begin()), std::make_move_iterator(changes.end()));
  copy->sent = 0;
  settle(*copy);
}

std::optional<std::uint64_t> ChangeLog::everywhere(SegmentId segment) const {
  std::optional<std::uint64_t> least;
  for (auto each = copies_.lower_bound(Place{segment, NodeId()});
       each != copies_.end() && each->first.segment == segment; ++each) {
    const auto end = each->second.underived ? 0 : each->second.end;
    least = std::min(least.value_or(end), end);
  }
  return least;
}

std::vector<ChangeSource> ChangeLog::sources() const {
  std::vector<ChangeSource> sources;
  for (const auto& [place, copy] : copies_) {
    if (sources.empty() || sources.back().segment != place.segment) sources.push_back(copy.source);
  }
  return sources;
}

std::vector<wire::WorkerAddress> ChangeLog::behind() const {
  std::map<std::pair<std::string, std::uint32_t>, wire::WorkerAddress> found;
  for (const auto& [place, copy] : copies_) {
    if (!copy.underived && copy.changes.empty()) continue;
    found.emplace(std::pair(copy.address.endpoint().host(), copy.address.endpoint().port()), copy.address);
  }
  std::vector<wire::WorkerAddress> processes;
  for (auto& [endpoint, address] : found) processes.push_back(std::move(address));
  return processes;
}

std::vector<ChangeLog::Lag> ChangeLog::lag(TimePoint now) const {
  std::map<std::pair<InodeId, NodeId>, Lag> lags;
  const auto add = [&](InodeId channel, NodeId node, std::uint64_t bytes, Duration oldest) {
    auto& lag = lags[{channel, node}];
    lag.channel = channel;
    lag.node = node;
    lag.bytes += bytes;
    lag.oldest = std::max(lag.oldest, oldest);
  };
  // What a copy lacks is the end of the segment: what any of them lacks is what the shortest does.
  std::uint64_t most = 0;
  Duration longest{};
  for (auto each = copies_.begin(); each != copies_.end(); ++each) {
    const auto& [place, copy] = *each;
    if (!copy.changes.empty()) {
      std::uint64_t bytes = 0;
      for (const auto& change : copy.changes) bytes += change.payload_bytes;
      const auto oldest = now - copy.changes.front().since;
      add(copy.source.channel, place.node, bytes, oldest);
      most = std::max(most, bytes);
      longest = std::max(longest, oldest);
    }
    const auto next = std::next(each);
    if (next != copies_.end() && next->first.segment == place.segment) continue;
    if (most > 0) add(copy.source.channel, NodeId(), most, longest);
    most = 0;
    longest = {};
  }
  std::vector<Lag> all;
  for (const auto& [key, lag] : lags) all.push_back(lag);
  return all;
}

std::uint64_t payload_of(std::span<const std::byte> unit) {
  std::uint64_t bytes = 0;
  for (std::size_t at = 0; at < unit.size();) {
    const auto record = wire::decode_record_header(unit.subspan(at));
    if (!record) break;  // the padding
    bytes += record.value().header.payload_bytes;
    at += record.value().bytes();
  }
  return bytes;
}

}  // namespace reelfs::noded
