#include "common/wire/gap_cause.h"

namespace reelfs::wire {

std::string_view name_of(GapCause cause) {
  switch (cause) {
    case GAP_CAUSE_SOURCE_SILENT:
      return "source_silent";
    case GAP_CAUSE_RECORDER_GONE:
      return "recorder_gone";
    case GAP_CAUSE_STORE_STALLED:
      return "store_stalled";
    default:
      return "unknown";
  }
}

}  // namespace reelfs::wire
