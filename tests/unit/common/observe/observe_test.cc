#include <filesystem>
#include <fstream>
#include <sstream>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>
#include <unistd.h>

#include "common/observe/log.h"
#include "common/observe/metrics_server.h"
#include "tests/unit/common/run.h"

namespace reelfs {
namespace {

class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest() {
    auto health = [this]() -> Result<void> {
      if (healthy_) return ok();
      return Error(Errc::unavailable, "no index server");
    };
    server_.emplace(context_, registry_, health);
    port_ = server_->listen("127.0.0.1", 0).value();
  }
  ~MetricsTest() override { testing::run(context_, server_->stop()); }

  std::string ask(const std::string& request) { return testing::run(context_, talk(request)); }

  asio::awaitable<std::string> talk(std::string request) {
    asio::ip::tcp::socket socket(context_);
    co_await socket.async_connect({asio::ip::make_address("127.0.0.1"), port_}, asio::use_awaitable);
    co_await asio::async_write(socket, asio::buffer(request), asio::as_tuple(asio::use_awaitable));
    std::string answer;
    co_await asio::async_read(socket, asio::dynamic_buffer(answer), asio::as_tuple(asio::use_awaitable));
    co_return answer;
  }

  asio::io_context context_;
  prometheus::Registry registry_;
  bool healthy_ = true;
  std::optional<MetricsServer> server_;
  std::uint16_t port_ = 0;
};

TEST_F(MetricsTest, ShowsWhatIsCounted) {
  auto& family =
      prometheus::BuildCounter().Name("reelfs_test_events_total").Help("Events.").Register(registry_);
  family.Add({}).Increment(3);
  const auto answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 ")) << answer;
  EXPECT_NE(answer.find("\nreelfs_test_events_total 3\n"), std::string::npos) << answer;
}

TEST_F(MetricsTest, TellsWhetherTheDaemonIsHealthy) {
  EXPECT_TRUE(ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
  healthy_ = false;
  const auto answer = ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 503 ")) << answer;
  EXPECT_NE(answer.find("unavailable: no index server"), std::string::npos) << answer;
}

TEST_F(MetricsTest, RefusesTheRest) {
  EXPECT_TRUE(ask("GET /secret HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(ask("POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405 "));
  EXPECT_EQ(ask("not http\r\n\r\n"), "");
  EXPECT_EQ(ask("GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n"), "");
  EXPECT_TRUE(ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

TEST(Log, WritesToItsFileWhatItsLevelAllows) {
  const auto path = std::filesystem::temp_directory_path() / ("reelfs_log_test." + std::to_string(getpid()));
  auto& before = logger("test.before");
  LogConfig config;
  config.level = "warning";
  config.file = path;
  ASSERT_TRUE(init_logging(config, "test"));
  before.warn("copy lagging node={}", 4);
  before.info("not this");
  logger("test.after").error("nor lost");
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_NE(text.str().find(" warning test.before copy lagging node=4\n"), std::string::npos) << text.str();
  EXPECT_NE(text.str().find(" error test.after nor lost\n"), std::string::npos) << text.str();
  EXPECT_EQ(text.str().find("not this"), std::string::npos) << text.str();
  std::filesystem::remove(path);
}

TEST(Log, RefusesUnknownLevelsAndFilesThatCannotBe) {
  LogConfig config;
  config.level = "loud";
  EXPECT_EQ(init_logging(config, "test").error().code(), Errc::bad_config);
  config.level = "info";
  config.file = "/proc/nonexistent/log";
  EXPECT_EQ(init_logging(config, "test").error().code(), Errc::bad_config);
}

}  // namespace
}  // namespace reelfs
