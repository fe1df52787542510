// What the cluster's failures look like to those who use a FileSystem.
#include <optional>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>

#include "tests/unit/client/filesystem_fixture.h"

namespace reelfs::client {
namespace {

TEST_F(FileSystemTest, AFailedWriteIsToldOncePerHandleAndLaterWritesGoOn) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  const auto other = open(fs, file->inode());
  write(*file, 0, "kept");
  ASSERT_TRUE(run(file->flush()));
  cluster.before = [](wire::Method method) {
    return method == wire::Method::commit ? Result<void>(Error(Errc::no_space)) : Result<void>(ok());
  };
  write(*file, 4, "lost");
  EXPECT_EQ(error_of(run(file->fsync())), Errc::no_space);
  EXPECT_EQ(error_of(run(file->flush())), Errc{});
  EXPECT_EQ(error_of(run(other->fsync())), Errc::no_space);
  EXPECT_EQ(error_of(run(other->fsync())), Errc{});
  cluster.before = [](wire::Method) { return Result<void>(ok()); };
  EXPECT_EQ(error_of(run(open(fs, file->inode())->flush())), Errc{});
  EXPECT_EQ(read(*file), "kept");
  write(*file, 4, " on");
  EXPECT_EQ(error_of(run(file->flush())), Errc{});
  EXPECT_EQ(read(*file), "kept on");
}

TEST_F(FileSystemTest, AFlushOfAnotherHolderDoesNotHideAFailureFromFsync) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  cluster.before = [](wire::Method method) {
    return method == wire::Method::commit ? Result<void>(Error(Errc::no_space)) : Result<void>(ok());
  };
  write(*file, 0, "lost");
  // A child that inherited the descriptor closes it, and nobody looks; then the recorder's own calls.
  EXPECT_EQ(error_of(run(file->flush())), Errc::no_space);
  EXPECT_EQ(error_of(run(file->flush())), Errc::no_space);
  EXPECT_EQ(error_of(run(file->fsync())), Errc::no_space);
  EXPECT_EQ(error_of(run(file->fsync())), Errc{});
  EXPECT_EQ(error_of(run(file->flush())), Errc{});
}

TEST_F(FileSystemTest, AWriteTellsWhatFailedBefore) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  cluster.before = [](wire::Method method) {
    return method == wire::Method::open_segment ? Result<void>(Error(Errc::no_space)) : Result<void>(ok());
  };
  write(*file, 0, "lost");
  ASSERT_EQ(error_of(run(fs.sync())), Errc{});
  EXPECT_EQ(run(file->write(4, Buffer::copy_of(bytes_of("more")))).error().code(), Errc::no_space);
  EXPECT_TRUE(run(file->write(4, Buffer::copy_of(bytes_of("more")))));
  EXPECT_EQ(error_of(run(file->flush())), Errc::no_space);
}

TEST_F(FileSystemTest, AWritersErrorIsOneThatWritersKnow) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  cluster.before = [](wire::Method method) {
    return method == wire::Method::commit ? Result<void>(Error(Errc::invalid, "no such record"))
                                          : Result<void>(ok());
  };
  write(*file, 0, "lost");
  EXPECT_EQ(error_of(run(file->flush())), Errc::io) << "the program's arguments were not at fault";
  cluster.before = [](wire::Method) { return Result<void>(ok()); };
}

TEST_F(FileSystemTest, ATruncationThatFailsTakesNothingAway) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "before behind");
  cluster.before = [](wire::Method method) {
    return method == wire::Method::set_attributes ? Result<void>(Error(Errc::io)) : Result<void>(ok());
  };
  AttributeChanges changes;
  changes.size = 6;
  ASSERT_FALSE(run(fs.set_attributes(file->inode(), changes)));
  EXPECT_EQ(read(*file), "before behind");
  cluster.before = [](wire::Method) { return Result<void>(ok()); };
  ASSERT_TRUE(run(fs.set_attributes(file->inode(), changes)));
  EXPECT_EQ(read(*file), "before");
}

