#include "noded/segment/segment_store.h"

#include <algorithm>
#include <cstring>

#include <boost/asio/co_spawn.hpp>
#include <gtest/gtest.h>

#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

constexpr SegmentId kSegment{1};
constexpr Generation kFirst{1};
constexpr InodeId kChannel{2};

class SegmentStoreTest : public ::testing::Test {
 protected:
  SegmentStoreTest() {
    files.add_device("dev1", 64 * kMiB);
    node = std::make_unique<TestNode>(files);
    EXPECT_TRUE(node->lead());
    EXPECT_TRUE(node->initialise());
  }
  Result<BlockAddress> allocate(SegmentId segment = kSegment, Generation generation = kFirst) {
    return node->run(node->store.allocate(segment, generation, kChannel));
  }
  std::uint64_t unit_bytes(std::uint32_t payload = 5000) {
    return round_up(wire::record_bytes(payload), kPageBytes);
  }

  /// Starts an append without waiting for it.
  void start(const UnitOptions& options, std::vector<Result<std::uint64_t>>& answers) {
    auto append = [](SegmentStore& store, UnitOptions o,
                     std::vector<Result<std::uint64_t>>& into) -> asio::awaitable<void> {
      into.push_back(co_await store.append(o.segment, o.generation, o.offset, make_unit(o)));
    };
    ++started;
    asio::co_spawn(node->context, append(node->store, options, answers),
                   [](const std::exception_ptr& failure) {
                     if (failure) std::rethrow_exception(failure);
                   });
  }
  void finish(std::vector<Result<std::uint64_t>>& answers) {
    node->context.restart();
    while (answers.size() < started) ASSERT_EQ(node->context.run_one(), 1u);
  }

  /// The same device after a restart of the whole node.
  void restart() {
    node.reset();
    for (const auto& name : list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8))) remove_shm(name);
    node = std::make_unique<TestNode>(files);
    ASSERT_TRUE(node->lead());
  }

  NodeFiles files;
  std::unique_ptr<TestNode> node;
  std::size_t started = 0;
};

TEST_F(SegmentStoreTest, AllocatesOnceForASegment) {
  const auto first = allocate();
  ASSERT_TRUE(first);
  EXPECT_EQ(allocate().value(), first.value());
  EXPECT_EQ(node->table().counts().open, 1u);
  EXPECT_NE(allocate(SegmentId(2)).value(), first.value());
}

TEST_F(SegmentStoreTest, ListsInPartsInTheOrderOfSegments) {
  for (const std::uint64_t segment : {9, 3, 12, 5, 7}) ASSERT_TRUE(allocate(SegmentId{segment}));
  const auto segments = [&](SegmentId from, std::size_t most) {
    std::vector<std::uint64_t> found;
    for (const auto& block : node->store.list(from, most)) found.push_back(block.segment.value);
    return found;
  };
  EXPECT_EQ(segments(SegmentId{}, 100), (std::vector<std::uint64_t>{3, 5, 7, 9, 12}));
  EXPECT_EQ(segments(SegmentId{}, 1), (std::vector<std::uint64_t>{3}));
  EXPECT_EQ(segments(SegmentId{5}, 2), (std::vector<std::uint64_t>{5, 7}));
  EXPECT_EQ(segments(SegmentId{10}, 2), (std::vector<std::uint64_t>{12}));
  EXPECT_TRUE(segments(SegmentId{13}, 2).empty());
}

