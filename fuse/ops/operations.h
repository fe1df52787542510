#pragma once

#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// The table that libfuse calls; its user data is a Mount.
const fuse_lowlevel_ops& operations();

// Each file of this folder fills in the part of the table whose noun it bears.
void add_name_operations(fuse_lowlevel_ops& table);
void add_attribute_operations(fuse_lowlevel_ops& table);
void add_data_operations(fuse_lowlevel_ops& table);
void add_lock_operations(fuse_lowlevel_ops& table);
void add_xattr_operations(fuse_lowlevel_ops& table);
void add_directory_operations(fuse_lowlevel_ops& table);
void add_file_operations(fuse_lowlevel_ops& table);
void add_session_operations(fuse_lowlevel_ops& table);

}  // namespace reelfs::fuse
