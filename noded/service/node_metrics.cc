#include "noded/service/node_metrics.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>
#include <utility>

namespace reelfs::noded {
namespace {

constexpr std::array kBlockStates{"free", "open", "sealed"};

prometheus::Counter& counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

}  // namespace

NodeMetrics::NodeMetrics(prometheus::Registry& registry)
    : seconds_(prometheus::BuildHistogram()
                   .Name("reelfs_noded_request_seconds")
                   .Help("From a request's arrival to its answer")
                   .Register(registry)),
      refused_(prometheus::BuildCounter()
                   .Name("reelfs_noded_refused_total")
                   .Help("Requests that were answered with an error")
                   .Register(registry)),
      serving_(prometheus::BuildGauge()
                   .Name("reelfs_noded_device_serving")
                   .Help("1 while a device of the node is in service, else 0, from the node's leader")
                   .Register(registry)),
      blocks_(prometheus::BuildGauge()
                  .Name("reelfs_noded_blocks")
                  .Help("Blocks of a device in service by state, from the node's leader")
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
                      .Add({})),
      copied_bytes_(counter(registry, "reelfs_noded_copied_bytes_total",
                            "Bytes written here to make copies of segments whole")),
      copied_from_bytes_(counter(registry, "reelfs_noded_copied_from_bytes_total",
                                 "Bytes of copies that were sent to other nodes, which make theirs whole")),
      rewritten_bytes_(counter(registry, "reelfs_noded_rewritten_bytes_total",
                               "Bytes of damaged copies that were written in place")),
      scrub_bytes_(counter(registry, "reelfs_noded_scrub_bytes_total", "Bytes read to verify copies")),
      scrub_blocks_(counter(registry, "reelfs_noded_scrub_blocks_total", "Blocks that were verified")),
      scrub_damaged_blocks_(counter(registry, "reelfs_noded_scrub_damaged_blocks_total",
                                    "Blocks of which the scrubber found something damaged")) {}

void NodeMetrics::scrubbed(const ScrubCounts& counts) {
  const auto add = [](prometheus::Counter& to, std::uint64_t now, std::uint64_t before) {
    to.Increment(static_cast<double>(now - before));
  };
  add(scrub_bytes_, counts.read_bytes, scrubbed_.read_bytes);
  add(scrub_blocks_, counts.blocks, scrubbed_.blocks);
  add(scrub_damaged_blocks_, counts.damaged_blocks, scrubbed_.damaged_blocks);
  scrubbed_ = counts;
}

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

void NodeMetrics::forget_blocks(OfDevice& device) {
  for (auto*& gauge : device.blocks) {
    if (gauge != nullptr) blocks_.Remove(std::exchange(gauge, nullptr));
  }
}

void NodeMetrics::devices(const std::vector<DeviceFigures>& devices) {
  // What is gone goes first: a device that serves at another path now has the same labels.
  for (auto known = devices_.begin(); known != devices_.end();) {
    auto& gauges = known->second;
    const auto now = std::find_if(devices.begin(), devices.end(), [&](const DeviceFigures& figures) {
      return figures.path == known->first && figures.device == gauges.device;
    });
    if (now == devices.end() || !now->serving) forget_blocks(gauges);
    if (now == devices.end()) serving_.Remove(gauges.serving);
    known = now == devices.end() ? devices_.erase(known) : std::next(known);
  }
  for (const auto& figures : devices) {
    const auto name = std::to_string(figures.device.value);
    auto& gauges = devices_[figures.path];
    if (gauges.serving == nullptr) {
      gauges.device = figures.device;
      gauges.serving = &serving_.Add({{"device", name}, {"path", figures.path}});
    }
    gauges.serving->Set(figures.serving ? 1 : 0);
    if (!figures.serving) continue;
    const std::array counts{figures.blocks.free, figures.blocks.open, figures.blocks.sealed};
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (gauges.blocks[i] == nullptr) {
        gauges.blocks[i] = &blocks_.Add({{"device", name}, {"state", kBlockStates[i]}});
      }
      gauges.blocks[i]->Set(counts[i]);
    }
  }
}

}  // namespace reelfs::noded
