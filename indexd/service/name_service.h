#pragma once

#include "common/async/task.h"
#include "common/rpc/server.h"
#include "common/wire/index.pb.h"
#include "indexd/service/changes.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/leases.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

/// Answers what is asked about names and directories.
class NameService {
 public:
  NameService(Executor& index, Sessions& sessions, Changes& changes, Leases& leases,
              const ServiceOptions& options)
      : index_(index), sessions_(sessions), changes_(changes), leases_(leases), options_(options) {}
  void register_with(Dispatcher& dispatcher);

  Task<wire::AttributesReply> lookup(wire::LookupRequest request);
  Task<rpc::Response> create(wire::CreateRequest request);
  Task<rpc::Response> link(wire::LinkRequest request);
  Task<rpc::Response> unlink(wire::UnlinkRequest request);
  Task<rpc::Response> rename(wire::RenameRequest request);
  Task<wire::ReadLinkReply> read_link(wire::ReadLinkRequest request);
  Task<wire::ReadDirectoryReply> read_directory(wire::ReadDirectoryRequest request);

 private:
  /// `by` has taken its last name.
  void orphaned(InodeId inode, SessionId by, bool keep);

  Executor& index_;
  Sessions& sessions_;
  Changes& changes_;
  Leases& leases_;
  const ServiceOptions& options_;
};

}  // namespace reelfs::indexd
