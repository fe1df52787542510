#include "indexd/nodelog/replay.h"

#include <optional>
#include <string>

#include <fmt/format.h>

#include "indexd/journal/entry.h"

namespace reelfs::indexd {

Result<Replayed> replay(const RebuildPlan& plan, const PieceFile& pieces,
                        const std::function<Result<void>(std::string_view changes)>& visit) {
  Replayed replayed;
  replayed.last = plan.checkpoint;
  for (const auto piece : plan.rows) {
    REELFS_TRY(const auto changes, pieces.read(piece));
    if (changes.empty()) continue;
    REELFS_TRY(visit(changes));
  }
  std::optional<std::uint32_t> chain;  // checksum of the entry before
  std::optional<Error> broken;
  for (const auto& group : plan.entries) {
    std::string bytes;
    for (const auto piece : group.pieces) {
      REELFS_TRY(const auto part, pieces.read(piece));
      bytes += part;
    }
    std::string_view rest(bytes);
    while (!rest.empty() && replayed.last.index < group.last_index) {
      const auto entry = decode_entry(rest, plan.salt);
      if (!entry) {
        broken = entry.error();
        break;
      }
      const auto& header = entry.value().header;
      rest.remove_prefix(entry.value().bytes());
      if (header.index < group.first_index) continue;
      const bool follows = header.index == replayed.last.index + 1 &&
                           header.epoch >= replayed.last.epoch.value &&
                           (!chain || header.previous_crc32c == *chain);
      if (!follows) {
        broken =
            Error(Errc::corrupt, fmt::format("entry {} does not follow upon the one before", header.index));
        break;
      }
      if (!entry.value().payload.empty()) {
        REELFS_TRY(visit(entry.value().payload));
      }
      chain = header.crc32c;
      replayed.last = {Epoch{header.epoch}, header.index};
      ++replayed.entries;
    }
    if (!broken && replayed.last.index < group.last_index)
      broken = Error(Errc::corrupt, fmt::format("entry {} is missing", replayed.last.index + 1));
    if (broken) break;
  }
  if (replayed.last.index < plan.needed_index) {
    return broken ? std::move(*broken)
                  : Error(Errc::corrupt, "entries are missing that the checkpoint needs");
  }
  return replayed;
}

}  // namespace reelfs::indexd
