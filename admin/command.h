#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>

#include <sys/stat.h>

#include "admin/connection.h"
#include "common/base/result.h"

namespace CLI {
class App;
}

namespace reelfs::admin {

class Box;

/// What the chosen subcommand does, set while the command line is read and carried out afterwards.
using Action = std::function<Result<void>()>;

/// Which cluster a subcommand speaks to, and how it answers.
struct ClusterOptions {
  std::string cluster_file;
  std::string box_directory;
  unsigned timeout_s = 30;
  bool json = false;

  /// Adds --cluster, --dir, --timeout and --json.
  void add_to(CLI::App& command);
  /// @errors not_found (no cluster named, and what to do), bad_config, unavailable, timed_out
  Result<std::unique_ptr<Connection>> connect() const;
};

/// Adds a subcommand that takes nothing but ClusterOptions.
void add_query(CLI::App& parent, const char* name, const char* help,
               Result<void> (*answer)(const ClusterOptions&), Action& action);

/// A box and its processes as `box status --json` gives them.
void print_box(const Box& box);
/// Where a command on a box says what it does: standard output, unless that is for its answer.
std::ostream& progress(bool json);

/// The directory that this program was started from, where the others lie too.
std::filesystem::path program_directory();
/// For CLI::Option::check(). @return what is wrong with a path that was given; empty: nothing
std::string check_path(const std::string& path);
/// Absolute, with links resolved except in the last part, which may be a mount that no longer answers.
/// @pre it was checked
std::filesystem::path absolute_path(const std::string& path);

/// What is at a path on one of our mounts: elsewhere an inode number means nothing to the cluster.
/// @errors not_found, invalid (not on a mount), …
Result<struct stat> stat_on_mount(const std::string& path);

void add_box(CLI::App& app, Action& action);
void add_box_up(CLI::App& box, Action& action);
void add_box_start(CLI::App& box, Action& action);
void add_box_status(CLI::App& box, Action& action);
void add_box_down(CLI::App& box, Action& action);
void add_status(CLI::App& app, Action& action);
void add_channel(CLI::App& app, Action& action);
void add_node(CLI::App& app, Action& action);
void add_node_show(CLI::App& node, Action& action);
void add_node_drain(CLI::App& node, Action& action);
void add_device(CLI::App& app, Action& action);
void add_segment(CLI::App& app, Action& action);
void add_mount(CLI::App& app, Action& action);
void add_lock(CLI::App& app, Action& action);
void add_hold(CLI::App& app, Action& action);
void add_find(CLI::App& app, Action& action);
void add_gaps(CLI::App& app, Action& action);
void add_repair(CLI::App& app, Action& action);
void add_scrub(CLI::App& app, Action& action);
void add_index(CLI::App& app, Action& action);

}  // namespace reelfs::admin
