#include "indexd/service/recording_service.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "indexd/journal/executor.h"
#include "indexd/service/convert.h"
#include "indexd/service/sessions.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {
namespace {

// Of one answer: its size is limited, and so is the time for which a reader's thread is busy with it.
constexpr std::size_t kMaxListed = 512;
constexpr std::size_t kMaxLookedAt = 8192;

constexpr WallNs kQuarterNs = 900'000'000'000;

WallNs begin_of_quarter(WallNs time) {
  return time / kQuarterNs * kQuarterNs;
}  // recordings have positive times

RecordingKey from_wire(const wire::RecordingPlace& place) {
  return {InodeId{place.channel()}, static_cast<std::uint64_t>(place.last_ns()), InodeId{place.inode()}};
}

void to_wire(const RecordingKey& key, wire::RecordingPlace& out) {
  out.set_channel(key.channel.value);
  out.set_last_ns(static_cast<WallNs>(key.last_ns));
  out.set_inode(key.inode.value);
}

/// @return none: there is nothing of this path
Result<std::optional<tree::Inode>> follow(const Reader& reader, InodeId channel, std::string_view path) {
  std::optional<tree::Inode> at;
  while (!path.empty()) {
    const auto name = std::string(path.substr(0, path.find('/')));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    if (!tree::check_name(name)) return std::optional<tree::Inode>();
    auto found = tree::lookup(reader, at ? at->id : channel, name);
    const bool is_absent =
        !found && (found.error().code() == Errc::not_found || found.error().code() == Errc::not_directory);
    if (is_absent) return std::optional<tree::Inode>();
    REELFS_TRY(auto inode, std::move(found));
    at = std::move(inode);
  }
  return at;
}

/// Channels from one on.
Result<std::vector<InodeId>> channels_from(const Reader& reader, InodeId first) {
  std::vector<InodeId> channels;
  REELFS_TRY(reader.scan(ChannelKey{first}, ChannelKey{InodeId{UINT64_MAX}},
                         [&](const ChannelKey& key, const ChannelRow&) {
                           channels.push_back(key.inode);
                           return true;
                         }));
  return channels;
}

/// What one request asks, with what the service knows when it comes.
struct Finding {
  const wire::FindRecordingsRequest& request;
  const tree::TimeSearch& search;
  const std::set<InodeId>& being_written;

  Result<void> describe(const Reader& reader, const tree::Inode& inode, wire::RecordingInfo& out) const {
    REELFS_TRY(auto path, tree::path_of(reader, inode.id));
    REELFS_TRY(const auto hold, tree::held_by(reader, inode.id));
    indexd::to_wire(inode, *out.mutable_attributes());
    out.set_path(std::move(path));
    out.set_first_ns(inode.row.first_ns);
    out.set_last_ns(inode.row.last_ns);
    out.set_held(hold.has_value());
    out.set_being_written(being_written.contains(inode.id));
    return ok();
  }

  bool is_timed() const { return request.has_from_ns() || request.has_to_ns(); }

  Result<wire::FindRecordingsReply> one(const Reader& reader) const {
    wire::FindRecordingsReply reply;
    std::optional<tree::Inode> inode;
    if (request.inode() != 0) {
      REELFS_TRY(inode, tree::get_inode(reader, InodeId{request.inode()}));
    } else {
      REELFS_TRY(inode, follow(reader, InodeId{request.channel()}, request.path()));
    }
    const bool matches =
        inode && inode->is_regular() && inode->row.nlink > 0 && (!is_timed() || search.matches(*inode));
    if (!matches) return reply;
    REELFS_TRY(describe(reader, *inode, *reply.add_recordings()));
    return reply;
  }

