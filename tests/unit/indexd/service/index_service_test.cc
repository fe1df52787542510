#include <algorithm>
#include <functional>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

constexpr std::uint64_t kRoot = 1;

class IndexServiceTest : public IndexTest {
 protected:
  void SetUp() override {
    start();
    session = open_session();
    ASSERT_NE(session, 0u);
    channel = create(session, ++request, kRoot, "cam1", S_IFDIR | 0755);
  }
  std::uint64_t session = 0, request = 0, channel = 0;
};

TEST_F(IndexServiceTest, ARepeatedRequestIsCarriedOutOnceAlsoAfterARestart) {
  const auto message = create_request(session, ++request, channel, "a.mp4", S_IFREG | 0644);
  const auto first = call<wire::AttributesReply>(Method::create, message);
  ASSERT_TRUE(first);
  const auto again = call<wire::AttributesReply>(Method::create, message);
  ASSERT_TRUE(again) << again.error().describe();
  EXPECT_EQ(again.value().SerializeAsString(), first.value().SerializeAsString());
  restart();
  const auto later = call<wire::AttributesReply>(Method::create, message);
  ASSERT_TRUE(later) << later.error().describe();
  EXPECT_EQ(later.value().SerializeAsString(), first.value().SerializeAsString());
  const auto other = call<wire::AttributesReply>(
      Method::create, create_request(session, ++request, channel, "a.mp4", S_IFREG | 0644));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code(), Errc::exists);
}

TEST_F(IndexServiceTest, ChangesNeedASession) {
  const auto reply =
      call<wire::AttributesReply>(Method::create, create_request(999, 1, channel, "x", S_IFREG | 0644));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::no_session);
}

TEST_F(IndexServiceTest, WithoutNodesOpenSegmentSaysSo) {
  const auto reply = open_segment(session, channel);
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::unavailable);
  EXPECT_EQ(reply.error().message(), "no storage node is online: none has registered yet");
  const auto& lone = add_node();
  (void)lone;
  const auto one = open_segment(session, channel);
  ASSERT_FALSE(one);
  EXPECT_EQ(one.error().code(), Errc::unavailable);
}

TEST_F(IndexServiceTest, GrantsNameAWorkerOnEachNodeAndTheIndexKnowsTheBlocks) {
  for (int i = 0; i < 4; ++i) add_node();
  const auto reply = open_segment(session, channel, 2);
  ASSERT_TRUE(reply) << reply.error().describe();
  ASSERT_EQ(reply.value().grants_size(), 2);
  std::set<std::uint32_t> used;
  for (const auto& grant : reply.value().grants()) {
    EXPECT_EQ(grant.offset(), 0u);
    EXPECT_EQ(grant.block_bytes(), kTestBlock);
    ASSERT_EQ(grant.copies_size(), 2);
    for (const auto& copy : grant.copies()) {
      EXPECT_TRUE(used.insert(copy.node()).second) << "a spare is on other nodes";
      EXPECT_NE(copy.endpoint().port(), 0u);
    }
    const auto shown = show(grant.segment());
    ASSERT_TRUE(shown);
    EXPECT_EQ(shown.value().segment().state(), wire::SEGMENT_OPEN);
    EXPECT_EQ(shown.value().segment().channel_name(), "cam1");
    for (const auto& copy : shown.value().segment().copies()) {
      EXPECT_NE(copy.device(), 0u);
      EXPECT_EQ(copy.block(), grant.segment());
      EXPECT_TRUE(copy.available());
    }
  }
  EXPECT_EQ(blocks_taken(), 4u);
}

TEST_F(IndexServiceTest, AnUnfilledSegmentIsGrantedAgainWithAHigherGeneration) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), 8192);
  ASSERT_TRUE(close_segment(session, grant, 8192));
  ASSERT_TRUE(close_segment(session, grant, 8192)) << "repeating is harmless";
  EXPECT_EQ(show(grant.segment()).value().segment().state(), wire::SEGMENT_UNFILLED);
  const auto next = open_segment(session, channel);
  ASSERT_TRUE(next) << next.error().describe();
  EXPECT_EQ(next.value().grants(0).segment(), grant.segment());
  EXPECT_EQ(next.value().grants(0).generation(), grant.generation() + 1);
  EXPECT_EQ(next.value().grants(0).offset(), 8192u);
  EXPECT_EQ(nodes[0]->blocks.at(grant.segment()).generation, grant.generation() + 1);
}

TEST_F(IndexServiceTest, AnUnfilledSegmentOfASilentNodeIsNotGranted) {
  add_node(), add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), 8192);
  ASSERT_TRUE(close_segment(session, grant, 8192));
  for (auto& node : nodes) {
    if (node->node() == grant.copies(0).node()) node->go_silent();
  }
  ASSERT_TRUE(eventually([&] {
    const auto listed = call<wire::ListNodesReply>(Method::list_nodes, wire::ListNodesRequest());
    return std::any_of(listed.value().nodes().begin(), listed.value().nodes().end(),
                       [](const auto& node) { return node.state() == wire::STATE_OFFLINE; });
  }));
  const auto next = open_segment(session, channel);
  ASSERT_TRUE(next) << next.error().describe();
  EXPECT_NE(next.value().grants(0).segment(), grant.segment());
}

