#include <CLI/CLI.hpp>

#include "admin/command.h"

namespace reelfs::admin {

void add_box(CLI::App& app, Action& action) {
  auto* box = app.add_subcommand("box", "A whole cluster on this machine, in one directory");
  box->require_subcommand(1);
  add_box_up(*box, action);
  add_box_status(*box, action);
  add_box_start(*box, action);
  add_box_down(*box, action);
}

}  // namespace reelfs::admin