TEST_F(FileSystemTest, BytesWhoseSegmentWasFreedBeforeTheCommitAreStoredAnew) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "bytes");
  int commits = 0;
  cluster.before = [&](wire::Method method) {
    if (method != wire::Method::commit || ++commits > 1) return Result<void>(ok());
    return Result<void>(Error(Errc::stale_generation, "the segment holds no records"));
  };
  EXPECT_EQ(error_of(run(file->fsync())), Errc{});
  EXPECT_EQ(commits, 2);
  EXPECT_EQ(read(*open(mount(), file->inode())), "bytes");
}

TEST_F(FileSystemTest, ARestartedIndexIsToldWhatIsOpenEvenWhereNobodyCalled) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  run(cluster.restart_index(false));
  cluster.open_inodes.begin()->second.clear();
  // The mount notices at its next renewal, a second at most; nobody calls meanwhile.
  const auto began = clock.now();
  while (cluster.open_inodes.begin()->second.empty() && clock.now() - began < 10s) context.run_one();
  EXPECT_TRUE(cluster.open_inodes.begin()->second.contains(file->inode().value));
}

TEST_F(FileSystemTest, OneFilesRefusedCommitIsNotTheOthers) {
  auto& fs = mount();
  const auto bad = create(fs, "bad"), good = create(fs, "good");
  write(*bad, 0, "x");
  write(*good, 0, "y");
  int commits = 0;
  cluster.before = [&](wire::Method method) {
    // The common request, then the first of the single ones: files go in the order of their states.
    if (method == wire::Method::commit && ++commits <= 1) return Result<void>(Error(Errc::quota_exceeded));
    return Result<void>(ok());
  };
  ASSERT_TRUE(run(fs.sync()));
  EXPECT_EQ(error_of(run(bad->flush())), Errc{});
  EXPECT_EQ(error_of(run(good->flush())), Errc{});
  EXPECT_EQ(commits, 3);
}

TEST_F(FileSystemTest, AFileThatTheIndexRefusesAloneCostsTheOthersNothing) {
  auto& fs = mount();
  const auto full = create(fs, "full"), kept = create(fs, "kept"), good = create(fs, "good");
  write(*kept, 0, "old");
  ASSERT_TRUE(run(kept->flush()));
  cluster.commits.clear();
  cluster.refused = {{full->inode().value, Errc::quota_exceeded}, {kept->inode().value, Errc::not_permitted}};
  write(*full, 0, "x");
  write(*kept, 0, "new");
  write(*good, 0, "y");
  ASSERT_TRUE(run(fs.sync()));
  ASSERT_EQ(cluster.commits.size(), 1U);
  EXPECT_EQ(cluster.commits[0].files_size(), 3);
  EXPECT_EQ(error_of(run(full->fsync())), Errc::quota_exceeded);
  EXPECT_EQ(error_of(run(kept->fsync())), Errc::not_permitted);
  EXPECT_EQ(error_of(run(good->fsync())), Errc{});
  EXPECT_EQ(read(*kept), "old");
  EXPECT_EQ(read(*good), "y");
  EXPECT_EQ(error_of(run(full->allocate(0, 10, false))), Errc::quota_exceeded);
  cluster.refused.clear();
  write(*kept, 0, "new");
  EXPECT_EQ(error_of(run(kept->fsync())), Errc{});
}

TEST_F(FileSystemTest, OverwritingWhatIsHeldIsRefusedAtOnce) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "bytes");
  ASSERT_TRUE(run(file->flush()));
  cluster.held.insert(file->inode().value);
  const auto handle = open(fs, file->inode());
  cluster.commits.clear();
  EXPECT_EQ(run(handle->write(2, Buffer::copy_of(bytes_of("xx")))).error().code(), Errc::not_permitted);
  EXPECT_EQ(error_of(run(handle->fsync())), Errc{}) << "nothing was taken, nothing is lost";
  EXPECT_TRUE(cluster.commits.empty());
  const auto asked = cluster.calls(wire::Method::get_extents);
  write(*handle, 5, " more");
  ASSERT_TRUE(run(handle->flush()));
  EXPECT_EQ(cluster.calls(wire::Method::get_extents), asked) << "appending asks nobody";
  EXPECT_EQ(run(handle->write(7, Buffer::copy_of(bytes_of("xx")))).error().code(), Errc::not_permitted)
      << "what was appended since is held, too";
  ASSERT_TRUE(run(handle->allocate(0, 20, false)));
  ASSERT_TRUE(run(open(fs, file->inode())->flush()));
  EXPECT_TRUE(run(handle->write(15, Buffer::copy_of(bytes_of("hole")))));
  ASSERT_TRUE(run(handle->flush()));
  cluster.held.clear();
  EXPECT_TRUE(run(handle->write(2, Buffer::copy_of(bytes_of("xx")))));
  ASSERT_TRUE(run(handle->flush()));
  EXPECT_EQ(read(*handle).substr(0, 10), "byxxs more");
}

