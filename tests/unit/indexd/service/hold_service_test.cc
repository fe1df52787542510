#include <prometheus/text_serializer.h>

#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

class HoldServiceTest : public IndexTest {
 protected:
  HoldServiceTest() {
    start();
    wire::OpenSessionRequest open;
    open.set_host("recorder1");
    session = call<wire::OpenSessionReply>(Method::open_session, open).value().session();
    channel = create(session, 1, 1, "cam1", S_IFDIR | 0755);
    file = create(session, 2, channel, "a");
  }

  template <class Request>
  Request request() {
    Request message;
    message.mutable_header()->set_session(session);
    message.mutable_header()->set_request(++number);
    return message;
  }
  Result<wire::Empty> set_xattr(std::uint64_t inode, const std::string& reason) {
    auto message = request<wire::SetXattrRequest>();
    message.set_inode(inode);
    message.set_name("user.reel.hold");
    message.set_value(reason);
    message.set_uid(1000);
    return call<wire::Empty>(Method::set_xattr, message);
  }
  Result<wire::Empty> remove_xattr(std::uint64_t inode) {
    auto message = request<wire::RemoveXattrRequest>();
    message.set_inode(inode);
    message.set_name("user.reel.hold");
    message.set_uid(1000);
    return call<wire::Empty>(Method::remove_xattr, message);
  }
  Result<wire::AddHoldsReply> add(const wire::HoldSelection& selection, const std::string& reason) {
    auto message = request<wire::AddHoldsRequest>();
    *message.mutable_selection() = selection;
    message.set_reason(reason);
    message.set_who("operator@desk");
    return call<wire::AddHoldsReply>(Method::add_holds, message);
  }
  Result<wire::ReleaseHoldsReply> release(const wire::HoldSelection& selection,
                                          const std::optional<std::string>& reason = {}) {
    auto message = request<wire::ReleaseHoldsRequest>();
    *message.mutable_selection() = selection;
    if (reason) message.set_reason(*reason);
    return call<wire::ReleaseHoldsReply>(Method::release_holds, message);
  }
  std::vector<wire::HoldInfo> list(std::uint64_t of_channel = 0, std::uint32_t page = 512) {
    std::vector<wire::HoldInfo> all;
    for (bool end = false; !end;) {
      wire::ListHoldsRequest message;
      message.set_channel(of_channel);
      message.set_limit(page);
      message.set_after(all.empty() ? 0 : all.back().inode());
      const auto reply = call<wire::ListHoldsReply>(Method::list_holds, message);
      EXPECT_TRUE(reply);
      if (!reply) return all;
      all.insert(all.end(), reply.value().holds().begin(), reply.value().holds().end());
      end = reply.value().end();
    }
    return all;
  }
  bool metrics_say(const std::string& line) {
    return prometheus::TextSerializer().Serialize(registry->Collect()).find(line + "\n") != std::string::npos;
  }
  wire::HoldSelection in_channel() const {
    wire::HoldSelection selection;
    selection.set_channel(channel);
    return selection;
  }

  std::uint64_t session = 0, channel = 0, file = 0;
  std::uint64_t number = 100;
};

TEST_F(HoldServiceTest, AttributesHoldAndSayWhoAndOutliveTheServer) {
  ASSERT_TRUE(set_xattr(file, "case 4711"));
  const auto refused = unlink(session, ++number, channel, "a");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::not_permitted);
  EXPECT_EQ(refused.error().message(), "held by uid 1000 on recorder1: case 4711");
  EXPECT_TRUE(metrics_say("reelfs_indexd_holds 1"));
  restart();
  EXPECT_TRUE(metrics_say("reelfs_indexd_holds 1"));
  const auto holds = list();
  ASSERT_EQ(holds.size(), 1U);
  EXPECT_EQ(holds[0].path(), "cam1/a");
  EXPECT_EQ(holds[0].who(), "uid 1000 on recorder1");
  EXPECT_GT(holds[0].since_ns(), 0);
  EXPECT_FALSE(unlink(session, ++number, channel, "a"));
  ASSERT_TRUE(remove_xattr(file));
  EXPECT_TRUE(metrics_say("reelfs_indexd_holds 0"));
  EXPECT_TRUE(unlink(session, ++number, channel, "a"));
}