TEST_F(SegmentStoreTest, ListsRecordsAsTheyStand) {
  ASSERT_TRUE(allocate());
  std::vector<std::uint64_t> offsets;
  std::uint64_t end = 0;
  for (const std::uint32_t payload : {100u, 5000u, 300000u, 1u, 70000u, 200u}) {
    offsets.push_back(end);
    end =
        node->append(
                {.offset = end, .payload_bytes = payload, .inode = InodeId(end + 1), .file_offset = end + 2})
            .value();
  }
  // Two records of one unit: the second begins within a page.
  const UnitOptions first{.offset = end, .payload_bytes = 3000};
  offsets.push_back(end);
  offsets.push_back(end + wire::record_bytes(3000));
  ASSERT_TRUE(
      node->run(node->store.append(first.segment, first.generation, first.offset, make_double_unit(first))));
  const auto all = node->run(node->store.list_records(kSegment, 0, 100));
  ASSERT_TRUE(all) << all.error().describe();
  ASSERT_EQ(all.value().records.size(), offsets.size());
  for (std::size_t i = 0; i < offsets.size(); ++i) EXPECT_EQ(all.value().records[i].offset, offsets[i]);
  EXPECT_EQ(all.value().records[2].header.payload_bytes, 300000u);
  EXPECT_EQ(all.value().records[2].header.inode, offsets[2] + 1);
  EXPECT_EQ(all.value().records[2].header.file_offset, offsets[2] + 2);
  EXPECT_EQ(all.value().next, 0u);
  EXPECT_EQ(all.value().unreadable, 0u);

  // In parts they are the same.
  std::vector<std::uint64_t> found;
  std::uint64_t next = 0;
  do {
    const auto part = node->run(node->store.list_records(kSegment, next, 2));
    ASSERT_TRUE(part) << part.error().describe();
    ASSERT_LE(part.value().records.size(), 2u);
    for (const auto& record : part.value().records) found.push_back(record.offset);
    next = part.value().next;
  } while (next != 0);
  EXPECT_EQ(found, offsets);
  EXPECT_EQ(node->run(node->store.list_records(SegmentId(77), 0, 2)).error().code(), Errc::not_found);
  EXPECT_EQ(node->run(node->store.list_records(kSegment, 7, 2)).error().code(), Errc::invalid);
}

TEST_F(SegmentStoreTest, ListsWhatStandsBehindADamagedHeader) {
  ASSERT_TRUE(allocate());
  const auto first = node->append({.payload_bytes = 20000}).value();
  const auto second = node->append({.offset = first, .payload_bytes = 20000}).value();
  ASSERT_TRUE(node->append({.offset = second, .payload_bytes = 20000}));
  const auto block = node->store.find(kSegment).value();
  auto& device = *node->store.find_device(block.address.device);
  auto zeros = std::make_shared<Buffer>(kPageBytes);
  std::memset(zeros->data(), 0, zeros->size());
  const auto place = device.table().geometry().block_offset(block.address.block) + first;
  ASSERT_TRUE(node->run(device.write(place, zeros)));
  const auto list = node->run(node->store.list_records(kSegment, 0, 100));
  ASSERT_TRUE(list) << list.error().describe();
  ASSERT_EQ(list.value().records.size(), 2u);
  EXPECT_EQ(list.value().records[1].offset, second);
  EXPECT_EQ(list.value().unreadable, second - first);
}

TEST_F(SegmentStoreTest, SaysWhenItIsFull) {
  const auto blocks = node->table().counts().blocks;
  for (std::uint32_t i = 1; i <= blocks; ++i) ASSERT_TRUE(allocate(SegmentId(i)));
  EXPECT_EQ(allocate(SegmentId(1000)).error().code(), Errc::no_space);
  EXPECT_TRUE(node->table().check());
}

TEST_F(SegmentStoreTest, ReadsBackWhatWasAppended) {
  ASSERT_TRUE(allocate());
  const UnitOptions small{.payload_bytes = 5000};
  const UnitOptions large{.offset = unit_bytes(), .payload_bytes = 300000};
  EXPECT_EQ(node->append(small).value(), unit_bytes());
  EXPECT_EQ(node->append(large).value(), unit_bytes() + unit_bytes(300000));

  for (const std::uint32_t payload_offset : {0u, 70000u, 200000u, 299999u}) {
    SegmentStore::RecordRange range;
    range.segment = kSegment;
    range.record_offset = static_cast<std::uint32_t>(large.offset);
    range.payload_offset = payload_offset;
    range.length = 100000;
    const auto piece = node->run(node->store.read(range));
    ASSERT_TRUE(piece) << piece.error().describe();
    const auto bytes = piece.value().bytes->span().subspan(piece.value().begin, piece.value().size);
    const auto record = wire::decode_record_header(bytes.first(piece.value().header_bytes)).value();
    EXPECT_EQ(piece.value().first_chunk, payload_offset / wire::kChunkBytes);
    auto at = std::size_t{piece.value().header_bytes};
    auto chunk = piece.value().first_chunk;
    for (; at < bytes.size(); ++chunk) {
      EXPECT_TRUE(wire::verify_chunk(record, chunk, bytes.subspan(at, record.chunk_length(chunk))));
      at += record.chunk_length(chunk);
    }
    EXPECT_GE(std::uint64_t{chunk} * wire::kChunkBytes, std::min(payload_offset + 100000u, 300000u));
  }
}

