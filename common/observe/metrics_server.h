#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/awaitable.hpp>

#include "common/base/result.h"

namespace boost::asio {
class io_context;
}
namespace prometheus {
class Registry;
}

namespace reelfs {

namespace asio = boost::asio;

/// The admin endpoint of a daemon, plain HTTP: `GET /metrics` in Prometheus's text format, `GET /healthz`.
/// Lives on one io_context. `stop()` before destroying.
class MetricsServer {
 public:
  using Health = std::function<Result<void>()>;

  /// @param registry  whose metrics are shown; outlives this
  /// @param health    asked at each /healthz: success answers 200 "ok", an error 503 with its sentence
  MetricsServer(asio::io_context& context, const prometheus::Registry& registry, Health health);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  /// @param port  0 for any  @return the real port  @errors invalid, busy, access_denied
  Result<std::uint16_t> listen(const std::string& host, std::uint16_t port);
  asio::awaitable<void> stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace reelfs
