#include "client/write_buffer.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span<const char>(text));
}

// A file as plain bytes; grows with zeros.
struct Model {
  std::string bytes;
  void write(std::uint64_t offset, const std::string& text) {
    bytes.resize(std::max<std::size_t>(bytes.size(), offset + text.size()));
    bytes.replace(offset, text.size(), text);
  }
};

// A WriteBuffer, and what an index would have once the pieces are committed.
struct Harness {
  WriteBuffer buffer;
  Model committed;
  std::map<WriteBuffer::PieceNumber, WriteBuffer::Ready> sending;
  std::map<WriteBuffer::PieceNumber, WriteBuffer::Ready> placed;
  TimePoint now{};

  void take() {
    for (auto& piece : buffer.take_ready()) sending.emplace(piece.number, piece);
  }
  void place(WriteBuffer::PieceNumber number) {
    buffer.placed(number, SegmentId(number), static_cast<std::uint32_t>(number));
    placed.emplace(number, sending.at(number));
    sending.erase(number);
  }
  void commit(std::size_t limit = 1000) {
    const auto batch = buffer.committable(limit);
    for (const auto& extent : batch.extents) {
      const auto& piece = placed.at(extent.segment.value);
      EXPECT_EQ(extent.offset, piece.offset);
      EXPECT_EQ(extent.length, piece.bytes->size());
      committed.write(extent.offset, std::string(piece.bytes->view()));
    }
    buffer.committed(batch.through);
  }
  void finish() {
    buffer.seal();
    take();
    while (!sending.empty()) place(sending.begin()->first);
    commit(SIZE_MAX);
  }
  // What a reader sees.
  std::string view(std::size_t size) const {
    auto seen = committed.bytes;
    seen.resize(std::max(seen.size(), size));
    for (const auto& part : buffer.overlay(0, seen.size())) {
      std::memcpy(seen.data() + part.offset, part.bytes->data() + part.skip, part.length);
    }
    seen.resize(size);
    return seen;
  }
};

TEST(WriteBuffer, NumbersAreThoseOfTheOrderOfWritingOverAllFiles) {
  const auto numbers = std::make_shared<WriteBuffer::Numbers>(100);
  WriteBuffer one(numbers), other(numbers);
  const std::string text = "text";
  const auto bytes = std::as_bytes(std::span(text));
  one.write(0, bytes, {}, 1);
  other.write(0, bytes, {}, 1);
  EXPECT_EQ(one.write(1000, bytes, {}, 1), 1u);
  EXPECT_EQ(one.newest(), 103u);
  EXPECT_EQ(other.newest(), 102u);
  EXPECT_EQ(one.first_after(0), 101u);
  EXPECT_EQ(one.first_after(101), 103u);
  EXPECT_EQ(one.first_after(103), 0u);
  one.seal();
  const auto ready = one.take_ready();
  ASSERT_EQ(ready.size(), 2u);
  EXPECT_EQ(ready.at(0).number, 101u);
  one.placed(101, SegmentId(1), 0);
  ASSERT_EQ(one.committable(10).through, 101u);
  ASSERT_TRUE(one.store_anew(101));
  EXPECT_EQ(one.take_ready().at(0).number, 101u) << "a piece that is stored once more keeps its number";
}

class WriteBufferModel : public ::testing::TestWithParam<unsigned> {};

