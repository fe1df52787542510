#include "indexd/service/name_service.h"

#include <algorithm>
#include <optional>

#include <sys/stat.h>

#include "indexd/service/convert.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint32_t kMaxDirectoryPage = 1024;

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
  auto find = [&request](const View& view) {
    return tree::lookup(view, InodeId{request.parent()}, request.name());
  };
  REELFS_CO_TRY(const auto inode, co_await index_.peek(std::move(find)));
  co_return attributes_reply(inode);
}

Task<rpc::Response> NameService::create(wire::CreateRequest request) {
  tree::CreateParams params;
  params.parent = InodeId{request.parent()};
  params.name = request.name();
  params.mode = request.mode();
  params.uid = request.uid();
  params.gid = request.gid();
  params.rdev = request.rdev();
  params.symlink_target = request.symlink_target();
  params.exclusive = request.exclusive();
  params.channel_copies = options_.copies;
  auto op = [&params](Transaction& txn, WallNs now) -> Result<wire::AttributesReply> {
    REELFS_TRY(const auto inode, tree::create(txn, params, now));
    return attributes_reply(inode);
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered && request.open()) {
    // Nothing was awaited since the answer came, and answers come in the order of the changes: whoever takes
    // the last name away is told after this, and finds the inode open.
    wire::AttributesReply reply;
    if (!reply.ParseFromString(answered.value()))
      co_return Error(Errc::corrupt, "a remembered answer does not parse");
    REELFS_CO_TRY(
        sessions_.opened(SessionId{request.header().session()}, InodeId{reply.attributes().inode()}));
  }
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> NameService::link(wire::LinkRequest request) {
  const tree::LinkParams params{InodeId{request.inode()}, InodeId{request.parent()}, request.name()};
  auto op = [&params](Transaction& txn, WallNs now) -> Result<wire::AttributesReply> {
    REELFS_TRY(const auto inode, tree::link(txn, params, now));
    return attributes_reply(inode);
  };
  REELFS_CO_TRY(auto message, co_await changes_.once(request.header(), std::move(op)));
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> NameService::unlink(wire::UnlinkRequest request) {
  const tree::UnlinkParams params{InodeId{request.parent()}, request.name(), request.directory()};
  std::optional<InodeId> orphan;
  auto op = [&params, &orphan](Transaction& txn, WallNs now) -> Result<wire::UnlinkReply> {
    REELFS_TRY(const auto inode, tree::unlink(txn, params, now));
    if (inode.row.nlink == 0) orphan = inode.id;
    wire::UnlinkReply reply;
    to_wire(inode, *reply.mutable_attributes());
    return reply;
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered && orphan) sessions_.orphaned(*orphan);
  REELFS_CO_TRY(auto message, std::move(answered));
  co_return Changes::response(std::move(message));
}

Task<rpc::Response> NameService::rename(wire::RenameRequest request) {
  const tree::RenameParams params{InodeId{request.parent()}, request.name(), InodeId{request.new_parent()},
                                  request.new_name(), request.flags()};
  std::optional<InodeId> orphan;
  auto op = [&params, &orphan](Transaction& txn, WallNs now) -> Result<wire::Empty> {
    REELFS_TRY(const auto renamed, tree::rename(txn, params, now));
    if (renamed.replaced && renamed.replaced->row.nlink == 0) orphan = renamed.replaced->id;
    return wire::Empty();
  };
  auto answered = co_await changes_.once(request.header(), std::move(op));
  if (answered && orphan) sessions_.orphaned(*orphan);
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
  auto read = [&request](const View& view) -> Result<wire::ReadDirectoryReply> {
    const auto limit = std::clamp<std::uint32_t>(request.limit(), 1, kMaxDirectoryPage);
    REELFS_TRY(const auto page, tree::read_directory(view, InodeId{request.inode()}, request.after(), limit));
    wire::ReadDirectoryReply reply;
    for (const auto& entry : page.entries) {
      auto& described = *reply.add_entries();
      described.set_name(entry.name);
      described.set_cookie(entry.cookie);
      to_wire(entry.inode, *described.mutable_attributes());
    }
    reply.set_end(page.end);
    return reply;
  };
  co_return co_await index_.read(std::move(read));
}

}  // namespace reelfs::indexd
