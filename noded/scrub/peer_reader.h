#pragma once

#include <map>
#include <memory>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"
#include "noded/scrub/range_rewriter.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::noded {

/// Reads copies of segments on other nodes as they stand there, damaged or not. Connections are made when
/// they are first used and kept.
///
/// Lives on one io_context; `stop()` before destroying.
class PeerReader {
 public:
  PeerReader(asio::io_context& context, const Clock& clock, rpc::ClientOptions client_options);
  PeerReader(const PeerReader&) = delete;
  PeerReader& operator=(const PeerReader&) = delete;

  /// See RangeRewriter::Fetch. @errors not_found, unavailable, timed_out, io, stale_epoch
  Task<std::shared_ptr<Buffer>> read(RangeRewriter::Wanted wanted, Epoch epoch, Deadline deadline);
  asio::awaitable<void> stop();

 private:
  std::shared_ptr<rpc::Client> client_of(const wire::WorkerAddress& worker);
  static asio::awaitable<void> retire(std::shared_ptr<rpc::Client> client);

  asio::io_context& context_;
  const Clock& clock_;
  const rpc::ClientOptions client_options_;
  std::map<rpc::Endpoint, std::shared_ptr<rpc::Client>> clients_;
  TaskGroup group_;
};

}  // namespace reelfs::noded
