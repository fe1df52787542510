#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace reelfs::wire {
class Endpoint;
}

namespace reelfs::rpc {

/// What an address is meant for, where a server has several.
enum class Traffic : std::uint8_t {
  any = 0,
  clients = 1,  // between clients, the index server and nodes
  copies = 2,   // between nodes
};

/// Where a server listens. Port 0 asks for any free port.
struct Endpoint {
  std::string host{};
  std::uint16_t port = 0;
  Traffic traffic = Traffic::any;
  std::vector<Endpoint> others{};  // of the same process in other networks; these have no others

  /// "host:port", "[::1]:port". @errors invalid
  static Result<Endpoint> parse(std::string_view text);
  /// As a message names it. What is no port is 0, and a kind of traffic that is not known is any.
  static Endpoint from(const wire::Endpoint& message);
  wire::Endpoint to_wire() const;
  /// The first address alone.
  std::string to_string() const;
  friend std::strong_ordering operator<=>(const Endpoint&, const Endpoint&) = default;
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

}  // namespace reelfs::rpc
