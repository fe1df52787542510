#include "fuse/session/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "common/config/config.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {
namespace {

/// Flags that mount(2) knows and libfuse passes on.
constexpr std::array<std::string_view, 13> kKernelFlags{"rw",    "ro",      "suid",   "nosuid", "dev",
                                                        "nodev", "exec",    "noexec", "async",  "sync",
                                                        "atime", "noatime", "dirsync"};
/// What stands in fstab for mount(8) and the boot sequence, not for us; and what is so anyway, or is not for
/// FUSE.
constexpr std::array<std::string_view, 30> kIgnored{
    "defaults",      "auto",       "noauto",     "nofail",
    "_netdev",       "user",       "nouser",     "users",
    "nousers",       "owner",      "noowner",    "group",
    "nogroup",       "relatime",   "norelatime", "strictatime",
    "nostrictatime", "lazytime",   "nolazytime", "diratime",
    "mand",          "nomand",     "silent",     "loud",
    "iversion",      "noiversion", "symfollow",  "default_permissions",
    "nonempty",      "quiet"};
/// The last are the kernel's, which mount(8) gives back at a remount.
constexpr std::array<std::string_view, 8> kIgnoredWithValue{"comment", "user",     "subtype",  "fsname",
                                                            "user_id", "group_id", "max_read", "blksize"};

/// mount(8) keeps most of those for itself, but fuse.reelfs in fstab does not.
bool is_for_others(std::string_view name) { return name.starts_with("x-") || name.starts_with("X-"); }

/// What fuse_opt_parse, which splits -o and undoes its escapes, hands to us one by one.
struct Parsing {
  Options options;
  std::vector<std::string> positional;
  std::optional<Error> error;
  bool sloppy = false;  // mount -s: what is not known is left out

  void refuse(std::string message) {
    if (!error) error.emplace(Errc::bad_config, std::move(message));
  }

  void take_value(std::string_view name, std::string value);
  void take_flag(const std::string& flag);
};

template <class Names>
bool among(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Not asked whether it is there: what is mounted may not answer.
std::filesystem::path resolve(const std::string& text) {
  auto path = std::filesystem::absolute(text).lexically_normal();
  if (!path.has_filename() && path.has_parent_path()) path = path.parent_path();  // a slash at its end
  std::error_code failed;
  const auto parent = std::filesystem::canonical(path.parent_path(), failed);
  return failed ? path : parent / path.filename();
}

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
  } else if (!sloppy && !among(kIgnoredWithValue, name) && !is_for_others(name)) {
    refuse("unknown option " + std::string(name) + "=; see reelfs --help");
  }
}

