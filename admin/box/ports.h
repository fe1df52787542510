#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/result.h"

namespace reelfs::admin {

/// Different TCP ports that nobody listens on at 127.0.0.1 now. They lie below the range from which the
/// kernel takes ports for outgoing connections, so that a box that is down for a while finds its ports free
/// again.
/// @errors unavailable
Result<std::vector<std::uint16_t>> free_ports(std::size_t count);

}  // namespace reelfs::admin
