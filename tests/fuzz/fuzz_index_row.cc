#include <optional>
#include <string_view>

#include "common/base/assert.h"
#include "indexd/schema/change.h"
#include "indexd/schema/keys.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {
namespace {

using namespace reelfs::indexd;

/// What decodes is encoded to the same bytes.
template <class Key>
void round_trip(std::string_view key, std::string_view value) {
  if (const auto decoded = decode_key<Key>(key)) REELFS_ASSERT(encode_key(decoded.value()) == key);
  if (const auto decoded = decode_row<typename Key::Row>(value))
    REELFS_ASSERT(encode_row(decoded.value()) == value);
}

void decode(std::string_view key, std::string_view value) {
  const auto checked = check_row(key, value);
  REELFS_ASSERT(checked || checked.error().code() == Errc::corrupt);
  round_trip<InodeKey>(key, value);
  round_trip<NameKey>(key, value);
  round_trip<DirectoryOrderKey>(key, value);
  round_trip<ExtentKey>(key, value);
  round_trip<SegmentKey>(key, value);
  round_trip<NodeTimesKey>(key, value);
  round_trip<DeviceKey>(key, value);
  round_trip<LockKey>(key, value);
  round_trip<BootKey>(key, value);
  round_trip<HoldKey>(key, value);
  round_trip<HoldCountKey>(key, value);
  round_trip<WatchKey>(key, value);
  round_trip<GapKey>(key, value);
  round_trip<GrantKey>(key, value);
  round_trip<ProgressKey>(key, value);
}

}  // namespace

void run(std::span<const std::byte> input) {
  const std::string_view bytes(reinterpret_cast<const char*>(input.data()), input.size());
  const auto changes = for_each_change(
      bytes,
      [](std::string_view key, std::optional<std::string_view> value) { decode(key, value.value_or("")); });
  REELFS_ASSERT(changes || changes.error().code() == Errc::corrupt);
  if (bytes.empty()) return;
  // One row: the first byte says how long the key is.
  const auto key = bytes.substr(1, static_cast<std::uint8_t>(bytes.front()));
  decode(key, bytes.substr(1 + key.size()));
}

std::vector<std::string> seeds() {
  SegmentRow segment;
  segment.copies.resize(2);
  std::string changes;
  append_change(changes, encode_key(SegmentKey{SegmentId{1}}), encode_row(segment));
  append_change(changes, encode_key(InodeKey{InodeId{1}}), encode_row(InodeRow{}));
  ExtentRow clone;
  clone.origin = InodeId{1};
  append_change(changes, encode_key(ExtentKey{InodeId{1}, 0}), encode_row(ExtentRow{}));
  append_change(changes, encode_key(ExtentKey{InodeId{1}, 1}), encode_row(clone));
  append_change(changes, encode_key(NameKey{InodeId{1}, InodeId{2}, "name"}), encode_row(NameRow{}));
  append_change(changes, encode_key(DirectoryOrderKey{InodeId{1}, 2}),
                encode_row(DirectoryOrderRow{InodeId{3}, "name"}));
  append_change(changes, encode_key(DeviceKey{DeviceId{1}}), encode_row(DeviceRow{}));
  append_change(changes, encode_key(DeviceKey{DeviceId{1}}), std::nullopt);
  const LockKey lock{InodeId{1}, LockKind::flock, SessionId{2}, 3, 0};
  append_change(changes, encode_key(lock), encode_row(LockRow{kLastByte, LockType::write, 4}));
  append_change(changes, encode_key(BootKey{}), encode_row(BootRow{"boot"}));
  append_change(changes, encode_key(HoldKey{InodeId{1}}),
                encode_row(HoldRow{"case 4711", "uid 0 on host", 5}));
  append_change(changes, encode_key(HoldCountKey{}), encode_row(HoldCountRow{1}));
  append_change(changes, encode_key(WatchKey{InodeId{2}}), encode_row(WatchRow{1, 40, 900, 2, 3}));
  append_change(changes, encode_key(GapKey{InodeId{2}, 3}),
                encode_row(GapRow{4, GapCause::store_stalled, 900}));
  append_change(changes, encode_key(GrantKey{SessionId{1}, SegmentId{2}, Generation{3}}),
                encode_row(GrantRow{4}));
  append_change(changes, encode_key(ProgressKey{SessionId{1}, InodeId{2}}), encode_row(ProgressRow{3, 4, 1}));
  const auto key = encode_key(SegmentKey{SegmentId{1}});
  return {changes, std::string(1, static_cast<char>(key.size())) + key + encode_row(segment)};
}

}  // namespace reelfs::fuzz
