#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "admin/box/supervisor.h"
#include "admin/command.h"

namespace reelfs::admin {
namespace {

struct StartOptions {
  std::string directory;
  std::vector<std::string> names;
  bool json = false;
};

Result<void> start(const StartOptions& options) {
  REELFS_TRY(auto box, Box::load(absolute_path(options.directory), program_directory()));
  bool said = false;
  Supervisor supervisor(box, [&](const std::string& line) {
    said = true;
    progress(options.json) << line << std::endl;
  });
  REELFS_TRY(supervisor.start(options.names));
  if (options.json) {
    print_box(box);
    return ok();
  }
  if (!said) std::cout << "everything runs already\n";
  return ok();
}

}  // namespace

void add_box_start(CLI::App& box, Action& action) {
  auto* command =
      box.add_subcommand("start", "Start again what has stopped, and wait until it does its work");
  auto options = std::make_shared<StartOptions>();
  command->add_option("--dir", options->directory, "Directory of the box")->required()->check(check_path);
  command->add_option("NAME", options->names, "Processes as `box status` names them (default: all)");
  command->add_flag("--json", options->json, "Answer as `box status --json` does");
  command->callback([options, &action] { action = [options] { return start(*options); }; });
}

}  // namespace reelfs::admin
