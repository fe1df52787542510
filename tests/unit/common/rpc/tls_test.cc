#include "common/rpc/tls.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/common/rpc/rpc_fixture.h"

namespace reelfs::rpc {
namespace {

namespace fs = std::filesystem;

std::string content_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class TlsTest : public RpcTest {
 protected:
  TlsTest() {
    fs::create_directories(directory_ / "other");
    EXPECT_TRUE(make_authority(directory_, "test"));
    EXPECT_TRUE(make_authority(directory_ / "other", "test"));
  }
  ~TlsTest() override { fs::remove_all(directory_); }

  TlsFiles identity(const std::string& name,
                    const std::vector<std::string>& hosts = {"127.0.0.1", "localhost"},
                    const std::string& authority = ".") {
    auto files = make_identity(directory_ / authority, name, hosts);
    EXPECT_TRUE(files) << files.error().describe();
    return files.value();
  }
  static std::shared_ptr<const TlsContext> load(const TlsFiles& files) {
    auto loaded = TlsContext::load(files);
    EXPECT_TRUE(loaded) << loaded.error().describe();
    return loaded.value();
  }
  void serve_with(const TlsFiles& files) {
    ServerOptions options;
    options.tls = load(files);
    start_server(echo, std::move(options));
  }
  Client& client_with(const TlsFiles& files) {
    ClientOptions options;
    options.tls = load(files);
    return new_client(std::move(options));
  }
  void expect_unavailable(Client& client) {
    const auto reply = ask(client, "x", 3s);
    ASSERT_FALSE(reply);
    EXPECT_EQ(reply.error().code(), Errc::unavailable) << reply.error().describe();
  }

  const fs::path directory_ = fs::temp_directory_path() / ("reelfs_tls_test." + std::to_string(getpid()));
};

TEST_F(TlsTest, CarriesCallsAndPayloads) {
  serve_with(identity("server"));
  auto& client = client_with(identity("client"));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{16384}, std::size_t{4 << 20}}) {
    const auto reply = ask(client, "secret", 10s, bytes > 0 ? pattern(bytes) : nullptr);
    ASSERT_TRUE(reply) << reply.error().describe();
    EXPECT_EQ(text_of(reply.value()), "secret");
    EXPECT_EQ(reply.value().payload.view(), pattern(bytes)->view());
  }
}

TEST_F(TlsTest, ChecksTheServersNameAsWellAsItsAddress) {
  serve_with(identity("server"));
  endpoint_.host = "localhost";
  EXPECT_TRUE(ask(client_with(identity("client")), "x"));
}

TEST_F(TlsTest, RefusesAServerOfAnotherName) {
  serve_with(identity("server", {"192.0.2.7", "elsewhere.example"}));
  expect_unavailable(client_with(identity("client")));
}

TEST_F(TlsTest, RefusesAServerOfAnotherAuthority) {
  serve_with(identity("server", {"127.0.0.1"}, "other"));
  expect_unavailable(client_with(identity("client")));
}

TEST_F(TlsTest, RefusesAClientOfAnotherAuthority) {
  serve_with(identity("server"));
  auto foreign = identity("client", {"127.0.0.1"}, "other");
  foreign.authority = directory_ / "authority.pem";  // it trusts the server, but the server does not trust it
  expect_unavailable(client_with(foreign));
}

TEST_F(TlsTest, RefusesPlainClients) {
  serve_with(identity("server"));
  expect_unavailable(new_client());
}

TEST_F(TlsTest, ClientsRefusePlainServers) {
  start_server(echo);
  expect_unavailable(client_with(identity("client")));
}

TEST_F(TlsTest, MayListenBeyondLoopback) {
  ServerOptions options;
  options.tls = load(identity("server"));
  endpoint_.host = "0.0.0.0";
  start_server(echo, std::move(options));
  endpoint_.host = "127.0.0.1";
  EXPECT_TRUE(ask(client_with(identity("client")), "x"));
}

TEST_F(TlsTest, KeysAreForTheirOwnerOnly) {
  const auto files = identity("server");
  for (const auto& key : {files.key, directory_ / "authority.key"}) {
    struct stat status {};
    ASSERT_EQ(stat(key.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777u, 0600u) << key;
  }
}

TEST_F(TlsTest, LeavesExistingFilesAlone) {
  const auto files = identity("server");
  const auto key = content_of(files.key);
  const auto certificate = content_of(files.certificate);
  const auto authority = content_of(files.authority);
  ASSERT_TRUE(make_authority(directory_, "another name"));
  identity("server", {"other.example"});
  EXPECT_EQ(content_of(files.key), key);
  EXPECT_EQ(content_of(files.certificate), certificate);
  EXPECT_EQ(content_of(files.authority), authority);
}

TEST_F(TlsTest, LoadingNamesTheFileThatDoesNotFit) {
  const auto good = identity("server");
  auto files = good;
  files.authority = directory_ / "missing.pem";
  auto loaded = TlsContext::load(files);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Errc::bad_config);
  EXPECT_NE(loaded.error().message().find("missing.pem"), std::string::npos);
  files = good;
  files.key = identity("client").key;
  loaded = TlsContext::load(files);
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message().find("client.key"), std::string::npos);
}

TEST_F(TlsTest, RefusesHostsThatAreNone) {
  for (const auto& host : {"", "a,DNS:b", "two words"}) {
    const auto made = make_identity(directory_, "bad", {host});
    ASSERT_FALSE(made) << host;
    EXPECT_EQ(made.error().code(), Errc::invalid);
  }
}

}  // namespace
}  // namespace reelfs::rpc