TEST_F(SegmentStoreTest, RefusesToReadWhereNoRecordIs) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  SegmentStore::RecordRange range;
  range.segment = kSegment;
  range.length = 100;
  range.record_offset = 4096;
  EXPECT_EQ(node->run(node->store.read(range)).error().code(), Errc::corrupt);
  range.record_offset = 64 * 1024;
  EXPECT_EQ(node->run(node->store.read(range)).error().code(), Errc::invalid);
  range.record_offset = 0;
  range.payload_offset = 5000;
  EXPECT_EQ(node->run(node->store.read(range)).error().code(), Errc::invalid);
  range.segment = SegmentId(77);
  EXPECT_EQ(node->run(node->store.read(range)).error().code(), Errc::not_found);
}

TEST_F(SegmentStoreTest, WritesManyAppendsAtOnceAndAnswersInOrder) {
  ASSERT_TRUE(allocate());
  std::vector<Result<std::uint64_t>> answers;
  constexpr std::uint64_t kAppends = 30;
  for (std::uint64_t i = 0; i < kAppends; ++i)
    start({.offset = i * unit_bytes(100000), .payload_bytes = 100000}, answers);
  finish(answers);
  for (std::uint64_t i = 0; i < kAppends; ++i) EXPECT_EQ(answers[i].value(), (i + 1) * unit_bytes(100000));
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, kAppends * unit_bytes(100000));
  EXPECT_EQ(node->store.find(kSegment).value().slot.in_flight, 0u);
}

TEST_F(SegmentStoreTest, ARepeatedAppendIsAnsweredLikeTheFirst) {
  ASSERT_TRUE(allocate());
  EXPECT_EQ(node->append({}).value(), unit_bytes());
  EXPECT_EQ(node->append({.offset = unit_bytes()}).value(), 2 * unit_bytes());
  EXPECT_EQ(node->append({}).value(), unit_bytes());
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, 2 * unit_bytes());
}

TEST_F(SegmentStoreTest, RefusesGapsWrongGenerationsAndCorruptUnits) {
  ASSERT_TRUE(allocate(kSegment, Generation(5)));
  EXPECT_EQ(node->append({.generation = Generation(5), .offset = kPageBytes}).error().code(), Errc::invalid);
  EXPECT_EQ(node->append({.generation = Generation(4)}).error().code(), Errc::stale_generation);
  EXPECT_EQ(node->append({.generation = Generation(6)}).error().code(), Errc::invalid);
  EXPECT_EQ(node->append({.segment = SegmentId(9)}).error().code(), Errc::not_found);
  auto unit = make_unit({.generation = Generation(5)});
  unit.span()[1000] ^= std::byte{1};
  EXPECT_EQ(node->run(node->store.append(kSegment, Generation(5), 0, std::move(unit))).error().code(),
            Errc::corrupt);
  EXPECT_EQ(node->append({.generation = Generation(5)}).value(), unit_bytes());
}

TEST_F(SegmentStoreTest, RefusesWhatDoesNotFitTheBlock) {
  ASSERT_TRUE(allocate());
  std::uint64_t end = 0;
  const auto bytes = unit_bytes(wire::kMaxRecordPayload);
  for (; end + bytes <= 4 * kMiB; end += bytes) {
    ASSERT_TRUE(node->append({.offset = end, .payload_bytes = wire::kMaxRecordPayload}));
  }
  EXPECT_EQ(node->append({.offset = end, .payload_bytes = wire::kMaxRecordPayload}).error().code(),
            Errc::no_space);
}

