#include "noded/transfer/receive_unit.h"

#include <utility>

#include "common/base/units.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kWindow = 16 * kMiB;      // as much as a writer may have under way
constexpr std::uint64_t kSmallWindow = 1 * kMiB;  // while recorders wait
constexpr std::size_t kBusyAppends = 8;

}  // namespace

/// Recorders that append here come first: they wait, and who sends on does not.
std::uint64_t ReceiveUnit::window() const {
  const auto under_way = store_.appends_under_way();
  const auto recorders = under_way > taking_ ? under_way - taking_ : 0;
  return recorders > kBusyAppends ? kSmallWindow : kWindow;
}

Task<wire::SendOnReply> ReceiveUnit::take(wire::SendOnRequest request, Buffer unit) {
  const SegmentId segment(request.segment());
  const Generation generation(request.generation());
  REELFS_CO_TRY(const auto block, store_.find(segment));
  if (block.slot.descriptor.generation > generation.value)
    co_return Error(Errc::stale_generation,
                    "the copy was told of generation " + std::to_string(block.slot.descriptor.generation));
  wire::SendOnReply reply;
  if (unit.empty()) {
    reply.set_end(block.slot.end);
    reply.set_window_bytes(window());
    co_return std::move(reply);
  }
  struct Taking {
    explicit Taking(std::size_t& count) : taking(++count) {}
    ~Taking() { --taking; }
    std::size_t& taking;
  };
  const Taking until_it_is_written(taking_);
  auto appended = co_await store_.append(segment, generation, request.offset(), std::move(unit));
  reply.set_window_bytes(window());
  if (appended) {
    reply.set_end(appended.value());
    co_return std::move(reply);
  }
  // A gap, or an overlap: the sender goes on from where the copy ends.
  if (appended.error().code() != Errc::invalid) co_return std::move(appended).error();
  REELFS_CO_TRY(const auto after, store_.find(segment));
  reply.set_end(after.slot.end);
  co_return std::move(reply);
}

}  // namespace reelfs::noded
