#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "admin/box/supervisor.h"
#include "admin/command.h"
#include "admin/output.h"

namespace reelfs::admin {
namespace {

struct DownOptions {
  std::string directory;
  bool purge = false;
  bool json = false;
};

// With --purge: what was removed, null where there was no box.
void print_removed(const DownOptions& options, const std::filesystem::path& directory, bool there_was_one) {
  if (options.json) {
    print_json({{"removed", there_was_one ? nlohmann::json(directory.string()) : nlohmann::json()}});
  } else if (there_was_one) {
    std::cout << "removed " << directory.string() << "\n";
  } else {
    std::cout << "no box in " << directory.string() << ": nothing to remove\n";
  }
}

Result<void> down(const DownOptions& options) {
  const auto directory = absolute_path(options.directory);
  if (options.purge && !Box::exists(directory)) {
    print_removed(options, directory, false);
    return ok();
  }
  REELFS_TRY(auto box, Box::load(directory, program_directory()));
  Supervisor supervisor(box, [&](const std::string& line) { progress(options.json) << line << std::endl; });
  REELFS_TRY(supervisor.stop());
  if (!options.purge && options.json) {
    print_box(box);
    return ok();
  }
  if (!options.purge) {
    std::cout << "The box is down; its data is kept. `reelctl box up --dir " << directory.string()
              << "` starts it again.\n";
    return ok();
  }
  REELFS_TRY(supervisor.purge());
  print_removed(options, directory, true);
  return ok();
}

}  // namespace

void add_box_down(CLI::App& box, Action& action) {
  auto* command = box.add_subcommand("down", "Unmount and stop everything");
  auto options = std::make_shared<DownOptions>();
  command->add_option("--dir", options->directory, "Directory of the box")->required()->check(check_path);
  command->add_flag("--purge", options->purge, "Remove the box too, with everything recorded in it");
  command->add_flag("--json", options->json, "Answer as `box status --json` does, or with what was removed");
  command->callback([options, &action] { action = [options] { return down(*options); }; });
}

}  // namespace reelfs::admin
