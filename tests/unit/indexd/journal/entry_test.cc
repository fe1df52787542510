#include "indexd/journal/entry.h"

#include <gtest/gtest.h>

#include "common/base/crc32c.h"

namespace reelfs::indexd {
namespace {

using namespace std::string_literals;

std::string crc_bytes(std::string_view bytes, std::uint32_t begun) {
  const auto crc = crc32c(std::as_bytes(std::span(bytes)), begun);
  return {reinterpret_cast<const char*>(&crc), sizeof crc};
}

EntryHeader some_header() {
  EntryHeader header;
  header.type = static_cast<std::uint8_t>(EntryType::changes);
  header.previous_crc32c = 0x01020304;
  header.epoch = 5;
  header.index = 0x0607;
  header.synced_index = 3;
  return header;
}

TEST(JournalEntry, HasTheDocumentedBytes) {
  std::string bytes;
  encode_entry(some_header(), "abc", 0x99, bytes);
  const auto before =
      "RLJE"
      "\1\1\0\0"
      "\3\0\0\0"
      "\4\3\2\1"
      "\5\0\0\0\0\0\0\0"
      "\7\6\0\0\0\0\0\0"
      "\3\0\0\0\0\0\0\0"
      "\0\0\0\0"s;
  EXPECT_EQ(bytes, before + crc_bytes(before + "abc", 0x99) + "abc");
  const auto followed = bytes + "what follows";
  const auto entry = decode_entry(followed, 0x99).value();
  EXPECT_EQ(entry.payload, "abc");
  EXPECT_EQ(entry.bytes(), bytes.size());
  EXPECT_EQ(entry.header.index, 0x0607U);
}

TEST(JournalEntry, NoDamagedByteIsAccepted) {
  std::string bytes;
  encode_entry(some_header(), "abc", 0x99, bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_FALSE(decode_entry(damaged, 0x99)) << "byte " << i;
    EXPECT_FALSE(decode_entry(bytes.substr(0, i), 0x99)) << "cut at " << i;
  }
}

TEST(JournalEntry, ContradictionsAreRefusedThoughTheChecksumIsRight) {
  const auto refused = [](auto change, std::string_view payload) {
    auto header = some_header();
    change(header);
    std::string bytes;
    encode_entry(header, payload, 0, bytes);
    return !decode_entry(bytes, 0);
  };
  EXPECT_FALSE(refused([](EntryHeader&) {}, "abc"));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.version = 2; }, "abc"));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.type = 3; }, "abc"));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.type = 2; }, "abc")) << "a reign carries nothing";
  EXPECT_FALSE(refused([](EntryHeader& header) { header.type = 2; }, ""));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.reserved = 1; }, "abc"));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.reserved2 = 1; }, "abc"));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.index = 0; }, "abc"));
  EXPECT_TRUE(refused([](EntryHeader& header) { header.synced_index = header.index; }, "abc"));
}

TEST(JournalFileHeader, HasTheDocumentedBytes) {
  JournalFileHeader header;
  header.first_index = 0x0102;
  header.previous_crc32c = 3;
  header.salt = 4;
  const auto bytes = encode_journal_file_header(header);
  const auto before =
      "RLJF"
      "\1\0\0\0"
      "\2\1\0\0\0\0\0\0"
      "\3\0\0\0"
      "\4\0\0\0"
      "\0\0\0\0"s;
  EXPECT_EQ(bytes, before + crc_bytes(before, 0));
  EXPECT_EQ(decode_journal_file_header(bytes).value().first_index, 0x0102U);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_FALSE(decode_journal_file_header(damaged)) << "byte " << i;
    EXPECT_FALSE(decode_journal_file_header(bytes.substr(0, i))) << "cut at " << i;
  }
}

}  // namespace
}  // namespace reelfs::indexd
