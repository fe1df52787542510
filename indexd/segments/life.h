#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <variant>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

/// Where a copy's block was taken on its node.
struct BlockPlace {
  DeviceId device;
  std::uint32_t block = 0;
};

/// What a node says of the copy that it fenced.
struct FencedCopy {
  FencedCopy(std::uint64_t valid, bool may_have_lost = false)  // NOLINT(google-explicit-constructor)
      : length(valid), torn(may_have_lost) {}
  std::uint64_t length;  // of what is valid there, on stable storage
  bool torn;             // its machine lost power while it was open: it may have lost what was not flushed
};

/// What SegmentLife asks of its driver. Every action but Answer, Repaired and Release is followed by the
/// event named with it, once.
struct Persist {              // -> persisted(row as stored) | persist_refused | persist_failed
  SegmentRow row;             // what is to be stored; live_bytes stays as it is, a longer length too
  bool create = false;        // there is no such row yet
  bool sync = false;          // the event comes when the journal is on stable storage up to this
  bool only_if_dead = false;  // refused where bytes live in it
};
struct Erase {};   // -> erased | persist_failed
struct Allocate {  // -> allocated
  NodeId node;
  WorkerId worker;
  Generation generation;
};
struct Fence {  // -> fenced
  NodeId node;
  WorkerId worker;  // preferred: any other of the node will do
  Generation generation;
};
struct Seal {  // -> sealed
  NodeId node;
  WorkerId worker;  // must be this one where it is reopened
  Generation generation;
  std::uint64_t length = 0;
  bool reopen = false;
};
struct Free {  // -> freed
  NodeId node;
  WorkerId worker;
  Generation newest;  // none, or: only a copy that was told of no later generation
  DeviceId device{};  // none, or: only the block on this one, for another one stays
};
/// Makes the copy on this node whole, whether there is one or not, from those of others.
struct Complete {  // -> completed
  NodeId node;
  WorkerId worker;
  Generation generation;
  std::uint64_t length = 0;
  std::vector<SegmentCopy> sources;  // that are whole, as far as is known; never empty
  DeviceId device{};                 // on this one, besides the block that the node has; none: it chooses
};
/// The node's process need not look after the block any more. Lost, it costs nothing but that.
struct Release {
  NodeId node;
  WorkerId worker;
  Generation generation;
};
/// Ends begin(), reopen() or close(): the writer has its grant (see row()), or the segment is closed, or
/// neither.
struct Answer {
  Result<void> result;
};
/// Ends add_copy(): the copy is one of the row's, or not.
struct Repaired {
  Result<void> result;
};
using Action = std::variant<Persist, Erase, Allocate, Fence, Seal, Free, Complete, Release, Answer, Repaired>;
using Actions = std::vector<Action>;

struct Closing {
  SessionId session;
  Generation generation;
  std::uint64_t length = 0;  // acknowledged by every copy
  bool failed = false;
};

/// The life of one segment, from the choice of its nodes to the return of its blocks:
///
///     allocating -> open -> unfilled -> open -> ... -> sealed -> freeing -> gone
///
/// Events in, actions out: no clock, socket, file or coroutine, so that a test or a simulator can drive it.
/// What is stored before which call, and what a crash between any two steps leaves:
/// docs/design/segment-life.md. The row as last stored is all that a restart needs: it makes a SegmentLife of
/// it and calls resume().
class SegmentLife {
 public:
  /// @param row  as the index holds it, or, for begin(), as it is to be: allocating, with the nodes and
  /// workers chosen
  SegmentLife(SegmentId segment, SegmentRow row);

  SegmentId id() const { return id_; }
  const SegmentRow& row() const { return row_; }
  /// Nothing is under way, and nothing is to be tried again: the row says all.
  bool resting() const { return step_ == Step::resting; }
  bool gone() const { return step_ == Step::gone; }
  /// Of a sealed segment: this copy is shorter, or not known yet to be as long; it is completed, or waits for
  /// that.
  bool is_behind(NodeId node) const;
  /// Nothing is under way, but something failed that retry() is to repeat.
  bool waiting() const;
  /// What retry() would repeat is a call of this node, maybe among others.
  bool waits_for(NodeId node) const;
  /// A copy is being made there that is not one of the row's yet: the block is not to be given back.
  bool makes_copy_on(NodeId node) const { return new_copy_ && new_copy_->node == node; }

  // ---- events from outside

