#include "fuse/session/options.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace reelfs::fuse {
namespace {

constexpr bool kRoot = true;
constexpr bool kOrdinaryUser = false;

Result<Options> parse(std::vector<std::string> arguments, bool superuser = kRoot) {
  arguments.insert(arguments.begin(), "reelfs");
  return Options::parse(std::move(arguments), superuser);
}

std::string refusal(std::vector<std::string> arguments) {
  const auto parsed = parse(std::move(arguments));
  return parsed ? "accepted" : parsed.error().message();
}

TEST(Options, TakesClusterAndMountPoint) {
  const auto parsed = parse({"/mnt/reel", "-o", "cluster=/etc/reelfs/home.toml"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed.value().mountpoint, "/mnt/reel");
  EXPECT_EQ(parsed.value().cluster, "/etc/reelfs/home.toml");
  EXPECT_EQ(parsed.value().timeout, std::chrono::seconds(30));
  EXPECT_FALSE(parsed.value().foreground);
}

TEST(Options, TakesTheOrderThatMountHelpersUse) {
  const auto parsed = parse({"/etc/home.toml", "/mnt/reel", "-o", "rw,dev,suid"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed.value().mountpoint, "/mnt/reel");
  EXPECT_EQ(parsed.value().cluster, "/etc/home.toml");
}

TEST(Options, TakesEveryOptionOfItsOwn) {
  const auto parsed = parse({"-f", "/m", "-o", "cluster=/c,timeout=2.5,ro", "-o",
                             "channel=gate,max_dirty=64M,log=/var/log/r.log,loglevel=debug,bg"});
  ASSERT_TRUE(parsed);
  const auto& options = parsed.value();
  EXPECT_EQ(options.timeout, std::chrono::milliseconds(2500));
  EXPECT_EQ(options.channel, "gate");
  EXPECT_EQ(options.max_dirty_bytes, 64 * kMiB);
  EXPECT_EQ(options.log.file, "/var/log/r.log");
  EXPECT_EQ(options.log.level, "debug");
  EXPECT_TRUE(options.background_start);
  EXPECT_TRUE(options.foreground);
  EXPECT_EQ(options.kernel_flags, std::vector<std::string>{"ro"});
}

TEST(Options, OnlyRootsMountIsForEveryoneUnlessTold) {
  EXPECT_TRUE(parse({"/m", "-o", "cluster=/c"}, kRoot).value().allow_other);
  EXPECT_FALSE(parse({"/m", "-o", "cluster=/c"}, kOrdinaryUser).value().allow_other);
  EXPECT_TRUE(parse({"/m", "-o", "cluster=/c,allow_other"}, kOrdinaryUser).value().allow_other);
  EXPECT_FALSE(parse({"/m", "-o", "cluster=/c,noallow_other"}, kRoot).value().allow_other);
}

TEST(Options, RelativePathsDoNotDependOnWhereTheDaemonGoes) {
  const auto parsed = parse({"mnt", "-o", "cluster=home.toml"});
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed.value().mountpoint.is_absolute());
  EXPECT_TRUE(parsed.value().cluster.is_absolute());
}

TEST(Options, AcceptsWhatFstabHoldsForOthers) {
  const auto parsed =
      parse({"/m", "-o",
             "cluster=/c,defaults,noauto,nofail,_netdev,x-systemd.automount,x-systemd.idle-timeout=60,user"});
  ASSERT_TRUE(parsed) << parsed.error().message();
  EXPECT_TRUE(parsed.value().kernel_flags.empty());
}

TEST(Options, AnEscapedCommaBelongsToTheValue) {
  const auto parsed = parse({"/m", "-o", "cluster=/a\\,b.toml"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed.value().cluster, "/a,b.toml");
}

TEST(Options, NamesTheOptionItDoesNotKnow) {
  EXPECT_NE(refusal({"/m", "-o", "cluster=/c,colour=blue"}).find("colour"), std::string::npos);
  EXPECT_NE(refusal({"/m", "-o", "cluster=/c,fast"}).find("fast"), std::string::npos);
  EXPECT_NE(refusal({"/m", "-o", "cluster=/c", "-x"}).find("-x"), std::string::npos);
}

TEST(Options, RefusesValuesThatMeanNothing) {
  for (const auto* value :
       {"timeout=", "timeout=soon", "timeout=0", "timeout=-1", "timeout=nan", "timeout=1e9", "timeout=5s",
        "max_dirty=lots", "max_dirty=1", "channel=a/b", "channel="}) {
    const std::string name(value, std::find(value, value + std::string_view(value).size(), '='));
    EXPECT_NE(refusal({"/m", "-o", std::string("cluster=/c,") + value}).find(name), std::string::npos)
        << value;
  }
}

TEST(Options, SaysWhatIsMissing) {
  EXPECT_NE(refusal({"/m"}).find("cluster"), std::string::npos);
  EXPECT_NE(refusal({"-o", "cluster=/c"}).find("mount point"), std::string::npos);
  EXPECT_NE(refusal({"/a", "/b", "-o", "cluster=/c"}).find("mount point"), std::string::npos);
}

TEST(Options, DebuggingShowsWhatItLogs) {
  const auto parsed = parse({"-d", "/m", "-o", "cluster=/c"});
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed.value().debug);
  EXPECT_TRUE(parsed.value().foreground);
  EXPECT_EQ(parsed.value().log.level, "debug");
}

TEST(Options, HelpAndVersionNeedNothingElse) {
  EXPECT_EQ(parse({"--help"}).value().action, Options::Action::help);
  EXPECT_EQ(parse({"-V"}).value().action, Options::Action::version);
}

Result<Options> parse_as_helper(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "/sbin/mount.reelfs");
  return Options::parse(std::move(arguments), kRoot);
}

TEST(Options, TakesWhatMountGivesItsHelpers) {
  const auto parsed =
      parse_as_helper({"/c", "/m", "-n", "-v", "-N", "7", "-t", "reelfs", "-o", "ro,timeout=5,nofail"});
  ASSERT_TRUE(parsed) << parsed.error().message();
  EXPECT_EQ(parsed.value().action, Options::Action::mount);
  EXPECT_FALSE(parsed.value().foreground);
  EXPECT_EQ(parsed.value().cluster, "/c");
  EXPECT_EQ(parsed.value().timeout, std::chrono::seconds(5));
  EXPECT_EQ(parsed.value().kernel_flags, std::vector<std::string>{"ro"});
}

TEST(Options, AHelperThatIsToPretendMountsNothing) {
  EXPECT_EQ(parse_as_helper({"/c", "/m", "-f"}).value().action, Options::Action::nothing);
  EXPECT_EQ(parse_as_helper({"/c", "/m", "-nf"}).value().action, Options::Action::nothing);
}

TEST(Options, ASloppyHelperLeavesOutWhatItDoesNotKnow) {
  EXPECT_FALSE(parse_as_helper({"/c", "/m", "-o", "fast"}));
  EXPECT_TRUE(parse_as_helper({"/c", "/m", "-s", "-o", "fast,colour=blue"}));
  EXPECT_FALSE(parse_as_helper({"/c", "/m", "-s", "-o", "timeout=soon"}));
}

TEST(Options, AHelperThatIsCalledWronglySaysHow) {
  for (const auto& arguments : {std::vector<std::string>{}, {"/c"}, {"/c", "/m", "-x"}, {"/c", "/m", "-o"}}) {
    const auto parsed = parse_as_helper(arguments);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code(), Errc::invalid);
    EXPECT_NE(parsed.error().message().find("usage: mount.reelfs"), std::string::npos);
  }
}

