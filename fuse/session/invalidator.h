#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

class KernelChannel;

/// Tells the kernel what to forget, on threads of its own: those for names may wait in the kernel for calls
/// under way in the directory.
class Invalidator {
 public:
  struct Name {
    fuse_ino_t directory = 0;
    std::string name;
  };

  Invalidator();
  ~Invalidator();
  Invalidator(const Invalidator&) = delete;
  Invalidator& operator=(const Invalidator&) = delete;

  /// From now on there is a kernel to tell.
  void attach(KernelChannel& channel);
  /// Waits until no notification is under way; none begins after it.
  /// @return false: one still waits for a call in its directory to be answered
  bool detach(std::chrono::milliseconds patience);

  // Any thread. `done` is called once the kernel has been told, on another thread; it may be empty.
  void forget_attributes(std::vector<fuse_ino_t> nodes, std::function<void()> done);
  /// May wait for reads and writes of mapped pages that are under way.
  void forget_pages(fuse_ino_t node, std::function<void()> done);
  /// Calls `unknown` for each of the nodes that the kernel does not know, on another thread; not after
  /// detach().
  void find_unknown(std::vector<fuse_ino_t> nodes, std::function<void(fuse_ino_t)> unknown);
  void forget_names(std::vector<Name> names, std::function<void()> done);
  /// Whether names that were given to forget_names() are still to be forgotten.
  bool has_names_to_forget() const;
  /// For names in directories with calls under way; those of forget_names() do not wait for them.
  void forget_names_later(std::vector<Name> names);
  void forget_all_names();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::fuse
