#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "client/cluster_config.h"
#include "common/async/event.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/server.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {

/// A storage node in memory with any number of worker processes, each a real server. Refuses what a real one
/// refuses.
class FakeNode {
 public:
  struct Block {
    std::uint64_t generation = 0;
    std::string bytes;
    std::size_t synced = 0;  // of bytes
  };

  FakeNode(asio::io_context& context, const Clock& clock, std::uint32_t id, std::size_t workers);

  std::uint32_t id() const { return id_; }
  std::size_t workers() const { return endpoints_.size(); }
  wire::WorkerAddress address(std::size_t worker) const;
  /// Ends a worker process.
  asio::awaitable<void> kill(std::size_t worker);
  asio::awaitable<void> stop();

  std::map<std::uint64_t, Block> blocks;
  bool stands_still = false;            // takes requests, answers none
  Event* hold_syncs = nullptr;          // a flush waits for it
  std::size_t syncs = 0;                // flushes begun
  std::vector<std::size_t> sync_sizes;  // segments in each

 private:
  Task<rpc::Response> handle(rpc::Request request);

  const std::uint32_t id_;
  std::vector<std::unique_ptr<rpc::Server>> servers_;
  std::vector<rpc::Endpoint> endpoints_;
};

/// The index as far as a writer needs it: sessions, grants, and where segments are.
class FakeIndex {
 public:
  struct Segment {
    std::uint64_t generation = 0;
    std::uint64_t length = 0;
    bool open = false;
    bool failed = false;
    std::vector<FakeNode*> nodes;
  };

  FakeIndex(asio::io_context& context, const Clock& clock, std::vector<FakeNode*> nodes, std::size_t copies,
            std::uint64_t block_bytes);

  ClusterConfig config() const;
  asio::awaitable<void> stop();
  std::size_t open_segments() const;

  std::map<std::uint64_t, Segment> segments;
  Errc refuse_grants{};  // instead of granting, where set
  std::uint32_t min_copies = 1;
  std::vector<std::vector<std::uint32_t>> avoided;  // in each request

 private:
  Task<rpc::Response> handle(rpc::Request request);
  Result<rpc::Response> open_segments_for(const wire::OpenSegmentRequest& request);
  Result<rpc::Response> close_segment(const wire::CloseSegmentRequest& request);
  rpc::Response locate(const wire::LocateSegmentsRequest& request);

  std::vector<FakeNode*> nodes_;
  const std::size_t copies_;
  const std::uint64_t block_bytes_;
  const Uuid cluster_ = Uuid::random();
  rpc::Server server_;
  rpc::Endpoint endpoint_;
};

}  // namespace reelfs::client
