#include <iostream>
#include <memory>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/command.h"
#include "admin/output.h"
#include "common/locks/lock_ranges.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

const char* kind_name(const wire::LockInfo& info) {
  return info.lock().kind() == wire::LOCK_KIND_FLOCK ? "flock" : "fcntl";
}
const char* type_name(const wire::LockInfo& info) {
  return info.lock().type() == wire::LOCK_TYPE_WRITE ? "write" : "read";
}
bool is_to_end(const wire::LockInfo& info) { return info.lock().last() == kLastByte; }

Result<std::vector<wire::LockInfo>> list_locks(Connection& connection) {
  std::vector<wire::LockInfo> all;
  for (std::uint64_t after = 0;;) {
    wire::ListLocksRequest request;
    request.set_after(after);
    request.set_limit(1024);
    REELFS_TRY(auto reply,
               connection.call<wire::ListLocksReply>(wire::Method::list_locks, std::move(request)));
    for (auto& info : *reply.mutable_locks()) all.push_back(std::move(info));
    if (reply.end()) return all;
    after = all.back().lock().inode();
  }
}

json describe(const wire::LockInfo& info) {
  const auto& lock = info.lock();
  return {{"path", info.path()},
          {"inode", lock.inode()},
          {"kind", kind_name(info)},
          {"type", type_name(info)},
          {"state", info.waiting() ? "waiting" : "held"},
          {"first", lock.first()},
          {"last", is_to_end(info) ? json() : json(lock.last())},
          {"session", info.session()},
          {"host", info.host()},
          {"purpose", info.purpose()},
          {"pid", lock.pid()}};
}

Result<void> list(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(const auto locks, list_locks(*connection));
  if (options.json) {
    json all = json::array();
    for (const auto& info : locks) all.push_back(describe(info));
    print_json({{"locks", all}});
    return ok();
  }
  Table table({"FILE", "INODE", "KIND", "TYPE", "STATE", "BYTES", "SESSION", "MOUNT", "PID"});
  for (const auto& info : locks) {
    const auto& lock = info.lock();
    table.add({info.path().empty() ? "(deleted, still open)" : info.path(), std::to_string(lock.inode()),
               kind_name(info), type_name(info), info.waiting() ? "waiting" : "held",
               fmt::format("{}-{}", lock.first(), is_to_end(info) ? "end" : std::to_string(lock.last())),
               std::to_string(info.session()), fmt::format("{}: {}", info.host(), info.purpose()),
               std::to_string(lock.pid())});
  }
  table.print(std::cout);
  return ok();
}

}  // namespace

void add_lock(CLI::App& app, Action& action) {
  auto* lock = app.add_subcommand("lock", "Locks that programs hold on files, or wait for");
  lock->require_subcommand(1);
  add_query(*lock, "list", "Every lock: file, kind, bytes, and which process of which mount has it", list,
            action);
}

}  // namespace reelfs::admin