TEST_F(IndexServiceTest, ALateWorkerIsSuspectAndGetsNoGrants) {
  options.suspect_limit = std::chrono::milliseconds(700);
  options.copies = 1;
  restart();
  channel = create(session, ++request, kRoot, "cam2", S_IFDIR | 0755);
  auto& late = add_node();
  auto& punctual = add_worker(2);
  punctual.appends_in_flight = 1000;  // busy, and to be preferred all the same
  const auto workers = [&] {
    punctual.heartbeat();
    return call<wire::ListNodesReply>(Method::list_nodes, wire::ListNodesRequest())
        .value()
        .nodes(0)
        .workers();
  };
  EXPECT_EQ(workers()[0].state(), wire::STATE_ONLINE);
  ASSERT_TRUE(eventually([&] { return workers()[0].state() == wire::STATE_SUSPECT; }));
  EXPECT_EQ(workers()[1].state(), wire::STATE_ONLINE);
  EXPECT_EQ(workers()[1].appends_in_flight(), 1000u);
  for (int i = 0; i < 8; ++i) {
    punctual.heartbeat();
    const auto granted = open_segment(session, channel);
    ASSERT_TRUE(granted) << granted.error().describe();
    EXPECT_EQ(granted.value().grants(0).copies(0).worker(), 2u);
  }
  late.heartbeat();
  EXPECT_EQ(workers()[0].state(), wire::STATE_ONLINE);
}

TEST_F(IndexServiceTest, AnUnusedSpareIsGivenBack) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  EXPECT_EQ(blocks_taken(), 2u);
  ASSERT_TRUE(close_segment(session, grant, 0));
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 0; }));
  EXPECT_TRUE(eventually([&] { return !show(grant.segment()); }));
}

TEST_F(IndexServiceTest, AFailedSegmentIsSealedAtTheShortestCopy) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  nodes[0]->blocks[grant.segment()].length = 16384;
  nodes[1]->blocks[grant.segment()].length = 12288;
  ASSERT_TRUE(close_segment(session, grant, 8192, true));
  ASSERT_TRUE(eventually(
      [&] { return nodes[0]->blocks[grant.segment()].sealed && nodes[1]->blocks[grant.segment()].sealed; }));
  EXPECT_EQ(nodes[0]->blocks[grant.segment()].length, 12288u);
  EXPECT_EQ(show(grant.segment()).value().segment().length(), 12288u);
}

TEST_F(IndexServiceTest, ANodeThatCannotTakeABlockIsLeftOut) {
  add_node(), add_node(), add_node();
  nodes[0]->refuse_allocation = true;
  for (int i = 0; i < 6; ++i) {
    const auto reply = open_segment(session, channel);
    ASSERT_TRUE(reply) << reply.error().describe();
    for (const auto& copy : reply.value().grants(0).copies()) EXPECT_NE(copy.node(), nodes[0]->node());
  }
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 12; }))
      << "what the others took in vain is given back";
}

TEST_F(IndexServiceTest, ExtentsComeWithThePlacesOfTheirSegments) {
  add_node(), add_node();
  const auto file = create(session, ++request, channel, "a.ts");
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), 8192);
  const auto committed = commit(session, ++request, file, grant.segment(), 5000);
  ASSERT_TRUE(committed) << committed.error().describe();
  EXPECT_EQ(committed.value().attributes(0).size(), 5000u);
  wire::GetExtentsRequest asked;
  asked.set_inode(file);
  asked.set_length(1 << 20);
  const auto reply = call<wire::GetExtentsReply>(Method::get_extents, asked);
  ASSERT_TRUE(reply) << reply.error().describe();
  ASSERT_EQ(reply.value().extents_size(), 1);
  ASSERT_EQ(reply.value().locations_size(), 1);
  EXPECT_EQ(reply.value().locations(0).copies_size(), 2);
  const auto shown = show(grant.segment());
  ASSERT_TRUE(shown);
  ASSERT_EQ(shown.value().segment().files_size(), 1);
  EXPECT_EQ(shown.value().segment().files(0).path(), "cam1/a.ts");
  wire::ListSegmentsRequest list;
  list.set_inode(file);
  EXPECT_EQ(call<wire::ListSegmentsReply>(Method::list_segments, list).value().segments_size(), 1);
  list.set_inode(channel);
  EXPECT_EQ(call<wire::ListSegmentsReply>(Method::list_segments, list).value().segments_size(), 0);
}

