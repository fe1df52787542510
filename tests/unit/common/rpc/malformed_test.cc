#include <array>
#include <cstring>
#include <string>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "common/base/crc32c.h"
#include "common/wire/frame.h"
#include "tests/unit/common/rpc/rpc_fixture.h"

namespace reelfs::rpc {
namespace {

using asio::ip::tcp;

wire::FrameHeader request_header(std::size_t message_bytes) {
  wire::FrameHeader header;
  header.kind = static_cast<std::uint8_t>(wire::FrameKind::request);
  header.method = static_cast<std::uint16_t>(wire::Method::lookup);
  header.request_id = 7;
  header.message_bytes = static_cast<std::uint32_t>(message_bytes);
  return header;
}

std::string bytes_of(const wire::FrameHeader& header) {
  const auto encoded = wire::encode_frame_header(header);
  return {reinterpret_cast<const char*>(encoded.data()), encoded.size()};
}

/// A peer that says whatever it is told to say.
class Malformed : public RpcTest {
 protected:
  /// Sends bytes, and returns what the server sends until it closes the connection.
  asio::awaitable<std::string> talk(std::string bytes) {
    tcp::socket socket(context_);
    co_await socket.async_connect({asio::ip::make_address(endpoint_.host), endpoint_.port},
                                  asio::use_awaitable);
    co_await asio::async_write(socket, asio::buffer(bytes), asio::as_tuple(asio::use_awaitable));
    std::string answer;
    co_await asio::async_read(socket, asio::dynamic_buffer(answer), asio::as_tuple(asio::use_awaitable));
    co_return answer;
  }

  void expect_closed_without_an_answer(const std::string& bytes) {
    EXPECT_EQ(run(talk(bytes)), "");
    EXPECT_TRUE(ask(new_client(), "the server goes on"));
  }
};

TEST_F(Malformed, Garbage) {
  start_server(echo);
  expect_closed_without_an_answer(std::string(64, 'x'));
}

TEST_F(Malformed, WrongHeaderChecksum) {
  start_server(echo);
  auto bytes = bytes_of(request_header(0));
  bytes[20] ^= 1;
  expect_closed_without_an_answer(bytes);
}

TEST_F(Malformed, SizesAboveTheLimits) {
  start_server(echo);
  auto header = request_header(wire::kMaxMessageBytes + 1);
  expect_closed_without_an_answer(bytes_of(header));
  header.message_bytes = 0;
  header.payload_bytes = wire::kMaxPayloadBytes + 1;
  expect_closed_without_an_answer(bytes_of(header));
}

TEST_F(Malformed, WrongPayloadChecksum) {
  start_server(echo);
  auto header = request_header(0);
  header.payload_bytes = 4;
  header.payload_crc32c = 12345;
  expect_closed_without_an_answer(bytes_of(header) + "data");
}

TEST_F(Malformed, FramesOnlyAServerSends) {
  start_server(echo);
  auto header = request_header(0);
  header.kind = static_cast<std::uint8_t>(wire::FrameKind::reply);
  expect_closed_without_an_answer(bytes_of(header));
}

TEST_F(Malformed, MessageThatDoesNotParseIsAnsweredAndTheConnectionLives) {
  start_server(echo);
  const auto bad = bytes_of(request_header(3)) + "\xff\xff\xff";
  auto converse = [&]() -> asio::awaitable<std::vector<wire::FrameHeader>> {
    std::vector<wire::FrameHeader> answers;
    tcp::socket socket(context_);
    co_await socket.async_connect({asio::ip::make_address(endpoint_.host), endpoint_.port},
                                  asio::use_awaitable);
    for (int i = 0; i < 2; ++i) {
      co_await asio::async_write(socket, asio::buffer(bad), asio::use_awaitable);
      std::array<std::byte, 64> bytes;
      co_await asio::async_read(socket, asio::buffer(bytes), asio::use_awaitable);
      const auto header = wire::decode_frame_header(bytes).value();
      answers.push_back(header);
      std::string message(header.message_bytes, 0);
      co_await asio::async_read(socket, asio::buffer(message), asio::use_awaitable);
      wire::ErrorReply reply;
      EXPECT_TRUE(reply.ParseFromString(message));
      EXPECT_EQ(static_cast<Errc>(reply.code()), Errc::protocol);
    }
    co_return answers;
  };
  const auto answers = run(converse());
  ASSERT_EQ(answers.size(), 2u);
  for (const auto& answer : answers) {
    EXPECT_EQ(answer.kind, static_cast<std::uint8_t>(wire::FrameKind::error));
    EXPECT_EQ(answer.request_id, 7u);
  }
}

TEST_F(Malformed, FrameCutShort) {
  start_server(echo);
  auto cut = [&]() -> asio::awaitable<void> {
    tcp::socket socket(context_);
    co_await socket.async_connect({asio::ip::make_address(endpoint_.host), endpoint_.port},
                                  asio::use_awaitable);
    const auto bytes = bytes_of(request_header(100)) + "only this";
    co_await asio::async_write(socket, asio::buffer(bytes), asio::as_tuple(asio::use_awaitable));
  };
  testing::run(context_, cut());
  EXPECT_TRUE(ask(new_client(), "the server goes on"));
}

TEST_F(Malformed, APeerThatStandsStillDoesNotKeepOthersOut) {
  ServerOptions options;
  options.max_in_flight_bytes = 1000;
  options.body_limit = 50ms;
  start_server(echo, options);
  tcp::socket socket(context_);
  auto stand_still = [&]() -> asio::awaitable<void> {
    co_await socket.async_connect({asio::ip::make_address(endpoint_.host), endpoint_.port},
                                  asio::use_awaitable);
    const auto bytes = bytes_of(request_header(1000)) + "only this";
    co_await asio::async_write(socket, asio::buffer(bytes), asio::as_tuple(asio::use_awaitable));
  };
  testing::run(context_, stand_still());
  EXPECT_TRUE(ask(new_client(), "the server goes on", 5s));
}

/// A server that answers the first request with these bytes.
TEST_F(Malformed, AClientThatIsAnsweredWithGarbageSaysUnavailable) {
  tcp::acceptor acceptor(context_, {asio::ip::make_address("127.0.0.1"), 0});
  endpoint_.port = acceptor.local_endpoint().port();
  auto& client = new_client();
  auto lie = [&]() -> asio::awaitable<void> {
    auto socket = co_await acceptor.async_accept(asio::use_awaitable);
    std::array<char, 64> request;
    co_await asio::async_read(socket, asio::buffer(request), asio::use_awaitable);
    const std::string garbage(64, 'y');
    co_await asio::async_write(socket, asio::buffer(garbage), asio::use_awaitable);
    std::string rest;
    co_await asio::async_read(socket, asio::dynamic_buffer(rest), asio::as_tuple(asio::use_awaitable));
  };
  bool ended = false;
  asio::co_spawn(context_, lie(), [&](const std::exception_ptr& failure) { ended = !failure; });
  const auto reply = ask(client, "x");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::unavailable);
  while (!ended) context_.run_one();
}

}  // namespace
}  // namespace reelfs::rpc
