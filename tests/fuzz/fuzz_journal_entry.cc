#include <cstring>
#include <string_view>

#include "common/base/assert.h"
#include "indexd/journal/entry.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {
namespace {

using namespace reelfs::indexd;

constexpr std::uint32_t kSalt = 7;

void decode(std::string_view bytes) {
  const auto file = decode_journal_file_header(bytes);
  if (file) {
    REELFS_ASSERT(encode_journal_file_header(file.value()) == bytes.substr(0, sizeof(JournalFileHeader)));
  } else {
    REELFS_ASSERT(file.error().code() == Errc::corrupt);
  }
  const auto entry = decode_entry(bytes, kSalt);
  if (!entry) {
    REELFS_ASSERT(entry.error().code() == Errc::corrupt);
    return;
  }
  REELFS_ASSERT(entry.value().bytes() <= bytes.size());
  std::string again;
  encode_entry(entry.value().header, entry.value().payload, kSalt, again);
  REELFS_ASSERT(again == bytes.substr(0, again.size()));
}

}  // namespace

void run(std::span<const std::byte> input) {
  const std::string_view bytes(reinterpret_cast<const char*>(input.data()), input.size());
  decode(bytes);
  // The same with checksums that are right, or hardly anything would get past them.
  if (bytes.size() < sizeof(EntryHeader)) return;
  EntryHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  std::string sealed;
  encode_entry(header, bytes.substr(sizeof header), kSalt, sealed);
  decode(sealed);
  JournalFileHeader file_header;
  std::memcpy(&file_header, bytes.data(), sizeof file_header);
  decode(encode_journal_file_header(file_header));
}

std::vector<std::string> seeds() {
  EntryHeader header;
  header.type = static_cast<std::uint8_t>(EntryType::changes);
  header.index = 2;
  header.epoch = 1;
  std::string changes;
  encode_entry(header, "changes", kSalt, changes);
  header.type = static_cast<std::uint8_t>(EntryType::reign);
  std::string reign;
  encode_entry(header, "", kSalt, reign);
  JournalFileHeader file_header;
  file_header.first_index = 1;
  return {changes, reign, encode_journal_file_header(file_header)};
}

}  // namespace reelfs::fuzz