TEST_F(IndexServiceTest, AFileOfManyExtentsIsEmptiedInStepsAndOnce) {
  constexpr std::uint32_t kMany = 5000;
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  const auto file = create(session, 10, channel, "long");
  wire::CommitRequest request;
  const auto commit_many = [&](std::uint64_t number) {
    request.Clear();
    request.mutable_header()->set_session(session);
    request.mutable_header()->set_request(number);
    auto& grown = *request.add_files();
    grown.set_inode(file);
    for (std::uint32_t i = 0; i < kMany; ++i) {
      auto& extent = *grown.add_extents();
      extent.set_file_offset(i);
      extent.set_length(1);
      extent.set_segment(grant.segment());
      extent.set_payload_offset(i);
    }
    return call<wire::CommitReply>(Method::commit, request);
  };
  const auto stored = [&] { return attributes(file).value().attributes().stored_bytes(); };
  ASSERT_TRUE(commit_many(11));
  ASSERT_EQ(stored(), kMany);

  wire::SetAttributesRequest truncate;
  truncate.mutable_header()->set_session(session);
  truncate.mutable_header()->set_request(12);
  truncate.set_inode(file);
  truncate.set_size(10);
  const auto before = index->journal_index();
  const auto first = call<wire::AttributesReply>(Method::set_attributes, truncate);
  ASSERT_TRUE(first) << first.error().describe();
  EXPECT_EQ(first.value().attributes().size(), 10U);
  EXPECT_EQ(stored(), 10U);
  EXPECT_GE(index->journal_index() - before, kMany / 1024) << "in one entry, for which all others wait";

  ASSERT_TRUE(commit_many(13));
  const auto again = call<wire::AttributesReply>(Method::set_attributes, truncate);
  ASSERT_TRUE(again);
  EXPECT_EQ(again.value().attributes().size(), 10U) << "the first answer";
  EXPECT_EQ(stored(), kMany) << "what was written since then stays";

  wire::PunchHoleRequest punch;
  punch.mutable_header()->set_session(session);
  punch.mutable_header()->set_request(14);
  punch.set_inode(file);
  punch.set_offset(100);
  punch.set_length(kMany);
  const auto between = index->journal_index();
  ASSERT_TRUE(call<wire::AttributesReply>(Method::punch_hole, punch));
  EXPECT_EQ(stored(), 100U);
  EXPECT_GE(index->journal_index() - between, kMany / 1024);
  EXPECT_EQ(attributes(file).value().attributes().size(), kMany);
}

