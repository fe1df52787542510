#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "common/base/clock.h"
#include "fuse/session/fuse_api.h"
#include "fuse/views/content.h"

namespace reelfs::fuse {

/// What was made for each open directory and file of a view. Of a directory that the kernel has open from an
/// earlier process nothing is known until it is asked for.
class OpenedViews {
 public:
  explicit OpenedViews(const Clock& clock)
      : last_number_(static_cast<std::uint64_t>(clock.now().time_since_epoch().count())) {}

  /// For fuse_file_info::fh: a number that no earlier process has given, as that was before. Any thread.
  std::uint64_t new_number() { return ++last_number_; }

  /// A handle as the kernel names it.
  struct Handle {
    fuse_ino_t node = 0;
    std::uint64_t number = 0;
    friend auto operator<=>(const Handle&, const Handle&) = default;
  };

  /// The loop's.
  template <class Content>
  class Of {
   public:
    using Shared = std::shared_ptr<const Content>;
    Shared find(const Handle& handle) const {
      const auto found = contents_.find(handle);
      return found == contents_.end() ? nullptr : found->second;
    }
    void put(const Handle& handle, Shared content) { contents_.insert_or_assign(handle, std::move(content)); }
    void erase(const Handle& handle) { contents_.erase(handle); }
    const std::map<Handle, Shared>& all() const { return contents_; }

   private:
    std::map<Handle, Shared> contents_;
  };
  Of<ViewEntries> directories;
  Of<std::string> files;

 private:
  std::atomic<std::uint64_t> last_number_;
};

}  // namespace reelfs::fuse
