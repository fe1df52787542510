#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/units.h"

namespace reelfs::indexd {

/// What the service goes by; indexd.toml gives some of it, tests shorten the times.
struct ServiceOptions {
  Uuid cluster;
  Epoch epoch;
  std::string boot_id;  // of the machine's run; empty: unknown, and taken for another than the last
  std::uint64_t block_bytes = 64 * kMiB;
  std::uint32_t copies = 2;  // of new channels
  bool adopt_blank_devices = false;
  std::uint32_t journal_copies = 0;  // on nodes, where there are as many; 0: none
  /// The store was empty when this process opened it: mounts are to wait until nodes have told what they
  /// hold.
  bool is_new = false;
  std::filesystem::path data_dir;  // empty: the index cannot be rebuilt here

  std::chrono::milliseconds heartbeat{250};
  /// A worker silent for longer is given nothing new where others can have it: it is to be seen within a
  /// second.
  Duration suspect_limit = std::chrono::milliseconds(750);
  Duration silence_limit =
      std::chrono::milliseconds(1500);  // a worker silent for longer is offline: six heartbeats
  /// So long after its start the index gives no segments with fewer copies than are wanted: nodes are on
  /// their way.
  Duration start_grace = std::chrono::milliseconds(1500);
  Duration lease = std::chrono::seconds(10);        // of a session: three renewals may get lost
  Duration cache_lease = std::chrono::seconds(10);  // of names and attributes, see Leases
  /// What has lost its last name stays this long for the session that took it, unless that has forgotten it
  /// before: until then it has opened what it still needs.
  Duration removed_keep = std::chrono::seconds(10);
  /// The same for all others that were told of it lately: an open may be on its way.
  Duration removed_grace = std::chrono::seconds(2);
  Duration node_call_limit = std::chrono::seconds(2);  // allocating, fencing, sealing, freeing
  /// Of the first attempt to take a block: other nodes are tried after it.
  Duration first_allocate_limit = std::chrono::milliseconds(500);
  Duration adopt_retry = std::chrono::seconds(5);  // between attempts to initialise one blank device
  /// A segment in which nothing lives is freed this long after its writer closed it: mounts commit what they
  /// have placed within half a second. One whose commit comes later still finds the segment gone, and stores
  /// the bytes anew.
  Duration dead_segment_grace = std::chrono::seconds(1);
  /// Between looks at leases, dead segments and what is to be tried again.
  Duration sweep_interval = std::chrono::milliseconds(250);
  /// What compaction copies at most in a second: an eighth of what one disk writes. 0: it is off.
  std::uint64_t compaction_rate = 16 * kMiB;
  Duration compaction_interval = std::chrono::seconds(5);  // between looks for what is mostly dead
  std::size_t sweep_rows = 4096;                           // segments looked at each time
  std::size_t max_active_lives = 128;                      // segments that background work leads at once
  /// What repair copies at most in a second, in the whole cluster, while no appends wait: half of what one
  /// disk reads, so that the copies of a lost node are back within the hour for each TB.
  std::uint64_t repair_rate = 256 * kMiB;
  /// A node or device that is away for longer is not waited for any more: its copies are made again. Long
  /// enough for a machine to be restarted.
  Duration repair_delay = std::chrono::minutes(10);
  Duration repair_interval = std::chrono::seconds(4);  // between looks for what has too few copies
  /// What is copied at most in a second to make nodes and devices equally full, while nothing is repaired and
  /// no appends wait: a quarter of what one disk writes. 0: it is off.
  std::uint64_t rebalance_rate = 32 * kMiB;
  /// A device whose writes or flushes take longer than so many times the median of its peers' is slow, where
  /// that is so for slow_after; and forgiven when it was not for fast_after. Looked at with each heartbeat.
  double slow_factor = 4;
  Duration slow_after = std::chrono::seconds(2);
  Duration fast_after = std::chrono::seconds(10);
};

}  // namespace reelfs::indexd
