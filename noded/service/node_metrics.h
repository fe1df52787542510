#pragma once

#include <cstdint>
#include <map>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "common/base/clock.h"
#include "common/wire/method.h"
#include "noded/shm/device_table.h"

namespace reelfs::noded {

/// What a worker counts.
class NodeMetrics {
 public:
  explicit NodeMetrics(prometheus::Registry& registry);
  NodeMetrics(const NodeMetrics&) = delete;
  NodeMetrics& operator=(const NodeMetrics&) = delete;

  /// A request was answered.
  void served(wire::Method method, Duration took, bool refused);
  void appended(std::uint64_t bytes) { append_bytes_.Increment(static_cast<double>(bytes)); }
  void read(std::uint64_t bytes) { read_bytes_.Increment(static_cast<double>(bytes)); }
  /// The leader's view of a device.
  void blocks(DeviceId device, const BlockCounts& counts);

 private:
  struct OfMethod {
    prometheus::Histogram& seconds;
    prometheus::Counter& refused;
  };
  OfMethod& of(wire::Method method);

  prometheus::Family<prometheus::Histogram>& seconds_;
  prometheus::Family<prometheus::Counter>& refused_;
  prometheus::Family<prometheus::Gauge>& blocks_;
  prometheus::Counter& append_bytes_;
  prometheus::Counter& read_bytes_;
  std::map<wire::Method, OfMethod> methods_;
};

}  // namespace reelfs::noded