TEST_F(IndexServiceTest, ADeletedFileStaysWhileItIsOpen) {
  const auto file = create(session, ++request, channel, "a.ts", S_IFREG | 0644, true);
  ASSERT_TRUE(unlink(session, ++request, channel, "a.ts"));
  restart();
  EXPECT_TRUE(attributes(file)) << "the session may come back";
  ASSERT_EQ(open_session(session, {file}), session);
  EXPECT_TRUE(attributes(file));
  wire::ReleaseRequest release;
  release.set_session(session);
  release.add_inodes(file);
  ASSERT_TRUE(call<wire::Empty>(Method::release, release));
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

TEST_F(IndexServiceTest, ADeletedFileDoesNotWaitForThoseWhoOpenNothing) {
  wire::OpenSessionRequest open;
  open.set_purpose("reelctl");
  open.set_opens_nothing(true);
  const auto silent = call<wire::OpenSessionReply>(Method::open_session, open);
  ASSERT_TRUE(silent);
  const auto file = create(session, ++request, channel, "a.ts", S_IFREG | 0644, true);
  wire::OpenRequest refused;
  refused.set_session(silent.value().session());
  refused.set_inode(file);
  const auto opened = call<wire::AttributesReply>(Method::open, refused);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Errc::invalid);
  ASSERT_TRUE(unlink(session, ++request, channel, "a.ts"));
  restart();
  ASSERT_EQ(open_session(session), session);
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

// Removals are carried out in the order of the inodes' numbers: where the last file has gone, the others
// stay.
class RemovedTest : public IndexServiceTest {
 protected:
  void start_anew() {
    stop();
    start();
    ASSERT_EQ(open_session(session), session);
  }
  Result<wire::UnlinkReply> unlink_keeping(const std::string& name) {
    wire::UnlinkRequest unlink;
    unlink.mutable_header()->set_session(session);
    unlink.mutable_header()->set_request(++request);
    unlink.set_parent(channel);
    unlink.set_name(name);
    unlink.set_keep(true);
    return call<wire::UnlinkReply>(Method::unlink, unlink);
  }
  void forget(std::uint64_t by, std::uint64_t inode) {
    wire::ReleaseRequest release;
    release.set_session(by);
    release.add_forgotten(inode);
    ASSERT_TRUE(call<wire::Empty>(Method::release, release));
  }
  void remove_another() {
    const auto last = create(session, ++request, channel, "last.ts");
    ASSERT_TRUE(unlink(session, ++request, channel, "last.ts"));
    ASSERT_TRUE(eventually([&] { return !attributes(last); }));
  }
  Result<wire::AttributesReply> look_up(const std::string& name) {
    wire::LookupRequest lookup;
    lookup.set_parent(channel);
    lookup.set_name(name);
    return call<wire::AttributesReply>(Method::lookup, lookup);
  }
  Result<wire::AttributesReply> open(std::uint64_t by, std::uint64_t inode) {
    wire::OpenRequest request;
    request.set_session(by);
    request.set_inode(inode);
    return call<wire::AttributesReply>(Method::open, request);
  }
};

TEST_F(RemovedTest, StaysForItsKeeperUntilThatHasForgottenIt) {
  const auto file = create(session, ++request, channel, "a.ts");
  ASSERT_TRUE(unlink_keeping("a.ts"));
  forget(open_session(), file);  // it is not another's to give up
  remove_another();
  ASSERT_TRUE(attributes(file));
  EXPECT_EQ(attributes(file).value().attributes().nlink(), 0U);
  EXPECT_TRUE(open(session, file));
  forget(session, file);
  remove_another();
  EXPECT_TRUE(attributes(file)) << "it is open";
  wire::ReleaseRequest release;
  release.set_session(session);
  release.add_inodes(file);
  ASSERT_TRUE(call<wire::Empty>(Method::release, release));
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

TEST_F(RemovedTest, WhatARenameReplacedStaysForItsKeeper) {
  const auto file = create(session, ++request, channel, "a.ts");
  create(session, ++request, channel, "new");
  wire::RenameRequest rename;
  rename.mutable_header()->set_session(session);
  rename.mutable_header()->set_request(++request);
  rename.set_parent(channel);
  rename.set_name("new");
  rename.set_new_parent(channel);
  rename.set_new_name("a.ts");
  rename.set_keep(true);
  ASSERT_TRUE(call<wire::RenameReply>(Method::rename, rename));
  remove_another();
  EXPECT_TRUE(attributes(file));
  forget(session, file);
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

TEST_F(RemovedTest, GoesWithoutAWordOfItsKeeperInTheEnd) {
  options.removed_keep = std::chrono::milliseconds(50);
  start_anew();
  const auto file = create(session, ++request, channel, "a.ts");
  ASSERT_TRUE(unlink_keeping("a.ts"));
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

TEST_F(RemovedTest, GoesWithTheSessionOfItsKeeper) {
  options.removed_keep = std::chrono::hours(1);
  start_anew();
  const auto file = create(session, ++request, channel, "a.ts");
  ASSERT_TRUE(unlink_keeping("a.ts"));
  close_session(session);
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

TEST_F(RemovedTest, StaysAMomentForAnotherThatWasJustToldOfIt) {
  options.removed_grace = kPatience;
  start_anew();
  const auto other = open_session();
  const auto file = create(session, ++request, channel, "a.ts");
  ASSERT_TRUE(look_up("a.ts"));
  ASSERT_TRUE(unlink_keeping("a.ts"));
  forget(session, file);
  remove_another();
  EXPECT_TRUE(open(other, file));
}

TEST_F(RemovedTest, GoesAMomentAfterAnotherWasToldOfIt) {
  options.removed_grace = std::chrono::milliseconds(50);
  start_anew();
  const auto file = create(session, ++request, channel, "a.ts");
  ASSERT_TRUE(look_up("a.ts"));
  ASSERT_TRUE(unlink(session, ++request, channel, "a.ts"));
  EXPECT_TRUE(eventually([&] { return !attributes(file); }));
}

TEST_F(RemovedTest, DoesNotStayForOthersWhereThereIsNoRoom) {
  options.removed_grace = options.removed_keep = std::chrono::hours(1);
  start_anew();
  add_node(), add_node();
  const auto looked_at = create(session, ++request, channel, "a.ts");
  const auto kept = create(session, ++request, channel, "b.ts");
  ASSERT_TRUE(look_up("a.ts"));
  ASSERT_TRUE(unlink(session, ++request, channel, "a.ts"));
  ASSERT_TRUE(unlink_keeping("b.ts"));
  ASSERT_TRUE(attributes(looked_at));
  auto granted = open_segment(session, channel, 8);
  for (int grants = 0; granted && grants < 64; ++grants) granted = open_segment(session, channel, 8);
  ASSERT_FALSE(granted);
  ASSERT_EQ(granted.error().code(), Errc::no_space);
  EXPECT_TRUE(eventually([&] { return !attributes(looked_at); }));
  EXPECT_TRUE(attributes(kept)) << "its keeper may be using it";
  const auto later = create(session, ++request, channel, "c.ts");
  ASSERT_TRUE(look_up("c.ts"));
  ASSERT_TRUE(unlink(session, ++request, channel, "c.ts"));
  EXPECT_TRUE(eventually([&] { return !attributes(later); }));
}

TEST_F(IndexServiceTest, DeletingTheLastFileGivesTheBlocksBack) {
  stop();
  options.dead_segment_grace = Duration::zero();
  start();
  ASSERT_EQ(open_session(session), session);
  add_node(), add_node();
  const auto file = create(session, ++request, channel, "a.ts");
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), kTestBlock);
  ASSERT_TRUE(commit(session, ++request, file, grant.segment(), 5000));
  ASSERT_TRUE(close_segment(session, grant, kTestBlock));
  EXPECT_EQ(show(grant.segment()).value().segment().state(), wire::SEGMENT_SEALED);
  ASSERT_TRUE(unlink(session, ++request, channel, "a.ts"));
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 0; }));
  EXPECT_TRUE(eventually([&] { return !show(grant.segment()); }));
}

