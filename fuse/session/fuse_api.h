#pragma once

/// The libfuse version that this folder is written against: include this, not libfuse's own headers.
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 14)
#include <fuse_lowlevel.h>