TEST_F(FileSystemTest, ARefusedCommitTellsThatTheFileIsHeld) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "bytes");
  ASSERT_TRUE(run(file->flush()));
  cluster.held.insert(file->inode().value);
  cluster.refused = {{file->inode().value, Errc::not_permitted}};
  write(*file, 0, "x");
  EXPECT_EQ(error_of(run(file->fsync())), Errc::not_permitted);
  EXPECT_EQ(run(file->write(0, Buffer::copy_of(bytes_of("x")))).error().code(), Errc::not_permitted);
  EXPECT_EQ(read(*file), "bytes");
}

TEST_F(FileSystemTest, ACommitOfADeletedFileIsNoError) {
  auto& fs = mount();
  const auto file = create(fs, "gone");
  ASSERT_TRUE(run(fs.unlink(channel(fs), "gone")));
  write(*file, 0, "bytes");
  cluster.lose(file->inode().value);
  EXPECT_EQ(error_of(run(file->flush())), Errc{});
}

TEST_F(FileSystemTest, WhatIsWrittenToAFileThatTheIndexHasLostIsNotSaidToBeStored) {
  auto& fs = mount();
  const auto file = create(fs, "lost");
  write(*file, 0, "bytes");
  cluster.lose(file->inode().value);
  EXPECT_EQ(error_of(run(file->fsync())), Errc::stale_handle);
}

TEST_F(FileSystemTest, ABadCopyIsPassedOver) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "true bytes");
  ASSERT_TRUE(run(file->flush()));
  for (auto& node : cluster.nodes) {
    node->corrupts = true;
    auto& viewer = mount();
    EXPECT_EQ(read(*open(viewer, file->inode())), "true bytes");
    node->corrupts = false;
  }
}

TEST_F(FileSystemTest, WhereAllCopiesAreBadTheReadFails) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "true bytes");
  ASSERT_TRUE(run(file->flush()));
  for (auto& node : cluster.nodes) node->corrupts = true;
  const auto bytes = run(file->read(0, 10));
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code(), Errc::corrupt);
  EXPECT_NE(bytes.error().message().find("node "), std::string::npos) << bytes.error().message();
}

TEST_F(FileSystemTest, ASilentCopyIsNotWaitedFor) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "bytes");
  ASSERT_TRUE(run(file->flush()));
  for (auto& node : cluster.nodes) {
    auto& viewer = mount();
    const auto seen = open(viewer, file->inode());
    node->silent = true;
    const auto began = clock.now();
    EXPECT_EQ(read(*seen), "bytes");
    EXPECT_LT(clock.now() - began, 900ms);  // another is asked after 300 ms, before the first has timed out
    node->silent = false;
  }
}

TEST_F(FileSystemTest, ANodeThatIsGoneIsNotNeeded) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "bytes");
  ASSERT_TRUE(run(file->flush()));
  run(cluster.nodes[0]->stop());
  auto& viewer = mount();
  EXPECT_EQ(read(*open(viewer, file->inode())), "bytes");
}

