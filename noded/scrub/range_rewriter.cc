#include "noded/scrub/range_rewriter.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "common/observe/log.h"
#include "noded/scrub/careful_read.h"
#include "noded/scrub/record_scan.h"

namespace reelfs::noded {
namespace {

constexpr int kMostRanges = 64;
constexpr std::uint64_t kMostBytes = 4 * kMiB;  // of one order
constexpr int kMostSources = 4;
constexpr std::uint64_t kMostRaw = kMiB;
/// A record that has a byte begins and ends within so much of it.
constexpr auto kReach = RecordScan::kLookahead;

spdlog::logger& log() {
  static auto& instance = logger("noded.scrub");
  return instance;
}

struct Verdict {
  ByteRanges bad;
  ByteRanges records;
};

/// @param end  of the copy
Verdict verify(SegmentId segment, std::uint64_t end, std::uint64_t begin, std::span<const std::byte> bytes) {
  RecordScan::Rules rules;
  rules.segment = segment;
  rules.start = begin;
  rules.in_midst = begin > 0;
  rules.length = std::min(end, begin + bytes.size());
  RecordScan scan(rules);
  scan.feed(begin, bytes);
  return {scan.bad(), scan.records()};
}

Result<ByteRanges> ranges_of(const wire::RewriteRangesRequest& order) {
  if (order.ranges_size() > kMostRanges || order.sources_size() > kMostSources)
    return Error(Errc::invalid, "at most 64 ranges are rewritten at once, from at most 4 copies");
  ByteRanges ranges;
  for (const auto& range : order.ranges()) {
    if (range.length() > kMostBytes || range.offset() > UINT64_MAX - 2 * kMostBytes)
      return Error(Errc::invalid, "at most 4 MiB are rewritten at once");
    ranges.add(range.offset(), range.offset() + range.length());
  }
  ranges = ranges.aligned(kPageBytes);
  if (ranges.bytes() > kMostBytes + kMostRanges * 2 * kPageBytes)
    return Error(Errc::invalid, "at most 4 MiB are rewritten at once");
  return ranges;
}

void add_ranges(const ByteRanges& ranges, google::protobuf::RepeatedPtrField<wire::ByteRange>& to) {
  for (const auto& range : ranges) {
    auto& added = *to.Add();
    added.set_offset(range.begin);
    added.set_length(range.length());
  }
}

}  // namespace

/// An order as it is carried out.
struct RangeRewriter::Job {
  wire::RewriteRangesRequest order;
  Deadline deadline;
  SegmentBlock found;
  DevicePtr device;
  ByteRanges ranges;  // of it, as far as the copy goes
  ByteRanges bad;     // that nobody has
  std::uint64_t written = 0;
  struct Source {
    ByteRanges bad;
    std::string failure;
    bool asked = false;
  };
  std::vector<Source> sources;
};

/// A stretch of the copy around what is to be repaired.
struct RangeRewriter::Piece {
  std::uint64_t begin = 0;
  std::shared_ptr<Buffer> was;  // as it stands on the device
  std::shared_ptr<Buffer> now;  // as it is to be
  ByteRanges unreadable;        // of it, still
  Verdict verdict;              // of `now`
  std::uint64_t end() const { return begin + now->size(); }
};

/// While it lives the block is neither freed nor reopened.
class RangeRewriter::InPlace {
 public:
  InPlace(DevicePtr device, std::uint32_t block, WorkerId worker)
      : device_(std::move(device)), block_(block), worker_(worker) {}
  InPlace(const InPlace&) = delete;
  InPlace& operator=(const InPlace&) = delete;
  ~InPlace() {
    if (begun_) device_->table().end_rewrite(block_, worker_);
  }
  /// @errors busy, not_found
  Result<void> begin(SegmentId segment) {
    auto begun = device_->table().begin_rewrite(block_, segment, worker_);
    begun_ = begun.has_value();
    return begun;
  }