TEST(Options, RemountNeedsNoCluster) {
  const auto parsed = parse({"whatever", "/m", "-o", "remount,ro"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed.value().action, Options::Action::remount);
  EXPECT_EQ(parsed.value().mountpoint, "/m");
}

TEST(Options, ASlashAtTheEndOfTheMountPointIsNoPartOfIt) {
  EXPECT_EQ(parse({"/m/", "-o", "cluster=/c"}).value().mountpoint, "/m");
}

TEST(Options, ASuccessorHasWhatItIsNotToldFromItsPredecessor) {
  const auto before =
      parse({"/m", "-o", "cluster=/a\\,b,channel=gate,timeout=2.5,max_dirty=64M,ro,noallow_other", "-o",
             "log=/l\\\\g"});
  ASSERT_TRUE(before) << before.error().message();
  const auto asked = parse({"--takeover", "/m", "-f", "-o", "timeout=7"});
  ASSERT_TRUE(asked) << asked.error().message();
  const auto after = asked.value().after(before.value().to_arguments());
  ASSERT_TRUE(after) << after.error().message();
  const auto& options = after.value();
  EXPECT_EQ(options.action, Options::Action::take_over);
  EXPECT_EQ(options.mountpoint, "/m");
  EXPECT_EQ(options.cluster, "/a,b");
  EXPECT_EQ(options.channel, "gate");
  EXPECT_EQ(options.timeout, std::chrono::seconds(7));
  EXPECT_EQ(options.max_dirty_bytes, 64 * kMiB);
  EXPECT_EQ(options.log.file, "/l\\g");
  EXPECT_EQ(options.kernel_flags, std::vector<std::string>{"ro"});
  EXPECT_FALSE(options.allow_other);
  EXPECT_TRUE(options.foreground);
}

TEST(Options, ASuccessorCannotChangeWhatTheKernelWasTold) {
  for (const auto* option : {"ro", "channel=gate", "noatime"}) {
    const auto asked = parse({"--takeover", "/m", "-o", option});
    ASSERT_TRUE(asked);
    EXPECT_FALSE(asked.value().after({"-o", "cluster=/c"})) << option;
  }
}

}  // namespace
}  // namespace reelfs::fuse