TEST_F(SegmentStoreTest, AFenceStopsTheWriterAndSurvivesARestart) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  const auto fenced = node->run(node->store.fence(kSegment, Generation(2), node->soon()));
  ASSERT_TRUE(fenced);
  EXPECT_EQ(fenced.value().length, unit_bytes());
  EXPECT_EQ(node->append({.offset = unit_bytes()}).error().code(), Errc::stale_generation);
  EXPECT_EQ(node->run(node->store.fence(kSegment, Generation(1), node->soon())).error().code(),
            Errc::stale_generation);
  restart();
  EXPECT_EQ(node->append({.offset = unit_bytes()}).error().code(), Errc::stale_generation);
  EXPECT_EQ(node->append({.generation = Generation(2), .offset = unit_bytes()}).error().code(),
            Errc::stale_generation);
  EXPECT_EQ(node->run(node->store.fence(kSegment, Generation(2), node->soon())).value().length, unit_bytes());
}

TEST_F(SegmentStoreTest, AReopenedSegmentGoesOnFromItsCutAndForgetsWhatWasBehind) {
  ASSERT_TRUE(allocate());
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(node->append({.offset = i * unit_bytes()}));
  const auto reopened = SegmentStore::After::reopened;
  ASSERT_TRUE(node->run(node->store.cut(kSegment, Generation(2), unit_bytes(), reopened, node->soon())));
  EXPECT_EQ(node->append({.offset = unit_bytes()}).error().code(), Errc::stale_generation);
  restart();
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, unit_bytes());
  ASSERT_TRUE(node->append({.generation = Generation(2), .offset = unit_bytes()}));
  ASSERT_TRUE(node->run(node->store.cut(kSegment, Generation(2), unit_bytes(), reopened, node->soon())));
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, 2 * unit_bytes())
      << "a repeated command must not cut again";
  restart();
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, 2 * unit_bytes());
}

TEST_F(SegmentStoreTest, ASealedSegmentKeepsItsLength) {
  ASSERT_TRUE(allocate());
  for (std::uint64_t i = 0; i < 2; ++i) ASSERT_TRUE(node->append({.offset = i * unit_bytes()}));
  const auto seal = [&](std::uint64_t length) {
    return node->run(
        node->store.cut(kSegment, Generation(2), length, SegmentStore::After::sealed, node->soon()));
  };
  EXPECT_EQ(seal(3 * unit_bytes()).error().code(), Errc::invalid);
  EXPECT_TRUE(seal(unit_bytes()));
  EXPECT_TRUE(seal(unit_bytes()));
  restart();
  const auto found = node->store.find(kSegment).value();
  EXPECT_EQ(found.slot.descriptor.state, BlockState::sealed);
  EXPECT_EQ(found.slot.end, unit_bytes());
  EXPECT_EQ(node->append({.generation = Generation(2), .offset = unit_bytes()}).error().code(),
            Errc::stale_generation);
}

TEST_F(SegmentStoreTest, AFreedBlockIsTakenAgainAndShowsNothingOfItsEarlierLife) {
  const auto address = allocate().value();
  ASSERT_TRUE(node->append({}));
  const auto free_before = node->table().counts().free;
  ASSERT_TRUE(node->run(node->store.free(kSegment, Generation(), node->soon())));
  ASSERT_TRUE(node->run(node->store.free(kSegment, Generation(), node->soon())));
  EXPECT_EQ(node->store.find(kSegment).error().code(), Errc::not_found);
  while (node->table().counts().free == free_before) ASSERT_EQ(node->context.run_one(), 1u);
  EXPECT_EQ(allocate(SegmentId(2)).value(), address);
  EXPECT_EQ(node->store.find(SegmentId(2)).value().slot.end, 0u);
  restart();
  EXPECT_EQ(node->store.find(kSegment).error().code(), Errc::not_found);
  EXPECT_EQ(node->store.find(SegmentId(2)).value().slot.end, 0u);
  EXPECT_TRUE(node->table().check());
}

