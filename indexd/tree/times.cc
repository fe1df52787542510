#include "indexd/tree/times.h"

#include <algorithm>

#include "common/base/rfc3339.h"

namespace reelfs::indexd::tree {

Result<std::string> show_time(const Inode& inode, std::string_view name) {
  if (!inode.is_regular() || inode.row.first_ns == 0) return Error(Errc::no_attribute);
  return rfc3339(name == kFirstByteXattr ? inode.row.first_ns : inode.row.last_ns);
}

bool TimeSearch::matches(const Inode& inode) const {
  const auto& row = inode.row;
  if (!inode.is_regular() || row.nlink == 0 || row.first_ns == 0 || row.first_ns > time_.to) return false;
  if (row.last_ns >= time_.from) return true;
  return now_ >= time_.from && row.last_ns >= now_ - kUntoldNs && is_being_written_(inode.id);
}

Result<std::optional<RecordingKey>> TimeSearch::run(const Reader& reader, InodeId channel,
                                                    const std::optional<RecordingKey>& after,
                                                    std::size_t& rows,
                                                    const std::function<bool(const Inode&)>& visit) const {
  const auto oldest = std::max<WallNs>(0, std::min(time_.from, now_ - kUntoldNs));
  RecordingKey from{channel, static_cast<std::uint64_t>(oldest), InodeId{}};
  if (after && after->channel == channel && after->last_ns >= from.last_ns)
    from = {channel, after->last_ns, InodeId{after->inode.value + 1}};
  std::optional<RecordingKey> last;
  Result<void> outcome = ok();
  bool more = false;
  REELFS_TRY(reader.scan(from, RecordingKey{InodeId{channel.value + 1}, 0, InodeId{}},
                         [&](const RecordingKey& key, const RecordingRow&) {
                           more = rows == 0;
                           if (more) return false;
                           --rows;
                           auto row = reader.get(InodeKey{key.inode});
                           if (!row) {
                             outcome = std::move(row).error();
                             return false;
                           }
                           last = key;
                           const Inode inode{key.inode, std::move(row).value()};
                           more = matches(inode) && !visit(inode);
                           return !more;
                         }));
  REELFS_TRY(std::move(outcome));
  return more ? last : std::nullopt;
}

}  // namespace reelfs::indexd::tree
