#include <prometheus/text_serializer.h>

#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

/// What a mount would have seen while an hour passes, told in one go: ages do not care when they are told.
class GapKeeperTest : public IndexTest {
 protected:
  GapKeeperTest() {
    start();
    session = open_session();
    channel = create(session, 1, 1, "cam1", S_IFDIR | 0755);
  }

  wire::ReportArrivalsRequest arrivals(std::uint64_t first_ms, std::uint64_t last_ms,
                                       std::uint32_t writers = 1) {
    wire::ReportArrivalsRequest request;
    request.set_session(session);
    auto& told = *request.add_channels();
    told.set_channel(channel);
    told.set_first_ms(first_ms);
    told.set_last_ms(last_ms);
    told.set_longest_pause_ms(40);
    told.set_writers(writers);
    return request;
  }
  Result<wire::Empty> report(const wire::ReportArrivalsRequest& request) {
    return call<wire::Empty>(Method::report_arrivals, request);
  }
  /// Makes it a channel that is recorded to, whose last byte came so long ago.
  void record_until(std::uint64_t last_ms, std::uint32_t writers = 1) {
    for (const std::uint64_t before : {4000, 3000, 2000, 1000})
      ASSERT_TRUE(report(arrivals(last_ms + before, last_ms + before - 1000, writers)));
  }
  Result<wire::ListGapsReply> list(std::uint64_t of, std::uint32_t limit = 100, std::int64_t after = 0) {
    wire::ListGapsRequest request;
    request.set_channel(of);
    request.set_limit(limit);
    request.set_after_ns(after);
    request.set_from_ns(1);
    return call<wire::ListGapsReply>(Method::list_gaps, request);
  }
  std::vector<wire::GapInfo> gaps() {
    const auto reply = list(channel);
    EXPECT_TRUE(reply) << reply.error().describe();
    if (!reply) return {};
    return {reply.value().gaps().begin(), reply.value().gaps().end()};
  }
  std::vector<std::string> problems() {
    const auto status = call<wire::ClusterStatusReply>(Method::cluster_status, wire::ClusterStatusRequest());
    std::vector<std::string> found;
    if (!status) return found;
    for (const auto& problem : status.value().problems()) {
      if (problem.what().find("is silent") != std::string::npos) found.push_back(problem.what());
    }
    return found;
  }
  bool has_metric(const std::string& line) {
    return prometheus::TextSerializer().Serialize(registry->Collect()).find(line) != std::string::npos;
  }
  std::int64_t ago_ns(std::uint64_t ms) const {
    return clock.wall().time_since_epoch().count() - static_cast<std::int64_t>(ms) * 1'000'000;
  }

  std::uint64_t session = 0;
  std::uint64_t channel = 0;
};

