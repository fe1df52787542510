#pragma once

#include <atomic>
#include <utility>

#include "client/filesystem.h"
#include "common/base/clock.h"
#include "fuse/cache/absent_capabilities.h"
#include "fuse/cache/busy_directories.h"
#include "fuse/cache/cached_versions.h"
#include "fuse/cache/known_acls.h"
#include "fuse/cache/last_known.h"
#include "fuse/cache/removed_inodes.h"
#include "fuse/cache/stale_pages.h"
#include "fuse/inodes/node_ids.h"
#include "fuse/ops/open_files.h"
#include "fuse/ops/refused_names.h"
#include "fuse/session/invalidator.h"
#include "fuse/session/kernel_channel.h"
#include "fuse/session/operations.h"
#include "fuse/session/request.h"
#include "fuse/views/opened.h"

namespace reelfs::fuse {

/// What the operations work with.
struct Mount : KernelChannel::User {
  client::FileSystem& files;
  Operations& operations;
  const Clock& clock;
  NodeIds nodes;
  OpenFiles open_files;
  CachedVersions versions;
  StalePages stale_pages;
  AbsentCapabilities absent_capabilities;
  KnownAcls known_acls;
  BusyDirectories busy;
  Invalidator invalidator;
  RemovedInodes removed;
  RefusedNames refused_names;
  LastKnown last_known;
  OpenedViews views;
  std::atomic<bool> connected{false};  // FileSystem::start() has succeeded, and the root is known

  Mount(client::FileSystem& file_system, Operations& loop, const Clock& machine_clock)
      : User(machine_clock),
        files(file_system),
        operations(loop),
        clock(machine_clock),
        stale_pages(machine_clock),
        absent_capabilities(machine_clock),
        known_acls(machine_clock),
        last_known(machine_clock),
        views(machine_clock) {}

  static Mount& of(fuse_req_t raw) { return *static_cast<Mount*>(User::of(raw)); }

  InodeId inode(fuse_ino_t node) const { return nodes.inode(node); }

  /// Runs the operation that owns the request `raw`; before there is a session with the index it fails at
  /// once (EIO).
  void start(fuse_req_t raw, Operation operation, Interruption interruption = Interruption::after_grace) {
    if (connected) operations.start(raw, std::move(operation), interruption);
  }
};

}  // namespace reelfs::fuse