TEST_F(FileSystemTest, ExtentsOfAFreedSegmentAreAskedForAgain) {
  auto& recorder = mount();
  auto& viewer = mount();
  const auto file = create(recorder, "a.ts");
  write(*file, 0, std::string(200'000, 'a'));
  ASSERT_TRUE(run(file->flush()));
  const auto seen = open(viewer, file->inode());
  EXPECT_EQ(read(*seen, 1, 1), "a");  // only the chunk that holds it
  const auto old_segment = cluster.file(file->inode().value).extents.begin()->second.segment;
  run(recorder.stop());  // gives the segment back: what is written next goes to another
  auto& again = mount();
  const auto rewritten = open(again, file->inode());
  write(*rewritten, 0, std::string(200'000, 'b'));
  ASSERT_TRUE(run(rewritten->flush()));
  ASSERT_NE(cluster.file(file->inode().value).extents.begin()->second.segment, old_segment);
  cluster.free_segment(old_segment.value);
  EXPECT_EQ(read(*seen, 150'000, 1), "b");
}

TEST_F(FileSystemTest, ARepeatedCreateIsCarriedOutOnce) {
  auto& fs = mount();
  channel(fs);
  cluster.swallow = wire::Method::create;
  EXPECT_TRUE(create(fs, "once") != nullptr);
  EXPECT_EQ(cluster.calls(wire::Method::create), 4);  // the channel, again and "exists", and the file twice
}

TEST_F(FileSystemTest, ASessionIsResumedAfterTheIndexWasRestarted) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "before ");
  run(cluster.restart_index(false));
  write(*file, 7, "after");
  ASSERT_TRUE(run(file->flush()));
  EXPECT_EQ(read(*file), "before after");
  EXPECT_EQ(cluster.open_inodes.size(), 1u);
}

TEST_F(FileSystemTest, ALostSessionIsReplacedWithWhatIsOpenHere) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "before ");
  run(cluster.restart_index(true));
  write(*file, 7, "after");
  ASSERT_TRUE(run(file->flush()));
  EXPECT_EQ(read(*file), "before after");
  ASSERT_EQ(cluster.open_inodes.size(), 1u);
  EXPECT_TRUE(cluster.open_inodes.begin()->second.contains(file->inode().value));
}

TEST_F(FileSystemTest, CallsEndAtTheTimeoutAndTheMountComesBack) {
  FileSystemOptions options;
  options.timeout = 400ms;
  auto& fs = mount(options);
  const auto file = create(fs, "a.ts");
  write(*file, 0, "kept");
  ASSERT_TRUE(run(file->flush()));
  run(cluster.stop_index());
  const auto ends_in_time = [&](auto coroutine) {
    const auto began = clock.now();
    const auto result = run(std::move(coroutine));
    EXPECT_FALSE(result);
    EXPECT_LT(clock.now() - began, 2s);
    return result ? Errc{} : result.error().code();
  };
  const auto says_so = [](Errc code) { return code == Errc::unavailable || code == Errc::timed_out; };
  EXPECT_PRED1(says_so, ends_in_time(fs.lookup(kRootInode, "cam1")));
  EXPECT_PRED1(says_so, ends_in_time(fs.statfs(kRootInode)));
  write(*file, 4, "lost");
  EXPECT_PRED1(says_so, ends_in_time(file->flush()));
  run(cluster.restart_index(false));
  EXPECT_TRUE(run(fs.lookup(kRootInode, "cam1")));
  EXPECT_EQ(read(*file, 0, 4), "kept");
}

TEST_F(FileSystemTest, AMountBegunWithoutAClusterFindsItLater) {
  run(cluster.stop_index());
  FileSystemOptions options;
  options.timeout = 200ms;
  FileSystem fs(context, clock, cluster.config(), options);
  EXPECT_FALSE(run(fs.start()));
  run(cluster.restart_index(true));
  EXPECT_TRUE(channel(fs));
  run(fs.stop());
}

TEST_F(FileSystemTest, AnotherClusterIsRefused) {
  auto config = cluster.config();
  config.cluster = Uuid::random();
  FileSystem fs(context, clock, config, {});
  EXPECT_EQ(error_of(run(fs.start())), Errc::bad_config);
  run(fs.stop());
}

TEST_F(FileSystemTest, WritersWaitForRoomAndNotForEver) {
  FileSystemOptions options;
  options.max_dirty_bytes = 2u << 20;
  options.timeout = 500ms;
  auto& fs = mount(options);
  const auto file = create(fs, "a.ts");
  cluster.hold(wire::Method::commit);
  const std::string megabyte(1u << 20, 'm');
  write(*file, 0, megabyte);
  write(*file, megabyte.size(), megabyte);
  EXPECT_FALSE(file->try_write(2 * megabyte.size(), bytes_of(megabyte)).value());
  cluster.let_go();
  write(*file, 2 * megabyte.size(), megabyte);
  EXPECT_TRUE(run(file->flush()));
  cluster.hold(wire::Method::commit);
  write(*file, 3 * megabyte.size(), megabyte + megabyte);
  const auto late = run(file->write(5 * megabyte.size(), Buffer::copy_of(bytes_of(megabyte))));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), Errc::timed_out);
  cluster.let_go();
}

