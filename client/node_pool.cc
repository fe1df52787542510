#include "client/node_pool.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include <boost/asio/io_context.hpp>

namespace reelfs::client {

struct Known {
  NodeId node;
  WorkerId worker;
  std::unique_ptr<rpc::Client> client;
};
using Clients = std::map<rpc::Endpoint, Known>;

struct NodePool::State {
  asio::io_context& context;
  const Clock& clock;
  const rpc::ClientOptions options;
  Epoch epoch;
  Clients appends;
  Clients reads;

  rpc::Client& find_or_make(Clients& clients, const WorkerAddress& worker) {
    auto& known = clients[worker.endpoint];
    if (!known.client) {
      known.client = std::make_unique<rpc::Client>(context, clock, worker.endpoint, options);
      known.client->set_epoch(epoch);
    }
    known.node = worker.node;
    known.worker = worker.worker;
    return *known.client;
  }
};

NodePool::NodePool(asio::io_context& context, const Clock& clock, rpc::ClientOptions options)
    : state_(new State{context, clock, std::move(options), {}, {}, {}}) {}

NodePool::~NodePool() = default;

rpc::Client& NodePool::for_appends(const WorkerAddress& worker) {
  return state_->find_or_make(state_->appends, worker);
}

rpc::Client& NodePool::for_reads(const WorkerAddress& worker) {
  return state_->find_or_make(state_->reads, worker);
}

void NodePool::set_epoch(Epoch epoch) {
  state_->epoch = epoch;
  for (auto* clients : {&state_->appends, &state_->reads}) {
    for (auto& [endpoint, known] : *clients) known.client->set_epoch(epoch);
  }
}

std::vector<NodePath> NodePool::paths() const {
  std::vector<NodePath> paths;
  for (const auto* clients : {&state_->appends, &state_->reads}) {
    for (const auto& [endpoint, known] : *clients) {
      for (auto& state : known.client->paths()) {
        paths.push_back({known.node, known.worker, clients == &state_->appends, std::move(state.endpoint),
                         state.up, state.latency, state.in_flight, state.calls, state.failures});
      }
    }
  }
  std::stable_sort(paths.begin(), paths.end(), [](const NodePath& one, const NodePath& other) {
    return std::tie(one.node, one.worker) < std::tie(other.node, other.worker);
  });
  return paths;
}

asio::awaitable<void> NodePool::stop() {
  for (auto* clients : {&state_->appends, &state_->reads}) {
    for (auto& [endpoint, known] : *clients) co_await known.client->stop();
  }
}

}  // namespace reelfs::client
