#include "admin/command.h"

#include <cerrno>
#include <cstdlib>

#include <CLI/CLI.hpp>

#include "common/mounts/mounts.h"

namespace reelfs::admin {

namespace fs = std::filesystem;

void ClusterOptions::add_to(CLI::App& command) {
  auto* file = command.add_option("--cluster", cluster_file, "Cluster file (default: $REELFS_CLUSTER)");
  command.add_option("--dir", box_directory, "Directory of a one-box cluster, instead of --cluster")
      ->excludes(file);
  command.add_option("--timeout", timeout_s, "Seconds to wait for the index server")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  command.add_flag("--json", json, "Answer in JSON");
}

Result<std::unique_ptr<Connection>> ClusterOptions::connect() const {
  fs::path path = cluster_file;
  if (!box_directory.empty()) path = fs::path(box_directory) / "cluster.toml";
  if (const char* named = std::getenv("REELFS_CLUSTER"); path.empty() && named != nullptr) path = named;
  if (path.empty()) {
    return Error(Errc::not_found,
                 "which cluster? Give --cluster FILE, or --dir DIR of a box, or set REELFS_CLUSTER to the "
                 "cluster file");
  }
  std::error_code failed;
  if (!box_directory.empty() && !fs::exists(path, failed)) {
    return Error(Errc::not_found, "no box in " + box_directory + ": make one with `reelctl box up --dir " +
                                      box_directory + "`");
  }
  REELFS_TRY(auto config, client::ClusterConfig::load(path));
  auto connection = Connection::open(config, std::chrono::seconds(timeout_s));
  if (connection.has_error() && is_retryable(connection.error().code())) {
    const auto advice = box_directory.empty() ? std::string("is indexd running there?")
                                              : "see `reelctl box status --dir " + box_directory + "`";
    return Error(connection.error().code(), "no index server of " + path.string() +
                                                " answers: " + connection.error().message() + "; " + advice);
  }
  return connection;
}

void add_query(CLI::App& parent, const char* name, const char* help,
               Result<void> (*answer)(const ClusterOptions&), Action& action) {
  auto* command = parent.add_subcommand(name, help);
  auto options = std::make_shared<ClusterOptions>();
  options->add_to(*command);
  command->callback([options, answer, &action] { action = [options, answer] { return answer(*options); }; });
}

fs::path program_directory() {
  std::error_code failed;
  return fs::read_symlink("/proc/self/exe", failed).parent_path();
}

std::string check_path(const std::string& path) { return path.empty() ? "the path is empty" : ""; }

fs::path absolute_path(const std::string& path) {
  auto whole = fs::absolute(path).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();
  std::error_code failed;
  const auto parent = fs::weakly_canonical(whole.parent_path(), failed);
  return failed ? whole : parent / whole.filename();
}

Result<struct stat> stat_on_mount(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return from_errno(errno, path);
  std::error_code failed;
  auto place = fs::canonical(path, failed);
  if (failed) return from_errno(failed.value(), path);
  for (; place != place.root_path(); place = place.parent_path()) {
    if (const auto mount = mounted_at(place)) {
      if (mount->type == "fuse.reelfs") return found;
      break;
    }
  }
  return Error(Errc::invalid, path + " is not on a reelfs mount");
}

}  // namespace reelfs::admin
