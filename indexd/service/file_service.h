#pragma once

#include <cstdint>
#include <vector>

#include "common/async/task.h"
#include "common/rpc/server.h"
#include "common/wire/index.pb.h"
#include "indexd/service/changes.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/leases.h"
#include "indexd/tree/extents.h"

namespace reelfs::indexd {

class HoldService;
class NodeRegistry;
class Overwriter;
class RollForward;
class SegmentKeeper;

/// Answers what is asked about attributes and what files hold.
class FileService {
 public:
  FileService(const Clock& clock, Executor& index, Sessions& sessions, Changes& changes, Leases& leases,
              NodeRegistry& nodes, SegmentKeeper& segments, HoldService& holds, Overwriter& overwriter,
              RollForward& roll_forward)
      : clock_(clock),
        index_(index),
        sessions_(sessions),
        changes_(changes),
        leases_(leases),
        nodes_(nodes),
        segments_(segments),
        holds_(holds),
        overwriter_(overwriter),
        roll_forward_(roll_forward) {}
  void register_with(Dispatcher& dispatcher);

  Task<wire::AttributesReply> get_attributes(wire::GetAttributesRequest request);
  Task<rpc::Response> set_attributes(wire::SetAttributesRequest request);
  Task<wire::GetXattrReply> get_xattr(wire::GetXattrRequest request);
  Task<wire::ListXattrReply> list_xattr(wire::ListXattrRequest request);
  Task<rpc::Response> set_xattr(wire::SetXattrRequest request);
  Task<rpc::Response> remove_xattr(wire::RemoveXattrRequest request);
  Task<wire::AttributesReply> open(wire::OpenRequest request);
  Task<wire::Empty> release(wire::ReleaseRequest request);
  Task<wire::GetExtentsReply> get_extents(wire::GetExtentsRequest request);
  Task<wire::LocateSegmentsReply> locate_segments(wire::LocateSegmentsRequest request);
  Task<rpc::Response> commit(wire::CommitRequest request);
  Task<rpc::Response> punch_hole(wire::PunchHoleRequest request);
  Task<rpc::Response> clone_range(wire::CloneRangeRequest request);
  Task<wire::Empty> note_reads(wire::NoteReadsRequest request);
  Task<wire::Empty> sync(wire::SyncRequest request);
  /// Where it was one that was changed: it is in force when this returns.
  asio::awaitable<void> note_policy(std::string_view attribute);
  Task<void> make_room(const std::vector<tree::FileCommit>& files);
  Task<wire::StatFsReply> statfs(wire::StatFsRequest request);

 private:
  struct Located {
    SegmentId segment;
    std::vector<SegmentCopy> copies;
  };
  /// It was changed by who asked: Leases::changed().
  asio::awaitable<void> tell_of(InodeId inode, const wire::RequestHeader& header);
  /// Empties a range in steps until one more does it, so that nobody waits for long and no journal entry is
  /// too large. Readers may meet it half done, as holes. Nothing is done for a request that was carried out.
  Task<void> empty_in_steps(wire::RequestHeader header, tree::HoleParams range);
  /// @param change  returns a Result<tree::Changed>
  template <class Change>
  Task<rpc::Response> change_file(wire::RequestHeader header, Change change);
  static Result<std::vector<Located>> locate(const View& view, const std::vector<SegmentId>& segments);
  void describe(const Located& located, wire::SegmentLocation& out) const;

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
  Changes& changes_;
  Leases& leases_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  HoldService& holds_;
  Overwriter& overwriter_;
  RollForward& roll_forward_;
};

}  // namespace reelfs::indexd
