#include "common/config/config.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "common/observe/log.h"

namespace reelfs::config {
namespace {

using namespace std::chrono_literals;

struct Sample {
  std::string name = "default";
  bool adopt = false;
  std::uint32_t workers = 2;
  std::uint64_t block_bytes = 64 << 20;
  std::chrono::milliseconds timeout = 30s;
  std::filesystem::path data;
  rpc::Endpoint listen;
  std::vector<std::string> devices;
  std::vector<rpc::Endpoint> indexes;
  rpc::TlsFiles tls;
  LogConfig log;
};

Result<Sample> read(std::string_view text) {
  REELFS_TRY(auto file, File::parse(text, "/etc/reelfs/sample.toml"));
  Sample sample;
  auto table = file.root();
  table.require("name");
  table.read("name", sample.name);
  table.read("adopt", sample.adopt);
  table.read("workers", sample.workers, {.min = 1, .max = 1024});
  table.read_bytes("block_size", sample.block_bytes, {.min = 4 << 20, .max = 1 << 30});
  table.read_duration("timeout", sample.timeout, {.min = 1});
  table.read("data", sample.data);
  table.read("listen", sample.listen);
  table.read("devices", sample.devices);
  table.read("indexes", sample.indexes);
  table.read("tls", sample.tls);
  table.read("log", sample.log);
  REELFS_TRY(file.finish());
  return sample;
}

std::string error_of(std::string_view text) {
  const auto sample = read(text);
  return sample ? "no error" : sample.error().describe();
}

TEST(Config, ReadsEveryKind) {
  const auto read_back = read(R"(
name = "node1"
adopt = true
workers = 8
block_size = "16M"
timeout = "250ms"
data = "var/data"
listen = "[::1]:7400"
devices = ["a", "/dev/b"]
indexes = ["127.0.0.1:1", "host:2"]
[tls]
ca = "ca.pem"
cert = "/abs/cert.pem"
key = "key.pem"
[log]
level = "debug"
file = "log/node1.log"
)");
  ASSERT_TRUE(read_back) << read_back.error().describe();
  const auto& sample = read_back.value();
  EXPECT_EQ(sample.name, "node1");
  EXPECT_TRUE(sample.adopt);
  EXPECT_EQ(sample.workers, 8u);
  EXPECT_EQ(sample.block_bytes, 16u << 20);
  EXPECT_EQ(sample.timeout, 250ms);
  EXPECT_EQ(sample.data, "/etc/reelfs/var/data");
  EXPECT_EQ(sample.listen, (rpc::Endpoint{"::1", 7400}));
  EXPECT_EQ(sample.devices, (std::vector<std::string>{"a", "/dev/b"}));
  EXPECT_EQ(sample.indexes, (std::vector<rpc::Endpoint>{{"127.0.0.1", 1}, {"host", 2}}));
  EXPECT_EQ(sample.tls.authority, "/etc/reelfs/ca.pem");
  EXPECT_EQ(sample.tls.certificate, "/abs/cert.pem");
  EXPECT_EQ(sample.log.level, "debug");
  EXPECT_EQ(sample.log.file, "/etc/reelfs/log/node1.log");
}

TEST(Config, KeepsDefaultsOfAbsentKeys) {
  const auto sample = read("name = 'x'");
  ASSERT_TRUE(sample);
  EXPECT_EQ(sample.value().workers, 2u);
  EXPECT_EQ(sample.value().timeout, 30s);
  EXPECT_TRUE(sample.value().tls.empty());
  EXPECT_EQ(sample.value().log.level, "info");
  EXPECT_EQ(sample.value().log.file, "");
  EXPECT_EQ(read("name = 'x'\n[log]\nfile = 'syslog'").value().log.file, kSystemLog);
}

TEST(Config, NamesFileAndLineOfWhatIsWrong) {
  EXPECT_EQ(error_of("name = 'x'\nworkers = 0"),
            "bad_config: /etc/reelfs/sample.toml:2: workers must be 1 to 1024, not 0");
  EXPECT_EQ(error_of("name = 'x'\n\nworkers = 'two'"),
            "bad_config: /etc/reelfs/sample.toml:3: workers must be a whole number, not below zero");
  EXPECT_EQ(error_of("name = 'x'\nlisten = 'nowhere'"),
            "bad_config: /etc/reelfs/sample.toml:2: listen must be \"host:port\", not \"nowhere\"");
  EXPECT_EQ(error_of("name = 'x'\nadopt = 1"),
            "bad_config: /etc/reelfs/sample.toml:2: adopt must be true or false");
  EXPECT_EQ(error_of("name = 1"), "bad_config: /etc/reelfs/sample.toml:1: name must be a string");
  EXPECT_EQ(error_of("name = 'x'\ndevices = ['a', 1]"),
            "bad_config: /etc/reelfs/sample.toml:2: devices must be a list of strings");
  EXPECT_EQ(error_of("name = 'x'\nblock_size = '64X'"),
            "bad_config: /etc/reelfs/sample.toml:2: block_size must be a number of bytes, such as 1048576 or "
            "\"64M\"");
  EXPECT_EQ(error_of("name = 'x'\nblock_size = '1M'"),
            "bad_config: /etc/reelfs/sample.toml:2: block_size must be 4194304 to 1073741824, not 1048576");
  EXPECT_EQ(error_of("name = 'x'\ntls = 'none'"),
            "bad_config: /etc/reelfs/sample.toml:2: tls must be a table");
  EXPECT_EQ(error_of("name = 'x'\n[tls]\nca = 'a'\ncert = 'b'"),
            "bad_config: /etc/reelfs/sample.toml:2: key is missing");
}

TEST(Config, NamesMissingAndUnknownKeys) {
  EXPECT_NE(error_of("workers = 2").find("name is missing"), std::string::npos);
  EXPECT_EQ(error_of("name = 'x'\nworker = 2"),
            "bad_config: /etc/reelfs/sample.toml:2: unknown key \"worker\"");
  EXPECT_EQ(error_of("name = 'x'\n[log]\nlevel = 'info'\nlvl = 1\n"),
            "bad_config: /etc/reelfs/sample.toml:4: unknown key \"lvl\"");
  EXPECT_EQ(error_of("name = 'x'\n[extra]\na = 1"),
            "bad_config: /etc/reelfs/sample.toml:2: unknown key \"extra\"");
}

TEST(Config, NamesLineAndColumnOfASyntaxError) {
  const auto text = error_of("name = 'x'\nworkers = = 2");
  EXPECT_TRUE(text.starts_with("bad_config: /etc/reelfs/sample.toml:2:11: ")) << text;
}

TEST(Config, LoadsAFile) {
  const auto path =
      std::filesystem::temp_directory_path() / ("reelfs_config_test." + std::to_string(getpid()));
  std::ofstream(path) << "name = 'from a file'\n";
  auto file = File::load(path);
  ASSERT_TRUE(file);
  std::string name;
  file.value().root().read("name", name);
  EXPECT_EQ(name, "from a file");
  EXPECT_TRUE(file.value().finish());
  std::filesystem::remove(path);
  const auto missing = File::load(path);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Errc::not_found);
}

TEST(Config, ParsesBytes) {
  EXPECT_EQ(parse_bytes("0").value(), 0u);
  EXPECT_EQ(parse_bytes("123").value(), 123u);
  EXPECT_EQ(parse_bytes("64M").value(), 64u << 20);
  EXPECT_EQ(parse_bytes("4G").value(), 4ull << 30);
  EXPECT_EQ(parse_bytes("1KiB").value(), 1024u);
  EXPECT_EQ(parse_bytes("2Ti").value(), 2ull << 40);
  for (const auto* text : {"", "M", "-1", "1.5G", "64 M", "64MM", "18446744073709551616", "99999999999T"}) {
    EXPECT_FALSE(parse_bytes(text)) << text;
  }
}

TEST(Config, ReadsTimes) {
  const auto timeout = [](const std::string& value) { return read("name = 'x'\ntimeout = " + value); };
  EXPECT_EQ(timeout("'30s'").value().timeout, 30s);
  EXPECT_EQ(timeout("'5m'").value().timeout, 5min);
  EXPECT_EQ(timeout("'2h'").value().timeout, 2h);
  EXPECT_EQ(timeout("7").value().timeout, 7ms);
  for (const auto* text : {"''", "'s'", "'-1s'", "'1 s'", "'1y'", "0", "-1", "1.5", "true"})
    EXPECT_FALSE(timeout(text)) << text;
}

}  // namespace
}  // namespace reelfs::config
