#include "indexd/journal/entry.h"

#include <cstddef>
#include <cstring>

#include "common/base/crc32c.h"

namespace reelfs::indexd {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

std::string encode_journal_file_header(JournalFileHeader header) {
  const auto bytes = std::as_bytes(std::span(&header, 1));
  header.crc32c = crc32c(bytes.first(offsetof(JournalFileHeader, crc32c)));
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

Result<JournalFileHeader> decode_journal_file_header(std::string_view bytes) {
  JournalFileHeader header;
  if (bytes.size() < sizeof header) return Error(Errc::corrupt, "journal file header is cut off");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != JournalFileHeader{}.magic) return Error(Errc::corrupt, "not a journal file");
  if (header.crc32c != crc32c(bytes_of(bytes.substr(0, offsetof(JournalFileHeader, crc32c))))) {
    return Error(Errc::corrupt, "journal file header has a wrong checksum");
  }
  if (header.version != 1)
    return Error(Errc::corrupt, "journal file of an unknown version; this program reads 1");
  if (header.reserved != JournalFileHeader{}.reserved || header.reserved2 != 0 || header.first_index == 0) {
    return Error(Errc::corrupt, "journal file header contradicts itself");
  }
  return header;
}

std::uint32_t encode_entry(EntryHeader header, std::string_view payload, std::uint32_t salt,
                           std::string& out) {
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  const auto bytes = std::as_bytes(std::span(&header, 1)).first(offsetof(EntryHeader, crc32c));
  header.crc32c = crc32c(bytes_of(payload), crc32c(bytes, salt));
  out.append(reinterpret_cast<const char*>(&header), sizeof header).append(payload);
  return header.crc32c;
}

Result<Entry> decode_entry(std::string_view bytes, std::uint32_t salt) {
  Entry entry;
  auto& header = entry.header;
  if (bytes.size() < sizeof header) return Error(Errc::corrupt, "entry is cut off");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != EntryHeader{}.magic) return Error(Errc::corrupt, "no entry begins here");
  if (header.payload_bytes > kMaxEntryPayload || header.payload_bytes > bytes.size() - sizeof header) {
    return Error(Errc::corrupt, "entry is cut off");
  }
  entry.payload = bytes.substr(sizeof header, header.payload_bytes);
  const auto covered = bytes_of(bytes.substr(0, offsetof(EntryHeader, crc32c)));
  if (header.crc32c != crc32c(bytes_of(entry.payload), crc32c(covered, salt))) {
    return Error(Errc::corrupt, "entry has a wrong checksum");
  }
  if (header.version != 1) return Error(Errc::corrupt, "entry of an unknown version; this program reads 1");
  const auto type = static_cast<EntryType>(header.type);
  const bool is_reign = type == EntryType::reign && entry.payload.empty();
  if ((!is_reign && type != EntryType::changes) || header.reserved != 0 || header.reserved2 != 0 ||
      header.index == 0 || header.synced_index >= header.index) {
    return Error(Errc::corrupt, "entry contradicts itself");
  }
  return entry;
}

}  // namespace reelfs::indexd
