#include "noded/service/node_metrics.h"

#include <chrono>
#include <string>

namespace reelfs::noded {

NodeMetrics::NodeMetrics(prometheus::Registry& registry)
    : seconds_(prometheus::BuildHistogram()
                   .Name("reelfs_noded_request_seconds")
                   .Help("From a request's arrival to its answer")
                   .Register(registry)),
      refused_(prometheus::BuildCounter()
                   .Name("reelfs_noded_refused_total")
                   .Help("Requests that were answered with an error")
                   .Register(registry)),
      blocks_(prometheus::BuildGauge()
                  .Name("reelfs_noded_blocks")
                  .Help("Blocks of a device by state, from the node's leader")
                  .Register(registry)),
      append_bytes_(prometheus::BuildCounter()
                        .Name("reelfs_noded_append_bytes_total")
                        .Help("Bytes appended and acknowledged, headers and padding included")
                        .Register(registry)
                        .Add({})),
      read_bytes_(prometheus::BuildCounter()
                      .Name("reelfs_noded_read_bytes_total")
                      .Help("Bytes sent to readers")
                      .Register(registry)
                      .Add({})) {}

NodeMetrics::OfMethod& NodeMetrics::of(wire::Method method) {
  const auto at = methods_.find(method);
  if (at != methods_.end()) return at->second;
  const prometheus::Labels labels{{"method", std::string(wire::to_string(method))}};
  const prometheus::Histogram::BucketBoundaries bounds{50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3,
                                                       20e-3, 50e-3,  100e-3, 300e-3, 1,    3,    10};
  return methods_.emplace(method, OfMethod{seconds_.Add(labels, bounds), refused_.Add(labels)}).first->second;
}

void NodeMetrics::served(wire::Method method, Duration took, bool refused) {
  auto& counted = of(method);
  counted.seconds.Observe(std::chrono::duration<double>(took).count());
  if (refused) counted.refused.Increment();
}

void NodeMetrics::blocks(DeviceId device, const BlockCounts& counts) {
  const auto name = std::to_string(device.value);
  blocks_.Add({{"device", name}, {"state", "free"}}).Set(counts.free);
  blocks_.Add({{"device", name}, {"state", "open"}}).Set(counts.open);
  blocks_.Add({{"device", name}, {"state", "sealed"}}).Set(counts.sealed);
}

}  // namespace reelfs::noded