TEST_P(WriteBufferModel, ShowsAndCommitsWritesInTheirOrder) {
  std::mt19937 random(GetParam());
  const auto any = [&](std::size_t below) { return random() % below; };
  constexpr std::size_t kFile = 3 * kMiB;
  Harness harness;
  Model model;
  std::size_t cursor = 0;
  for (int step = 0; step < 600; ++step) {
    harness.now += 1ms;
    switch (any(10)) {
      case 0:
      case 1:
      case 2: {  // an append
        std::string text(1 + any(300 * kKiB), static_cast<char>('a' + any(26)));
        if (cursor + text.size() > kFile) cursor = 0;
        harness.buffer.write(cursor, bytes_of(text), harness.now, step);
        model.write(cursor, text);
        cursor += text.size();
        break;
      }
      case 3:
      case 4:
      case 5: {  // anywhere, small
        const std::string text(1 + any(50), static_cast<char>('A' + any(26)));
        const auto offset = any(std::max<std::size_t>(1, std::min(kFile - 64, model.bytes.size())));
        harness.buffer.write(offset, bytes_of(text), harness.now, step);
        model.write(offset, text);
        break;
      }
      case 6:
        harness.buffer.seal(harness.now - 1ms * static_cast<int>(any(20)));
        break;
      case 7:
        harness.take();
        break;
      case 8: {  // placed in any order
        if (harness.sending.empty()) break;
        auto piece = harness.sending.begin();
        std::advance(piece, static_cast<std::ptrdiff_t>(any(harness.sending.size())));
        harness.place(piece->first);
        break;
      }
      default:
        harness.commit(1 + any(5));
        break;
    }
    if (step % 20 == 0) {
      ASSERT_EQ(harness.view(model.bytes.size()), model.bytes) << "at step " << step;
    }
    ASSERT_LE(harness.buffer.end(), model.bytes.size());
  }
  EXPECT_EQ(harness.view(model.bytes.size()), model.bytes);
  harness.finish();
  EXPECT_EQ(harness.committed.bytes, model.bytes);
  EXPECT_TRUE(harness.buffer.empty());
  EXPECT_EQ(harness.buffer.held_bytes(), 0u);
  EXPECT_EQ(harness.buffer.placed_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, WriteBufferModel, ::testing::Range(1u, 13u));

TEST(WriteBuffer, PatchingTheHeadDoesNotBreakUpAnAppend) {
  // What ffmpeg's mp4 muxer does: pieces of 256 KiB, and a few bytes near the head in between.
  WriteBuffer buffer;
  const std::string piece(256 * kKiB, 'x');
  const std::string patch(8, 'h');
  for (std::size_t i = 0; i < 16; ++i) {
    buffer.write(i * piece.size(), bytes_of(piece), TimePoint{}, 0);
    buffer.write(40, bytes_of(patch), TimePoint{}, 0);
  }
  buffer.seal();
  // Four full pieces, and the patches: those after the first piece was full share one that is never
  // overlapped.
  EXPECT_LE(buffer.take_ready().size(), 5u);
}

TEST(WriteBuffer, AWriteDoesNotSlipBelowAYoungerOne) {
  Harness harness;
  harness.buffer.write(0, bytes_of("aaaaaaaaaa"), {}, 0);
  harness.buffer.write(100, bytes_of("cc"), {}, 0);
  harness.buffer.seal();                             // the second piece ...
  harness.buffer.write(8, bytes_of("bbbb"), {}, 0);  // ... begins before 8 and is sealed: a piece of its own
  harness.buffer.write(6, bytes_of("dddd"), {}, 0);
  harness.buffer.write(9, bytes_of("e"), {}, 0);
  EXPECT_EQ(harness.view(12), "aaaaaaddde\x62\x62");
  harness.finish();
  EXPECT_EQ(harness.committed.bytes.substr(0, 12), "aaaaaaddde\x62\x62");
}

TEST(WriteBuffer, CommitsWaitForAnOlderPieceThatIsOnItsWay) {
  Harness harness;
  harness.buffer.write(0, bytes_of("old"), {}, 1);
  harness.buffer.seal();
  harness.buffer.write(0, bytes_of("new"), {}, 2);
  harness.buffer.seal();
  harness.take();
  harness.place(2);
  EXPECT_EQ(harness.buffer.committable(10).through, 0u);
  EXPECT_FALSE(harness.buffer.settled_through(2));
  harness.place(1);
  EXPECT_TRUE(harness.buffer.settled_through(2));
  const auto batch = harness.buffer.committable(10);
  EXPECT_EQ(batch.through, 2u);
  EXPECT_EQ(batch.mtime_ns, 2);
  EXPECT_EQ(batch.end, 3u);
}

TEST(WriteBuffer, AFailedPieceHoldsUpNothing) {
  Harness harness;
  harness.buffer.write(0, bytes_of("lost"), {}, 1);
  harness.buffer.seal();
  harness.buffer.write(10, bytes_of("kept"), {}, 2);
  harness.buffer.seal();
  harness.take();
  harness.place(2);
  harness.buffer.failed(1);
  EXPECT_TRUE(harness.buffer.settled_through(2));
  harness.commit();
  EXPECT_EQ(harness.committed.bytes, std::string(10, '\0') + "kept");
  EXPECT_EQ(harness.buffer.held_bytes(), 0u);
}

TEST(WriteBuffer, PiecesWhosePlaceWasLostAreStoredAnewInTheirOrder) {
  Harness harness;
  harness.buffer.write(0, bytes_of("first"), {}, 1);
  harness.buffer.seal();
  harness.buffer.write(3, bytes_of("second"), {}, 2);
  harness.buffer.seal();
  harness.take();
  harness.place(1);
  harness.place(2);
  ASSERT_TRUE(harness.buffer.store_anew(1));
  EXPECT_EQ(harness.view(9), "firsecond");
  EXPECT_EQ(harness.buffer.committable(10).through, 0u);
  harness.take();
  ASSERT_EQ(harness.sending.size(), 1u);
  harness.place(1);
  EXPECT_EQ(harness.buffer.committable(10).through, 2u);
  for (int i = 0; i < 2; ++i) {
    const bool again = harness.buffer.store_anew(1);
    EXPECT_EQ(again, i == 0);  // three tries
    if (!again) continue;
    harness.take();
    harness.place(1);
  }
  harness.commit();
  EXPECT_EQ(harness.committed.bytes, "firsecond");
  EXPECT_EQ(harness.buffer.held_bytes(), 0u);
  EXPECT_EQ(harness.buffer.placed_bytes(), 0u);
}

TEST(WriteBuffer, ManyScatteredWritesDoNotPileUpUnsent) {
  WriteBuffer buffer;
  for (std::size_t i = 0; i < 1000; ++i) buffer.write(i * 8192, bytes_of("scattered"), {}, 0);
  EXPECT_GE(buffer.take_ready().size(), 900u);
}

}  // namespace
}  // namespace reelfs::client
