#include "common/sim/sim_disk.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/assert.h"

namespace reelfs::sim {
namespace {

constexpr std::size_t kSectorBytes = 512;

}  // namespace

SimDisk::SimDisk(std::uint64_t bytes, std::uint64_t seed) : bytes_(bytes), random_(seed) {
  REELFS_ASSERT(bytes % kPageBytes == 0);
}

Result<void> SimDisk::check_range(std::uint64_t offset, std::uint64_t bytes) const {
  REELFS_ASSERT(offset % kPageBytes == 0 && bytes % kPageBytes == 0);  // as O_DIRECT demands
  if (offset <= bytes_ && bytes <= bytes_ - offset) return ok();
  return Error(Errc::out_of_range, "beyond the end of the simulated disk");
}

void SimDisk::store(Pages& pages, std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto page = round_down(offset, kPageBytes);
    const auto within = offset - page;
    const auto count = std::min<std::size_t>(bytes.size(), kPageBytes - within);
    const auto [found, absent] = pages.try_emplace(page);
    if (absent) found->second.fill(std::byte{0});
    std::memcpy(found->second.data() + within, bytes.data(), count);
    bytes = bytes.subspan(count);
    offset += count;
  }
}

void SimDisk::apply(Pages& pages, const Write& write) {
  if (write.bytes.empty()) {
    pages.erase(pages.lower_bound(write.offset), pages.lower_bound(write.offset + write.discarded));
  } else {
    store(pages, write.offset, write.bytes);
  }
}

Task<void> SimDisk::read(std::uint64_t offset, std::span<std::byte> into) {
  REELFS_CO_TRY(check_range(offset, into.size()));
  if (reads_fail_) co_return Error(Errc::io, "simulated read error");
  load(seen_, offset, into);
  co_return ok();
}

void SimDisk::load(const Pages& pages, std::uint64_t offset, std::span<std::byte> into) {
  for (std::size_t done = 0; done < into.size(); done += kPageBytes) {
    const auto page = pages.find(offset + done);
    if (page == pages.end()) {
      std::memset(into.data() + done, 0, kPageBytes);
    } else {
      std::memcpy(into.data() + done, page->second.data(), kPageBytes);
    }
  }
}

void SimDisk::peek(Image image, std::uint64_t offset, std::span<std::byte> into) const {
  REELFS_ASSERT(check_range(offset, into.size()).has_value());
  load(image == Image::seen ? seen_ : durable_, offset, into);
}

Task<void> SimDisk::write(std::uint64_t offset, std::span<const std::byte> from) {
  REELFS_CO_TRY(check_range(offset, from.size()));
  if (writes_fail_) co_return Error(Errc::io, "simulated write error");
  if (from.empty()) co_return ok();
  ++writes_;
  Write write;
  write.offset = std::exchange(misdirect_to_, std::nullopt).value_or(offset);
  write.discarded = 0;
  write.bytes.assign(from.begin(), from.end());
  apply(seen_, write);
  unsynced_.push_back(std::move(write));
  co_return ok();
}

Task<void> SimDisk::sync() { co_return sync_upto(mark()); }

Result<void> SimDisk::sync_upto(std::uint64_t upto) {
  if (syncs_fail_) return Error(Errc::io, "simulated sync error");
  ++syncs_;
  const auto count = upto < settled_ ? 0 : std::min<std::uint64_t>(upto - settled_, unsynced_.size());
  const auto end = unsynced_.begin() + static_cast<std::ptrdiff_t>(count);
  for (auto write = unsynced_.begin(); write != end; ++write) apply(durable_, *write);
  unsynced_.erase(unsynced_.begin(), end);
  settled_ += count;
  return ok();
}

Task<void> SimDisk::discard(std::uint64_t offset, std::uint64_t bytes) {
  REELFS_CO_TRY(check_range(offset, bytes));
  if (writes_fail_) co_return Error(Errc::io, "simulated write error");
  Write write;
  write.offset = offset;
  write.discarded = bytes;
  apply(seen_, write);
  unsynced_.push_back(std::move(write));
  co_return ok();
}

void SimDisk::crash(CrashFault fault) {
  if (fault != CrashFault::lose_unsynced) {
    for (const auto& write : unsynced_) {
      const bool whole = write.bytes.empty() || fault == CrashFault::reorder_unsynced;
      if (whole) {
        if (random_() % 2 == 0) apply(durable_, write);
        continue;
      }
      for (std::size_t at = 0; at < write.bytes.size(); at += kSectorBytes) {
        if (random_() % 2 == 0)
          store(durable_, write.offset + at, std::span(write.bytes).subspan(at, kSectorBytes));
      }
    }
  }
  settled_ += unsynced_.size();
  unsynced_.clear();
  seen_ = durable_;
}

void SimDisk::flip_bit(std::uint64_t offset, unsigned bit) {
  REELFS_ASSERT(bit < 8);
  const auto page = round_down(offset, kPageBytes);
  const auto flip = [&](Pages& pages) {
    const auto found = pages.find(page);
    if (found == pages.end()) return false;
    found->second[offset - page] ^= static_cast<std::byte>(1u << bit);
    return true;
  };
  const bool seen = flip(seen_);
  flip(durable_);
  REELFS_ASSERT(seen);
}

}  // namespace reelfs::sim
