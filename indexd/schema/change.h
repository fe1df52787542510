#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace reelfs::indexd {

// What one operation changed, as the journal carries it: a version byte, then for each change in order an
// operation byte (1 put, 2 erase), key_bytes u32, the key and, for a put, value_bytes u32 and the value.
// docs/formats/journal.md

inline constexpr char kChangesVersion = 1;

/// Appends one change. Begins with the version byte where `changes` is empty. No value: the key is erased.
void append_change(std::string& changes, std::string_view key, std::optional<std::string_view> value);

/// Calls visit(key, value) for each change in order; no value means erased.
/// @errors corrupt: unknown version or operation, or cut off
Result<void> for_each_change(
    std::string_view changes,
    const std::function<void(std::string_view, std::optional<std::string_view>)>& visit);

}  // namespace reelfs::indexd
