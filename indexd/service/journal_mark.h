#pragma once

#include "common/wire/index.pb.h"

namespace reelfs::indexd {

class Executor;

/// What was answered before lies at or before its index. docs/design/durability.md
wire::JournalMark journal_mark(const Executor& index);

}  // namespace reelfs::indexd