TEST_F(IndexServiceTest, DeadSegmentsAreNotMadeUpForAfterARestart) {
  for (int i = 0; i < 2; ++i) add_node();
  const auto record = [this](const std::string& name) {
    const auto file = create(session, ++request, channel, name);
    const auto grant = open_segment(session, channel).value().grants(0);
    append(grant.segment(), kTestBlock);
    EXPECT_TRUE(commit(session, ++request, file, grant.segment(), kMiB));
    EXPECT_TRUE(close_segment(session, grant, kTestBlock));
    return file;
  };
  const auto kept = record("kept");
  constexpr int kDead = 62;  // one of 64 blocks is left, and two are to be kept free
  std::uint64_t last = 0;
  for (int i = 0; i < kDead; ++i) {
    last = record(std::to_string(i));
    ASSERT_TRUE(unlink(session, ++request, channel, std::to_string(i)));
  }
  ASSERT_TRUE(eventually([&] { return !attributes(last); }));
  const auto looks_again = [this] {
    const auto until = clock.now() + 20 * options.sweep_interval;
    return eventually([&] { return clock.now() >= until; });
  };
  ASSERT_TRUE(looks_again());
  EXPECT_TRUE(attributes(kept));
  restart();
  ASSERT_EQ(open_session(session), session);
  ASSERT_TRUE(looks_again());
  EXPECT_EQ(nodes[0]->blocks.size(), kDead + 1u)
      << "they stay a while, as something may yet be committed to them";
  EXPECT_TRUE(attributes(kept));
}

TEST_F(IndexServiceTest, WhatALivingWriterHasYetToCommitIsNotFreed) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), kTestBlock);
  ASSERT_TRUE(close_segment(session, grant, kTestBlock));
  int sweeps = 0;  // several rounds of the background, which would free it
  ASSERT_TRUE(eventually([&] { return ++sweeps > 40; }));
  const auto file = create(session, ++request, channel, "a.ts");
  const auto committed = commit(session, ++request, file, grant.segment(), 5000);
  EXPECT_TRUE(committed) << committed.error().describe();
}

TEST_F(IndexServiceTest, ANodeWhoseLeaderHasYetToTellOfItsDevicesIsNotFull) {
  add_node();
  nodes.push_back(std::make_unique<FakeNode>(context, clock, "node2", 2));
  nodes.back()->register_with(endpoint, cluster);
  const auto refused = open_segment(session, channel);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::unavailable) << refused.error().describe();
  add_node();  // makes node3
  EXPECT_TRUE(open_segment(session, channel));
}

TEST_F(IndexServiceTest, GoesOnWithFewerCopiesWhereFewerNodesAreThere) {
  stop();
  options.start_grace = Duration::zero();
  start();
  add_node();
  const auto grants = open_segment(session, channel, 2);
  ASSERT_TRUE(grants) << grants.error().describe();
  ASSERT_EQ(grants.value().grants_size(), 1) << "no spare with one copy alone";
  const auto& grant = grants.value().grants(0);
  EXPECT_EQ(grant.copies_size(), 1);
  EXPECT_EQ(grant.min_copies(), 1u);
  EXPECT_EQ(grant.wanted_copies(), 2u);
  const auto spares = open_segment(session, channel, 1, wire::GRANT_AHEAD);
  ASSERT_TRUE(spares) << spares.error().describe();
  EXPECT_EQ(spares.value().grants_size(), 0);
  const auto file = create(session, ++request, channel, "a.ts");
  append(grant.segment(), 8192);
  ASSERT_TRUE(commit(session, ++request, file, grant.segment(), 5000));
  ASSERT_TRUE(close_segment(session, grant, 8192));
  EXPECT_TRUE(eventually([&] {
    return show(grant.segment()).value().segment().state() == wire::SEGMENT_SEALED;
  })) << "it is not granted again";
  add_node();
  const auto whole = open_segment(session, channel, 1, wire::GRANT_AHEAD);
  ASSERT_TRUE(whole) << whole.error().describe();
  ASSERT_EQ(whole.value().grants_size(), 1);
  EXPECT_EQ(whole.value().grants(0).copies_size(), 2);
}

TEST_F(IndexServiceTest, ADeadSessionsSegmentsAreSealedAndFreed) {
  add_node(), add_node();
  const auto file = create(session, ++request, channel, "a.ts");
  const auto grants = open_segment(session, channel, 2).value();
  ASSERT_EQ(grants.grants_size(), 2);
  append(grants.grants(0).segment(), 8192);
  ASSERT_TRUE(commit(session, ++request, file, grants.grants(0).segment(), 5000));
  stop();
  options.lease = std::chrono::milliseconds(50);
  start();
  EXPECT_TRUE(eventually([&] {
    const auto shown = show(grants.grants(0).segment());
    return shown && shown.value().segment().state() == wire::SEGMENT_SEALED;
  }));
  EXPECT_EQ(show(grants.grants(0).segment()).value().segment().length(), 8192u);
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 2; })) << "nothing lives in the spare";
  EXPECT_EQ(open_session(session), 0u) << "it has ended";
}

