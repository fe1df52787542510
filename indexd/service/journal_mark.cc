#include "indexd/service/journal_mark.h"

#include "indexd/journal/executor.h"

namespace reelfs::indexd {

wire::JournalMark journal_mark(const Executor& index) {
  wire::JournalMark mark;
  mark.set_epoch(index.epoch().value);
  mark.set_synced(index.synced_index());
  mark.set_index(index.journal_index());
  return mark;
}

}  // namespace reelfs::indexd
