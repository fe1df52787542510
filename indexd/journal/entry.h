#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"

namespace reelfs::indexd {

/// Begins a journal file. docs/formats/journal.md
struct JournalFileHeader {
  std::array<char, 4> magic{'R', 'L', 'J', 'F'};
  std::uint8_t version = 1;
  std::array<std::uint8_t, 3> reserved{};
  std::uint64_t first_index = 0;
  std::uint32_t previous_crc32c = 0;  // of the entry before the first; 0 where there is none
  std::uint32_t salt = 0;             // the journal's, the same in all its files
  std::uint32_t reserved2 = 0;
  std::uint32_t crc32c = 0;  // over the 28 bytes before it
};
static_assert(sizeof(JournalFileHeader) == 32 && std::has_unique_object_representations_v<JournalFileHeader>);

enum class EntryType : std::uint8_t {
  changes = 1,  // of one operation: indexd/schema/change.h
  reign = 2,    // an epoch begins; empty
};

/// Begins an entry; the payload follows.
struct EntryHeader {
  std::array<char, 4> magic{'R', 'L', 'J', 'E'};
  std::uint8_t version = 1;
  std::uint8_t type = 0;  // EntryType
  std::uint16_t reserved = 0;
  std::uint32_t payload_bytes = 0;
  std::uint32_t previous_crc32c = 0;  // crc32c of the entry before
  std::uint64_t epoch = 0;
  std::uint64_t index = 0;
  std::uint64_t synced_index = 0;  // entries up to this one were on stable storage when this one was made
  std::uint32_t reserved2 = 0;
  std::uint32_t crc32c = 0;  // begun with the salt, over the 44 bytes before it and the payload
};
static_assert(sizeof(EntryHeader) == 48 && std::has_unique_object_representations_v<EntryHeader>);
static_assert(std::endian::native == std::endian::little,
              "formats are little-endian and copied as they stand");

/// An operation larger than this is refused.
inline constexpr std::uint32_t kMaxEntryPayload = 64 * kMiB;

/// An entry in the bytes it was decoded from.
struct Entry {
  EntryHeader header;
  std::string_view payload;
  std::size_t bytes() const { return sizeof header + payload.size(); }
};

std::string encode_journal_file_header(JournalFileHeader header);
/// @param bytes  starts with the header. @errors corrupt
Result<JournalFileHeader> decode_journal_file_header(std::string_view bytes);

/// Appends header, with its checksum, and payload to `out`. @return the checksum
std::uint32_t encode_entry(EntryHeader header, std::string_view payload, std::uint32_t salt,
                           std::string& out);
/// @param bytes  starts with the entry. @errors corrupt: not a whole, sound entry
Result<Entry> decode_entry(std::string_view bytes, std::uint32_t salt);

}  // namespace reelfs::indexd