TEST_F(IndexServiceTest, BlocksTakenByALifeThatEndedAreGivenBack) {
  add_node(), add_node();
  for (auto& node : nodes) node->hold_allocation = true;
  wire::OpenSegmentRequest request_never_answered;
  request_never_answered.set_session(session);
  request_never_answered.set_channel(channel);
  auto asking = [this, &request_never_answered]() -> asio::awaitable<void> {
    (void)co_await client->call(Method::open_segment, request_never_answered,
                                Deadline::after(clock, kPatience));
  };
  asio::co_spawn(context, asking(), [](const std::exception_ptr&) {});
  ASSERT_TRUE(eventually([&] { return blocks_taken() == 2; }));
  stop();
  for (auto& node : nodes) node->hold_allocation = false;
  start();
  EXPECT_TRUE(eventually([&] { return blocks_taken() == 0; }));
}

TEST_F(IndexServiceTest, AReportFreesWhatNobodyKnowsAndKeepsTheRest) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  EXPECT_TRUE(nodes[0]->heartbeat().report_blocks());
  nodes[0]->blocks[777777] = {1, 4096, false};
  EXPECT_EQ(nodes[0]->report(), std::set<std::uint64_t>{777777});
  EXPECT_TRUE(nodes[0]->blocks.contains(grant.segment()));
  EXPECT_FALSE(nodes[0]->heartbeat().report_blocks());
}

TEST_F(IndexServiceTest, AReportMayComeInParts) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  auto& node = *nodes[0];
  node.blocks[777777] = {1, 4096, false};
  node.blocks[888888] = {1, 4096, false};
  EXPECT_TRUE(node.heartbeat().report_blocks());
  EXPECT_EQ(node.report(0, 800000), std::set<std::uint64_t>{777777});
  EXPECT_TRUE(node.heartbeat().report_blocks()) << "the rest";
  EXPECT_EQ(node.report(800000), std::set<std::uint64_t>{888888});
  EXPECT_TRUE(node.blocks.contains(grant.segment()));
  EXPECT_FALSE(node.heartbeat().report_blocks());
}

TEST_F(IndexServiceTest, AReportThatIsWantedWhileOneComesIsAskedFor) {
  add_node(), add_node(), add_node();
  auto& node = *nodes[0];
  EXPECT_TRUE(node.heartbeat().report_blocks());
  node.refuse_allocation = true;  // after it has listed its blocks, perhaps having taken one
  const auto is_wanted = [&] {
    EXPECT_TRUE(open_segment(session, channel));
    return node.allocations_refused > 0;
  };
  ASSERT_TRUE(eventually(is_wanted));
  node.report();
  EXPECT_TRUE(node.heartbeat().report_blocks());
  node.report();
  EXPECT_FALSE(node.heartbeat().report_blocks());
}

TEST_F(IndexServiceTest, AnIndexThatLostItsDataFreesNothing) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), 8192);
  stop();
  std::filesystem::remove_all(directory.path());
  start();
  for (auto& node : nodes) EXPECT_EQ(node->report(), std::set<std::uint64_t>{});
  EXPECT_EQ(blocks_taken(), 2u);
  const auto status =
      call<wire::ClusterStatusReply>(Method::cluster_status, wire::ClusterStatusRequest()).value();
  EXPECT_TRUE(std::any_of(status.problems().begin(), status.problems().end(), [](const auto& problem) {
    return problem.what() == "device /dev/node1 of node node1 holds recordings that this index does not know";
  }));
  // Nor does it number segments anew there, for the numbers are taken.
  session = open_session();
  channel = create(session, 1, kRoot, "cam1", S_IFDIR | 0755);
  EXPECT_FALSE(open_segment(session, channel));
  EXPECT_EQ(blocks_taken(), 2u);
}

TEST_F(IndexServiceTest, ACopyThatMissedTheSealIsSealedWhenItsNodeReports) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), 8192);
  nodes[1]->go_silent();
  ASSERT_TRUE(close_segment(session, grant, 8192, true));
  ASSERT_TRUE(eventually([&] { return nodes[0]->blocks[grant.segment()].sealed; }));
  restart();
  nodes[1]->report();
  EXPECT_TRUE(eventually([&] { return nodes[1]->blocks[grant.segment()].sealed; }));
}

TEST_F(IndexServiceTest, ABlankDeviceIsInitialisedOnlyWhereThatIsWanted) {
  const auto& untouched = add_node(true);
  const auto status = call<wire::ClusterStatusReply>(Method::cluster_status, wire::ClusterStatusRequest());
  EXPECT_TRUE(std::any_of(
      status.value().problems().begin(), status.value().problems().end(),
      [](const auto& problem) { return problem.what() == "device /dev/node1 of node node1 is blank"; }));
  EXPECT_EQ(untouched.initialised, 0);
  stop();
  options.adopt_blank_devices = true;
  start();
  EXPECT_TRUE(eventually([&] { return nodes[0]->initialised == 1; }));
}

