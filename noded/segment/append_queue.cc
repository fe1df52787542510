#include "noded/segment/append_queue.h"

#include <iterator>

#include "common/base/assert.h"

namespace reelfs::noded {

AppendQueue::Arrival AppendQueue::arrive(Ticket ticket, std::uint64_t offset, std::uint64_t bytes) {
  const auto end = offset + bytes;
  if (end <= end_) return Arrival::present;
  if (offset < end_) return Arrival::overlap;
  const auto next = entries_.lower_bound(offset);
  if (next != entries_.end() && next->first == offset) {
    if (next->second.bytes != bytes) return Arrival::overlap;
    next->second.tickets.push_back(ticket);
    return Arrival::waiting;
  }
  if (next != entries_.end() && next->first < end) return Arrival::overlap;
  if (next != entries_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.bytes > offset) return Arrival::overlap;
  }
  auto& entry = entries_[offset];
  entry.bytes = bytes;
  entry.tickets.push_back(ticket);
  return Arrival::waiting;
}

std::optional<AppendQueue::Write> AppendQueue::start() {
  if (broken_ || under_way_ >= window_) return std::nullopt;
  const auto found = entries_.find(started_end_);
  if (found == entries_.end()) return std::nullopt;
  auto& entry = found->second;
  REELFS_ASSERT(entry.state == State::waiting);
  Write write;
  write.ticket = entry.tickets.front();
  write.offset = found->first;
  write.bytes = entry.bytes;
  write.follows = under_way_ > 0;
  entry.state = State::under_way;
  ++under_way_;
  started_end_ += entry.bytes;
  return write;
}

void AppendQueue::decide(Entries::iterator entry, Outcome outcome, std::vector<Decision>& decisions) {
  for (const auto ticket : entry->second.tickets) {
    decisions.push_back({ticket, outcome, entry->first + entry->second.bytes});
  }
  entries_.erase(entry);
}

std::vector<AppendQueue::Decision> AppendQueue::finish(std::uint64_t offset, bool written) {
  const auto found = entries_.find(offset);
  REELFS_ASSERT(found != entries_.end() && found->second.state == State::under_way && under_way_ > 0);
  --under_way_;
  found->second.state = written ? State::written : State::failed;
  broken_ = broken_ || !written;
  std::vector<Decision> decisions;
  while (!entries_.empty() && entries_.begin()->second.state == State::written) {
    end_ = entries_.begin()->first + entries_.begin()->second.bytes;
    decide(entries_.begin(), Outcome::written, decisions);
  }
  if (broken_ && under_way_ == 0) {
    while (!entries_.empty()) decide(entries_.begin(), Outcome::failed, decisions);
    broken_ = false;
    started_end_ = end_;
  }
  return decisions;
}

std::vector<AppendQueue::Decision> AppendQueue::refuse_gaps() {
  std::vector<Decision> decisions;
  if (under_way_ > 0) return decisions;
  while (!entries_.empty()) decide(entries_.begin(), Outcome::gap, decisions);
  return decisions;
}

}  // namespace reelfs::noded
