#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/endpoint.h"
#include "common/wire/common.pb.h"

namespace reelfs::noded {

/// A segment of which this node has the first copy.
struct ChangeSource {
  SegmentId segment;
  Generation generation;
  InodeId channel;
};

/// An append unit, or several, of the first copy, that another copy may lack.
struct Change {
  std::uint64_t offset = 0;  // in the segment; page-aligned
  std::uint64_t end = 0;
  std::uint64_t payload_bytes = 0;  // of its records
  TimePoint since{};                // when it was written here
  SharedBuffer bytes;               // null: they are to be read from the block
};

/// What the other copies of segments lack whose first copy this process writes: for each segment and copy the
/// units from where that copy ends to where the first does, and how far they are on their way. A plain state
/// machine: no time, no files, no sockets. Nothing of it is kept anywhere: a copy that is not in it is
/// *underived* until somebody has asked that one where it ends. docs/design/async.md
class ChangeLog {
 public:
  /// @param most_kept  bytes of units that are kept in memory, so that they need not be read again
  explicit ChangeLog(std::uint64_t most_kept);
  ChangeLog(const ChangeLog&) = delete;
  ChangeLog& operator=(const ChangeLog&) = delete;

  /// One copy of one segment.
  struct Place {
    SegmentId segment;
    NodeId node;
    friend auto operator<=>(const Place&, const Place&) = default;
  };

  /// The unit was written here, behind those before it. One that is in the log already, or was, is passed
  /// over.
  void appended(const ChangeSource& source, const std::vector<wire::WorkerAddress>& others,
                const Change& change);
  /// The other copies are followed from now on; those that were not are underived.
  void follow(const ChangeSource& source, const std::vector<wire::WorkerAddress>& others);
  /// Nothing more is sent on of the segment: it was fenced, sealed or freed here.
  void forget(SegmentId segment);

  struct Next {
    Place place;
    Generation generation;
    wire::WorkerAddress to;
    bool underived = false;  // ask where the copy ends, then derived()
    Change change;           // else: send this
  };
  /// What is to be sent to this process now, of the segment whose oldest unit waits longest.
  std::optional<Next> next(const rpc::Endpoint& process, TimePoint now) const;
  /// When next() may have something though nothing happens; none: never.
  std::optional<TimePoint> next_at(const rpc::Endpoint& process, TimePoint now) const;
  /// next()'s unit is on its way.
  void sent(const Next& next);
  /// It arrived, or not: the copy has every byte before `end`. Where that is less than was sent to it, what
  /// is on its way is awaited, and it is sent the rest again.
  void answered(const Next& next, std::uint64_t end);
  /// It failed, which says something of this copy alone: not before `again`.
  void failed(const Next& next, TimePoint again);
  /// Of an underived copy: where it ends, and all units from there to the end of the first.
  void derived(const Next& next, std::uint64_t end, std::vector<Change> changes);

  /// All copies that are followed have every byte before it. None: the segment is not in the log.
  std::optional<std::uint64_t> everywhere(SegmentId segment) const;
  std::vector<ChangeSource> sources() const;
  /// All processes to which something is to be sent, or is on its way.
  std::vector<wire::WorkerAddress> behind() const;

  struct Lag {
    InodeId channel;
    NodeId node;  // that lacks it; none: what at least one node lacks
    std::uint64_t bytes = 0;
    Duration oldest{};
  };
  std::vector<Lag> lag(TimePoint now) const;
  std::uint64_t kept_bytes() const { return *kept_; }

 private:
  struct Copy {
    ChangeSource source;
    wire::WorkerAddress address;
    bool underived = false;
    std::uint64_t end = 0;       // of what it has
    std::deque<Change> changes;  // from `end` on
    std::size_t sent = 0;        // of them; on their way
    std::size_t in_flight = 0;   // requests
    bool rewinds = false;        // begins again at `end` when nothing is in flight
    TimePoint not_before{};
  };
  Copy* find(const Next& next);
  void settle(Copy& copy);
  static bool goes_to(const Copy& copy, const rpc::Endpoint& process);
  static bool is_sendable(const Copy& copy);
  SharedBuffer keep(SharedBuffer bytes);

  const std::uint64_t most_kept_;
  const std::shared_ptr<std::uint64_t> kept_ = std::make_shared<std::uint64_t>(0);
  std::map<Place, Copy> copies_;
};

/// Payload bytes of the records of an append unit that was verified.
std::uint64_t payload_of(std::span<const std::byte> unit);

}  // namespace reelfs::noded
