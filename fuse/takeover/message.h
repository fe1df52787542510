#pragma once

#include <span>

#include <nlohmann/json.hpp>

#include "fuse/takeover/conversation.h"

namespace reelfs::fuse {

struct Conversation::Message {
  nlohmann::json content;  // an object
  Descriptor descriptor;
};

/// What a message says. @errors protocol
Result<nlohmann::json> parse_message(std::span<const char> cbor);

/// A field of a message; `otherwise` where it is missing or of another type.
template <class T>
T field(const nlohmann::json& message, const char* name, const T& otherwise) {
  try {
    return message.value(name, otherwise);
  } catch (const nlohmann::json::exception&) {
    return otherwise;
  }
}

}  // namespace reelfs::fuse
