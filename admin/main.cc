// reelctl: makes, looks at and runs a cluster.
#include <csignal>
#include <iostream>

#include <CLI/CLI.hpp>

#include "admin/command.h"
#include "common/observe/log.h"

int main(int argc, char** argv) {
  using namespace reelfs::admin;
  CLI::App app("Makes, looks at and runs a reelfs cluster.", "reelctl");
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Print the help of every subcommand");
  app.set_version_flag("--version", "reelctl " REELFS_VERSION);
  app.footer(
      "`reelctl SUBCOMMAND --help` tells more. `reelctl box up --dir DIR --mount MNT` starts a cluster on "
      "this machine.");
  Action action;
  add_box(app, action);
  add_status(app, action);
  add_channel(app, action);
  add_node(app, action);
  add_device(app, action);
  add_segment(app, action);
  add_mount(app, action);
  add_lock(app, action);
  add_hold(app, action);
  add_find(app, action);
  add_gaps(app, action);
  add_repair(app, action);
  add_scrub(app, action);
  add_index(app, action);
  CLI11_PARSE(app, argc, argv);

  reelfs::LogConfig log;
  log.level = "error";  // what a command has to say, it says itself
  if (auto ready = reelfs::init_logging(log, "reelctl"); ready.has_error()) {
    std::cerr << "reelctl: " << ready.error().describe() << '\n';
    return 1;
  }
  std::signal(SIGPIPE, SIG_IGN);
  const auto done = action();
  if (done.has_error()) {
    const auto& error = done.error();
    std::cerr << "reelctl: " << (error.message().empty() ? error.describe() : error.message()) << '\n';
    return 1;
  }
  return std::cout.flush() ? 0 : 1;
}