 private:
  const DevicePtr device_;
  const std::uint32_t block_;
  const WorkerId worker_;
  bool begun_ = false;
};

RangeRewriter::RangeRewriter(SegmentStore& store, WorkerId worker, Fetch fetch)
    : store_(store), worker_(worker), fetch_(std::move(fetch)) {}

Task<wire::RewriteRangesReply> RangeRewriter::rewrite(wire::RewriteRangesRequest order, Deadline deadline) {
  if (std::exchange(under_way_, true)) co_return Error(Errc::busy, "another range is being rewritten here");
  struct UnderWay {
    bool& under_way;
    ~UnderWay() { under_way = false; }
  };
  const UnderWay at_the_end{under_way_};
  REELFS_CO_TRY(auto job, co_await begin(std::move(order), deadline));
  for (const auto range : job.ranges) {
    REELFS_CO_TRY(co_await rewrite_range(job, range));
  }
  co_return reply_of(job);
}

Task<RangeRewriter::Raw> RangeRewriter::look(wire::RewriteRangesRequest order) {
  REELFS_CO_TRY(auto job, co_await begin(std::move(order), Deadline()));
  Raw raw;
  raw.bytes = std::make_shared<Buffer>(0);
  for (const auto range : job.ranges) {
    REELFS_CO_TRY(const auto piece, co_await read_piece(job, range));
    job.bad.add(piece.verdict.bad.within(range.begin, range.end));
    if (!raw.bytes->empty()) continue;
    raw.bytes = std::make_shared<Buffer>(std::min(range.length(), kMostRaw));
    std::memcpy(raw.bytes->data(), piece.was->data() + (range.begin - piece.begin), raw.bytes->size());
  }
  raw.reply = reply_of(job);
  co_return std::move(raw);
}

Task<RangeRewriter::Job> RangeRewriter::begin(wire::RewriteRangesRequest order, Deadline deadline) {
  REELFS_CO_TRY(const auto ranges, ranges_of(order));
  Job job;
  job.sources.resize(static_cast<std::size_t>(order.sources_size()));
  job.order = std::move(order);
  job.deadline = deadline;
  REELFS_CO_TRY(job.found, store_.find(SegmentId(job.order.segment())));
  job.device = store_.find_device(job.found.address.device);
  if (!job.device) co_return Error(Errc::io, "its device is out of service");
  job.ranges = ranges.within(0, job.found.slot.end);
  co_return std::move(job);
}

wire::RewriteRangesReply RangeRewriter::reply_of(const Job& job) {
  wire::RewriteRangesReply reply;
  add_ranges(job.bad, *reply.mutable_bad());
  reply.set_written_bytes(job.written);
  for (std::size_t i = 0; i < job.sources.size(); ++i) {
    const auto& source = job.sources[i];
    if (!source.asked) continue;
    auto& told = *reply.add_sources();
    told.set_node(job.order.sources(static_cast<int>(i)).node());
    told.set_failure(source.failure);
    add_ranges(source.bad, *told.mutable_bad());
  }
  return reply;
}

Task<RangeRewriter::Piece> RangeRewriter::read_piece(const Job& job, ByteSpan range) {
  const auto end = job.found.slot.end;
  Piece piece;
  piece.begin = range.begin > kReach ? range.begin - kReach : 0;
  const auto piece_end = std::min(end, range.end + kReach);
  const auto base = job.device->table().geometry().block_offset(job.found.address.block);
  piece.was = std::make_shared<Buffer>(piece_end - piece.begin);
  REELFS_CO_TRY(const auto unreadable, co_await read_carefully(job.device, base + piece.begin, piece.was));
  for (const auto& pages : unreadable)
    piece.unreadable.add(piece.begin + pages.begin, piece.begin + pages.end);
  piece.verdict = verify(job.found.segment, end, piece.begin, std::as_const(*piece.was).span());
  piece.verdict.bad.add(piece.unreadable);
  co_return std::move(piece);
}

Task<void> RangeRewriter::rewrite_range(Job& job, ByteSpan range) {
  REELFS_CO_TRY(auto piece, co_await read_piece(job, range));
  piece.now = std::make_shared<Buffer>(piece.was->size());
  std::memcpy(piece.now->data(), piece.was->data(), piece.was->size());
  const auto could_not_be_read = piece.unreadable;
  REELFS_CO_TRY(co_await ask_sources(job, range, piece));
  job.bad.add(piece.verdict.bad.within(range.begin, range.end));
  // A page that reads otherwise next time is written even where it is the zeros that it was taken for.
  for (const auto& pages : could_not_be_read.within(range.begin, range.end)) {
    const bool known = piece.unreadable.within(pages.begin, pages.end).empty();
    if (known) piece.was->span()[pages.begin - piece.begin] = ~piece.now->span()[pages.begin - piece.begin];
  }
  co_return co_await write(job, piece);
}

/// Until nothing is bad; one at least, for a record that is gone without a trace is known from another copy
/// alone.
Task<void> RangeRewriter::ask_sources(Job& job, ByteSpan range, Piece& piece) {
  const SegmentId segment(job.order.segment());
  const auto end = job.found.slot.end;
  bool compared = false;
  ByteRanges vouched;  // as a good source has them, though what follows them here may be bad: padding, say
  for (int i = 0; i < job.order.sources_size(); ++i) {
    if (compared && piece.verdict.bad.within(range.begin, range.end).empty()) break;
    auto& source = job.sources[static_cast<std::size_t>(i)];
    source.asked = true;
    Wanted wanted;
    wanted.source = job.order.sources(i);
    wanted.segment = segment;
    wanted.range = {piece.begin, piece.end()};
    const auto fetched = co_await fetch_(std::move(wanted), job.deadline);
    if (!fetched) {
      source.failure = fetched.error().describe();
      continue;
    }
    const auto bytes = std::as_const(*fetched.value())
                           .span()
                           .first(std::min<std::size_t>(fetched.value()->size(), piece.now->size()));
    source.failure.clear();
    compared = true;
    const auto theirs = verify(segment, end, piece.begin, bytes);
    ByteRanges have(piece.begin, piece.begin + round_down(bytes.size(), kPageBytes));
    ByteRanges lacking(piece.begin, piece.end());
    lacking.remove(have);
    lacking.add(theirs.bad);
    source.bad.add(lacking.within(range.begin, range.end));
    have.remove(theirs.bad);
    auto wanting = theirs.records;
    wanting.remove(piece.verdict.records);
    wanting.add(piece.verdict.bad);
    const auto taken = have.common(wanting).within(range.begin, range.end);
    for (const auto& bytes_taken : taken) {
      const auto at = bytes_taken.begin - piece.begin;
      std::memcpy(piece.now->data() + at, bytes.data() + at, bytes_taken.length());
    }
    piece.unreadable.remove(taken);
    vouched.add(taken);
    piece.verdict = verify(segment, end, piece.begin, std::as_const(*piece.now).span());
    piece.verdict.bad.remove(vouched);
    piece.verdict.bad.add(piece.unreadable);
  }
  co_return ok();
}

/// Writes the pages that changed. docs/design/scrub.md, "Rewriting", 4 to 6
Task<void> RangeRewriter::write(Job& job, const Piece& piece) {
  ByteRanges changed;
  for (std::size_t at = 0; at < piece.now->size(); at += kPageBytes) {
    const auto size = std::min<std::size_t>(kPageBytes, piece.now->size() - at);
    if (std::memcmp(piece.now->data() + at, piece.was->data() + at, size) != 0) changed.add(at, at + size);
  }
  if (changed.empty()) co_return ok();
  auto& device = *job.device;
  const auto block = job.found.address.block;
  InPlace in_place(job.device, block, worker_);
  if (auto begun = in_place.begin(job.found.segment); !begun) {
    co_return Error(begun.error().code(), "the block is being freed, reopened or rewritten");
  }
  const auto slot = device.table().slot(block);
  if (slot.descriptor.allocated_at_ns != job.found.slot.descriptor.allocated_at_ns ||
      slot.end < job.found.slot.end) {
    co_return Error(Errc::busy, "the block was taken anew or cut meanwhile");
  }
  const auto base = device.table().geometry().block_offset(block) + piece.begin;
  for (const auto& pages : changed) {
    auto bytes = std::make_shared<Buffer>(pages.length());
    std::memcpy(bytes->data(), piece.now->data() + pages.begin, pages.length());
    REELFS_CO_TRY(co_await device.write(base + pages.begin, std::move(bytes)));
    job.written += pages.length();
  }
  REELFS_CO_TRY(co_await device.sync());
  for (const auto& pages : changed) {
    auto bytes = std::make_shared<Buffer>(pages.length());
    REELFS_CO_TRY(co_await device.read(base + pages.begin, bytes));
    if (std::memcmp(bytes->data(), piece.now->data() + pages.begin, pages.length()) == 0) continue;
    const auto why = "bytes that were written in place do not read back, block " + std::to_string(block);
    device.retire(DeviceHealth::failed, why);
    co_return Error(Errc::io, why);
  }
  log().warn("copy repaired in place segment={} device={} block={} offset={} ranges={} bytes={}",
             job.found.segment.value, device.table().path(), block,
             piece.begin + changed.list().front().begin, changed.size(), changed.bytes());
  co_return ok();
}

}  // namespace reelfs::noded
