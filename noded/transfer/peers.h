#pragma once

#include <map>
#include <memory>

#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/wire/common.pb.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::noded {

/// Connections to worker processes of other nodes, made when they are first used and kept.
///
/// Lives on one io_context; `stop()` before destroying.
class Peers {
 public:
  Peers(asio::io_context& context, const Clock& clock, rpc::ClientOptions options);
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  /// Valid as long as it is held, though others may have taken its place here.
  std::shared_ptr<rpc::Client> client_of(const wire::WorkerAddress& worker);
  asio::awaitable<void> stop();

 private:
  static asio::awaitable<void> retire(std::shared_ptr<rpc::Client> client);

  asio::io_context& context_;
  const Clock& clock_;
  const rpc::ClientOptions options_;
  std::map<rpc::Endpoint, std::shared_ptr<rpc::Client>> clients_;
  TaskGroup group_;
};

}  // namespace reelfs::noded