TEST_F(GapKeeperTest, WritesDownPausesThatItIsTold) {
  record_until(60'000);
  auto later = arrivals(30'000, 1000);
  auto& pause = *later.mutable_channels(0)->add_pauses();
  pause.set_ended_ms(30'000);
  pause.set_length_ms(30'000);
  pause.set_stalled_ms(20'000);
  later.mutable_channels(0)->set_longest_stall_ms(7000);
  ASSERT_TRUE(report(later));
  const auto found = gaps();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].cause(), wire::GAP_CAUSE_STORE_STALLED);
  EXPECT_EQ(found[0].longest_stall_ms(), 7000u);
  EXPECT_NEAR(static_cast<double>(found[0].start_ns()), static_cast<double>(ago_ns(60'000)), 5e9);
  EXPECT_NEAR(static_cast<double>(found[0].end_ns() - found[0].start_ns()), 30e9, 1e9);
  const auto coverage = list(channel).value().coverage();
  EXPECT_TRUE(coverage.watched());
  EXPECT_EQ(coverage.longest_stall_ms(), 7000u);
  // Told again it is the same.
  ASSERT_TRUE(report(later));
  EXPECT_EQ(gaps().size(), 1u);
  restart();
  EXPECT_EQ(gaps().size(), 1u);
}

TEST_F(GapKeeperTest, TellsOfAChannelThatIsSilent) {
  record_until(20'000);
  ASSERT_TRUE(eventually([&] {
    wire::ReportArrivalsRequest nothing_new;
    nothing_new.set_session(session);
    nothing_new.add_channels()->set_channel(channel);
    nothing_new.mutable_channels(0)->set_writers(1);
    EXPECT_TRUE(report(nothing_new));
    return !problems().empty();
  }));
  EXPECT_NE(problems().front().find("channel cam1 is silent: its recorder has a file open"),
            std::string::npos);
  EXPECT_TRUE(eventually([&] { return has_metric("reelfs_indexd_channel_silent{channel=\"cam1\"} 1"); }));
  const auto open = gaps();
  ASSERT_EQ(open.size(), 1u);
  EXPECT_EQ(open[0].end_ns(), 0);
  EXPECT_EQ(open[0].cause(), wire::GAP_CAUSE_SOURCE_SILENT);
  // The recorder goes, and the index server is started again.
  close_session(session);
  EXPECT_TRUE(eventually([&] { return gaps().front().cause() == wire::GAP_CAUSE_RECORDER_GONE; }));
  restart();
  EXPECT_EQ(gaps().front().start_ns(), open[0].start_ns());
  EXPECT_EQ(gaps().front().end_ns(), 0);
  EXPECT_EQ(problems().size(), 1u);
  session = open_session();
  ASSERT_TRUE(report(arrivals(100, 0)));
  EXPECT_TRUE(problems().empty());
  EXPECT_NE(gaps().front().end_ns(), 0);
  EXPECT_TRUE(eventually([&] { return has_metric("reelfs_indexd_channel_silent{channel=\"cam1\"} 0"); }));
  EXPECT_TRUE(has_metric("reelfs_indexd_channel_gaps{"));
}

TEST_F(GapKeeperTest, ForgetsAChannelThatIsRemoved) {
  record_until(20'000);
  ASSERT_TRUE(eventually([&] { return !problems().empty(); }));
  wire::UnlinkRequest request;
  request.mutable_header()->set_session(session);
  request.mutable_header()->set_request(2);
  request.set_parent(1);
  request.set_name("cam1");
  request.set_directory(true);
  ASSERT_TRUE(call<wire::UnlinkReply>(Method::unlink, request));
  EXPECT_EQ(list(channel).error().code(), Errc::not_found);
  EXPECT_TRUE(eventually([&] { return problems().empty(); }));
  EXPECT_TRUE(eventually([&] { return !has_metric("cam1"); }));
  EXPECT_TRUE(report(arrivals(100, 0)));  // is passed over
}

TEST_F(GapKeeperTest, RefusesWhatIsNotAReport) {
  auto request = arrivals(1000, 0);
  request.set_session(session + 100);
  EXPECT_EQ(report(request).error().code(), Errc::no_session);
  request = arrivals(0, 1000);  // the last before the first
  EXPECT_TRUE(report(request));
  request = arrivals(UINT64_MAX, 0);
  auto& pause = *request.mutable_channels(0)->add_pauses();
  pause.set_ended_ms(UINT64_MAX);
  pause.set_length_ms(UINT64_MAX);
  EXPECT_TRUE(report(request));
  EXPECT_TRUE(gaps().empty());
  for (int i = 0; i < 4096; ++i) request.add_channels()->set_channel(channel);
  EXPECT_EQ(report(request).error().code(), Errc::too_big);
}

TEST_F(GapKeeperTest, ListsByPages) {
  record_until(3'000'000);
  auto request = arrivals(2'900'000, 100);
  for (std::uint64_t ended = 2'900'000; ended > 2'000'000; ended -= 100'000) {
    auto& pause = *request.mutable_channels(0)->add_pauses();
    pause.set_ended_ms(ended);
    pause.set_length_ms(50'000);
  }
  ASSERT_TRUE(report(request));
  auto page = list(channel, 4).value();
  EXPECT_EQ(page.gaps_size(), 4);
  EXPECT_FALSE(page.end());
  EXPECT_TRUE(page.has_coverage());
  page = list(channel, 100, page.gaps(3).start_ns()).value();
  EXPECT_EQ(page.gaps_size(), 5);
  EXPECT_TRUE(page.end());
  EXPECT_FALSE(page.has_coverage());
}

}  // namespace
}  // namespace reelfs::indexd
