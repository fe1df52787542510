#include "admin/box/box.h"

#include <bit>
#include <cerrno>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/box/ports.h"
#include "common/rpc/tls.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

Result<void> write_file(const fs::path& path, const std::string& text) {
  const auto beside = path.string() + ".new";
  {
    std::ofstream file(beside, std::ios::trunc);
    file << text;
    if (!file.flush()) return Error(Errc::io, "cannot write " + beside);
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) return from_errno(errno, "rename " + beside);
  return ok();
}

Result<void> make_directory(const fs::path& path) {
  std::error_code failed;
  fs::create_directories(path, failed);
  if (failed) return Error(Errc::io, fmt::format("cannot make {}: {}", path.string(), failed.message()));
  return ok();
}

// A basic string of TOML is, for the paths and names used here, what JSON calls a string.
std::string quoted(const std::string& text) { return json(text).dump(); }

// A comma would end the option, a backslash change it.
std::string mount_option(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == ',' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

// The space is set aside, so that the devices of a box on a full disk fail now and not in the middle of a
// recording.
Result<void> make_device(const fs::path& path, std::uint64_t bytes) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return from_errno(errno, "open " + path.string());
  int failed = ::fallocate(descriptor, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  if (failed == EOPNOTSUPP) failed = ::ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  ::close(descriptor);
  if (failed == 0) return ok();
  return from_errno(failed, fmt::format("setting {} MiB aside for {}", bytes / kMiB, path.string()));
}

}  // namespace

Result<void> check(const BoxOptions& options) {
  const auto refuse = [](std::string why) { return Error(Errc::invalid, std::move(why)); };
  if (options.indexes != 1) {
    return refuse("--indexes: one index server is all this version runs; a standby is not available yet");
  }
  if (options.arbiters != 1) {
    return refuse("--arbiters: one is all this version runs; it is of use once there is a standby");
  }
  if (options.nodes < 1 || options.nodes > 64) return refuse("--nodes must be 1 to 64");
  if (options.workers < 1 || options.workers > 64) return refuse("--workers must be 1 to 64");
  if (options.devices < 1 || options.devices > 64) return refuse("--devices must be 1 to 64");
  if (options.copies < 1 || options.copies > 4) return refuse("--copies must be 1 to 4");
  if (options.journal_copies > 4) return refuse("--journal-copies must be 0 to 4");
  if (options.copies > options.nodes) {
    return refuse(fmt::format("--copies {} needs as many nodes: give --nodes {} or fewer copies",
                              options.copies, options.copies));
  }
  if (options.block_bytes < 4 * kMiB || options.block_bytes > kGiB ||
      !std::has_single_bit(options.block_bytes)) {
    return refuse("--block-size must be a power of two from 4M to 1G");
  }
  if (options.device_bytes < 2 * options.block_bytes) {
    return refuse(
        "--device-size must hold at least two blocks: give a larger one, or a smaller --block-size");
  }
  return ok();
}

Box::Box(fs::path directory, BoxOptions options, fs::path programs)
    : directory_(std::move(directory)), options_(std::move(options)), programs_(std::move(programs)) {}

bool Box::exists(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / "box.json", ignored);
}

Result<Box> Box::create(const fs::path& directory, const BoxOptions& options, const fs::path& programs) {
  REELFS_TRY(check(options));
  Box box(directory, options, programs);
  box.cluster_ = Uuid::random();
  REELFS_TRY(auto ports, free_ports(1 + options.nodes));
  box.index_port_ = ports.front();
  box.node_ports_.assign(ports.begin() + 1, ports.end());
  for (const auto* part : {"", "log", "run", "index1"}) {
    REELFS_TRY(make_directory(directory / part));
  }
  REELFS_TRY(box.make_devices());
  if (options.tls) {
    REELFS_TRY(box.make_certificates());
  }
  REELFS_TRY(box.write_configuration());
  // Last: a directory is a box when this file is there.
  REELFS_TRY(box.save());
  return box;
}

Result<Box> Box::load(const fs::path& directory, const fs::path& programs) {
  const auto path = directory / "box.json";
  std::ifstream file(path);
  if (!file) {
    return Error(Errc::not_found, fmt::format("no box in {}: make one with `reelctl box up --dir {}`",
                                              directory.string(), directory.string()));
  }
  const auto settings = json::parse(file, nullptr, false);
  if (settings.is_discarded()) return Error(Errc::bad_config, path.string() + " is not JSON");
  try {
    BoxOptions options;
    options.mount = settings.at("mount").get<std::string>();
    options.nodes = settings.at("nodes");
    options.workers = settings.at("workers");
    options.devices = settings.at("devices");
    options.device_bytes = settings.at("device_bytes");
    options.copies = settings.at("copies");
    options.journal_copies = settings.value("journal_copies", options.journal_copies);
    options.block_bytes = settings.at("block_bytes");
    options.tls = settings.at("tls");
    Box box(directory, options, programs);
    REELFS_TRY(box.cluster_, Uuid::parse(settings.at("cluster").get<std::string>()));
    box.index_port_ = settings.at("index_port");
    box.node_ports_ = settings.at("node_ports").get<std::vector<std::uint16_t>>();
    if (box.node_ports_.size() != options.nodes)
      return Error(Errc::bad_config, path.string() + ": node_ports");
    return box;
  } catch (const json::exception& failed) {
    return Error(Errc::bad_config, path.string() + ": " + failed.what());
  }
}

