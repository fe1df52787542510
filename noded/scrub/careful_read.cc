#include "noded/scrub/careful_read.h"

#include <algorithm>
#include <cstring>

#include "common/base/units.h"

namespace reelfs::noded {
namespace {

/// A disk may try for seconds to read one bad sector: where many are bad the rest counts as bad, too.
constexpr std::size_t kMostTries = 64;

}  // namespace

Task<ByteRanges> read_carefully(DevicePtr device, std::uint64_t offset, std::shared_ptr<Buffer> into,
                                std::size_t begin) {
  ByteRanges unreadable;
  const auto whole = co_await device->try_read(offset, into, begin);
  if (whole) co_return unreadable;
  std::size_t failed = 0;
  for (auto at = begin; at < into->size(); at += kPageBytes) {
    const auto size = std::min<std::size_t>(kPageBytes, into->size() - at);
    auto page = std::make_shared<Buffer>(size);
    Result<void> read = Error(Errc::io);
    if (failed < kMostTries) {
      read = co_await device->try_read(offset + (at - begin), page);
    }
    REELFS_CO_TRY(device->usable());
    if (read) {
      std::memcpy(into->data() + at, page->data(), size);
      continue;
    }
    ++failed;
    std::memset(into->data() + at, 0, size);
    unreadable.add(at, at + size);
  }
  co_return unreadable;
}

}  // namespace reelfs::noded
