#include <nlohmann/json.hpp>

#include "common/base/assert.h"
#include "fuse/takeover/message.h"
#include "fuse/takeover/mount_state.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {

using nlohmann::json;

void run(std::span<const std::byte> input) {
  const auto message = fuse::parse_message({reinterpret_cast<const char*>(input.data()), input.size()});
  if (!message) {
    REELFS_ASSERT(message.error().code() == Errc::protocol);
    return;
  }
  const auto state = fuse::mount_state_from_json(message.value());
  if (!state) {
    REELFS_ASSERT(state.error().code() == Errc::protocol);
    return;
  }
  const auto again = fuse::to_json(state.value());
  const auto parsed = fuse::mount_state_from_json(again);
  REELFS_ASSERT(parsed && fuse::to_json(parsed.value()) == again);
}

std::vector<std::string> seeds() {
  fuse::MountState state;
  state.kernel.init_request = "request";
  state.kernel.init_answer = "answer";
  state.kernel.unanswered = {"one", "two"};
  state.client.session = SessionId(7);
  state.client.last_request = 1000;
  state.client.assertion = 5;
  state.client.locks.push_back(
      {{InodeId(42), client::LockKind::posix, 6}, {{{0, 9}, LockType::write, 7}}, {3}, false});
  state.client.removed = {InodeId(43)};
  state.root = InodeId(1);
  fuse::MountState::File file;
  file.number = 3;
  file.carried.attributes.inode = InodeId(42);
  file.carried.untold.emplace(Errc::no_space, "full");
  state.files.push_back(file);
  const auto bytes = json::to_cbor(fuse::to_json(state));
  return {std::string(bytes.begin(), bytes.end())};
}

}  // namespace reelfs::fuzz