Result<void> Box::save() const {
  const json settings = {
      {"cluster", cluster_.to_string()},
      {"mount", options_.mount.string()},
      {"nodes", options_.nodes},
      {"workers", options_.workers},
      {"devices", options_.devices},
      {"device_bytes", options_.device_bytes},
      {"copies", options_.copies},
      {"journal_copies", options_.journal_copies},
      {"block_bytes", options_.block_bytes},
      {"tls", options_.tls},
      {"index_port", index_port_},
      {"node_ports", node_ports_},
  };
  return write_file(directory_ / "box.json", settings.dump(2) + "\n");
}

Result<void> Box::set_mount(const fs::path& mount) {
  options_.mount = mount;
  return save();
}

fs::path Box::device_path(std::uint32_t node, std::uint32_t device) const {
  return directory_ / fmt::format("node{}.dev{}", node, device);
}

std::string Box::tls_table(const std::string& identity) const {
  if (!options_.tls) return {};
  const auto tls = directory_ / "tls";
  return fmt::format("\n[tls]\nca = {}\ncert = {}\nkey = {}\n", quoted(tls / "authority.pem"),
                     quoted(tls / (identity + ".pem")), quoted(tls / (identity + ".key")));
}

Result<void> Box::make_certificates() const {
  const auto tls = directory_ / "tls";
  REELFS_TRY(make_directory(tls));
  REELFS_TRY(rpc::make_authority(tls, "reelfs box " + cluster_.to_string()));
  std::vector<std::string> names = {"index1", "client"};
  for (std::uint32_t node = 1; node <= options_.nodes; ++node) names.push_back(fmt::format("node{}", node));
  for (const auto& name : names) {
    REELFS_TRY(rpc::make_identity(tls, name, {"127.0.0.1", "localhost"}));
  }
  return ok();
}

Result<void> Box::make_devices() const {
  std::vector<fs::path> made;
  for (std::uint32_t node = 1; node <= options_.nodes; ++node) {
    for (std::uint32_t device = 1; device <= options_.devices; ++device) {
      const auto path = device_path(node, device);
      std::error_code failed;
      if (!fs::exists(fs::symlink_status(path, failed))) made.push_back(path);
      if (auto done = make_device(path, options_.device_bytes); !done) {
        // A full disk is not to stay full of what cannot be used.
        for (const auto& one : made) fs::remove(one, failed);
        return done;
      }
    }
  }
  return ok();
}

Result<void> Box::write_configuration() const {
  const auto index = index_endpoint().to_string();
  REELFS_TRY(write_file(
      directory_ / "index1.toml",
      fmt::format("cluster = {}\n"
                  "name = \"index1\"\n"
                  "listen = {}\n"
                  "data_dir = {}\n"
                  "copies = {}\n"
                  "journal_copies = {}\n"
                  "block_size = \"{}M\"\n"
                  "adopt_blank_devices = true  # every device file of a box is its own\n"
                  "{}",
                  quoted(cluster_.to_string()), quoted(index), quoted(directory_ / "index1"), options_.copies,
                  options_.journal_copies, options_.block_bytes / kMiB, tls_table("index1"))));
  for (std::uint32_t node = 1; node <= options_.nodes; ++node) {
    std::vector<std::string> devices;
    for (std::uint32_t device = 1; device <= options_.devices; ++device) {
      devices.push_back(quoted(device_path(node, device)));
    }
    const auto name = fmt::format("node{}", node);
    REELFS_TRY(write_file(
        directory_ / (name + ".toml"),
        fmt::format("cluster = {}\n"
                    "name = {}\n"
                    "indexes = [{}]\n"
                    "host = \"127.0.0.1\"\n"
                    "internal_port = {}\n"
                    "workers = {}\n"
                    "devices = [{}]\n"
                    "{}",
                    quoted(cluster_.to_string()), quoted(name), quoted(index), node_ports_[node - 1],
                    options_.workers, fmt::join(devices, ", "), tls_table(name))));
  }
  return write_file(cluster_file(),
                    fmt::format("cluster = {}\nindexes = [{}]\n{}", quoted(cluster_.to_string()),
                                quoted(index), tls_table("client")));
}

BoxProcess Box::process(std::string name, Role role) const {
  BoxProcess process;
  process.role = role;
  process.log = directory_ / "log" / (name + ".log");
  process.pid_file = directory_ / "run" / (name + ".pid");
  process.name = std::move(name);
  return process;
}

std::vector<BoxProcess> Box::processes() const {
  std::vector<BoxProcess> all;
  auto index = process("index1", Role::index);
  index.command = {programs_ / "indexd", "--config", directory_ / "index1.toml"};
  all.push_back(std::move(index));
  for (std::uint32_t node = 1; node <= options_.nodes; ++node) {
    for (std::uint32_t worker = 1; worker <= options_.workers; ++worker) {
      auto one = process(fmt::format("node{}.worker{}", node, worker), Role::worker);
      one.node = fmt::format("node{}", node);
      one.worker = worker;
      one.command = {programs_ / "noded", "--config", directory_ / (one.node + ".toml"), "--worker",
                     std::to_string(worker)};
      all.push_back(std::move(one));
    }
  }
  if (!options_.mount.empty()) {
    auto mount = process("mount", Role::mount);
    mount.command = {programs_ / "reelfs", options_.mount, "-f", "-o",
                     "cluster=" + mount_option(cluster_file())};
    if (::geteuid() == 0) mount.command.back() += ",allow_other";
    all.push_back(std::move(mount));
  }
  return all;
}

}  // namespace reelfs::admin
