#include "noded/scrub/peer_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <boost/asio/io_context.hpp>

#include "common/base/units.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kAtOnce = kMiB;  // no node gives more
constexpr std::size_t kMostClients = 64;

}  // namespace

PeerReader::PeerReader(asio::io_context& context, const Clock& clock, rpc::ClientOptions client_options)
    : context_(context),
      clock_(clock),
      client_options_(std::move(client_options)),
      group_(context.get_executor()) {}

asio::awaitable<void> PeerReader::stop() {
  co_await group_.stop();
  for (const auto& [endpoint, client] : clients_) co_await client->stop();
}

Task<std::shared_ptr<Buffer>> PeerReader::read(RangeRewriter::Wanted wanted, Epoch epoch, Deadline deadline) {
  const auto client = client_of(wanted.source);
  client->set_epoch(epoch);
  const auto length = wanted.range.length();
  auto bytes = std::make_shared<Buffer>(length);
  std::uint64_t have = 0;
  while (have < length) {
    wire::RewriteRangesRequest request;
    request.set_segment(wanted.segment.value);
    auto& range = *request.add_ranges();
    range.set_offset(wanted.range.begin + have);
    range.set_length(std::min(kAtOnce, length - have));
    REELFS_CO_TRY(const auto reply, co_await client->call(wire::Method::rewrite_ranges, request, deadline));
    const auto got = std::min<std::uint64_t>(reply.payload.size(), length - have);
    if (got > 0) std::memcpy(bytes->data() + have, reply.payload.data(), got);
    have += got;
    if (got < range.length()) break;  // there the copy ends
  }
  bytes->resize(have);
  co_return std::move(bytes);
}

std::shared_ptr<rpc::Client> PeerReader::client_of(const wire::WorkerAddress& worker) {
  const auto endpoint = rpc::Endpoint::from(worker.endpoint());
  const auto found = clients_.find(endpoint);
  if (found != clients_.end()) return found->second;
  if (clients_.size() >= kMostClients) {
    for (const auto& [old, client] : std::exchange(clients_, {})) group_.spawn(retire(client));
  }
  auto client = std::make_shared<rpc::Client>(context_, clock_, endpoint, client_options_);
  clients_.emplace(endpoint, client);
  return client;
}

asio::awaitable<void> PeerReader::retire(std::shared_ptr<rpc::Client> client) { co_await client->stop(); }

}  // namespace reelfs::noded
