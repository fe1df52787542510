#pragma once

#include <cstdint>
#include <memory>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"
#include "common/wire/node.pb.h"
#include "noded/segment/segment_store.h"
#include "noded/transfer/peers.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::noded {

/// Makes copies of sealed segments whole here, from those of other nodes: reads what is missing as it stands
/// there, walks its records and writes what is right. One order at a time, of as many bytes as its giver
/// allows, so that it paces it; a few MiB of memory.
///
/// A copy is whole when it is sealed at its length and on stable storage. Killed before that, the worker
/// leaves a block that is open and shorter: the next order goes on with it, or the index has it freed.
///
/// Lives on one io_context; `stop()` before destroying. Design: docs/design/repair.md, "Copying one segment"
class SegmentCopier {
 public:
  SegmentCopier(asio::io_context& context, const Clock& clock, SegmentStore& store,
                rpc::ClientOptions client_options);
  SegmentCopier(const SegmentCopier&) = delete;
  SegmentCopier& operator=(const SegmentCopier&) = delete;

  /// Repeating an order is harmless, and cheap where it was carried out.
  /// @errors busy (another one is under way here), invalid, and where no source could give what it should
  /// have: corrupt, not_found, unavailable, timed_out; of this node: no_space, stale_generation, io
  Task<wire::CopySegmentReply> copy(wire::CopySegmentRequest order, Epoch epoch, Deadline deadline);

  asio::awaitable<void> stop();

 private:
  struct Progress;
  Task<void> take_from(const wire::WorkerAddress& source, Progress& progress);
  static Task<Buffer> read(std::shared_ptr<rpc::Client> source, const Progress& progress, std::uint64_t at);

  /// Where the last order ended: the next one goes on there without looking through what is here.
  struct Left {
    SegmentId segment;
    Generation generation;
    std::uint64_t at = 0;
    friend bool operator==(const Left&, const Left&) = default;
  };

  const Clock& clock_;
  SegmentStore& store_;
  bool copying_ = false;
  Left left_;
  Peers sources_;
};

}  // namespace reelfs::noded
