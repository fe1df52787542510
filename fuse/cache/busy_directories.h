#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <unordered_map>
#include <utility>

#include "common/base/ids.h"

namespace reelfs::fuse {

/// Directories in which calls of this mount are under way. The kernel may hold their locks, and then cannot
/// forget a name in one before the call is answered. The loop's.
class BusyDirectories {
 public:
  /// From the beginning of a call to its end.
  class Use {
   public:
    Use(BusyDirectories& busy, InodeId directory) : busy_(busy), directory_(directory) {
      if (++busy_.calls_[directory_] == 1 && busy_.awaited_.contains(directory_)) busy_.began_();
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

  bool contains(InodeId directory) const { return calls_.contains(directory); }

  /// From now on `began` is called when a call begins in one of these, until stop_watching().
  void watch(std::set<InodeId> directories, std::function<void()> began) {
    awaited_ = std::move(directories);
    began_ = std::move(began);
  }
  void stop_watching() {
    awaited_.clear();
    began_ = nullptr;
  }

 private:
  std::unordered_map<InodeId, std::uint32_t> calls_;
  std::set<InodeId> awaited_;
  std::function<void()> began_;
};

}  // namespace reelfs::fuse