  /// A new segment is wanted. Answers when the grant is stored.
  Actions begin();
  /// After a restart: goes on where the last life stopped. @param session_alive  of an open segment's writer
  Actions resume(bool session_alive);
  /// Grants an unfilled segment again. @pre resting  @param copies  nodes as in the row, with the worker
  /// processes chosen
  Actions reopen(SessionId session, std::vector<SegmentCopy> copies);
  /// The writer is done with it, or could not go on. Repeating it is harmless.
  Actions close(const Closing& closing);
  /// The session that has it open is gone.
  Actions session_died();
  /// Nobody waits for the answer of begin() or reopen() any more.
  void abandon() { abandoned_ = true; }
  /// Nothing lives in it, and nothing more will be committed to it. Nothing happens where that is no longer
  /// so.
  Actions free_dead();
  /// A node came back with a copy of this sealed segment that was not sealed.
  Actions reseal(NodeId node);
  /// Nobody is to go on with it: one that is unfilled, or open, is fenced and sealed. Its writer goes on
  /// elsewhere, as after any failure.
  Actions finish();
  /// A sealed segment is to have a copy in this place, instead of another one or besides those it has. Ends
  /// with Repaired, at once where that cannot be. @param instead_of  none: besides; the same node: from one
  /// of its devices to another one, which is to be named then
  Actions add_copy(NodeId node, WorkerId worker, NodeId instead_of, DeviceId device = {});
  /// A node listed all its blocks, and none is of this segment: it was freed, or the copy is gone and made
  /// anew. The list may be old: a lone copy is taken for gone only where the node has just said so, too.
  /// @pre where it is not being freed: the device on which the copy is to be serves
  Actions reported_without(NodeId node);
  /// Calls again what failed: nodes may have come back.
  Actions retry();
  /// The node was removed and never comes back: that it is silent keeps nothing from being decided any more.
  Actions give_up(NodeId node);

  // ---- outcomes of actions

  Actions persisted(SegmentRow stored);
  Actions persist_refused();
  Actions persist_failed(Error error);
  Actions erased();
  Actions allocated(NodeId node, Result<BlockPlace> place);
  Actions fenced(NodeId node, Result<FencedCopy> fenced);
  Actions sealed(NodeId node, Result<void> result);
  Actions freed(NodeId node, Result<void> result);
  Actions completed(NodeId node, Result<BlockPlace> place);

 private:
  enum class Step : std::uint8_t {
    resting,
    storing_allocating,
    allocating,
    storing_open,
    fencing_to_reopen,
    readying,  // sealing with reopen
    storing_writerless,
    fencing,
    storing_end,  // sealed or unfilled
    sealing,      // and completing the copies that are behind
    storing_renewal,
    copying,
    storing_copy,
    storing_places,
    storing_freeing,
    freeing,
    erasing,
    gone,
  };
  enum class Call : std::uint8_t {
    none,
    under_way,
    done,
    failed,
    behind,  // it was fenced, and waits for one that is whole to be completed from
  };
  struct Copy {
    Call call = Call::none;
    std::uint64_t length = 0;  // as the node said when it was fenced
    bool fenced = false;
    bool torn = false;  // the same
    std::optional<Error> error;
  };

  Actions start_fencing();
  Actions fences_done();
  Actions seal_at_valid_length();
  Actions start_sealing();
  Actions sealing_progress();
  Actions complete_behind();
  Actions start_copying();
  Actions copy_made(Result<BlockPlace> place);
  Actions repair_ended(Result<void> result);
  bool is_whole(std::size_t copy) const;
  std::vector<SegmentCopy> whole_copies() const;
  Actions store_end(SegmentState state, std::uint64_t length);
  Actions store_freeing(bool only_if_dead);
  Actions start_freeing_blocks();
  Actions freeing_progress();
  Actions reopen_failed();
  Actions give_back_unused();
  Actions store(Step step, SegmentRow row, bool sync = false);
  Seal seal_of(std::size_t copy, bool reopen) const;
  /// The index of a copy; none where the node has none.
  std::optional<std::size_t> find(NodeId node) const;
  bool any(Call call) const;
  void set_all(Call call);
  Error first_error() const;
  void answer(Actions& actions, Result<void> result);
  Actions rest();

  SegmentId id_;
  SegmentRow row_;            // as stored; before begin() as it is to be
  std::vector<Copy> copies_;  // of row_.copies
  Step step_ = Step::resting;
  bool answer_due_ = false;
  bool abandoned_ = false;
  SessionId next_session_;               // reopen's
  std::vector<SegmentCopy> chosen_;      // allocated or reopened: as they are to be stored
  std::optional<SegmentRow> otherwise_;  // to be stored where freeing is refused
  std::set<NodeId> given_up_;            // never answer
  std::optional<SegmentCopy> new_copy_;  // add_copy's
  NodeId instead_of_;
  std::map<NodeId, BlockPlace> moved_;  // copies that were made anew in another block, and are to be stored
};

/// "allocating", as SegmentState names it.
std::string_view to_string(SegmentState state);

/// Too little room is left for it to be granted again.
bool nearly_full(std::uint64_t length, std::uint64_t block_bytes);

}  // namespace reelfs::indexd
