#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "common/wire/common.pb.h"
#include "tests/unit/common/run.h"

namespace reelfs::rpc {

using namespace std::chrono_literals;

/// A server and its clients on one loop. What a test forgets to stop is stopped for it.
class RpcTest : public ::testing::Test {
 protected:
  ~RpcTest() override {
    for (auto& client : clients_) testing::run(context_, client->stop());
    stop_server();
    context_.restart();
    context_.poll();
  }

  void start_server(Server::Handler handler, ServerOptions options = ServerOptions()) {
    server_ = std::make_unique<Server>(context_, clock_, std::move(options), std::move(handler));
    auto where = endpoint_;
    auto bound = server_->listen(where);
    ASSERT_TRUE(bound) << bound.error().describe();
    endpoint_ = bound.value();
  }

  void stop_server() {
    if (server_) testing::run(context_, server_->stop());
    server_.reset();
  }

  Client& new_client(ClientOptions options = ClientOptions()) {
    clients_.push_back(std::make_unique<Client>(context_, clock_, endpoint_, std::move(options)));
    return *clients_.back();
  }

  Deadline in(Duration duration) const { return Deadline::after(clock_, duration); }

  template <class T>
  T run(asio::awaitable<T> coroutine) {
    return testing::run(context_, std::move(coroutine));
  }

  /// One call with this text as its message.
  Result<Reply> ask(Client& client, const std::string& text, Duration limit = 10s,
                    SharedBuffer payload = nullptr) {
    wire::ErrorReply request;
    request.set_message(text);
    return run(client.call(wire::Method::lookup, request, in(limit), std::move(payload)));
  }

  asio::io_context context_;
  const SystemClock clock_{};
  Endpoint endpoint_{"127.0.0.1", 0};
  std::unique_ptr<Server> server_;
  std::vector<std::unique_ptr<Client>> clients_;
};

/// Sends the request's message and payload back.
inline Task<Response> echo(Request request) {
  REELFS_CO_TRY(const auto message, request.parse<wire::ErrorReply>());
  Response response(message);
  response.payload_bytes = request.payload.size();
  if (!request.payload.empty()) response.payload = std::make_shared<const Buffer>(std::move(request.payload));
  co_return response;
}

inline std::string text_of(const Reply& reply) {
  wire::ErrorReply message;
  return message.ParseFromString(reply.message) ? message.message() : "(does not parse)";
}

inline SharedBuffer pattern(std::size_t bytes) {
  Buffer buffer(bytes);
  for (std::size_t i = 0; i < bytes; ++i) buffer.data()[i] = static_cast<std::byte>(i * 7 + i / 251);
  return std::make_shared<const Buffer>(std::move(buffer));
}

}  // namespace reelfs::rpc
