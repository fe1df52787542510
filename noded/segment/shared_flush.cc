#include "noded/segment/shared_flush.h"

#include <chrono>

#include "noded/shm/crash_point.h"

namespace reelfs::noded {
SharedFlush::SharedFlush(DeviceTable& table, WorkerId worker, Duration patience)
    : table_(table), worker_(worker), patience_(patience), trusts_(table.flushes().lost) {}

Result<void> SharedFlush::run(const DeviceFile::BlockingSync& sync, std::int64_t now_ns) {
  DeviceTable::FlushWish wish;
  wish.worker = worker_;
  wish.wanted = table_.flushes().begun + 1;
  std::uint64_t awaited = 0;
  auto until = std::chrono::steady_clock::now();
  for (;;) {
    wish.trusts = trusts_;
    const auto turn = table_.join_flush(wish);
    switch (turn.kind) {
      case FlushTurn::Kind::served:
        return ok();
      case FlushTurn::Kind::out_of_service:
        return Error(Errc::io, table_.verdict().reason);
      case FlushTurn::Kind::mine:
        return flush(sync, turn, now_ns);
      case FlushTurn::Kind::wait:
        break;
    }
    const auto now = std::chrono::steady_clock::now();
    if (turn.number != awaited) until = now + patience_;
    awaited = turn.number;
    if (now < until) {
      table_.wait_for_flush(turn.bell, until - now);
    } else {
      wish.in_vain = awaited;
    }
  }
}

Result<void> SharedFlush::flush(const DeviceFile::BlockingSync& sync, const FlushTurn& turn,
                                std::int64_t now_ns) {
  crash_point("flush.begun");
  auto flushed = sync();
  crash_point("flush.done");
  // Kernel and disk tell of it once: before anybody can begin another flush, everybody is to know.
  if (!flushed && table_.retire(DeviceHealth::failed, flushed.error().message(), now_ns)) {
    found_failure_ = true;
  }
  table_.end_flush(turn.number, worker_, flushed.has_value());
  if (!flushed) return flushed;
  trusts_ = turn.lost;
  // Another process' flush may have failed, of the same bytes, while this one went well.
  if (!table_.serving()) return Error(Errc::io, table_.verdict().reason);
  return ok();
}

}  // namespace reelfs::noded
