#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "client/filesystem.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/ids.h"

namespace reelfs::fuse {

/// What the index said last of the mount's root and its channels: how much room there is, names and
/// attributes. With every server gone, df and stat of the mount point are answered from it at once, so that
/// nobody who merely looks at the machine has to wait. While the index answers it is asked each time, and
/// this is of no account. The loop's.
class LastKnown {
 public:
  explicit LastKnown(const Clock& clock) : clock_(clock) {}

  /// A question to the index, from its beginning to its end.
  class Question {
   public:
    explicit Question(LastKnown& owner)
        : owner_(owner), begun_(owner.under_way_.insert(owner.clock_.now())) {}
    ~Question() { owner_.under_way_.erase(begun_); }
    Question(const Question&) = delete;
    Question& operator=(const Question&) = delete;

    void answered() { owner_.failed_ = false; }
    void failed(Errc code) {
      if (code != Errc::cancelled) owner_.failed_ = code == Errc::unavailable || code == Errc::timed_out;
    }

   private:
    LastKnown& owner_;
    std::multiset<TimePoint>::iterator begun_;
  };

  /// The index owes an answer for too long, or the last question failed for want of one.
  bool index_is_away() const {
    return failed_ || (!under_way_.empty() && clock_.now() - *under_way_.begin() >= kSilence);
  }
  static constexpr std::chrono::milliseconds kSilence{100};

  /// None of a directory that was never asked about.
  std::optional<client::Space> space(InodeId inode) const {
    const auto found = space_.find(inode);
    if (found == space_.end()) return std::nullopt;
    return found->second;
  }
  /// The root's.
  std::optional<client::Space> whole_space() const { return whole_; }
  void note_space(InodeId inode, InodeId root, const client::Space& space) {
    if (inode == root) whole_ = space;
    make_room(space_);
    space_[inode] = space;
  }

  std::optional<client::Attributes> attributes(InodeId inode) const {
    const auto found = attributes_.find(inode);
    if (found == attributes_.end()) return std::nullopt;
    return found->second.told;
  }
  /// Whether nothing here has changed them since they were told.
  bool is_current(InodeId inode) const {
    const auto found = attributes_.find(inode);
    return found != attributes_.end() && !found->second.changed;
  }
  /// An answer that was overtaken by a change changes nothing: the version tells.
  void note(const client::Attributes& told) {
    make_room(attributes_);
    auto& known = attributes_[told.inode];
    if (told.version < known.told.version) return;
    if (told.version > known.told.version) known.changed = false;
    known.told = told;
    known.told.lease = {};  // whoever is told it later is to ask again
  }
  /// A name in it, or it itself, is being changed here, or was.
  void changed(InodeId inode) {
    if (const auto found = attributes_.find(inode); found != attributes_.end()) found->second.changed = true;
  }

  /// A channel by its name.
  std::optional<client::Found> channel(const std::string& name) const {
    const auto inode = channels_.find(name);
    if (inode == channels_.end()) return std::nullopt;
    client::Found found;
    found.attributes = attributes(inode->second);
    return found.attributes ? std::optional(found) : std::nullopt;
  }
  void note_channel(const std::string& name, const client::Attributes& told) {
    make_room(channels_);
    channels_[name] = told.inode;
    note(told);
  }
  void forget_channel(const std::string& name) { channels_.erase(name); }

 private:
  struct Told {
    client::Attributes told;
    bool changed = false;
  };
  /// Channels there are, with room to spare.
  static constexpr std::size_t kMax = 1u << 14;
  template <class Map>
  static void make_room(Map& map) {
    if (map.size() >= kMax) map.clear();
  }

  const Clock& clock_;
  std::multiset<TimePoint> under_way_;
  bool failed_ = false;
  std::optional<client::Space> whole_;
  std::unordered_map<InodeId, client::Space> space_;
  std::unordered_map<InodeId, Told> attributes_;
  std::map<std::string, InodeId> channels_;
};

}  // namespace reelfs::fuse
