#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "admin/box/supervisor.h"
#include "admin/command.h"

namespace reelfs::admin {
namespace {

struct DownOptions {
  std::string directory;
  bool purge = false;
};

Result<void> down(const DownOptions& options) {
  const auto directory = absolute_path(options.directory);
  if (options.purge && !Box::exists(directory)) {
    std::cout << "no box in " << directory.string() << ": nothing to remove\n";
    return ok();
  }
  REELFS_TRY(auto box, Box::load(directory, program_directory()));
  Supervisor supervisor(box, [](const std::string& line) { std::cout << line << std::endl; });
  REELFS_TRY(supervisor.stop());
  if (!options.purge) {
    std::cout << "The box is down; its data is kept. `reelctl box up --dir " << directory.string()
              << "` starts it again.\n";
    return ok();
  }
  REELFS_TRY(supervisor.purge());
  std::cout << "removed " << directory.string() << "\n";
  return ok();
}

}  // namespace

void add_box_down(CLI::App& box, Action& action) {
  auto* command = box.add_subcommand("down", "Unmount and stop everything");
  auto options = std::make_shared<DownOptions>();
  command->add_option("--dir", options->directory, "Directory of the box")->required();
  command->add_flag("--purge", options->purge, "Remove the box too, with everything recorded in it");
  command->callback([options, &action] { action = [options] { return down(*options); }; });
}

}  // namespace reelfs::admin
