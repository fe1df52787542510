#include "fuse/views/generated_files.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "common/base/rfc3339.h"
#include "fuse/ops/mount.h"

namespace reelfs::fuse {
namespace {

/// The ledger of gaps. Columns stay as they are and where they are; others may follow.
Task<std::string> make_gaps(Mount& mount, InodeId channel) {
  REELFS_CO_TRY(const auto gaps, co_await mount.files.list_gaps(channel));
  const auto now = mount.clock.wall().time_since_epoch().count();
  std::string text = "start\tend\tseconds\tcause\tlongest_stall_seconds\n";
  for (const auto& gap : gaps) {
    const bool lasts = gap.end_ns == 0;
    const auto length = std::max<std::int64_t>((lasts ? now : gap.end_ns) - gap.start_ns, 0);
    text += fmt::format("{}\t{}\t{:.3f}\t{}\t{:.3f}\n", rfc3339(gap.start_ns),
                        lasts ? "open" : rfc3339(gap.end_ns), static_cast<double>(length) / 1e9, gap.cause,
                        std::chrono::duration<double>(gap.longest_stall).count());
  }
  co_return text;
}

/// How this mount reaches the nodes: the same in each channel.
Task<std::string> make_paths(Mount& mount, InodeId) {
  constexpr std::array kTraffic{"any", "clients", "copies"};
  std::string text =
      "node\tworker\tused_for\taddress\tmeant_for\tstate\tlatency_ms\tin_flight\tcalls\tfailures\n";
  for (const auto& path : mount.files.paths()) {
    text += fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{:.3f}\t{}\t{}\t{}\n", path.node.value, path.worker.value,
                        path.for_appends ? "appends" : "reads", path.endpoint.to_string(),
                        kTraffic.at(static_cast<std::size_t>(path.endpoint.traffic)), path.up ? "up" : "down",
                        std::chrono::duration<double, std::milli>(path.latency).count(), path.in_flight,
                        path.calls, path.failures);
  }
  co_return text;
}

constexpr std::array kFiles{GeneratedFile{1, "gaps.tsv", make_gaps},
                            GeneratedFile{2, "paths.tsv", make_paths}};

}  // namespace

std::span<const GeneratedFile> generated_files() { return kFiles; }

}  // namespace reelfs::fuse
