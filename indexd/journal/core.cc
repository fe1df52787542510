#include "indexd/journal/core.h"

#include <algorithm>
#include <utility>

#include "common/base/assert.h"

namespace reelfs::indexd {

JournalCore::JournalCore(Options options, const End& end, Epoch epoch)
    : options_(options),
      epoch_(epoch),
      salt_(end.salt),
      newest_(end.position.index),
      written_(end.position.index),
      synced_(end.position.index),
      last_crc32c_(end.crc32c),
      file_bytes_(end.file_bytes) {
  REELFS_ASSERT(epoch >= end.position.epoch);
}

std::uint64_t JournalCore::append(EntryType type, std::string_view payload, TimePoint now) {
  REELFS_ASSERT(!failed_ && payload.size() <= kMaxEntryPayload);
  const auto index = ++newest_;
  if (file_bytes_ == 0 || file_bytes_ >= options_.file_bytes) {
    JournalFileHeader header;
    header.first_index = index;
    header.previous_crc32c = last_crc32c_;
    header.salt = salt_;
    writes_.push_back({.new_file = index, .bytes = encode_journal_file_header(header)});
    file_bytes_ = sizeof header;
  } else if (writes_.empty()) {
    writes_.emplace_back();
  }
  EntryHeader header;
  header.type = static_cast<std::uint8_t>(type);
  header.previous_crc32c = last_crc32c_;
  header.epoch = epoch_.value;
  header.index = index;
  header.synced_index = synced_;
  last_crc32c_ = encode_entry(header, payload, salt_, writes_.back().bytes);
  file_bytes_ += sizeof header + payload.size();
  if (!oldest_unsynced_at_) oldest_unsynced_at_ = now;
  return index;
}

std::vector<JournalCore::Write> JournalCore::take_writes() { return std::exchange(writes_, {}); }

void JournalCore::written(std::uint64_t index) {
  REELFS_ASSERT(index >= written_ && index <= newest_);
  written_ = index;
}

void JournalCore::want_sync(std::uint64_t index, std::optional<WaiterId> waiter) {
  REELFS_ASSERT(index <= newest_);
  wanted_ = std::max(wanted_, index);
  if (!waiter) return;
  if (failed_ || index <= synced_) {
    released_.push_back(*waiter);
  } else {
    waiters_.emplace(index, *waiter);
  }
}

std::optional<std::uint64_t> JournalCore::take_sync(TimePoint now) {
  if (failed_ || syncing_ || written_ == synced_) return {};
  const bool is_wanted = wanted_ > synced_;
  const bool is_due = oldest_unsynced_at_ && now >= *oldest_unsynced_at_ + options_.sync_interval;
  if (!is_wanted && !is_due) return {};
  syncing_ = written_;
  oldest_unsynced_at_.reset();
  if (newest_ > written_) oldest_unsynced_at_ = now;
  return syncing_;
}

std::optional<TimePoint> JournalCore::sync_due() const {
  if (failed_ || syncing_ || !oldest_unsynced_at_) return {};
  return *oldest_unsynced_at_ + options_.sync_interval;
}

void JournalCore::synced(std::uint64_t index) {
  REELFS_ASSERT(syncing_ && index == *syncing_);
  syncing_.reset();
  synced_ = index;
  const auto end = waiters_.upper_bound(index);
  for (auto waiter = waiters_.begin(); waiter != end; ++waiter) released_.push_back(waiter->second);
  waiters_.erase(waiters_.begin(), end);
}

void JournalCore::fail() {
  failed_ = true;
  syncing_.reset();
  for (const auto& [index, waiter] : waiters_) released_.push_back(waiter);
  waiters_.clear();
}

std::vector<JournalCore::WaiterId> JournalCore::take_released() { return std::exchange(released_, {}); }

}  // namespace reelfs::indexd
