#pragma once

#include <string>
#include <vector>

#include "indexd/schema/reader.h"

namespace reelfs::indexd::tree {

/// Compares what is stored twice: names in their three tables, link counts, sizes of directories, extents
/// that do not overlap and lie within the size, stored and live bytes of files, segments and channels,
/// how many holds there are. Reads everything.
/// @return a sentence for each contradiction; empty when all is well
/// @errors corrupt, io
Result<std::vector<std::string>> audit(const Reader& reader);

}  // namespace reelfs::indexd::tree
