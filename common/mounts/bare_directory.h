#pragma once

#include <filesystem>

#include "common/base/result.h"

namespace reelfs {

/// The directory beneath a mount, reached also while something is mounted there.
///
/// While nothing is mounted there, a recorder's files would go to the disk beneath, and fill it. Protected,
/// the directory takes none; mounting on it works as ever.
class BareDirectory {
 public:
  enum class Protection {
    none,
    mode,       // nobody but root may enter: the file system beneath has no immutable directories
    immutable,  // as chattr +i: nobody can make anything in it, nor remove it
  };

  /// @errors not_found, not_directory, not_permitted (something is mounted, and we are not root)
  static Result<BareDirectory> open(const std::filesystem::path& mountpoint);
  ~BareDirectory();
  BareDirectory(BareDirectory&& other) noexcept;
  BareDirectory(const BareDirectory&) = delete;
  BareDirectory& operator=(const BareDirectory&) = delete;
  BareDirectory& operator=(BareDirectory&&) = delete;

  Result<bool> empty() const;
  Result<Protection> protection() const;
  /// Repeating it changes nothing. @return what could be had
  Result<Protection> protect();
  /// Permissions that protect() took away become those of a new directory (0755).
  Result<void> unprotect();

 private:
  explicit BareDirectory(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace reelfs
