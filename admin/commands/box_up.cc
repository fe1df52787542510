#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "admin/box/box.h"
#include "admin/box/supervisor.h"
#include "admin/command.h"
#include "admin/output.h"
#include "common/mounts/mounts.h"

namespace reelfs::admin {
namespace {

namespace fs = std::filesystem;

struct UpOptions {
  std::string directory;
  std::string mount;
  BoxOptions box;
  bool json = false;
  CLI::App* command = nullptr;

  bool given(const char* option) const { return command->count(option) > 0; }
};

// What was asked for on the command line must be what the box is; what was not asked for may be anything.
Result<void> compare(const UpOptions& asked, const BoxOptions& is) {
  const auto differs = [&asked](const char* option, auto wanted, auto real) -> Result<void> {
    if (!asked.given(option) || wanted == real) return ok();
    return Error(Errc::exists,
                 fmt::format("the box in {} was made with {} {}: leave the option out, or choose another "
                             "--dir, or remove the box with `reelctl box down --purge --dir {}`",
                             asked.directory, option, real, asked.directory));
  };
  REELFS_TRY(differs("--nodes", asked.box.nodes, is.nodes));
  REELFS_TRY(differs("--workers", asked.box.workers, is.workers));
  REELFS_TRY(differs("--devices", asked.box.devices, is.devices));
  REELFS_TRY(differs("--device-size", asked.box.device_bytes, is.device_bytes));
  REELFS_TRY(differs("--indexes", asked.box.indexes, is.indexes));
  REELFS_TRY(differs("--arbiters", asked.box.arbiters, is.arbiters));
  REELFS_TRY(differs("--copies", asked.box.copies, is.copies));
  REELFS_TRY(differs("--journal-copies", asked.box.journal_copies, is.journal_copies));
  REELFS_TRY(differs("--block-size", asked.box.block_bytes, is.block_bytes));
  return differs("--tls", asked.box.tls, is.tls);
}

Result<Box> make_or_load(const UpOptions& asked, const fs::path& directory) {
  if (!Box::exists(directory)) return Box::create(directory, asked.box, program_directory());
  REELFS_TRY(auto box, Box::load(directory, program_directory()));
  REELFS_TRY(compare(asked, box.options()));
  const auto& is = box.options().mount;
  if (!asked.box.mount.empty() && asked.box.mount != is) {
    if (!is.empty() && mounted_at(is)) {
      return Error(
          Errc::busy,
          fmt::format("the box is mounted at {}: `umount {}` first, or mount it there too with "
                      "`reelfs {} -o cluster={}`",
                      is.string(), is.string(), asked.box.mount.string(), box.cluster_file().string()));
    }
    REELFS_TRY(box.set_mount(asked.box.mount));
  }
  return box;
}

void print_next_steps(const Box& box) {
  const auto directory = box.directory().string();
  std::cout << "\nThe box in " << directory << " is up: " << box.options().nodes << " nodes, "
            << box.options().copies << " copies of everything.\n";
  if (const auto& mount = box.options().mount; !mount.empty()) {
    std::cout << "  mkdir " << mount.string() << "/cam1          make a channel, then record into it\n";
  } else {
    std::cout << "  reelfs MNT -o cluster=" << box.cluster_file().string() << "   mount it\n";
  }
  std::cout << "  reelctl box status --dir " << directory << "   what runs\n"
            << "  reelctl status --dir " << directory << "       how the cluster is\n"
            << "  reelctl box down --dir " << directory << "     stop it; --purge removes it too\n";
}

Result<void> up(UpOptions asked) {
  const auto directory = absolute_path(asked.directory);
  if (!asked.mount.empty()) asked.box.mount = absolute_path(asked.mount);
  REELFS_TRY(check(asked.box));
  REELFS_TRY(auto box, make_or_load(asked, directory));
  Supervisor supervisor(box, [&](const std::string& line) { progress(asked.json) << line << std::endl; });
  REELFS_TRY(supervisor.start({}));
  if (asked.json) {
    print_box(box);
  } else {
    print_next_steps(box);
  }
  return ok();
}

}  // namespace

void add_box_up(CLI::App& box, Action& action) {
  auto* command =
      box.add_subcommand("up", "Make a box where there is none, start what does not run, mount it");
  auto options = std::make_shared<UpOptions>();
  options->command = command;
  auto& what = options->box;
  const auto size = CLI::AsSizeValue(false);
  command->add_option("--dir", options->directory, "Directory of the box")->required()->check(check_path);
  command->add_option("--mount", options->mount, "Where to mount it; not mounted if left out");
  command->add_option("--nodes", what.nodes, "Storage nodes")->capture_default_str();
  command->add_option("--workers", what.workers, "Worker processes of each node")->capture_default_str();
  command->add_option("--devices", what.devices, "Devices of each node")->capture_default_str();
  command->add_option("--device-size", what.device_bytes, "Size of each device")
      ->transform(size)
      ->default_str("4G");
  command->add_option("--indexes", what.indexes, "Index servers")->capture_default_str();
  command->add_option("--arbiters", what.arbiters, "Arbiter partitions")->capture_default_str();
  command->add_option("--copies", what.copies, "Copies of everything stored, 1 to 4")->capture_default_str();
  command
      ->add_option("--journal-copies", what.journal_copies,
                   "Copies of the index's journal on the nodes, where there are as many; 0: none")
      ->capture_default_str();
  command->add_option("--block-size", what.block_bytes, "A power of two from 4M to 1G")
      ->transform(size)
      ->default_str("64M");
  command->add_flag("--tls", what.tls,
                    "Encrypt and authenticate all connections, with a certificate authority of its own");
  command->add_flag("--json", options->json, "Answer as `box status --json` does");
  command->callback([options, &action] { action = [options] { return up(*options); }; });
}

}  // namespace reelfs::admin
