#include "indexd/service/name_service.h"

#include <algorithm>
#include <optional>

#include <sys/stat.h>

#include "indexd/service/convert.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint32_t kMaxDirectoryPage = 1024;
/// Times that a name is looked up because what it led to was removed meanwhile: each takes another rename.
constexpr int kMaxLooks = 8;

}  // namespace

void NameService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::lookup, *this, &NameService::lookup);
  dispatcher.add(wire::Method::create, *this, &NameService::create);
  dispatcher.add(wire::Method::link, *this, &NameService::link);
  dispatcher.add(wire::Method::unlink, *this, &NameService::unlink);
  dispatcher.add(wire::Method::rename, *this, &NameService::rename);
  dispatcher.add(wire::Method::read_link, *this, &NameService::read_link);
  dispatcher.add(wire::Method::read_directory, *this, &NameService::read_directory);
}

Task<wire::AttributesReply> NameService::lookup(wire::LookupRequest request) {
  const InodeId parent{request.parent()};
  const SessionId session{request.session()};
  auto mark = leases_.mark();
  const auto find = [&request, parent](const View& view) {
    return tree::lookup(view, parent, request.name());
  };
  auto found = co_await index_.peek(find);
  for (int looks = 1; found && sessions_.is_orphan(found.value().id) && looks < kMaxLooks; ++looks) {
    mark = leases_.mark();
    found = co_await index_.peek(find);
  }
  if (found) {
    auto reply = attributes_reply(found.value());
    reply.set_lease_ms(leases_.grant(session, {parent, found.value().id}, mark));
    if (reply.lease_ms() == 0) sessions_.told(found.value().id);
    co_return reply;
  }
  wire::AttributesReply absent;
  if (found.error().code() == Errc::not_found) absent.set_lease_ms(leases_.grant(session, {parent}, mark));
  if (absent.lease_ms() == 0) co_return found.error();
  co_return absent;
}

