#include "common/rpc/endpoint.h"

#include <charconv>

#include "common/wire/common.pb.h"

namespace reelfs::rpc {

Result<Endpoint> Endpoint::parse(std::string_view text) {
  const auto wrong = [&] { return Error(Errc::invalid, "not host:port: \"" + std::string(text) + "\""); };
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong();
  auto host = text.substr(0, colon);
  const auto digits = text.substr(colon + 1);
  if (host.starts_with('[')) {
    if (!host.ends_with(']')) return wrong();
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong();
  }
  if (host.empty() || host.find_first_of("[] \t\r\n") != std::string_view::npos) return wrong();
  Endpoint endpoint;
  const auto* last = digits.data() + digits.size();
  const auto [end, failure] = std::from_chars(digits.data(), last, endpoint.port);
  if (failure != std::errc{} || end != last) return wrong();
  endpoint.host = host;
  return endpoint;
}

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

std::string Endpoint::to_string() const {
  const bool bracketed = host.find(':') != std::string::npos;
  return (bracketed ? '[' + host + ']' : host) + ':' + std::to_string(port);
}

}  // namespace reelfs::rpc