TEST_F(HoldServiceTest, OpeningTellsOfAHold) {
  wire::OpenRequest open;
  open.set_session(session);
  open.set_inode(file);
  EXPECT_FALSE(call<wire::AttributesReply>(Method::open, open).value().held());
  ASSERT_TRUE(set_xattr(channel, "all of it"));
  EXPECT_TRUE(call<wire::AttributesReply>(Method::open, open).value().held());
  wire::GetExtentsRequest extents;
  extents.set_inode(file);
  extents.set_length(1);
  EXPECT_TRUE(call<wire::GetExtentsReply>(Method::get_extents, extents).value().held());
  const auto made = create_request(session, ++number, channel, "b", S_IFREG | 0644);
  EXPECT_TRUE(call<wire::AttributesReply>(Method::create, made).value().held());
}

TEST_F(HoldServiceTest, ManyAreHeldAndReleasedTogether) {
  const auto other = create(session, 3, 1, "cam2", S_IFDIR | 0755);
  create(session, 4, other, "of another channel");
  constexpr int kMany = 600;  // more than are changed at once
  for (int i = 0; i < kMany; ++i) create(session, ++number, channel, std::to_string(i));
  EXPECT_EQ(add(in_channel(), "all").value().holds(), kMany + 1U);
  EXPECT_EQ(list(channel, 100).size(), kMany + 1U);
  EXPECT_TRUE(list(other).empty());
  EXPECT_TRUE(metrics_say("reelfs_indexd_holds 601"));

  wire::HoldSelection one;
  one.set_inode(file);
  EXPECT_EQ(add(one, "one").value().holds(), 1U);
  EXPECT_EQ(release(in_channel(), "one").value().holds(), 1U);
  EXPECT_EQ(release(one).error().code(), Errc::not_found);
  EXPECT_EQ(release(in_channel()).value().holds(), static_cast<std::uint64_t>(kMany));
  EXPECT_TRUE(list().empty());
  EXPECT_EQ(release(in_channel()).error().code(), Errc::not_found);
}

TEST_F(HoldServiceTest, ATimeNamesRecordingsWithBytesOfIt) {
  add_node(), add_node();
  const auto segment = open_segment(session, channel).value().grants(0).segment();
  const auto empty = create(session, ++number, channel, "without a byte");
  ASSERT_TRUE(commit(session, ++number, file, segment, 1000));
  wire::FindRecordingsRequest asked;
  asked.set_inode(file);
  const auto found = call<wire::FindRecordingsReply>(Method::find_recordings, asked).value().recordings(0);
  // What a program says of its times is another matter.
  auto touch = request<wire::SetAttributesRequest>();
  touch.set_inode(file);
  touch.set_mtime_ns(1);
  ASSERT_TRUE(call<wire::AttributesReply>(Method::set_attributes, touch));

  auto before = in_channel();
  before.set_to_ns(found.first_ns() - 1);
  EXPECT_EQ(add(before, "too early").error().code(), Errc::not_found);
  auto after = in_channel();
  after.set_from_ns(found.last_ns() + 1);
  EXPECT_EQ(add(after, "too late").error().code(), Errc::not_found);
  auto exactly = in_channel();
  exactly.set_from_ns(found.last_ns());
  exactly.set_to_ns(found.first_ns());
  EXPECT_EQ(add(exactly, "then").value().holds(), 1U);
  EXPECT_EQ(add(exactly, "").error().code(), Errc::invalid);
  EXPECT_EQ(release(after).error().code(), Errc::not_found);
  EXPECT_EQ(list(channel).front().inode(), file);
  EXPECT_EQ(release(exactly).value().holds(), 1U);
  EXPECT_EQ(add(in_channel(), "all").value().holds(), 2U) << "without a time also what has no byte";
  wire::HoldSelection one;
  one.set_inode(empty);
  EXPECT_EQ(release(one).value().holds(), 1U);
  wire::HoldSelection nowhere;
  nowhere.set_channel(999);
  EXPECT_EQ(add(nowhere, "x").error().code(), Errc::not_found);
}

}  // namespace
}  // namespace reelfs::indexd
