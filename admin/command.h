#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "admin/connection.h"
#include "client/cluster_config.h"
#include "common/base/result.h"

namespace CLI {
class App;
}

namespace reelfs::admin {

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

/// The directory that this program was started from, where the others lie too.
std::filesystem::path program_directory();
/// Absolute, with links resolved except in the last part, which may be a mount that no longer answers.
std::filesystem::path absolute_path(const std::string& path);

void add_box(CLI::App& app, Action& action);
void add_box_up(CLI::App& box, Action& action);
void add_box_start(CLI::App& box, Action& action);
void add_box_status(CLI::App& box, Action& action);
void add_box_down(CLI::App& box, Action& action);
void add_status(CLI::App& app, Action& action);
void add_channel(CLI::App& app, Action& action);
void add_node(CLI::App& app, Action& action);
void add_device(CLI::App& app, Action& action);
void add_segment(CLI::App& app, Action& action);

}  // namespace reelfs::admin