TEST_F(SegmentStoreTest, FindsAcknowledgedBytesAfterARestart) {
  ASSERT_TRUE(allocate());
  for (std::uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(node->append({.offset = i * unit_bytes()}));
  ASSERT_TRUE(node->run(node->store.sync({kSegment})));
  restart();
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, 5 * unit_bytes());
  ASSERT_TRUE(node->append({.offset = 5 * unit_bytes()}));
  EXPECT_EQ(node->state.unfilled->entries().size(), 0u) << "it has a writer again";
}

TEST_F(SegmentStoreTest, AnOldWritersAppendDoesNotTakeANewOnesAlong) {
  ASSERT_TRUE(allocate());
  const auto reopened = SegmentStore::After::reopened;
  ASSERT_TRUE(node->run(node->store.cut(kSegment, Generation(2), 0, reopened, node->soon())));
  std::vector<Result<std::uint64_t>> answers;
  start({.generation = Generation(2)}, answers);
  start({.generation = Generation(1), .offset = unit_bytes()}, answers);
  start({.generation = Generation(2), .offset = unit_bytes()}, answers);
  finish(answers);
  EXPECT_EQ(std::count_if(answers.begin(), answers.end(), [](const auto& answer) { return !answer; }), 1);
  EXPECT_EQ(node->store.find(kSegment).value().slot.end, 2 * unit_bytes());
}

TEST_F(SegmentStoreTest, RefusesAnOffsetBeyondAllBlocks) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  const auto last_page = round_down(UINT64_MAX, kPageBytes);
  const auto answer = node->append({.offset = last_page});
  ASSERT_FALSE(answer) << "acknowledged without being there";
  EXPECT_EQ(answer.error().code(), Errc::no_space);
}

TEST_F(SegmentStoreTest, AfterAFailedFlushNothingOnTheDeviceIsCalledStable) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  files.hooks.fail_syncs = true;
  EXPECT_EQ(node->run(node->store.sync({kSegment})).error().code(), Errc::io);
  files.hooks.fail_syncs = false;
  EXPECT_FALSE(node->run(node->store.sync({kSegment})));
  EXPECT_FALSE(node->append({.offset = unit_bytes()})) << "the writer is to go elsewhere";
  EXPECT_FALSE(allocate(SegmentId(2))) << "and so are new ones";
}

TEST_F(SegmentStoreTest, AFailedFlushIsTheFailureOfTheOtherProcessesToo) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  TestNode other(files, 2);
  ASSERT_TRUE(other.lead()) << "it takes over what the first has made";
  ASSERT_TRUE(other.run(other.store.sync({kSegment})));
  EXPECT_EQ(node->table().flushes().begun, 1u);
  files.hooks.fail_syncs = true;
  EXPECT_EQ(other.run(other.store.sync({kSegment})).error().code(), Errc::io);
  files.hooks.fail_syncs = false;
  EXPECT_EQ(node->run(node->store.sync({kSegment})).error().code(), Errc::io);
}

TEST_F(SegmentStoreTest, TheProcessTableNamesWhatIsWorkedOnAndMakesRoomForIt) {
  for (std::uint32_t i = 0; i < 8192; ++i) node->state.process->add({DeviceId(9), i});
  const auto address = allocate().value();
  ASSERT_TRUE(node->append({}));
  EXPECT_FALSE(node->state.process->overflowed());
  EXPECT_EQ(node->state.process->blocks(), std::vector<BlockAddress>{address});
}

TEST_F(SegmentStoreTest, AReleasedBlockIsUnfilledUntilItIsWrittenAgain) {
  const auto address = allocate().value();
  ASSERT_TRUE(node->append({}));
  ASSERT_EQ(node->state.process->blocks(), std::vector<BlockAddress>{address});
  EXPECT_EQ(node->store.release(kSegment, Generation(9)).error().code(), Errc::stale_generation);
  EXPECT_EQ(node->store.release(SegmentId(2), kFirst).error().code(), Errc::not_found);
  ASSERT_TRUE(node->store.release(kSegment, kFirst));
  EXPECT_TRUE(node->state.process->blocks().empty());
  EXPECT_EQ(node->store.find(kSegment).value().slot.owner, 0u);
  const auto noted = node->state.unfilled->find(kSegment).value();
  EXPECT_EQ(noted.device, address.device.value);
  EXPECT_EQ(noted.block, address.block);
  EXPECT_EQ(noted.length, unit_bytes());
  const Generation second(2);
  ASSERT_EQ(node->run(node->store.fence(kSegment, second, node->soon())).value().length, unit_bytes());
  const auto reopened = SegmentStore::After::reopened;
  ASSERT_TRUE(node->run(node->store.cut(kSegment, second, unit_bytes(), reopened, node->soon())));
  EXPECT_EQ(node->store.release(kSegment, kFirst).error().code(), Errc::stale_generation) << "late";
  EXPECT_FALSE(node->state.unfilled->find(kSegment));
  ASSERT_TRUE(node->append({.generation = second, .offset = unit_bytes()}));
  EXPECT_EQ(node->state.process->blocks(), std::vector<BlockAddress>{address});
}

