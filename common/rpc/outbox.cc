#include "common/rpc/outbox.h"

#include <algorithm>

#include "common/base/crc32c.h"

namespace reelfs::rpc {
namespace {

constexpr std::size_t kFramesPerWrite = 32;
constexpr std::size_t kBytesPerWrite = 2 * kMiB;  // a later, urgent frame does not wait for more than this

iovec piece_of(const void* data, std::size_t bytes) {
  iovec piece;
  piece.iov_base = const_cast<void*>(data);  // NOLINT: sendmsg only reads it
  piece.iov_len = bytes;
  return piece;
}

}  // namespace

void Outbox::push(OutgoingFrame frame) {
  frames_.push_back(std::move(frame));
  changed_.set();
}

bool Outbox::remove(std::uint64_t request_id) {
  const auto found = std::find_if(frames_.begin(), frames_.end(),
                                  [&](const OutgoingFrame& f) { return f.header.request_id == request_id; });
  if (found == frames_.end()) return false;
  frames_.erase(found);
  return true;
}

void Outbox::clear() { frames_.clear(); }

void Outbox::close() {
  closed_ = true;
  changed_.set();
}

void Outbox::encode(OutgoingFrame& frame) {
  auto& header = frame.header;
  header.message_bytes = static_cast<std::uint32_t>(frame.message.size());
  header.payload_bytes = static_cast<std::uint32_t>(frame.payload_bytes);
  if (frame.payload_bytes > 0) {
    header.payload_crc32c = crc32c(frame.payload->span().subspan(frame.payload_offset, frame.payload_bytes));
  }
  if (frame.deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(frame.deadline->left(clock_)).count();
    header.deadline_ms = static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 1, UINT32_MAX));
  }
  frame.encoded = wire::encode_frame_header(header);
}

Task<void> Outbox::drain(Stream& stream, std::function<void(const OutgoingFrame&)> sent) {
  std::deque<OutgoingFrame> leaving;  // out of reach of clear() while the kernel reads them
  std::vector<iovec> pieces;
  closed_ = false;
  while (!closed_) {
    if (frames_.empty()) {
      co_await changed_.wait();
      continue;
    }
    pieces.clear();
    std::size_t bytes = 0;
    while (!frames_.empty() && leaving.size() < kFramesPerWrite && bytes < kBytesPerWrite) {
      leaving.push_back(std::move(frames_.front()));
      frames_.pop_front();
      auto& kept = leaving.back();
      encode(kept);
      pieces.push_back(piece_of(kept.encoded.data(), kept.encoded.size()));
      if (!kept.message.empty()) pieces.push_back(piece_of(kept.message.data(), kept.message.size()));
      if (kept.payload_bytes > 0) {
        pieces.push_back(piece_of(kept.payload->data() + kept.payload_offset, kept.payload_bytes));
      }
      bytes += kept.message.size() + kept.payload_bytes;
    }
    REELFS_CO_TRY(co_await stream.write(pieces));
    for (const auto& frame : leaving) sent(frame);
    leaving.clear();
  }
  co_return ok();
}

}  // namespace reelfs::rpc
