#include "admin/box/ports.h"

#include <algorithm>
#include <fstream>
#include <random>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace reelfs::admin {
namespace {

constexpr std::uint16_t kLowest = 10'000;

std::uint16_t lowest_ephemeral() {
  std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
  std::uint16_t lowest = 32'768;
  file >> lowest;
  return std::max<std::uint16_t>(lowest, kLowest + 5'000);
}

// A listening socket keeps the port from others who look at the same time; it is given up just before the
// daemon binds.
int listen_on(std::uint16_t port) {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -1;
  const int yes = 1;
  ::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(descriptor, 1) != 0) {
    ::close(descriptor);
    return -1;
  }
  return descriptor;
}

}  // namespace

Result<std::vector<std::uint16_t>> free_ports(std::size_t count) {
  std::random_device random;
  std::uniform_int_distribution<int> any(kLowest, lowest_ephemeral() - 1);
  std::vector<std::uint16_t> ports;
  std::vector<int> held;
  for (int tries = 0; ports.size() < count && tries < 10'000; ++tries) {
    const auto port = static_cast<std::uint16_t>(any(random));
    if (const int descriptor = listen_on(port); descriptor >= 0) {
      ports.push_back(port);
      held.push_back(descriptor);
    }
  }
  for (const int descriptor : held) ::close(descriptor);
  if (ports.size() < count) return Error(Errc::unavailable, "no free TCP ports on 127.0.0.1");
  return ports;
}

}  // namespace reelfs::admin