TEST_F(SegmentStoreTest, AnUnfilledEntryThatIsOutOfDateMisleadsNobody) {
  const auto address = allocate().value();
  UnfilledTable::Entry wrong;
  wrong.segment = kSegment.value;
  wrong.device = address.device.value;
  wrong.block = address.block + 1;
  node->state.unfilled->put(wrong);
  EXPECT_EQ(allocate().value(), address);
  wrong.device = 77;
  node->state.unfilled->put(wrong);
  EXPECT_EQ(node->run(node->store.fence(kSegment, Generation(2), node->soon())).value().address, address);
}

TEST_F(SegmentStoreTest, SyncConfirmsALengthOnlyWhereTheBytesAre) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  EXPECT_TRUE(node->run(node->store.sync({{kSegment, unit_bytes()}})));
  const auto refused = node->run(node->store.sync({{kSegment, unit_bytes() + kPageBytes}}));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::not_found);
  EXPECT_NE(refused.error().message().find("segment 1 "), std::string::npos) << refused.error().message();
}

TEST_F(SegmentStoreTest, ACopyWhoseMachineLostPowerWhileItWasOpenIsTornAndStaysSo) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  restart();
  EXPECT_FALSE(node->run(node->store.fence(kSegment, Generation(2), node->soon())).value().torn)
      << "its processes ended, and nothing else";
  ++files.boot;
  restart();
  EXPECT_FALSE(node->run(node->store.fence(kSegment, Generation(3), node->soon())).value().torn)
      << "it was flushed when it was fenced before";
  ASSERT_TRUE(allocate(SegmentId(2)));
  ++files.boot;
  restart();
  EXPECT_TRUE(node->run(node->store.fence(SegmentId(2), Generation(2), node->soon())).value().torn);
  restart();
  EXPECT_TRUE(node->run(node->store.fence(SegmentId(2), Generation(3), node->soon())).value().torn)
      << "what was lost does not come back with the fence";
  const auto reopened = SegmentStore::After::reopened;
  ASSERT_TRUE(node->run(node->store.cut(SegmentId(2), Generation(3), 0, reopened, node->soon())));
  EXPECT_FALSE(node->run(node->store.fence(SegmentId(2), Generation(4), node->soon())).value().torn);
}

TEST_F(SegmentStoreTest, ACopyOnADeviceThatWasAwayIsTorn) {
  ASSERT_TRUE(allocate());
  ASSERT_TRUE(node->append({}));
  const auto path = files.devices[0];
  auto away = path;
  away += ".away";
  std::filesystem::rename(path, away);
  ASSERT_TRUE(node->look_until([&] { return node->is(DeviceStatus::State::offline); }));
  std::filesystem::rename(away, path);
  ASSERT_TRUE(node->look_until([&] { return node->is(DeviceStatus::State::online); }));
  const auto fenced = node->run(node->store.fence(kSegment, Generation(2), node->soon())).value();
  EXPECT_TRUE(fenced.torn) << "it may have been without power";
  EXPECT_EQ(fenced.length, unit_bytes());
}

TEST_F(SegmentStoreTest, SyncNamesASegmentItDoesNotHave) {
  EXPECT_EQ(node->run(node->store.sync({SegmentId(5)})).error().code(), Errc::not_found);
}

}  // namespace
}  // namespace reelfs::noded
