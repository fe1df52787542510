#pragma once

#include <string>
#include <unordered_set>

#include "common/observe/log.h"

namespace reelfs::fuse {

/// Says in the log, once for each name, why a file at the root was refused: a recorder that is set up wrongly
/// tries the same name for ever. The loop's.
class RefusedNames {
 public:
  void note(const std::string& name) {
    if (names_.size() >= kMax || !names_.insert(name).second) return;
    logger("fuse").info(
        "file at the root refused name={} reason=\"only channels live at the root: make a directory there, "
        "with mkdir, and put the file into it\"",
        name);
  }

 private:
  static constexpr std::size_t kMax = 1024;
  std::unordered_set<std::string> names_;
};

}  // namespace reelfs::fuse
