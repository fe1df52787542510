#include "client/cluster_config.h"

#include "common/config/config.h"

namespace reelfs::client {

Result<ClusterConfig> ClusterConfig::load(const std::filesystem::path& path) {
  ClusterConfig config;
  std::string cluster;
  REELFS_TRY(auto file, config::File::load(path));
  auto root = file.root();
  root.require("cluster");
  root.read("cluster", cluster);
  root.require("indexes");
  root.read("indexes", config.indexes);
  root.read("tls", config.tls);
  REELFS_TRY(file.finish());
  auto id = Uuid::parse(cluster);
  if (!id) return Error(Errc::bad_config, path.string() + ": cluster is not a UUID: " + cluster);
  config.cluster = id.value();
  if (config.indexes.empty())
    return Error(Errc::bad_config, path.string() + ": indexes names no index server");
  return config;
}

}  // namespace reelfs::client
