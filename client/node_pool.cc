#include "client/node_pool.h"

#include <map>
#include <utility>

#include <boost/asio/io_context.hpp>

namespace reelfs::client {

using Clients = std::map<rpc::Endpoint, std::unique_ptr<rpc::Client>>;

struct NodePool::State {
  asio::io_context& context;
  const Clock& clock;
  const rpc::ClientOptions options;
  Epoch epoch;
  Clients appends;
  Clients reads;

  rpc::Client& find_or_make(Clients& clients, const rpc::Endpoint& endpoint) {
    auto& client = clients[endpoint];
    if (!client) {
      client = std::make_unique<rpc::Client>(context, clock, endpoint, options);
      client->set_epoch(epoch);
    }
    return *client;
  }
};

NodePool::NodePool(asio::io_context& context, const Clock& clock, rpc::ClientOptions options)
    : state_(new State{context, clock, std::move(options), {}, {}, {}}) {}

NodePool::~NodePool() = default;

rpc::Client& NodePool::for_appends(const WorkerAddress& worker) {
  return state_->find_or_make(state_->appends, worker.endpoint);
}

rpc::Client& NodePool::for_reads(const WorkerAddress& worker) {
  return state_->find_or_make(state_->reads, worker.endpoint);
}

void NodePool::set_epoch(Epoch epoch) {
  state_->epoch = epoch;
  for (auto* clients : {&state_->appends, &state_->reads}) {
    for (auto& [endpoint, client] : *clients) client->set_epoch(epoch);
  }
}

asio::awaitable<void> NodePool::stop() {
  for (auto* clients : {&state_->appends, &state_->reads}) {
    for (auto& [endpoint, client] : *clients) co_await client->stop();
  }
}

}  // namespace reelfs::client
