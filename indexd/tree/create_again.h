#pragma once

#include "indexd/tree/names.h"

namespace reelfs::indexd::tree {

/// create(), of what was created before and forgotten, since the machine lost power: it has its number again,
/// unless that was never given, or something has it. docs/design/durability.md
Result<Inode> create_again(Transaction& txn, const CreateParams& params, InodeId number, WallNs now);

}  // namespace reelfs::indexd::tree
