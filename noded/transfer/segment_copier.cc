#include "noded/transfer/segment_copier.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/wire/frame.h"
#include "noded/device/record_walk.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kReadBytes = kMiB;
constexpr std::uint64_t kMaxWindow = wire::kMaxPayloadBytes + 2 * kReadBytes;  // an append unit and more
constexpr int kMaxSources = 4;
/// A source that says nothing for so long is left for another one.
constexpr Duration kReadLimit = std::chrono::seconds(1);

spdlog::logger& log() {
  static auto& instance = logger("noded.transfer");
  return instance;
}

Result<void> check(const wire::CopySegmentRequest& order) {
  if (order.segment() == 0 || order.generation() == 0 || order.length() == 0 ||
      order.length() % kPageBytes != 0)
    return Error(Errc::invalid, "nothing is copied so");
  if (order.sources_size() > kMaxSources) return Error(Errc::invalid, "a segment has 1 to 4 copies");
  return ok();
}

}  // namespace

/// How far one order has come.
struct SegmentCopier::Progress {
  SegmentId segment;
  Generation generation;
  std::uint64_t length = 0;
  std::uint64_t upto = 0;  // of this order
  std::uint64_t at = 0;    // every byte before it is right, here
  Epoch epoch;
  Deadline deadline;
  const Clock& clock;
  std::optional<Error> own_failure;  // of this node: no other source helps
};

SegmentCopier::SegmentCopier(asio::io_context& context, const Clock& clock, SegmentStore& store,
                             rpc::ClientOptions client_options)
    : clock_(clock), store_(store), sources_(context, clock, std::move(client_options)) {}

asio::awaitable<void> SegmentCopier::stop() { co_await sources_.stop(); }

Task<wire::CopySegmentReply> SegmentCopier::copy(wire::CopySegmentRequest order, Epoch epoch,
                                                 Deadline deadline) {
  REELFS_CO_TRY(check(order));
  if (std::exchange(copying_, true)) co_return Error(Errc::busy, "another copy is under way here");
  struct Copying {
    bool& copying;
    ~Copying() { copying = false; }
  };
  const Copying at_the_end{copying_};
  const SegmentId segment(order.segment());
  const Generation generation(order.generation());
  REELFS_CO_TRY(const auto start, co_await store_.begin_copy(segment, generation, InodeId(order.channel()),
                                                             order.length(), deadline));
  wire::CopySegmentReply reply;
  reply.set_device(start.address.device.value);
  reply.set_block(start.address.block);
  reply.set_valid(start.valid);
  if (start.whole) co_return reply;
  auto from = start.valid;
  if (from > 0 && left_ != Left{segment, generation, from}) {
    REELFS_CO_TRY(from, co_await store_.last_unit(segment, from));
  }
  Progress progress{segment, generation, order.length(), 0, from, epoch, deadline, clock_, {}};
  progress.upto = std::min(order.length(), start.valid + std::max(order.most_bytes(), kReadBytes));
  Error last(Errc::unavailable, "no source of segment " + std::to_string(segment.value) + " was named");
  for (const auto& source : order.sources()) {
    if (progress.at >= progress.upto) break;
    auto taken = co_await take_from(source, progress);
    if (taken) continue;
    if (progress.own_failure) co_return std::move(*progress.own_failure);
    log().warn("source left segment={} node={} at={} why=\"{}\"", segment.value, source.node(), progress.at,
               taken.error().describe());
    last = std::move(taken).error();
    reply.add_bad_sources(source.node());
  }
  left_ = {segment, generation, progress.at};
  const auto valid = std::max(progress.at, start.valid);
  reply.set_copied_bytes(valid - start.valid);
  reply.set_valid(valid);
  if (progress.at == order.length()) {
    REELFS_CO_TRY(
        co_await store_.cut(segment, generation, order.length(), SegmentStore::After::sealed, deadline));
    log().info("copy whole segment={} length={} device={} block={}", segment.value, order.length(),
               reply.device(), reply.block());
    co_return reply;
  }
  if (progress.at < progress.upto && reply.copied_bytes() == 0) co_return last;
  // So that the end of a large copy does not have to wait for all of it, and others with it.
  std::vector<SegmentStore::Flushed> written;
  written.emplace_back(segment, progress.at);
  REELFS_CO_TRY(co_await store_.sync(std::move(written)));
  co_return reply;
}

/// Bytes of a source from `at` on.
Task<Buffer> SegmentCopier::read(std::shared_ptr<rpc::Client> source, const Progress& progress,
                                 std::uint64_t at) {
  wire::ReadSegmentRequest request;
  request.set_segment(progress.segment.value);
  request.set_offset(at);
  request.set_length(static_cast<std::uint32_t>(std::min(kReadBytes, progress.length - at)));
  const Deadline limit{std::min(progress.deadline.at, progress.clock.now() + kReadLimit)};
  source->set_epoch(progress.epoch);
  REELFS_CO_TRY(auto reply, co_await source->call(wire::Method::read_segment, request, limit));
  wire::ReadSegmentReply message;
  if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
  if (message.valid() < progress.length) {
    co_return Error(Errc::corrupt, "the copy there has " + std::to_string(message.valid()) + " bytes of " +
                                       std::to_string(progress.length));
  }
  const auto size = reply.payload.size();
  if (size == 0 || size % kPageBytes != 0 || size > request.length())
    co_return Error(Errc::protocol, "not the bytes that were asked for");
  co_return std::move(reply.payload);
}

/// What is read is looked at a record at a time. Whole append units are written, so that whatever ends this,
/// the copy ends where a unit begins.
Task<void> SegmentCopier::take_from(const wire::WorkerAddress& source, Progress& progress) {
  const auto client = sources_.client_of(source);
  RecordWalk::Rules rules;
  rules.segment = progress.segment;
  rules.block_bytes = progress.length;  // nothing behind it counts
  rules.start = progress.at;
  RecordWalk walk(rules);
  Buffer window;            // of what is not written yet
  auto base = rules.start;  // where it begins
  while (progress.at < progress.upto) {
    REELFS_CO_TRY(const auto more, co_await read(client, progress, base + window.size()));
    Buffer joined(window.size() + more.size());
    if (!window.empty()) std::memcpy(joined.data(), window.data(), window.size());
    std::memcpy(joined.data() + window.size(), more.data(), more.size());
    window = std::move(joined);
    walk.feed(base, std::as_const(window).span());
    const bool whole = walk.done() && walk.end() >= progress.length;
    const bool damaged = (walk.done() && !whole) || window.size() > kMaxWindow;
    const auto right = whole ? progress.length : walk.boundary();
    if (right == base && !damaged) continue;
    if (right == base)
      co_return Error(Errc::corrupt, "the copy there is damaged at " + std::to_string(walk.position()));
    auto rest = Buffer::copy_of(std::as_const(window).span().subspan(right - base));
    window.resize(right - base);
    auto bytes = std::make_shared<const Buffer>(std::move(window));
    auto written = co_await store_.extend_copy(progress.segment, progress.generation, base, std::move(bytes));
    if (!written) {
      progress.own_failure = written.error();
      co_return std::move(written).error();
    }
    progress.at = base = right;  // before what is damaged, too: the next source goes on there
    window = std::move(rest);
    if (damaged)
      co_return Error(Errc::corrupt, "the copy there is damaged at " + std::to_string(walk.position()));
  }
  co_return ok();
}

}  // namespace reelfs::noded
