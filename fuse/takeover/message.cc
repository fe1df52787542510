#include "fuse/takeover/message.h"

namespace reelfs::fuse {

Result<nlohmann::json> parse_message(std::span<const char> cbor) {
  constexpr bool kStrict = true;
  constexpr bool kThrow = false;  // it does all the same, where a length is beyond all bounds
  try {
    auto message = nlohmann::json::from_cbor(cbor.begin(), cbor.end(), kStrict, kThrow);
    if (message.is_object()) return message;
  } catch (const nlohmann::json::exception&) {
    return Error(Errc::protocol, "a message claims to be longer than any can be");
  }
  return Error(Errc::protocol, "a message is not understood");
}

}  // namespace reelfs::fuse