TEST_F(IndexServiceTest, WhoStopsWaitingForADeviceToBeAddedMayAskAgain) {
  auto& node = add_node(true);
  node.hold_initialisation = true;
  wire::AddDeviceRequest request;
  request.set_node("node1");
  request.set_path("/dev/node1");
  const auto impatient = Deadline::after(clock, std::chrono::milliseconds(100));
  const auto given_up =
      run(context, client->call_for<wire::AddDeviceReply>(Method::add_device, request, impatient));
  EXPECT_FALSE(given_up);
  EXPECT_EQ(node.initialised, 1);
  node.hold_initialisation = false;
  const auto patient = Deadline::after(clock, std::chrono::seconds(10));
  const auto added =
      run(context, client->call_for<wire::AddDeviceReply>(Method::add_device, request, patient));
  ASSERT_TRUE(added) << added.error().describe();
  EXPECT_EQ(node.initialised, 2);
  EXPECT_NE(added.value().device().device(), 0u);
}

/// A node with a blank device and a second worker, asked to add the device.
class DeviceCommandTest : public IndexServiceTest {
 protected:
  void SetUp() override {
    options.suspect_limit = suspect_limit;
    IndexServiceTest::SetUp();
    leader = &add_node(true);
    follower = &add_worker(2);
  }
  Result<wire::AddDeviceReply> add() {
    wire::AddDeviceRequest command;
    command.set_node("node1");
    command.set_path("/dev/node1");
    const auto soon = Deadline::after(clock, std::chrono::seconds(10));
    return run(context, client->call_for<wire::AddDeviceReply>(Method::add_device, command, soon));
  }
  Duration suspect_limit = kPatience;
  FakeNode* leader = nullptr;
  FakeNode* follower = nullptr;
};

TEST_F(DeviceCommandTest, AWorkerThatDoesNotAnswerHoldsUpNoCommand) {
  follower->hold_commands = true;
  leader->refuse_commands = Errc::not_permitted;
  EXPECT_EQ(add().error().code(), Errc::not_permitted);
  leader->refuse_commands = Errc::busy;
  EXPECT_EQ(add().error().code(), Errc::busy) << "the device is, says the leader";
  leader->refuse_commands.reset();
  const auto added = add();
  ASSERT_TRUE(added) << added.error().describe();
  EXPECT_EQ(leader->initialised, 1);
  EXPECT_GT(follower->commands, 0) << "it was asked as well";
}

TEST_F(DeviceCommandTest, WhoKnowsNoLeaderDoesNotSpeakForTheNode) {
  follower->refuse_commands = Errc::busy;
  leader->commands_after = follower;
  const auto added = add();
  ASSERT_TRUE(added) << added.error().describe();
}

TEST_F(DeviceCommandTest, CommandsAreNumberedInTheirOrderAlsoAfterARestart) {
  ASSERT_TRUE(add());
  restart();
  ASSERT_TRUE(add());
  ASSERT_GT(leader->numbers.size(), 2u);
  EXPECT_EQ(std::adjacent_find(leader->numbers.begin(), leader->numbers.end(), std::greater_equal<>()),
            leader->numbers.end())
      << "each greater than the last";
}

class LateWorkerTest : public DeviceCommandTest {
 protected:
  LateWorkerTest() { suspect_limit = std::chrono::milliseconds(700); }
  /// Until the follower is late with its heartbeats, and the leader is not.
  void wait_until_late() {
    ASSERT_TRUE(eventually([&] {
      leader->heartbeat();
      const auto told = call<wire::ListNodesReply>(Method::list_nodes, wire::ListNodesRequest());
      return told && told.value().nodes(0).workers(1).state() == wire::STATE_SUSPECT;
    }));
  }
};

TEST_F(LateWorkerTest, IsAskedOnlyWhereNoOtherAnswersForTheNode) {
  wait_until_late();
  leader->refuse_commands = Errc::not_permitted;
  EXPECT_EQ(add().error().code(), Errc::not_permitted);
  EXPECT_EQ(follower->commands, 0);
  leader->refuse_commands = Errc::unavailable;
  follower->refuse_commands = Errc::not_permitted;
  EXPECT_EQ(add().error().code(), Errc::not_permitted);
  EXPECT_EQ(follower->commands, 1);
}

