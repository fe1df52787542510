#include "noded/transfer/peers.h"

#include <cstdint>
#include <utility>

#include <boost/asio/io_context.hpp>

namespace reelfs::noded {
namespace {

constexpr std::size_t kMaxPeers = 64;  // processes to which connections are kept

}  // namespace

Peers::Peers(asio::io_context& context, const Clock& clock, rpc::ClientOptions options)
    : context_(context), clock_(clock), options_(std::move(options)), group_(context.get_executor()) {}

std::shared_ptr<rpc::Client> Peers::client_of(const wire::WorkerAddress& worker) {
  const auto endpoint = rpc::Endpoint::from(worker.endpoint());
  const auto found = clients_.find(endpoint);
  if (found != clients_.end()) return found->second;
  if (clients_.size() >= kMaxPeers) {
    for (const auto& [old, client] : std::exchange(clients_, {})) group_.spawn(retire(client));
  }
  auto client = std::make_shared<rpc::Client>(context_, clock_, endpoint, options_);
  clients_.emplace(endpoint, client);
  return client;
}

asio::awaitable<void> Peers::retire(std::shared_ptr<rpc::Client> client) { co_await client->stop(); }

asio::awaitable<void> Peers::stop() {
  co_await group_.stop();
  for (const auto& [endpoint, client] : clients_) co_await client->stop();
}

}  // namespace reelfs::noded
