#include "noded/segment/explain.h"

#include <string>

namespace reelfs::noded {

Error explain(Error refused, SegmentId segment) {
  if (!refused.message().empty()) return refused;
  const auto name = "segment " + std::to_string(segment.value);
  switch (refused.code()) {
    case Errc::not_found:
      return Error(refused.code(), name + " has no copy on this node");
    case Errc::stale_generation:
      return Error(refused.code(), name + " was granted anew, fenced or sealed since");
    case Errc::no_space:
      return Error(refused.code(), name + " has no room left for this");
    case Errc::busy:
      return Error(refused.code(), name + " is being written through another worker");
    case Errc::invalid:
      return Error(refused.code(),
                   name + " ends elsewhere here, or the generation is newer than the index has told");
    default:
      return refused;
  }
}

}  // namespace reelfs::noded