void Parsing::take_flag(const std::string& flag) {
  if (flag == "-f") {
    options.foreground = true;
  } else if (flag == "-d") {
    options.foreground = options.debug = true;
    options.log.level = "debug";
  } else if (flag == "-h" || flag == "--help") {
    options.action = Options::Action::help;
  } else if (flag == "-V" || flag == "--version") {
    options.action = Options::Action::version;
  } else if (flag == "--takeover") {
    options.action = Options::Action::take_over;
  } else if (flag == "remount") {
    options.action = Options::Action::remount;
  } else if (flag == "protect" || flag == "noprotect") {
    options.protect = flag == "protect";
  } else if (flag == "bg") {
    options.background_start = true;
  } else if (flag == "allow_other") {
    options.allow_other = true;
  } else if (flag == "noallow_other") {
    options.allow_other = false;
  } else if (flag == "nodiratime") {
    options.directory_atime = false;
  } else if (among(kKernelFlags, flag)) {
    options.kernel_flags.push_back(flag);
  } else if (!sloppy && !among(kIgnored, flag) && !is_for_others(flag)) {
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

constexpr std::string_view kHelperUsage =
    "usage: mount.reelfs CLUSTER_FILE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]";

struct HelperCall {
  std::vector<std::string> arguments;  // as reelfs takes them
  bool fake = false;
  bool sloppy = false;
};

/// mount(8), "EXTERNAL HELPERS". A flag is not what it is to reelfs: -f mounts nothing.
Result<HelperCall> translate(const std::vector<std::string>& arguments) {
  HelperCall call;
  call.arguments.push_back(arguments.front());
  for (auto at = arguments.begin() + 1; at != arguments.end(); ++at) {
    if (at->size() < 2 || at->front() != '-') {
      call.arguments.push_back(*at);
      continue;
    }
    for (const char flag : at->substr(1)) {
      const bool has_value = flag == 'o' || flag == 'N' || flag == 't';
      if (!has_value && std::string_view("sfnvhV").find(flag) == std::string_view::npos)
        return Error(Errc::invalid, std::string(kHelperUsage));
      if (flag == 'f') call.fake = true;
      if (flag == 's') call.sloppy = true;
      if (flag == 'h' || flag == 'V') call.arguments.push_back(std::string("-") + flag);
      if (!has_value) continue;
      if (at->size() != 2 || at + 1 == arguments.end())
        return Error(Errc::invalid, std::string(kHelperUsage));
      ++at;
      if (flag == 'o') call.arguments.insert(call.arguments.end(), {"-o", *at});
      break;
    }
  }
  return call;
}

std::string escape(const std::string& value) {
  std::string escaped;
  for (const char c : value) {
    if (c == ',' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace

bool is_mount_helper(const std::string& program) {
  return std::filesystem::path(program).filename().string().starts_with("mount.");
}

Result<Options> Options::parse(std::vector<std::string> arguments, bool superuser) {
  Parsing parsing;
  auto& options = parsing.options;
  options.allow_other = superuser;
  options.helper = !arguments.empty() && is_mount_helper(arguments.front());
  HelperCall call;
  if (options.helper) {
    REELFS_TRY(call, translate(arguments));
    arguments = std::move(call.arguments);
    parsing.sloppy = call.sloppy;
  }
  const auto given = arguments;

  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  fuse_args args = FUSE_ARGS_INIT(static_cast<int>(arguments.size()), pointers.data());
  const int parsed = fuse_opt_parse(&args, &parsing, nullptr, &take);
  fuse_opt_free_args(&args);

  if (options.action == Action::help || options.action == Action::version) return std::move(options);
  if (options.helper && parsing.positional.size() != 2)
    return Error(Errc::invalid, std::string(kHelperUsage));
  if (parsing.error) return std::move(*parsing.error);
  if (parsed != 0) return Error(Errc::bad_config, "the options cannot be read; see reelfs --help");
  if (parsing.positional.size() == 2 && (options.cluster.empty() || options.action == Action::remount)) {
    options.cluster = std::filesystem::absolute(parsing.positional.front());
    parsing.positional.erase(parsing.positional.begin());
  }
  if (parsing.positional.size() != 1) {
    return Error(Errc::bad_config, "one mount point is expected; see reelfs --help");
  }
  options.mountpoint = resolve(parsing.positional.front());
  if (options.cluster.empty() && options.action == Action::mount) {
    return Error(Errc::bad_config, "which cluster? Give its file with -o cluster=FILE");
  }
  if (call.fake) options.action = Action::nothing;
  options.given_ = given;
  options.superuser_ = superuser;
  return std::move(options);
}

std::vector<std::string> Options::to_arguments() const {
  std::string all = "cluster=" + escape(cluster.string()) + ",max_dirty=" + std::to_string(max_dirty_bytes) +
                    ",timeout=" + fmt::format("{:.3f}", std::chrono::duration<double>(timeout).count()) +
                    ",loglevel=" + escape(log.level) + (allow_other ? ",allow_other" : ",noallow_other");
  if (!channel.empty()) all += ",channel=" + escape(channel);
  if (!log.file.empty() && log.file != kSystemLog) all += ",log=" + escape(log.file);
  for (const auto& flag : kernel_flags) all += "," + flag;
  return {"-o", std::move(all)};
}

Result<Options> Options::after(std::vector<std::string> before) const {
  if (!channel.empty() || !kernel_flags.empty()) {
    return Error(Errc::bad_config,
                 "channel= and what mount(2) does (ro, noatime, …) cannot be changed by --takeover");
  }
  before.insert(before.begin(), given_.front());
  before.insert(before.end(), given_.begin() + 1, given_.end());
  return parse(std::move(before), superuser_);
}

std::string usage() {
  return R"(Usage: reelfs MOUNTPOINT -o cluster=FILE[,OPTION...] [-f] [-d]
       mount -t reelfs FILE MOUNTPOINT [-o OPTION...]
       reelfs --takeover MOUNTPOINT [-o OPTION...] [-f]

Mounts a reelfs cluster: channels as directories, recordings as files.

  -o cluster=FILE      the cluster file (made by reelctl): where the index servers are
  -o channel=NAME      show this channel alone, as the mount's root
  -o timeout=SECONDS   every call ends by then, with an error if need be (30)
  -o max_dirty=SIZE    written but not yet stored, at most; writers wait above it (256M)
  -o bg                mount although the cluster cannot be reached yet, and go on trying
  -o ro                read only
  -o protect           make the directory beneath immutable, so that nothing is recorded into it
                       while the cluster is not mounted
  -o remount,OPTION    change ro, noatime and the like of what is mounted
  -o [no]allow_other   other users too; the default for root
  -o log=FILE          log there instead of standard error (with -f) or syslog
  -o loglevel=LEVEL    trace, debug, info (default), warning or error
  --takeover           go on in the place of the reelfs that serves MOUNTPOINT, without unmounting:
                       for an upgrade, or other values of timeout=, max_dirty=, log= and loglevel=
  -f                   stay in the foreground
  -d                   the same, and log every call of the kernel's
  -h, --help           print this
  -V, --version        print the version

Unmount with umount MOUNTPOINT. Everything else is in reelfs(8).
)";
}

}  // namespace reelfs::fuse
