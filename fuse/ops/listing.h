#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

enum class Detail { names, attributes };

/// The answer to one readdir or readdirplus, as long as there is room.
class Listing {
 public:
  Listing(fuse_req_t raw, Detail detail, std::size_t room) : raw_(raw), detail_(detail), bytes_(room, '\0') {}

  /// @return false: it did not fit
  bool add(const char* name, const fuse_entry_param& entry, std::uint64_t offset) {
    auto* at = bytes_.data() + used_;
    const auto room = bytes_.size() - used_;
    const auto position = static_cast<off_t>(offset);
    const auto size = detail_ == Detail::attributes
                          ? fuse_add_direntry_plus(raw_, at, room, name, &entry, position)
                          : fuse_add_direntry(raw_, at, room, name, &entry.attr, position);
    if (size > room) return false;
    used_ += size;
    return true;
  }

  std::string take() {
    bytes_.resize(used_);
    return std::move(bytes_);
  }

 private:
  fuse_req_t raw_;
  Detail detail_;
  std::string bytes_;
  std::size_t used_ = 0;
};

}  // namespace reelfs::fuse
