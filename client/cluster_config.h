#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/rpc/endpoint.h"
#include "common/rpc/tls.h"

namespace reelfs::client {

/// What a client must know of a cluster: the file given with `-o cluster=`.
///
///     cluster = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
///     indexes = ["127.0.0.1:7400"]
///     [tls]                     # required beyond loopback
///     ca = "authority.pem"
///     cert = "mount.pem"
///     key = "mount.key"
struct ClusterConfig {
  Uuid cluster;
  std::vector<rpc::Endpoint> indexes;
  rpc::TlsFiles tls;

  /// @errors not_found, bad_config naming file and line
  static Result<ClusterConfig> load(const std::filesystem::path& path);
};

}  // namespace reelfs::client
