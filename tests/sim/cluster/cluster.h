#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <prometheus/registry.h>

#include "client/filesystem.h"
#include "common/rpc/server.h"
#include "indexd/journal/executor.h"
#include "indexd/service/index_service.h"
#include "noded/worker/worker.h"
#include "tests/sim/cluster/devices.h"
#include "tests/sim/cluster/index_disk.h"
#include "tests/sim/cluster/network.h"
#include "tests/sim/cluster/recorder.h"
#include "tests/sim/cluster/world.h"

namespace reelfs::sim {

/// A whole cluster in a world: an index server, three or four nodes, a few mounts that record, all of them
/// the product's own code from the filesystem's calls down to the blocks; and what happens to them.
/// Afterwards everything is healed, and what was promised is looked for.
class Cluster {
 public:
  Cluster(World& world, std::uint64_t seed, const std::filesystem::path& directory);
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  /// Everything, to the end.
  void run();
  /// Shared memory, which outlives this process.
  void clean_up();

  struct Figures {
    std::uint64_t syncs = 0;               // that were acknowledged
    std::uint64_t acknowledged_bytes = 0;  // in files at the end
    std::uint64_t errors = 0;              // that recorders were told
    std::uint64_t faults = 0;
    std::uint64_t segments = 0;   // at the end
    std::uint64_t fences = 0;     // that were answered
    std::uint64_t completed = 0;  // copies made whole
    std::uint64_t torn = 0;       // fences that said so
  };
  const Figures& figures() const { return figures_; }

 private:
  struct Node {
    Node(std::string name, std::uint64_t disk_bytes, std::uint64_t disk_seed);
    Host host;
    std::filesystem::path path;
    MachineDisk disk;
    Process* process = nullptr;
    bool hurt = false;  // it lost power once
    bool lost = false;  // for ever
    NodeId id;          // at the end
  };
  struct Index {
    Host host{"index"};
    std::unique_ptr<IndexDisk> disk;
    Process* process = nullptr;
    bool serving = false;
    bool hurt = false;  // it lost power once
  };
  struct Mount {
    explicit Mount(std::string name) : host{std::move(name)} {}
    Host host;
    Process* process = nullptr;
    client::FileSystem* fs = nullptr;
    Recorder* recorder = nullptr;
    bool started = false;
    bool stopped = false;
  };

  // programs
  void start_node(Node& node);
  void start_index();
  void start_mount(Mount& mount);
  void kill(Process*& process);
  asio::awaitable<void> serve_node(noded::Worker& worker);
  asio::awaitable<void> serve_index(indexd::Executor& executor);
  asio::awaitable<void> record(Mount& mount);
  asio::awaitable<void> unmount(Mount& mount);
  asio::awaitable<void> make_channels(Mount& mount);
  asio::awaitable<void> read_all(Mount& mount);

  // what happens
  void plan_faults();
  void fault(Duration lasts);
  void node_loses_power(Node& node, Duration lasts);
  void index_loses_power(Duration lasts);
  void mount_dies(Duration lasts);
  std::vector<Host*> hosts();
  void heal();

  // what must hold
  void watch_messages();
  void check_synced(const RecordedFile& file);
  bool all_copies_may_be_hurt() const;
  void check_freed(const Process& server, SegmentId segment);
  void check_committed(const wire::CommitRequest& request);
  void check_blocks();
  /// What is not quiet yet; empty: everything is as it is to stay.
  std::string unsettled();
  struct Rows {
    std::map<SegmentId, indexd::SegmentRow> segments;
    std::map<std::pair<InodeId, std::uint64_t>, indexd::ExtentRow> extents;
    std::map<NodeId, std::string> nodes;
  };
  /// @param only  of the extents: those of this file; none: all
  static Rows decoded(const std::map<std::string, std::string>& rows, InodeId only = {});
  std::map<std::string, std::string> rows_now();
  Node* node_of(const Rows& rows, NodeId id);
  std::vector<std::optional<noded::BlockDescriptor>> descriptors(Node& node);
  bool is_beyond_repair(const Rows& rows, SegmentId segment, const indexd::SegmentRow& row);
  bool has_block(Node& node, SegmentId segment);
  bool holds(Node& node, SimDisk::Image image, const indexd::SegmentCopy& copy, SegmentId segment,
             const RecordedFile& file, std::uint64_t file_offset, const indexd::ExtentRow& extent);

  World& world_;
  Network network_;
  const Uuid cluster_;
  noded::Geometry geometry_;
  std::vector<std::unique_ptr<Node>> nodes_;
  Index index_;
  std::vector<std::unique_ptr<Mount>> mounts_;
  std::vector<InodeId> channels_;
  std::uint32_t min_copies_ = 1;
  bool healed_ = false;
  bool all_read_ = false;
  std::vector<const Recorder*> recorders_;  // those of mounts that died, too
  struct Fenced {
    std::uint64_t generation = 0;
    std::uint64_t length = 0;
  };
  std::map<std::pair<std::string, std::uint64_t>, Fenced> fenced_;
  Figures figures_;
};

}  // namespace reelfs::sim
