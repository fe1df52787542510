#include "indexd/service/hold_service.h"

#include <algorithm>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/changes.h"
#include "indexd/service/leases.h"
#include "indexd/service/recording_service.h"
#include "indexd/service/sessions.h"
#include "indexd/tree/attributes.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/names.h"
#include "indexd/tree/recordings.h"
#include "indexd/tree/times.h"

namespace reelfs::indexd {

namespace {

constexpr std::size_t kMaxListed = 512;      // of one answer, whose size is limited
constexpr std::size_t kChangedAtOnce = 256;  // others wait for no more

spdlog::logger& log() {
  static auto& instance = logger("indexd.holds");
  return instance;
}

bool is_timed(const wire::HoldSelection& selection) {
  return selection.has_from_ns() || selection.has_to_ns();
}

Result<void> check_channel(const Reader& reader, InodeId channel) {
  REELFS_TRY(const auto is_there, reader.has(ChannelKey{channel}));
  if (!is_there) return Error(Errc::not_found, fmt::format("there is no channel {}", channel.value));
  return ok();
}

/// Those that have bytes of the time; without one all, those without a byte included.
Result<std::vector<InodeId>> find_recordings(const Reader& reader, const wire::HoldSelection& selection,
                                             const tree::TimeSearch& search) {
  const InodeId channel{selection.channel()};
  REELFS_TRY(check_channel(reader, channel));
  std::vector<InodeId> found;
  if (!is_timed(selection)) {
    REELFS_TRY(tree::for_each_recording(reader, channel, [&](const tree::Recording& recording) {
      found.push_back(recording.inode);
      return true;
    }));
    return found;
  }
  std::size_t rows = SIZE_MAX;
  REELFS_TRY(search.run(reader, channel, std::nullopt, rows, [&](const tree::Inode& inode) {
    found.push_back(inode.id);
    return true;
  }));
  return found;
}

Result<std::vector<std::pair<InodeId, HoldRow>>> holds_of(const Reader& reader, InodeId channel,
                                                          InodeId after, std::size_t limit) {
  std::vector<std::pair<InodeId, HoldRow>> holds;
  Result<void> outcome = ok();
  REELFS_TRY(reader.scan(HoldKey{InodeId{after.value + 1}}, HoldKey{InodeId{UINT64_MAX}},
                         [&](const HoldKey& key, HoldRow row) {
                           if (channel) {
                             const auto inode = tree::get_inode(reader, key.inode);
                             if (!inode) outcome = inode.error();
                             if (!inode) return false;
                             if (inode.value().row.channel != channel) return true;
                           }
                           holds.emplace_back(key.inode, std::move(row));
                           return holds.size() < limit;
                         }));
  REELFS_TRY(std::move(outcome));
  return holds;
}

Result<std::vector<InodeId>> find_holds(const Reader& reader, const wire::ReleaseHoldsRequest& request,
                                        const tree::TimeSearch& search) {
  const auto& selection = request.selection();
  const InodeId channel{selection.channel()};
  REELFS_TRY(check_channel(reader, channel));
  REELFS_TRY(const auto holds, holds_of(reader, channel, InodeId{}, SIZE_MAX));
  std::vector<InodeId> found;
  for (const auto& [id, row] : holds) {
    if (request.has_reason() && row.reason != request.reason()) continue;
    REELFS_TRY(const auto inode, tree::get_inode(reader, id));
    if (is_timed(selection) && !search.matches(inode)) continue;
    found.push_back(id);
  }
  return found;
}

}  // namespace

HoldService::HoldService(const Clock& clock, Executor& index, Sessions& sessions, Changes& changes,
                         Leases& leases, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      sessions_(sessions),
      changes_(changes),
      leases_(leases),
      holds_(prometheus::BuildGauge()
                 .Name("reelfs_indexd_holds")
                 .Help("Files and directories on which there is a hold.")
                 .Register(registry)
                 .Add({})) {}

void HoldService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::add_holds, *this, &HoldService::add_holds);
  dispatcher.add(wire::Method::list_holds, *this, &HoldService::list_holds);
  dispatcher.add(wire::Method::release_holds, *this, &HoldService::release_holds);
}

Task<void> HoldService::start() {
  auto count = [](const View& view) { return tree::count_holds(view); };
  REELFS_CO_TRY(const auto holds, co_await index_.read(std::move(count)));
  holds_.Set(static_cast<double>(holds));
  co_return ok();
}

Result<std::string> HoldService::who(const Reader& reader, SessionId session,
                                     std::optional<std::uint32_t> uid) {
  REELFS_TRY(const auto row, reader.find(SessionKey{session}));
  const auto user = uid ? fmt::format("uid {}", *uid) : std::string("somebody");
  return row ? fmt::format("{} on {}", user, row->host) : user;
}

void HoldService::changed(const Changed& change) {
  holds_.Set(static_cast<double>(change.holds));
  if (change.reason) {
    log().info("hold put inode={} who=\"{}\" reason=\"{}\"", change.inode.value, change.who, *change.reason);
  } else {
    log().info("hold released inode={} who=\"{}\"", change.inode.value, change.who);
  }
}