TEST_F(IndexServiceTest, ADeviceOutOfServiceIsNotWithinReachAndListsItsBlocksWhenItIsBack) {
  add_node(), add_node();
  const auto grant = open_segment(session, channel).value().grants(0);
  auto& node = *nodes[1];
  node.report();
  EXPECT_FALSE(node.heartbeat().report_blocks());
  const auto within_reach = [&] {
    wire::ShowSegmentRequest asked;
    asked.set_segment(grant.segment());
    const auto shown = call<wire::ShowSegmentReply>(Method::show_segment, asked).value();
    return std::count_if(shown.segment().copies().begin(), shown.segment().copies().end(),
                         [](const auto& copy) { return copy.available(); });
  };
  EXPECT_EQ(within_reach(), 2);
  node.state = wire::STATE_FAILED;
  node.since_ns = 12345;
  node.heartbeat();
  EXPECT_EQ(within_reach(), 1);
  const auto status =
      call<wire::ClusterStatusReply>(Method::cluster_status, wire::ClusterStatusRequest()).value();
  EXPECT_TRUE(std::any_of(status.problems().begin(), status.problems().end(), [](const auto& problem) {
    return problem.what() == "device /dev/node2 of node node2 has failed: no reason given" &&
           problem.since_ns() == 12345;
  }));
  EXPECT_TRUE(std::any_of(status.problems().begin(), status.problems().end(), [](const auto& problem) {
    return problem.what().starts_with("1 segments are degraded, 0 of them without any copy within reach");
  }));
  node.state = wire::STATE_ONLINE;
  EXPECT_TRUE(node.heartbeat().report_blocks());
  EXPECT_EQ(within_reach(), 2);
  node.report();
  EXPECT_TRUE(node.blocks.contains(grant.segment()));
  EXPECT_FALSE(node.heartbeat().report_blocks());
}

TEST_F(IndexServiceTest, BlocksOfADeviceThatWasNotToldOfYetAreLeftAlone) {
  add_node(), add_node();
  auto& node = *nodes[0];
  node.state = wire::STATE_OFFLINE;
  node.heartbeat();
  node.blocks[777777] = {1, 4096, false};  // listed before a heartbeat says that the device is back
  EXPECT_EQ(node.report(), std::set<std::uint64_t>{});
  node.state = wire::STATE_ONLINE;
  EXPECT_TRUE(node.heartbeat().report_blocks());
  EXPECT_EQ(node.report(), std::set<std::uint64_t>{777777});
}

TEST_F(IndexServiceTest, AProblemTellsSinceWhenItIsThere) {
  const auto since = [&](const std::string& what) -> std::int64_t {
    const auto status = call<wire::ClusterStatusReply>(Method::cluster_status, wire::ClusterStatusRequest());
    for (const auto& problem : status.value().problems()) {
      if (problem.what() == what) return problem.since_ns();
    }
    return 0;
  };
  const auto none = since("no storage node has registered");
  EXPECT_GT(none, 0);
  EXPECT_EQ(since("no storage node has registered"), none);
  add_node(), add_node();
  EXPECT_EQ(since("2 copies are wanted and 1 storage nodes are online"), 0);
  const auto before = clock.wall().time_since_epoch().count();
  nodes[1]->go_silent();
  ASSERT_TRUE(eventually([&] { return since("2 copies are wanted and 1 storage nodes are online") > 0; }));
  const auto fewer = since("2 copies are wanted and 1 storage nodes are online");
  EXPECT_GT(fewer, before);
  EXPECT_EQ(since("2 copies are wanted and 1 storage nodes are online"), fewer);
  // A device's problem is as old as its state, not as its node.
  add_node();
  EXPECT_EQ(since("device /dev/node3 of node node3 is full"), 0);
  const auto online = clock.wall().time_since_epoch().count();
  for (std::uint64_t segment = 1; segment <= 64; ++segment) nodes[2]->blocks[segment];
  nodes[2]->heartbeat();
  const auto full = since("device /dev/node3 of node node3 is full");
  EXPECT_GT(full, online);
  nodes[2]->heartbeat();
  EXPECT_EQ(since("device /dev/node3 of node node3 is full"), full);
}

TEST_F(IndexServiceTest, FreeSpaceIsNetOfCopies) {
  add_node(), add_node();
  wire::StatFsRequest asked;
  asked.set_inode(channel);
  ASSERT_TRUE(eventually([&] {
    return call<wire::StatFsReply>(Method::statfs, asked).value().total_bytes() == 64 * kTestBlock;
  }));
  EXPECT_EQ(call<wire::StatFsReply>(Method::statfs, asked).value().free_bytes(), 64 * kTestBlock);
  ASSERT_TRUE(open_segment(session, channel));
  EXPECT_EQ(call<wire::StatFsReply>(Method::statfs, asked).value().free_bytes(), 63 * kTestBlock);
}

TEST_F(IndexServiceTest, ADirectoryOfAnotherClusterIsRefused) {
  const auto claimed = run(context, claim_cluster(*index, clock, {Uuid::random(), kTestBlock}));
  ASSERT_FALSE(claimed);
  EXPECT_EQ(claimed.error().code(), Errc::bad_config);
}

TEST(SegmentsThatFit, CountsWhatFitsOnDifferentNodes) {
  EXPECT_EQ(segments_that_fit({}, 2), 0u);
  EXPECT_EQ(segments_that_fit({10}, 2), 0u);
  EXPECT_EQ(segments_that_fit({10, 10}, 2), 10u);
  EXPECT_EQ(segments_that_fit({100, 10}, 2), 10u);
  EXPECT_EQ(segments_that_fit({5, 5, 10}, 2), 10u);
  EXPECT_EQ(segments_that_fit({7, 7}, 1), 14u);
}

}  // namespace
}  // namespace reelfs::indexd