Task<rpc::Response> NameService::create(wire::CreateRequest request) {
  const SessionId session{request.header().session()};
  tree::CreateParams params;
  params.parent = InodeId{request.parent()};
  params.name = request.name();
  params.mode = request.mode();
  params.uid = request.uid();
  params.gid = request.gid();
  params.rdev = request.rdev();
  params.symlink_target = request.symlink_target();
  params.exclusive = request.exclusive();
  params.umask = request.umask();
  params.channel_copies = options_.copies;
  auto op = [&params](Transaction& txn, WallNs now) -> Result<wire::AttributesReply> {
    REELFS_TRY(const auto inode, tree::create(txn, params, now));
    auto reply = attributes_reply(inode);
    REELFS_TRY(const auto hold, tree::held_by(txn, inode.id));
    reply.set_held(hold.has_value());
    return reply;
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered && request.open()) {
    // Nothing was awaited since the answer came, and answers come in the order of the changes: whoever takes
    // the last name away is told after this, and finds the inode open.
    wire::AttributesReply reply;
    if (!reply.ParseFromString(answered.value()))
      co_return Error(Errc::corrupt, "a remembered answer does not parse");
    REELFS_CO_TRY(sessions_.opened(session, InodeId{reply.attributes().inode()}));
  }
  Touched touched{{params.parent}, {{params.parent, params.name}}};
  if (answered) co_await leases_.changed(session, touched);
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> NameService::link(wire::LinkRequest request) {
  const SessionId session{request.header().session()};
  const tree::LinkParams params{InodeId{request.inode()}, InodeId{request.parent()}, request.name()};
  auto op = [&params](Transaction& txn, WallNs now) -> Result<wire::AttributesReply> {
    REELFS_TRY(const auto inode, tree::link(txn, params, now));
    return attributes_reply(inode);
  };
  REELFS_CO_TRY(auto message, co_await changes_.once(request.header(), std::move(op)));
  Touched touched{{params.inode, params.parent}, {{params.parent, params.name}}};
  co_await leases_.changed(session, touched);
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> NameService::unlink(wire::UnlinkRequest request) {
  const SessionId session{request.header().session()};
  const tree::UnlinkParams params{InodeId{request.parent()}, request.name(), request.directory()};
  std::optional<InodeId> orphan;
  Touched touched{{params.parent}, {{params.parent, params.name}}};
  auto op = [&params, &orphan, &touched](Transaction& txn, WallNs now) -> Result<wire::UnlinkReply> {
    REELFS_TRY(const auto inode, tree::unlink(txn, params, now));
    if (inode.row.nlink == 0) orphan = inode.id;
    touched.inodes.push_back(inode.id);
    wire::UnlinkReply reply;
    to_wire(inode, *reply.mutable_attributes());
    return reply;
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered && orphan) orphaned(*orphan, session, request.keep());
  if (answered) co_await leases_.changed(session, touched);
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

void NameService::orphaned(InodeId inode, SessionId by, bool keep) {
  const bool told_others = leases_.is_known_to_others(inode, by) || sessions_.was_told(inode);
  sessions_.orphaned(inode, {.keeper = keep ? by : SessionId(), .told_others = told_others});
}

Task<rpc::Response> NameService::rename(wire::RenameRequest request) {
  const SessionId session{request.header().session()};
  const tree::RenameParams params{InodeId{request.parent()}, request.name(), InodeId{request.new_parent()},
                                  request.new_name(), request.flags()};
  std::optional<InodeId> orphan;
  Touched touched{{params.parent, params.new_parent},
                  {{params.parent, params.name}, {params.new_parent, params.new_name}}};
  auto op = [&params, &orphan, &touched](Transaction& txn, WallNs now) -> Result<wire::RenameReply> {
    REELFS_TRY(const auto renamed, tree::rename(txn, params, now));
    touched.inodes.push_back(renamed.moved.id);
    for (const auto& other : {renamed.replaced, renamed.exchanged}) {
      if (other) touched.inodes.push_back(other->id);
    }
    wire::RenameReply reply;
    if (renamed.replaced) {
      if (renamed.replaced->row.nlink == 0) orphan = renamed.replaced->id;
      to_wire(*renamed.replaced, *reply.mutable_replaced());
    }
    return reply;
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered && orphan) orphaned(*orphan, session, request.keep());
  if (answered) co_await leases_.changed(session, touched);
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

Task<wire::ReadLinkReply> NameService::read_link(wire::ReadLinkRequest request) {
  auto read = [inode = InodeId{request.inode()}](const View& view) { return tree::read_link(view, inode); };
  REELFS_CO_TRY(auto target, co_await index_.peek(std::move(read)));
  wire::ReadLinkReply reply;
  reply.set_target(std::move(target));
  co_return reply;
}

Task<wire::ReadDirectoryReply> NameService::read_directory(wire::ReadDirectoryRequest request) {
  const InodeId directory{request.inode()};
  const auto mark = leases_.mark();
  std::vector<InodeId> read_of{directory};
  auto read = [&request, &read_of, directory](const View& view) -> Result<wire::ReadDirectoryReply> {
    const auto limit = std::clamp<std::uint32_t>(request.limit(), 1, kMaxDirectoryPage);
    REELFS_TRY(const auto page, tree::read_directory(view, directory, request.after(), limit));
    wire::ReadDirectoryReply reply;
    for (const auto& entry : page.entries) {
      auto& described = *reply.add_entries();
      described.set_name(entry.name);
      described.set_cookie(entry.cookie);
      to_wire(entry.inode, *described.mutable_attributes());
      read_of.push_back(entry.inode.id);
    }
    reply.set_end(page.end);
    return reply;
  };
  REELFS_CO_TRY(auto reply, co_await index_.read(std::move(read)));
  reply.set_lease_ms(leases_.grant(SessionId{request.session()}, read_of, mark));
  co_return reply;
}

}  // namespace reelfs::indexd
