#include "common/observe/metrics_server.h"

#include <sstream>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"

namespace reelfs {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;

constexpr std::size_t kMaxConnections = 32;
constexpr std::size_t kMaxRequestBytes = 8 * 1024;
constexpr auto kConnectionLimit = std::chrono::seconds(10);
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);  // when out of descriptors

using Answer = http::response<http::string_body>;

Answer make_answer(const http::request<http::empty_body>& request, http::status status, std::string_view type,
                   std::string body) {
  Answer answer(status, request.version(), std::move(body));
  answer.set(http::field::content_type, beast::string_view(type.data(), type.size()));
  answer.keep_alive(false);
  answer.prepare_payload();
  if (request.method() == http::verb::head) answer.body().clear();
  return answer;
}

}  // namespace

struct MetricsServer::State {
  State(asio::io_context& io, const prometheus::Registry& shown, Health asked)
      : context(io), registry(shown), health(std::move(asked)), group(io.get_executor()), acceptor(io) {}

  static asio::awaitable<void> accept(std::shared_ptr<State> self);
  static asio::awaitable<void> serve(std::shared_ptr<State> self, tcp::socket socket);
  Answer answer(const http::request<http::empty_body>& request) const;

  asio::io_context& context;
  const prometheus::Registry& registry;
  const Health health;
  TaskGroup group;
  tcp::acceptor acceptor;
};

Answer MetricsServer::State::answer(const http::request<http::empty_body>& request) const {
  constexpr std::string_view kText = "text/plain; charset=utf-8";
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    return make_answer(request, http::status::method_not_allowed, kText, "GET only\n");
  }
  if (request.target() == "/metrics") {
    std::ostringstream text;
    prometheus::TextSerializer().Serialize(text, registry.Collect());
    return make_answer(request, http::status::ok, "text/plain; version=0.0.4; charset=utf-8", text.str());
  }
  if (request.target() == "/healthz") {
    const auto healthy = health();
    if (healthy) return make_answer(request, http::status::ok, kText, "ok\n");
    return make_answer(request, http::status::service_unavailable, kText, healthy.error().describe() + '\n');
  }
  return make_answer(request, http::status::not_found, kText, "/metrics or /healthz\n");
}

asio::awaitable<void> MetricsServer::State::accept(std::shared_ptr<State> self) {
  while (self->acceptor.is_open()) {
    auto [failure, socket] = co_await self->acceptor.async_accept(asio::as_tuple(asio::use_awaitable));
    if (failure == asio::error::operation_aborted) co_return;
    if (failure) {
      logger("observe.metrics").warn("accepting failed why=\"{}\"", failure.message());
      co_await sleep_for(kAcceptRetry);
    } else if (self->group.size() <= kMaxConnections) {  // one of them is this coroutine
      self->group.spawn(serve(self, std::move(socket)));
    }
  }
}

asio::awaitable<void> MetricsServer::State::serve(std::shared_ptr<State> self, tcp::socket socket) {
  beast::tcp_stream stream(std::move(socket));
  stream.expires_after(kConnectionLimit);
  beast::flat_buffer buffer(kMaxRequestBytes);
  http::request_parser<http::empty_body> parser;
  const auto [failure, bytes] =
      co_await http::async_read(stream, buffer, parser, asio::as_tuple(asio::use_awaitable));
  if (failure) co_return;
  const auto answer = self->answer(parser.get());
  (void)co_await http::async_write(stream, answer, asio::as_tuple(asio::use_awaitable));
  beast::error_code ignored;
  stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
}

MetricsServer::MetricsServer(asio::io_context& context, const prometheus::Registry& registry, Health health)
    : state_(std::make_shared<State>(context, registry, std::move(health))) {}

MetricsServer::~MetricsServer() = default;

Result<std::uint16_t> MetricsServer::listen(const std::string& host, std::uint16_t port) {
  const auto what = "metrics on " + host + ':' + std::to_string(port);
  beast::error_code failure;
  tcp::resolver resolver(state_->context);
  const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, failure);
  if (failure || found.empty()) return Error(Errc::invalid, what + ": " + failure.message());
  const auto address = found.begin()->endpoint();
  auto& acceptor = state_->acceptor;
  acceptor.open(address.protocol(), failure);
  if (!failure) acceptor.set_option(tcp::acceptor::reuse_address(true), failure);
  if (!failure) acceptor.bind(address, failure);
  if (!failure) acceptor.listen(tcp::acceptor::max_listen_connections, failure);
  if (failure) return from_errno(failure.value(), what);
  state_->group.spawn(State::accept(state_));
  return acceptor.local_endpoint().port();
}

asio::awaitable<void> MetricsServer::stop() {
  const auto state = state_;
  state->acceptor.close();
  co_await state->group.stop();
}

}  // namespace reelfs
