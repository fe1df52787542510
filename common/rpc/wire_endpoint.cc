#include "common/rpc/endpoint.h"
#include "common/wire/common.pb.h"

namespace reelfs::rpc {

Endpoint Endpoint::from(const wire::Endpoint& message) {
  const auto one = [](const wire::Endpoint& address) {
    Endpoint endpoint;
    endpoint.host = address.host();
    if (address.port() <= UINT16_MAX) endpoint.port = static_cast<std::uint16_t>(address.port());
    if (wire::Traffic_IsValid(address.traffic())) endpoint.traffic = static_cast<Traffic>(address.traffic());
    return endpoint;
  };
  auto endpoint = one(message);
  for (const auto& other : message.others()) endpoint.others.push_back(one(other));
  return endpoint;
}

wire::Endpoint Endpoint::to_wire() const {
  wire::Endpoint message;
  message.set_host(host);
  message.set_port(port);
  message.set_traffic(static_cast<wire::Traffic>(traffic));
  for (const auto& other : others) *message.add_others() = other.to_wire();
  return message;
}

}  // namespace reelfs::rpc
