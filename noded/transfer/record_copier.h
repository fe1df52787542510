#pragma once

#include <cstdint>
#include <memory>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/buffer.h"
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

/// Copies records of segments that lie here into other segments, wherever these lie: one unit at a time, so
/// that what it reads and holds is bounded, and its caller paces it.
///
/// Lives on one io_context; `stop()` before destroying. Design: docs/design/compaction.md
class RecordCopier {
 public:
  RecordCopier(asio::io_context& context, const Clock& clock, SegmentStore& store,
               rpc::ClientOptions client_options);
  RecordCopier(const RecordCopier&) = delete;
  RecordCopier& operator=(const RecordCopier&) = delete;

  /// Nothing is appended anywhere unless all pieces were read and are right. The same order gives the same
  /// bytes, whichever node carries it out, so that repeating one whose answer was lost is safe. A target that
  /// fails is told of in the reply; errors are the source's.
  /// @errors not_found, io; corrupt (checksums, or another record stands there); busy (another copy is under
  /// way), invalid, timed_out
  Task<wire::CopyRecordsReply> copy(wire::CopyRecordsRequest order, Epoch epoch, Deadline deadline);

  asio::awaitable<void> stop();

 private:
  struct Appends;
  Task<Buffer> form(const wire::CopyRecordsRequest& order);
  Task<wire::CopyRecordsReply> append(const wire::CopyRecordsRequest& order, Buffer unit, Epoch epoch,
                                      Deadline deadline);
  asio::awaitable<void> append_to(std::shared_ptr<rpc::Client> target, std::shared_ptr<Appends> appends,
                                  std::size_t copy, Deadline deadline);

  const Clock& clock_;
  SegmentStore& store_;
  bool copying_ = false;
  Peers targets_;
  TaskGroup group_;
};

}  // namespace reelfs::noded
