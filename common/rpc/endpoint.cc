#include "common/rpc/endpoint.h"

#include <charconv>

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

std::string Endpoint::to_string() const {
  const bool bracketed = host.find(':') != std::string::npos;
  return (bracketed ? '[' + host + ']' : host) + ':' + std::to_string(port);
}

}  // namespace reelfs::rpc
