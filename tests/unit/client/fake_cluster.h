#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "client/cluster_config.h"
#include "client/extent_cache.h"
#include "common/async/condition.h"
#include "common/base/clock.h"
#include "common/rpc/server.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"

namespace reelfs::testing {

/// One process of a storage node, over real connections; segments in memory.
class FakeNode {
 public:
  FakeNode(asio::io_context& context, const Clock& clock, std::uint32_t number);
  asio::awaitable<void> stop();

  wire::WorkerAddress address() const;

  std::map<std::uint64_t, std::string> segments;
  bool corrupts = false;        // flips a bit in what is read
  bool silent = false;          // reads are not answered
  std::optional<Errc> refuses;  // appends
  int reads = 0;
  int syncs = 0;

 private:
  Task<rpc::Response> handle(rpc::Request request);
  Result<rpc::Response> append(const rpc::Request& request);
  Result<rpc::Response> read(const rpc::Request& request);

  const Clock& clock_;
  const std::uint32_t number_;
  rpc::Server server_;
  rpc::Endpoint endpoint_;
  Condition never_;
};

/// An index server over real connections with its tree in memory, and nodes. Request ids are honoured as the
/// real one does.
class FakeCluster {
 public:
  struct File {
    wire::Attributes attributes;
    std::map<std::uint64_t, client::Extent> extents;
  };

  FakeCluster(asio::io_context& context, const Clock& clock, std::size_t nodes = 2);
  asio::awaitable<void> stop();
  /// Ends the index server and starts it anew on the same port; sessions are lost with `forget_sessions`.
  asio::awaitable<void> restart_index(bool forget_sessions);
  asio::awaitable<void> stop_index() { co_await server_->stop(); }

  client::ClusterConfig config() const;
  File& file(std::uint64_t inode) { return files_.at(inode); }
  int calls(wire::Method method) const;
  /// Requests of this method wait until let_go().
  void hold(wire::Method method) { held_.insert(method); }
  void let_go();
  /// Frees the segment everywhere.
  void free_segment(std::uint64_t segment);
  /// The inode is no more.
  void lose(std::uint64_t inode) { files_.erase(inode); }

  std::vector<std::unique_ptr<FakeNode>> nodes;
  std::function<Result<void>(wire::Method)> before = [](wire::Method) { return Result<void>(ok()); };
  /// Breaks the connection instead of answering the next request of this method, which is carried out.
  std::optional<wire::Method> swallow;
  std::vector<wire::CommitRequest> commits;
  std::map<std::uint64_t, Errc> refused;  // commits to these inodes, each alone
  std::set<std::uint64_t> held;           // inodes; commits are refused by `refused` alone
  std::map<std::uint64_t, std::set<std::uint64_t>> open_inodes;  // by session
  std::set<std::uint64_t> kept;                                  // removed with `keep`, and not forgotten
  std::uint64_t block_bytes = 4u << 20;
  std::uint64_t clone_step = 1u << 30;  // bytes that one call clones at most

 private:
  using Answer = Result<std::string>;
  Task<rpc::Response> handle(rpc::Request request);
  Answer carry_out(const rpc::Request& request);
  Answer open_session(const wire::OpenSessionRequest& request);
  Answer lookup(const wire::LookupRequest& request);
  Answer create(const wire::CreateRequest& request);
  Answer unlink(const wire::UnlinkRequest& request);
  Answer set_attributes(const wire::SetAttributesRequest& request);
  Answer get_extents(const wire::GetExtentsRequest& request);
  Answer commit(const wire::CommitRequest& request);
  Answer punch_hole(const wire::PunchHoleRequest& request);
  Answer clone_range(const wire::CloneRangeRequest& request);
  Answer open_segment(const wire::OpenSegmentRequest& request);
  Answer attributes(std::uint64_t inode);
  wire::SegmentLocation location(std::uint64_t segment) const;
  static void cut_out(File& file, std::uint64_t begin, std::uint64_t end);
  File& make(std::uint64_t parent, const std::string& name, std::uint32_t mode);

  asio::io_context& context_;
  const Clock& clock_;
  Uuid cluster_ = Uuid::random();
  std::unique_ptr<rpc::Server> server_;
  rpc::Endpoint endpoint_;
  std::set<wire::Method> held_;
  Condition released_;
  std::map<wire::Method, int> calls_;
  std::map<std::uint64_t, File> files_;
  std::map<std::pair<std::uint64_t, std::string>, std::uint64_t> names_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, Answer> answered_;
  std::uint64_t last_inode_ = 1;
  std::uint64_t last_segment_ = 0;
  std::uint64_t last_session_ = 0;
  std::uint64_t version_ = 0;
};

}  // namespace reelfs::testing
