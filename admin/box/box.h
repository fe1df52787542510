#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"
#include "common/rpc/endpoint.h"

namespace reelfs::admin {

/// What a one-box cluster is made of, as given to `box up`.
struct BoxOptions {
  std::filesystem::path mount;  // empty: none
  std::uint32_t nodes = 2;
  std::uint32_t workers = 2;  // per node
  std::uint32_t devices = 1;  // per node
  std::uint64_t device_bytes = 4 * kGiB;
  std::uint32_t indexes = 1;
  std::uint32_t arbiters = 1;
  std::uint32_t copies = 2;
  std::uint32_t journal_copies = 3;  // on nodes, where there are as many
  std::uint64_t block_bytes = 64 * kMiB;
  bool tls = false;
};

enum class Role { index, worker, mount };

/// One process of a box.
struct BoxProcess {
  std::string name;  // "index1", "node2.worker1", "mount"
  Role role;
  std::string node;          // of a worker
  std::uint32_t worker = 0;  // of a worker
  std::vector<std::string> command;
  std::filesystem::path log;
  std::filesystem::path pid_file;
};

/// A whole cluster in one directory of one machine, on loopback, each process the real program:
///
///     DIR/box.json        what it is made of and which ports it has
///     DIR/cluster.toml    for mounts and reelctl
///     DIR/index1.toml     DIR/index1/        DIR/node1.toml   DIR/node1.dev1
///     DIR/log/NAME.log    DIR/run/NAME.pid   DIR/tls/
///
/// This class is the description. Starting and stopping what it describes is admin/box/supervisor.h.
class Box {
 public:
  /// Describes a new box and makes its directory: configuration, certificates, device files with their space
  /// set aside. Repeating it after it was interrupted goes on with what is there.
  /// @param programs  the directory of indexd, noded and reelfs
  /// @errors invalid (options that make no sense together), no_space, io
  static Result<Box> create(const std::filesystem::path& directory, const BoxOptions& options,
                            const std::filesystem::path& programs);
  /// @errors not_found (no box there), bad_config
  static Result<Box> load(const std::filesystem::path& directory, const std::filesystem::path& programs);
  static bool exists(const std::filesystem::path& directory);

  /// From now on the box's mount is there. Kept in box.json.
  Result<void> set_mount(const std::filesystem::path& mount);

  const std::filesystem::path& directory() const { return directory_; }
  const BoxOptions& options() const { return options_; }
  const Uuid& cluster() const { return cluster_; }
  std::filesystem::path cluster_file() const { return directory_ / "cluster.toml"; }
  rpc::Endpoint index_endpoint() const { return {"127.0.0.1", index_port_}; }
  /// In the order of starting; the mount, where there is one, last.
  std::vector<BoxProcess> processes() const;

 private:
  Box(std::filesystem::path directory, BoxOptions options, std::filesystem::path programs);
  Result<void> save() const;
  Result<void> write_configuration() const;
  Result<void> make_certificates() const;
  Result<void> make_devices() const;
  std::filesystem::path device_path(std::uint32_t node, std::uint32_t device) const;
  BoxProcess process(std::string name, Role role) const;
  std::string tls_table(const std::string& identity) const;

  std::filesystem::path directory_;
  BoxOptions options_;
  std::filesystem::path programs_;
  Uuid cluster_;
  std::uint16_t index_port_ = 0;
  std::vector<std::uint16_t> node_ports_;  // internal, one per node
};

/// @errors invalid, saying which option and why
Result<void> check(const BoxOptions& options);

}  // namespace reelfs::admin
