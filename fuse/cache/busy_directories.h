#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <set>
#include <unordered_map>
#include <utility>

#include "common/base/ids.h"

namespace reelfs::fuse {

/// Directories in which calls of this mount are under way that wait for other mounts. The kernel holds their
/// locks, and cannot forget a name in one before the call is answered. The loop's.
class BusyDirectories {
 public:
  /// Of calls whose directories are not all known here: a move between directories locks what is moved.
  static constexpr InodeId kAny{0};

  /// From the beginning of a call to its end.
  class Use {
   public:
    Use(BusyDirectories& busy, InodeId directory) : busy_(busy), directory_(directory) {
      if (++busy_.calls_[directory_] == 1) busy_.began(directory_);
    }
    ~Use() {
      const auto calls = busy_.calls_.find(directory_);
      if (--calls->second == 0) busy_.calls_.erase(calls);
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    BusyDirectories& busy_;
    const InodeId directory_;
  };

  /// While it lives, `began` is called when a call begins in one of the directories.
  class Alarm {
   public:
    Alarm(BusyDirectories& busy, std::set<InodeId> directories, std::function<void()> began)
        : busy_(busy),
          place_(busy.alarms_.insert(busy.alarms_.end(), {std::move(directories), std::move(began)})) {}
    ~Alarm() { busy_.alarms_.erase(place_); }
    Alarm(const Alarm&) = delete;
    Alarm& operator=(const Alarm&) = delete;

   private:
    friend BusyDirectories;
    struct Entry {
      std::set<InodeId> directories;
      std::function<void()> began;
    };
    BusyDirectories& busy_;
    const std::list<Entry>::iterator place_;
  };

  bool contains(InodeId directory) const { return calls_.contains(directory) || calls_.contains(kAny); }

 private:
  void began(InodeId directory) const {
    for (const auto& alarm : alarms_) {
      if (directory == kAny || alarm.directories.contains(directory)) alarm.began();
    }
  }

  std::unordered_map<InodeId, std::uint32_t> calls_;
  std::list<Alarm::Entry> alarms_;
};

}  // namespace reelfs::fuse
