#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

constexpr std::int64_t kQuarterNs = 900'000'000'000;

class RecordingServiceTest : public IndexTest {
 protected:
  RecordingServiceTest() {
    start();
    session =
        call<wire::OpenSessionReply>(Method::open_session, wire::OpenSessionRequest()).value().session();
    channel = create(session, 1, 1, "cam1", S_IFDIR | 0755);
    add_node(), add_node();
    segment = open_segment(session, channel).value().grants(0).segment();
  }
  std::uint64_t record(std::uint64_t parent, const std::string& name) {
    return record(parent, name, segment);
  }
  std::uint64_t record(std::uint64_t parent, const std::string& name, std::uint64_t into) {
    const auto file = create(session, ++number, parent, name);
    EXPECT_TRUE(commit(session, ++number, file, into, 1000));
    return file;
  }
  std::vector<wire::RecordingInfo> find(wire::FindRecordingsRequest request) {
    std::vector<wire::RecordingInfo> all;
    for (;;) {
      const auto reply = call<wire::FindRecordingsReply>(Method::find_recordings, request);
      EXPECT_TRUE(reply) << reply.error().describe();
      if (!reply) return all;
      if (request.limit() != 0) {
        EXPECT_LE(reply.value().recordings_size(), static_cast<int>(request.limit()));
      }
      all.insert(all.end(), reply.value().recordings().begin(), reply.value().recordings().end());
      if (!reply.value().has_next()) return all;
      *request.mutable_after() = reply.value().next();
    }
  }
  std::vector<std::string> paths(const wire::FindRecordingsRequest& request) {
    std::vector<std::string> paths;
    for (const auto& info : find(request)) paths.push_back(info.path());
    return paths;
  }
  using Paths = std::vector<std::string>;

  std::uint64_t session = 0, channel = 0, segment = 0, number = 100;
};

TEST_F(RecordingServiceTest, PagesMissAndRepeatNothing) {
  const auto other = create(session, 2, 1, "cam2", S_IFDIR | 0755);
  const auto day = create(session, 3, channel, "day", S_IFDIR | 0755);
  Paths own, all;
  for (int i = 0; i < 7; ++i) {
    record(i % 2 == 0 ? channel : day, std::to_string(i));
    own.push_back((i % 2 == 0 ? "cam1/" : "cam1/day/") + std::to_string(i));
  }
  create(session, 4, channel, "without a byte");
  record(other, "elsewhere", open_segment(session, other).value().grants(0).segment());
  all = own;
  all.push_back("cam2/elsewhere");
  wire::FindRecordingsRequest request;
  for (const std::uint32_t limit : {1, 2, 7, 100}) {
    SCOPED_TRACE(limit);
    request.set_limit(limit);
    request.set_channel(channel);
    EXPECT_EQ(paths(request), own);
    request.set_channel(0);
    EXPECT_EQ(paths(request), all);
  }
}

TEST_F(RecordingServiceTest, ATimeTakesBothItsEnds) {
  const auto file = record(channel, "a");
  wire::FindRecordingsRequest one;
  one.set_inode(file);
  const auto info = find(one).at(0);
  EXPECT_GT(info.first_ns(), 0);
  EXPECT_GE(info.last_ns(), info.first_ns());
  EXPECT_FALSE(info.held());
  EXPECT_FALSE(info.being_written());
  wire::FindRecordingsRequest timed;
  timed.set_channel(channel);
  timed.set_limit(10);
  timed.set_from_ns(info.last_ns());
  timed.set_to_ns(info.first_ns());
  EXPECT_EQ(paths(timed), Paths{"cam1/a"});
  timed.set_from_ns(info.last_ns() + 1);
  EXPECT_TRUE(find(timed).empty());
  timed.clear_from_ns();
  timed.set_to_ns(info.first_ns() - 1);
  EXPECT_TRUE(find(timed).empty());
}

TEST_F(RecordingServiceTest, WhatIsBeingWrittenHasBytesOfNow) {
  const auto file = create(session, ++number, channel, "a");
  wire::OpenRequest open;
  open.set_session(session);
  open.set_inode(file);
  ASSERT_TRUE(call<wire::AttributesReply>(Method::open, open));
  ASSERT_TRUE(commit(session, ++number, file, segment, 1000));
  wire::FindRecordingsRequest one;
  one.set_inode(file);
  const auto info = find(one).at(0);
  EXPECT_TRUE(info.being_written());
  wire::FindRecordingsRequest later;
  later.set_channel(channel);
  later.set_from_ns(info.last_ns() + 1);
  EXPECT_EQ(paths(later), Paths{"cam1/a"});
  wire::ReleaseRequest release;
  release.set_session(session);
  release.add_inodes(file);
  ASSERT_TRUE(call<wire::Empty>(Method::release, release));
  EXPECT_TRUE(find(later).empty());
}

TEST_F(RecordingServiceTest, OneIsFoundByItsPath) {
  const auto day = create(session, 2, channel, "day", S_IFDIR | 0755);
  record(day, "a");
  wire::FindRecordingsRequest request;
  request.set_channel(channel);
  request.set_path("day/a");
  EXPECT_EQ(paths(request), Paths{"cam1/day/a"});
  for (const auto* const absent :
       {"a", "day", "day/b", "day/a/b", "../cam1/day/a", "/day/a", "day//a", "."}) {
    request.set_path(absent);
    EXPECT_TRUE(find(request).empty()) << absent;
  }
  request.set_path("day/a");
  request.set_to_ns(1);
  EXPECT_TRUE(find(request).empty()) << "of another time";
}

TEST_F(RecordingServiceTest, TimesAreWholeQuartersOfAnHour) {
  wire::FindTimesRequest request;
  request.set_channel(channel);
  EXPECT_EQ(call<wire::FindTimesReply>(Method::find_times, request).value().ranges_size(), 0);
  record(channel, "a");
  record(channel, "b");
  const auto reply = call<wire::FindTimesReply>(Method::find_times, request).value();
  EXPECT_FALSE(reply.has_next());
  ASSERT_EQ(reply.ranges_size(), 1);
  const auto now = clock.wall().time_since_epoch().count();
  const auto& range = reply.ranges(0);
  EXPECT_EQ(range.from_ns() % kQuarterNs, 0);
  EXPECT_EQ(range.to_ns() % kQuarterNs, 0);
  EXPECT_LE(range.from_ns(), now);
  EXPECT_GT(range.to_ns() + kQuarterNs, now);
  request.set_to_ns(1);
  EXPECT_EQ(call<wire::FindTimesReply>(Method::find_times, request).value().ranges_size(), 0);
}

}  // namespace
}  // namespace reelfs::indexd
