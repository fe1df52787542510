#include "noded/scrub/peer_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/units.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kAtOnce = kMiB;  // no node gives more

}  // namespace

Task<std::shared_ptr<Buffer>> PeerReader::read(RangeRewriter::Wanted wanted, Epoch epoch, Deadline deadline) {
  const auto client = peers_.client_of(wanted.source);
  client->set_epoch(epoch);
  const auto length = wanted.range.length();
  auto bytes = std::make_shared<Buffer>(length);
  std::uint64_t have = 0;
  while (have < length) {
    wire::RewriteRangesRequest request;
    request.set_segment(wanted.segment.value);
    auto& range = *request.add_ranges();
    range.set_offset(wanted.range.begin + have);
    range.set_length(std::min(kAtOnce, length - have));
    REELFS_CO_TRY(const auto reply, co_await client->call(wire::Method::rewrite_ranges, request, deadline));
    const auto got = std::min<std::uint64_t>(reply.payload.size(), length - have);
    if (got > 0) std::memcpy(bytes->data() + have, reply.payload.data(), got);
    have += got;
    if (got < range.length()) break;  // there the copy ends
  }
  bytes->resize(have);
  co_return std::move(bytes);
}

}  // namespace reelfs::noded
