#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/endpoint.h"

namespace reelfs::client {

/// A way to one address of a worker process, as it does at present.
struct NodePath {
  NodeId node;
  WorkerId worker;
  bool for_appends = false;  // else for reads
  rpc::Endpoint endpoint;
  bool up = false;
  Duration latency{};         // zero: not known, as where there is no other way
  std::size_t in_flight = 0;  // calls
  std::uint64_t calls = 0;    // ever
  std::uint64_t failures = 0;
};

}  // namespace reelfs::client
