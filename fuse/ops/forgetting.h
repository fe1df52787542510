#pragma once

#include "client/filesystem.h"
#include "common/async/task.h"

namespace reelfs::fuse {

struct Mount;

/// Has the kernel, and the mount, forget what another mount has changed. For FileSystem::on_change. Names in
/// a directory in which a call is under way here, or begins meanwhile, are forgotten after that call, and are
/// not waited for: the call may itself wait for the other mount to forget something.
asio::awaitable<void> forget(Mount& mount, client::Change change);
/// Has the kernel drop the file's pages.
asio::awaitable<void> forget_pages(Mount& mount, InodeId inode);

}  // namespace reelfs::fuse