TEST_F(FileSystemTest, ACancelledCallEndsAtOnce) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "bytes");
  cluster.hold(wire::Method::commit);
  cluster.hold(wire::Method::lookup);
  std::optional<Errc> lookup, flush;
  const auto keep = [](auto task, std::optional<Errc>& into) -> asio::awaitable<void> {
    const auto result = co_await std::move(task);
    into = result ? Errc{} : result.error().code();
  };
  asio::cancellation_signal stop_lookup, stop_flush;
  const auto ended = [](const std::exception_ptr& failure) { EXPECT_FALSE(failure); };
  asio::co_spawn(context, keep(fs.lookup(kRootInode, "x"), lookup),
                 asio::bind_cancellation_slot(stop_lookup.slot(), ended));
  asio::co_spawn(context, keep(file->flush(), flush), asio::bind_cancellation_slot(stop_flush.slot(), ended));
  context.restart();
  while (cluster.calls(wire::Method::lookup) == 0 || cluster.calls(wire::Method::commit) == 0)
    context.run_one();
  stop_lookup.emit(asio::cancellation_type::all);
  stop_flush.emit(asio::cancellation_type::all);
  const auto began = clock.now();
  while (!lookup || !flush) context.run_one();
  EXPECT_LT(clock.now() - began, 1s);
  EXPECT_EQ(lookup, Errc::cancelled);
  EXPECT_EQ(flush, Errc::cancelled);
  cluster.let_go();
  EXPECT_EQ(error_of(run(file->flush())), Errc{});
  EXPECT_EQ(read(*file), "bytes");
}

TEST_F(FileSystemTest, AnOpenWhoseCallerGaveUpIsGivenBack) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  ASSERT_TRUE(run(fs.release(file)));
  ASSERT_TRUE(eventually([&] { return cluster.open_inodes.begin()->second.empty(); }));
  asio::cancellation_signal give_up;
  cluster.before = [&](wire::Method method) {
    if (method == wire::Method::open) give_up.emit(asio::cancellation_type::all);  // on its way back
    return Result<void>(ok());
  };
  bool ended = false;
  const auto open = [](FileSystem& from, InodeId inode) -> asio::awaitable<void> {
    (void)co_await from.open(inode);
  };
  asio::co_spawn(
      context, open(fs, file->inode()),
      asio::bind_cancellation_slot(give_up.slot(), [&](const std::exception_ptr&) { ended = true; }));
  ASSERT_TRUE(eventually([&] { return ended && cluster.calls(wire::Method::open) == 1; }));
  EXPECT_TRUE(eventually([&] { return cluster.calls(wire::Method::release) == 2; }));
  EXPECT_TRUE(cluster.open_inodes.begin()->second.empty());
}

TEST_F(FileSystemTest, UnmountingWritesBack) {
  auto& fs = mount();
  const auto inode = create(fs, "a.ts")->inode();
  {
    const auto file = open(fs, inode);
    write(*file, 0, "last words");
  }
  unmount(fs);
  EXPECT_TRUE(cluster.open_inodes.empty());
  EXPECT_EQ(read(*open(mount(), inode)), "last words");
}

TEST_F(FileSystemTest, UnmountingEndsWithoutACluster) {
  FileSystemOptions options;
  options.timeout = 300ms;
  auto& fs = mount(options);
  const auto file = create(fs, "a.ts");
  write(*file, 0, "lost");
  run(cluster.stop_index());
  const auto began = clock.now();
  unmount(fs);
  EXPECT_LT(clock.now() - began, 8s);
}

}  // namespace
}  // namespace reelfs::client
