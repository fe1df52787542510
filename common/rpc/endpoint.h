#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace reelfs::rpc {

/// Where a server listens. Port 0 asks for any free port.
struct Endpoint {
  std::string host;
  std::uint16_t port = 0;

  /// "host:port", "[::1]:port". @errors invalid
  static Result<Endpoint> parse(std::string_view text);
  std::string to_string() const;
  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

}  // namespace reelfs::rpc
