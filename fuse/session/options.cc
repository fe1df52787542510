#include "fuse/session/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "common/config/config.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {
namespace {

/// Flags that mount(2) knows and libfuse passes on.
constexpr std::array<std::string_view, 13> kKernelFlags{"rw",    "ro",      "suid",   "nosuid", "dev",
                                                        "nodev", "exec",    "noexec", "async",  "sync",
                                                        "atime", "noatime", "dirsync"};
/// What stands in fstab for mount(8) and the boot sequence, not for us; and what is so anyway.
constexpr std::array<std::string_view, 16> kIgnored{
    "defaults", "auto",  "noauto", "nofail",   "_netdev", "user",       "nouser",   "users",
    "nousers",  "owner", "group",  "relatime", "remount", "nodiratime", "diratime", "default_permissions"};

/// What fuse_opt_parse, which splits -o and undoes its escapes, hands to us one by one.
struct Parsing {
  Options options;
  std::vector<std::string> positional;
  std::optional<Error> error;

  void refuse(std::string message) {
    if (!error) error.emplace(Errc::bad_config, std::move(message));
  }

  void take_value(std::string_view name, std::string value);
  void take_flag(const std::string& flag);
};

std::optional<std::chrono::milliseconds> parse_seconds(std::string_view text) {
  double seconds = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  constexpr double kMaxSeconds = 24 * 3600;
  if (failure != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (!(seconds >= 0.1 && seconds <= kMaxSeconds)) return std::nullopt;
  return std::chrono::milliseconds(std::llround(seconds * 1000));
}

void Parsing::take_value(std::string_view name, std::string value) {
  if (value.empty()) return refuse("option " + std::string(name) + "= needs a value");
  if (name == "cluster") {
    options.cluster = std::filesystem::absolute(value);
  } else if (name == "channel") {
    if (value.find('/') != std::string::npos)
      return refuse("channel=" + value + ": a channel's name has no slash");
    options.channel = std::move(value);
  } else if (name == "timeout") {
    const auto timeout = parse_seconds(value);
    if (!timeout) return refuse("timeout=" + value + ": a number of seconds from 0.1 to 86400 is expected");
    options.timeout = *timeout;
  } else if (name == "max_dirty") {
    const auto bytes = config::parse_bytes(value);
    if (!bytes || bytes.value() < 4 * kMiB) {
      return refuse("max_dirty=" + value + ": a size of at least 4M is expected, such as 256M");
    }
    options.max_dirty_bytes = bytes.value();
  } else if (name == "log") {
    options.log.file = std::filesystem::absolute(value).string();
  } else if (name == "loglevel") {
    options.log.level = std::move(value);
  } else if (name != "comment" && !name.starts_with("x-")) {  // those are mount(8)'s and systemd's
    refuse("unknown option " + std::string(name) + "=; see reelfs --help");
  }
}

void Parsing::take_flag(const std::string& flag) {
  const auto among = [&flag](const auto& names) {
    return std::find(names.begin(), names.end(), flag) != names.end();
  };
  if (flag == "-f") {
    options.foreground = true;
  } else if (flag == "-d") {
    options.foreground = options.debug = true;
    options.log.level = "debug";
  } else if (flag == "-h" || flag == "--help") {
    options.action = Options::Action::help;
  } else if (flag == "-V" || flag == "--version") {
    options.action = Options::Action::version;
  } else if (flag == "bg") {
    options.background_start = true;
  } else if (flag == "allow_other") {
    options.allow_other = true;
  } else if (flag == "noallow_other") {
    options.allow_other = false;
  } else if (among(kKernelFlags)) {
    options.kernel_flags.push_back(flag);
  } else if (!among(kIgnored) && !flag.starts_with("x-")) {
    refuse("unknown option " + flag + "; see reelfs --help");
  }
}

constexpr int kDiscard = 0;

int take(void* data, const char* argument, int key, fuse_args*) {
  auto& parsing = *static_cast<Parsing*>(data);
  const std::string text(argument);
  if (key == FUSE_OPT_KEY_NONOPT) {
    parsing.positional.push_back(text);
  } else if (const auto equals = text.find('='); equals != std::string::npos) {
    parsing.take_value(text.substr(0, equals), text.substr(equals + 1));
  } else {
    parsing.take_flag(text);
  }
  return kDiscard;
}

}  // namespace

Result<Options> Options::parse(std::vector<std::string> arguments, bool superuser) {
  Parsing parsing;
  parsing.options.allow_other = superuser;

  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  fuse_args args = FUSE_ARGS_INIT(static_cast<int>(arguments.size()), pointers.data());
  const int parsed = fuse_opt_parse(&args, &parsing, nullptr, &take);
  fuse_opt_free_args(&args);

  auto& options = parsing.options;
  if (options.action != Action::mount) return std::move(options);
  if (parsing.error) return std::move(*parsing.error);
  if (parsed != 0) return Error(Errc::bad_config, "the options cannot be read; see reelfs --help");
  if (parsing.positional.size() == 2 && options.cluster.empty()) {
    options.cluster = std::filesystem::absolute(parsing.positional.front());
    parsing.positional.erase(parsing.positional.begin());
  }
  if (parsing.positional.size() != 1) {
    return Error(Errc::bad_config, "one mount point is expected; see reelfs --help");
  }
  options.mountpoint = std::filesystem::absolute(parsing.positional.front());
  if (options.cluster.empty()) {
    return Error(Errc::bad_config, "which cluster? Give its file with -o cluster=FILE");
  }
  return std::move(options);
}

std::string usage() {
  return R"(Usage: reelfs MOUNTPOINT -o cluster=FILE[,OPTION...] [-f] [-d]
       mount -t reelfs FILE MOUNTPOINT [-o OPTION...]

Mounts a reelfs cluster: channels as directories, recordings as files.

  -o cluster=FILE      the cluster file (made by reelctl): where the index servers are
  -o channel=NAME      show this channel alone, as the mount's root
  -o timeout=SECONDS   every call ends by then, with an error if need be (30)
  -o max_dirty=SIZE    written but not yet stored, at most; writers wait above it (256M)
  -o bg                mount although the cluster cannot be reached yet, and go on trying
  -o ro                read only
  -o [no]allow_other   other users too; the default for root
  -o log=FILE          log there instead of standard error (with -f) or syslog
  -o loglevel=LEVEL    trace, debug, info (default), warning or error
  -f                   stay in the foreground
  -d                   the same, and log every call of the kernel's
  -h, --help           print this
  -V, --version        print the version

Unmount with umount MOUNTPOINT. Everything else is in reelfs(8).
)";
}

}  // namespace reelfs::fuse