template <class Change>
Task<std::uint64_t> HoldService::change_all(SessionId session, std::vector<InodeId> inodes, Change change) {
  struct Done {
    std::vector<InodeId> inodes;
    std::uint64_t holds = 0;
  };
  std::uint64_t total = 0;
  for (std::size_t begun = 0; begun < inodes.size(); begun += kChangedAtOnce) {
    REELFS_CO_TRY(sessions_.renew(session));
    const auto now = changes_.wall_ns();
    const auto some = std::span(inodes).subspan(begun, std::min(kChangedAtOnce, inodes.size() - begun));
    auto op = [&change, some, now](Transaction& txn) -> Result<Done> {
      Done done;
      for (const auto inode : some) {
        const auto changed = change(txn, inode, now);
        if (changed) done.inodes.push_back(inode);
        const bool is_gone = !changed && (changed.error().code() == Errc::stale_handle ||
                                          changed.error().code() == Errc::not_found ||
                                          changed.error().code() == Errc::no_attribute);
        if (!changed && !is_gone) return changed.error();
      }
      REELFS_TRY(done.holds, tree::count_holds(txn));
      return done;
    };
    REELFS_CO_TRY(auto done, co_await index_.run(std::move(op)));
    holds_.Set(static_cast<double>(done.holds));
    total += done.inodes.size();
    Touched touched{std::move(done.inodes), {}};
    co_await leases_.changed(session, touched);
  }
  co_return total;
}

Task<wire::AddHoldsReply> HoldService::add_holds(wire::AddHoldsRequest request) {
  const SessionId session{request.header().session()};
  const auto& selection = request.selection();
  std::vector<InodeId> inodes{InodeId{selection.inode()}};
  if (selection.inode() == 0) {
    const auto search = RecordingService::search(selection, sessions_, clock_);
    auto find = [&selection, &search](const View& view) { return find_recordings(view, selection, search); };
    REELFS_CO_TRY(auto found, co_await index_.read(std::move(find)));
    inodes = std::move(found);
  }
  auto put = [&request](Transaction& txn, InodeId inode, WallNs now) -> Result<void> {
    tree::SetXattrParams params;
    params.inode = inode;
    params.name = tree::kHoldXattr;
    params.value = request.reason();
    params.who = request.who();
    return tree::set_xattr(txn, params, now);
  };
  REELFS_CO_TRY(const auto holds, co_await change_all(session, std::move(inodes), std::move(put)));
  if (holds == 0) co_return Error(Errc::not_found, "there is nothing to hold");
  log().info("holds put holds={} inode={} channel={} who=\"{}\" reason=\"{}\"", holds, selection.inode(),
             selection.channel(), request.who(), request.reason());
  wire::AddHoldsReply reply;
  reply.set_holds(holds);
  co_return reply;
}

Task<wire::ReleaseHoldsReply> HoldService::release_holds(wire::ReleaseHoldsRequest request) {
  const SessionId session{request.header().session()};
  const auto& selection = request.selection();
  std::vector<InodeId> inodes{InodeId{selection.inode()}};
  if (selection.inode() == 0) {
    const auto search = RecordingService::search(selection, sessions_, clock_);
    auto find = [&request, &search](const View& view) { return find_holds(view, request, search); };
    REELFS_CO_TRY(auto found, co_await index_.read(std::move(find)));
    inodes = std::move(found);
  }
  auto release = [&request](Transaction& txn, InodeId inode, WallNs now) -> Result<void> {
    REELFS_TRY(const auto row, txn.find(HoldKey{inode}));
    const bool is_meant = row && (!request.has_reason() || row->reason == request.reason());
    if (!is_meant) return Error(Errc::no_attribute);
    return tree::remove_xattr(txn, inode, std::string(tree::kHoldXattr), now);
  };
  REELFS_CO_TRY(const auto holds, co_await change_all(session, std::move(inodes), std::move(release)));
  if (holds == 0) co_return Error(Errc::not_found, "there is no such hold");
  log().info("holds released holds={} inode={} channel={} who=\"{}\"", holds, selection.inode(),
             selection.channel(), request.who());
  wire::ReleaseHoldsReply reply;
  reply.set_holds(holds);
  co_return reply;
}

Task<wire::ListHoldsReply> HoldService::list_holds(wire::ListHoldsRequest request) {
  auto read = [&request](const View& view) -> Result<wire::ListHoldsReply> {
    const auto limit = std::clamp<std::size_t>(request.limit(), 1, kMaxListed);
    REELFS_TRY(const auto holds, holds_of(view, InodeId{request.channel()}, InodeId{request.after()}, limit));
    wire::ListHoldsReply reply;
    for (const auto& [id, row] : holds) {
      REELFS_TRY(const auto inode, tree::get_inode(view, id));
      REELFS_TRY(auto path, tree::path_of(view, id));
      auto& info = *reply.add_holds();
      info.set_inode(id.value);
      info.set_path(std::move(path));
      info.set_directory(inode.is_directory());
      info.set_reason(row.reason);
      info.set_who(row.who);
      info.set_since_ns(row.since_ns);
    }
    reply.set_end(holds.size() < limit);
    return reply;
  };
  co_return co_await index_.read(std::move(read));
}

}  // namespace reelfs::indexd
