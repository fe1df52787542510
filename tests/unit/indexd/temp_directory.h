#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/base/assert.h"

namespace reelfs::testing {

/// A directory of its own for a test, gone afterwards.
class TempDirectory {
 public:
  TempDirectory() {
    auto name = (std::filesystem::temp_directory_path() / "reelfs-test-XXXXXX").string();
    REELFS_ASSERT(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace reelfs::testing
