#include "indexd/service/dispatcher.h"

#include <fmt/format.h>
#include <prometheus/registry.h>

#include "common/observe/log.h"

namespace reelfs::indexd {

namespace {

spdlog::logger& log() {
  static auto& instance = logger("indexd.requests");
  return instance;
}

}  // namespace

Dispatcher::Dispatcher(const Clock& clock, prometheus::Registry& registry)
    : clock_(clock),
      seconds_(prometheus::BuildHistogram()
                   .Name("reelfs_indexd_request_seconds")
                   .Help("From the arrival of a request to its answer.")
                   .Register(registry)),
      refused_(prometheus::BuildCounter()
                   .Name("reelfs_indexd_refused_total")
                   .Help("Requests that were answered with an error.")
                   .Register(registry)) {}

void Dispatcher::add_handler(wire::Method method, rpc::Server::Handler handler) {
  const prometheus::Labels labels{{"method", std::string(wire::to_string(method))}};
  const prometheus::Histogram::BucketBoundaries bounds{50e-6, 100e-6, 200e-6, 500e-6, 1e-3,
                                                       5e-3,  20e-3,  100e-3, 1.0};
  entries_.emplace(method, Entry{std::move(handler), seconds_.Add(labels, bounds), refused_.Add(labels)});
}

Task<rpc::Response> Dispatcher::dispatch(rpc::Request request) const {
  const auto name = wire::to_string(request.method);
  const auto found = entries_.find(request.method);
  if (found == entries_.end()) {
    co_return Error(Errc::unsupported, fmt::format("an index server does not answer {}", name));
  }
  const auto& entry = found->second;
  const auto peer = request.peer;
  const auto arrived = clock_.now();
  auto response = co_await entry.handler(std::move(request));
  entry.seconds.Observe(std::chrono::duration<double>(clock_.now() - arrived).count());
  if (!response) {
    entry.refused.Increment();
    log().debug("refused method={} peer={} why=\"{}\"", name, peer, response.error().describe());
  }
  co_return std::move(response);
}

}  // namespace reelfs::indexd
