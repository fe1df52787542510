#pragma once

#include <memory>
#include <utility>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"
#include "noded/scrub/range_rewriter.h"
#include "noded/transfer/peers.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::noded {

/// Reads copies of segments on other nodes as they stand there, damaged or not.
///
/// Lives on one io_context; `stop()` before destroying.
class PeerReader {
 public:
  PeerReader(asio::io_context& context, const Clock& clock, rpc::ClientOptions client_options)
      : peers_(context, clock, std::move(client_options)) {}
  PeerReader(const PeerReader&) = delete;
  PeerReader& operator=(const PeerReader&) = delete;

  /// See RangeRewriter::Fetch. @errors not_found, unavailable, timed_out, io, stale_epoch
  Task<std::shared_ptr<Buffer>> read(RangeRewriter::Wanted wanted, Epoch epoch, Deadline deadline);
  asio::awaitable<void> stop() { return peers_.stop(); }

 private:
  Peers peers_;
};

}  // namespace reelfs::noded
