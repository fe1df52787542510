#pragma once

#include <nlohmann/json.hpp>

#include "fuse/takeover/conversation.h"

namespace reelfs::fuse {

struct Conversation::Message {
  nlohmann::json content;
  Descriptor descriptor;
};

}  // namespace reelfs::fuse