  Result<wire::FindRecordingsReply> many(const Reader& reader) const {
    wire::FindRecordingsReply reply;
    std::optional<RecordingKey> after;
    if (request.has_after()) after = from_wire(request.after());
    std::vector<InodeId> channels{InodeId{request.channel()}};
    if (request.channel() == 0) {
      REELFS_TRY(channels, channels_from(reader, after ? after->channel : InodeId{}));
    }
    const auto limit = static_cast<int>(std::clamp<std::size_t>(request.limit(), 1, kMaxListed));
    Result<void> outcome = ok();
    const auto add = [&](const tree::Inode& inode) {
      outcome = describe(reader, inode, *reply.add_recordings());
      return outcome.has_value() && reply.recordings_size() < limit;
    };
    std::size_t rows = kMaxLookedAt;
    for (const auto channel : channels) {
      if (rows == 0) {
        to_wire(RecordingKey{channel, 0, InodeId{}}, *reply.mutable_next());
        break;
      }
      REELFS_TRY(const auto next, search.run(reader, channel, after, rows, add));
      REELFS_TRY(std::move(outcome));
      outcome = ok();
      if (!next) continue;
      to_wire(*next, *reply.mutable_next());
      break;
    }
    return reply;
  }
};

/// Half-open ranges that do not touch.
class Ranges {
 public:
  void add(WallNs from, WallNs to) {
    auto next = ranges_.upper_bound(from);
    if (next != ranges_.begin() && std::prev(next)->second >= from) --next;
    while (next != ranges_.end() && next->first <= to) {
      from = std::min(from, next->first);
      to = std::max(to, next->second);
      next = ranges_.erase(next);
    }
    ranges_.emplace(from, to);
  }
  auto begin() const { return ranges_.begin(); }
  auto end() const { return ranges_.end(); }

 private:
  std::map<WallNs, WallNs> ranges_;
};

}  // namespace

void RecordingService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::find_recordings, *this, &RecordingService::find_recordings);
  dispatcher.add(wire::Method::find_times, *this, &RecordingService::find_times);
}

tree::TimeSearch RecordingService::search_for(const tree::TimeRange& time, const Sessions& sessions,
                                              const Clock& clock) {
  auto is_being_written = [written = sessions.being_written()](InodeId inode) {
    return written.contains(inode);
  };
  return {time, clock.wall().time_since_epoch().count(), std::move(is_being_written)};
}

Task<wire::FindRecordingsReply> RecordingService::find_recordings(wire::FindRecordingsRequest request) {
  const auto wanted = search(request, sessions_, clock_);
  const auto being_written = sessions_.being_written();
  const Finding finding{request, wanted, being_written};
  if (request.inode() != 0 || !request.path().empty()) {
    auto read = [&finding](const View& view) { return finding.one(view); };
    co_return co_await index_.peek(std::move(read));
  }
  auto read = [&finding](const View& view) { return finding.many(view); };
  co_return co_await index_.read(std::move(read));
}

Task<wire::FindTimesReply> RecordingService::find_times(wire::FindTimesRequest request) {
  const auto wanted = search(request, sessions_, clock_);
  auto read = [&request, &wanted](const View& view) -> Result<wire::FindTimesReply> {
    std::optional<RecordingKey> after;
    if (request.has_after()) after = from_wire(request.after());
    Ranges ranges;
    std::size_t rows = kMaxLookedAt;
    const auto add = [&ranges](const tree::Inode& inode) {
      ranges.add(begin_of_quarter(inode.row.first_ns), begin_of_quarter(inode.row.last_ns) + kQuarterNs);
      return true;
    };
    REELFS_TRY(const auto next, wanted.run(view, InodeId{request.channel()}, after, rows, add));
    wire::FindTimesReply reply;
    for (const auto& [from, to] : ranges) {
      auto& range = *reply.add_ranges();
      range.set_from_ns(from);
      range.set_to_ns(to);
    }
    if (next) to_wire(*next, *reply.mutable_next());
    return reply;
  };
  co_return co_await index_.read(std::move(read));
}

}  // namespace reelfs::indexd
