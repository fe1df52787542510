#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "common/base/clock.h"
#include "common/wire/method.h"
#include "noded/scrub/scrubber.h"
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
  void copied(std::uint64_t bytes) { copied_bytes_.Increment(static_cast<double>(bytes)); }
  void copied_from(std::uint64_t bytes) { copied_from_bytes_.Increment(static_cast<double>(bytes)); }
  /// Bytes of copies that were written in place.
  void rewritten(std::uint64_t bytes) { rewritten_bytes_.Increment(static_cast<double>(bytes)); }
  /// What this worker's scrubber has counted so far.
  void scrubbed(const ScrubCounts& counts);
  struct DeviceFigures {
    DeviceId device;  // 0 where it has no number yet
    std::string path;
    bool serving = false;
    BlockCounts blocks;  // while it serves
  };
  /// The leader's view of the node's devices. What is not among them any more is not told of any more.
  void devices(const std::vector<DeviceFigures>& devices);

 private:
  struct OfMethod {
    prometheus::Histogram& seconds;
    prometheus::Counter& refused;
  };
  OfMethod& of(wire::Method method);
  struct OfDevice {
    DeviceId device;
    prometheus::Gauge* serving = nullptr;
    std::array<prometheus::Gauge*, 3> blocks{};  // free, open, sealed; none while it does not serve
  };
  void forget_blocks(OfDevice& device);

  prometheus::Family<prometheus::Histogram>& seconds_;
  prometheus::Family<prometheus::Counter>& refused_;
  prometheus::Family<prometheus::Gauge>& serving_;
  prometheus::Family<prometheus::Gauge>& blocks_;
  prometheus::Counter& append_bytes_;
  prometheus::Counter& read_bytes_;
  prometheus::Counter& copied_bytes_;
  prometheus::Counter& copied_from_bytes_;
  prometheus::Counter& rewritten_bytes_;
  prometheus::Counter& scrub_bytes_;
  prometheus::Counter& scrub_blocks_;
  prometheus::Counter& scrub_damaged_blocks_;
  ScrubCounts scrubbed_;
  std::map<wire::Method, OfMethod> methods_;
  std::map<std::string, OfDevice> devices_;  // by path
};

}  // namespace reelfs::noded
