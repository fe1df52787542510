#pragma once

#include <string_view>

namespace reelfs {

// What mounts show in every channel beside its files: reached by name, and not listed. Nothing else can be
// given these names there.

inline constexpr std::string_view kByTimeName = ".by-time";
inline constexpr std::string_view kReelName = ".reel";

constexpr bool is_view_name(std::string_view name) { return name == kByTimeName || name == kReelName; }

}  // namespace reelfs
