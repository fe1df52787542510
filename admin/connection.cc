#include "admin/connection.h"

#include <exception>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <fmt/format.h>

#include "common/rpc/client.h"
#include "common/rpc/tls.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {

struct Connection::State {
  asio::io_context context{1};
  SystemClock clock;
  rpc::ClientOptions worker_options;
  std::unique_ptr<client::IndexClient> index;
};

Connection::Connection() : state_(std::make_unique<State>()) {}

Result<std::unique_ptr<Connection>> Connection::open(const client::ClusterConfig& config,
                                                     std::chrono::milliseconds timeout) {
  client::IndexClient::Options options;
  options.purpose = "reelctl";
  options.opens_nothing = true;
  options.timeout = timeout;
  if (!config.tls.empty()) {
    REELFS_TRY(options.tls, rpc::TlsContext::load(config.tls));
  }
  std::unique_ptr<Connection> connection(new Connection);
  connection->state_->worker_options.tls = options.tls;
  connection->state_->index = std::make_unique<client::IndexClient>(
      connection->state_->context, connection->state_->clock, config, std::move(options));
  std::optional<Result<void>> started;
  connection->run(keep(connection->index().start(), started));
  REELFS_TRY(std::move(*started));
  return connection;
}

Connection::~Connection() {
  if (state_->index) run(state_->index->stop());
}

Result<wire::ListNodesReply> Connection::list_nodes() {
  return call<wire::ListNodesReply>(wire::Method::list_nodes, wire::ListNodesRequest());
}

Result<wire::ListChannelsReply> Connection::list_channels() {
  return call<wire::ListChannelsReply>(wire::Method::list_channels, wire::ListChannelsRequest());
}

Result<wire::ChannelInfo> Connection::find_channel(const std::string& name) {
  REELFS_TRY(auto reply, list_channels());
  for (auto& channel : *reply.mutable_channels()) {
    if (channel.name() == name) return std::move(channel);
  }
  return Error(Errc::not_found, fmt::format("no channel {}: `reelctl channel list` shows those there are, "
                                            "`reelctl channel create {}` makes it",
                                            name, name));
}

client::IndexClient& Connection::index() { return *state_->index; }

Result<std::string> Connection::call_at(const wire::Endpoint& endpoint, wire::Method method,
                                        const google::protobuf::MessageLite& request,
                                        std::chrono::milliseconds timeout) {
  rpc::Client client(state_->context, state_->clock, rpc::Endpoint::from(endpoint), state_->worker_options);
  std::optional<Result<rpc::Reply>> reply;
  run(keep(client.call(method, request, Deadline::after(state_->clock, timeout)), reply));
  run(client.stop());
  REELFS_TRY(auto answered, std::move(*reply));
  return std::move(answered.message);
}

void Connection::run(asio::awaitable<void> coroutine) {
  bool done = false;
  asio::co_spawn(state_->context, std::move(coroutine), [&done](std::exception_ptr failed) {
    if (failed) std::rethrow_exception(failed);
    done = true;
  });
  // Not run(): the client keeps its lease in the background, and that never ends by itself.
  state_->context.restart();
  while (!done && state_->context.run_one() > 0) {
  }
}

}  // namespace reelfs::admin
