// reelctl mount: what is mounted on this machine. None of it waits for a process that does not answer.
#include <cerrno>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "admin/command.h"
#include "admin/output.h"
#include "common/mounts/bare_directory.h"
#include "common/mounts/mounts.h"
#include "common/mounts/serving_process.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

constexpr const char* kMountType = "fuse.reelfs";

struct MountOptions {
  std::string path;
  bool json = false;
};

Result<MountEntry> find(const MountOptions& options) {
  const auto path = absolute_path(options.path);
  auto mounted = mounted_at(path);
  if (!mounted || mounted->type != kMountType) {
    return Error(Errc::not_found,
                 "no reelfs is mounted at " + path.string() + ": `reelctl mount list` has those there are");
  }
  return std::move(*mounted);
}

std::optional<std::string> protection_beneath(const std::filesystem::path& point) {
  const auto beneath = BareDirectory::open(point);
  if (!beneath) return std::nullopt;
  const auto found = beneath.value().protection();
  if (!found) return std::nullopt;
  switch (found.value()) {
    case BareDirectory::Protection::none:
      return "none";
    case BareDirectory::Protection::mode:
      return "mode";
    case BareDirectory::Protection::immutable:
      return "immutable";
  }
  return std::nullopt;
}

template <class T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json();
}

template <class T>
std::string or_dash(const std::optional<T>& value) {
  return value ? json(*value).dump() : "-";
}

Result<void> list(const MountOptions& options) {
  json all = json::array();
  Table table({"MOUNT POINT", "CLUSTER FILE", "PID", "CALLS WAITING", "BENEATH"});
  for (const auto& mount : mounts()) {
    if (mount.type != kMountType) continue;
    const auto pid = serving_process(mount);
    const auto waiting = calls_waiting(mount);
    const auto beneath = protection_beneath(mount.point);
    all.push_back({{"mountpoint", mount.point.string()},
                   {"cluster", mount.source},
                   {"pid", or_null(pid)},
                   {"waiting", or_null(waiting)},
                   {"beneath", or_null(beneath)}});
    table.add({mount.point.string(), mount.source, or_dash(pid), or_dash(waiting), beneath.value_or("-")});
  }
  if (options.json) {
    print_json({{"mounts", all}});
  } else {
    table.print(std::cout);
  }
  return ok();
}

Result<void> abort(const MountOptions& options) {
  REELFS_TRY(const auto mount, find(options));
  REELFS_TRY(abort_connection(mount));
  if (options.json) {
    print_json({{"aborted", mount.point.string()}});
  } else {
    std::cout << "Every call to " << mount.point.string() << " ends with an error from now on. `umount "
              << mount.point.string() << "` takes it away; then it can be mounted again.\n";
  }
  return ok();
}

/// Becomes the reelfs that lies beside this program: the one that has been installed.
Result<void> upgrade(const MountOptions& options) {
  REELFS_TRY(const auto mount, find(options));
  const auto program = (program_directory() / "reelfs").string();
  ::execl(program.c_str(), "reelfs", "--takeover", mount.point.c_str(), nullptr);
  return from_errno(errno, program);
}

Result<void> protect(const MountOptions& options) {
  const auto path = absolute_path(options.path);
  REELFS_TRY(auto beneath, BareDirectory::open(path));
  REELFS_TRY(const auto empty, beneath.empty());
  REELFS_TRY(const auto protection, beneath.protect());
  const bool immutable = protection == BareDirectory::Protection::immutable;
  if (options.json) {
    print_json({{"path", path.string()}, {"beneath", immutable ? "immutable" : "mode"}, {"empty", empty}});
    return ok();
  }
  std::cout << (immutable
                    ? "Nothing can be made in " + path.string() + " while nothing is mounted there.\n"
                    : "The file system of " + path.string() +
                          " has no immutable directories. Its permissions were taken away instead, which "
                          "does not keep root out.\n");
  if (!empty) std::cout << "It is not empty: what is in it takes space, and cannot be seen while mounted.\n";
  return ok();
}

Result<void> unprotect(const MountOptions& options) {
  const auto path = absolute_path(options.path);
  REELFS_TRY(auto beneath, BareDirectory::open(path));
  REELFS_TRY(beneath.unprotect());
  if (options.json) print_json({{"path", path.string()}, {"beneath", "none"}});
  return ok();
}

void add(CLI::App& parent, const char* name, const char* help, Result<void> (*answer)(const MountOptions&),
         const char* path_help, Action& action) {
  auto* command = parent.add_subcommand(name, help);
  auto options = std::make_shared<MountOptions>();
  if (path_help != nullptr)
    command->add_option("MOUNTPOINT", options->path, path_help)->required()->check(check_path);
  if (answer != upgrade) command->add_flag("--json", options->json, "Answer in JSON");
  command->callback([options, answer, &action] { action = [options, answer] { return answer(*options); }; });
}

}  // namespace

void add_mount(CLI::App& app, Action& action) {
  auto* mount = app.add_subcommand("mount", "What is mounted on this machine");
  mount->require_subcommand(1);
  add(*mount, "list", "Each mount, the process that serves it, and what is waiting in it", list, nullptr,
      action);
  add(*mount, "abort", "Free whoever waits in a mount that does not answer, for ever", abort,
      "Where it is mounted", action);
  add(*mount, "upgrade", "Let the installed reelfs take over from the one that serves a mount", upgrade,
      "Where it is mounted", action);
  add(*mount, "protect", "Keep recorders out of the directory beneath while nothing is mounted there",
      protect, "The directory, mounted or not", action);
  add(*mount, "unprotect", "Make it an ordinary directory again", unprotect, "The directory, mounted or not",
      action);
}

}  // namespace reelfs::admin
