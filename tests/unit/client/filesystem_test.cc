#include "client/filesystem.h"

#include <random>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

#include "tests/unit/client/filesystem_fixture.h"

namespace reelfs::client {
namespace {

std::string pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(size, '\0');
  for (auto& c : text) c = static_cast<char>('!' + random() % 90);
  return text;
}

TEST_F(FileSystemTest, ReadsWhatWasWrittenBeforeAndAfterTheFlush) {
  auto& fs = mount();
  const auto file = create(fs, "a.mp4");
  const auto text = pattern(3'000'000, 1);
  write(*file, 0, text);
  EXPECT_TRUE(read(*file) == text);
  EXPECT_EQ(run(fs.get_attributes(file->inode())).value().size, text.size());
  ASSERT_TRUE(run(file->flush()));
  EXPECT_TRUE(read(*file) == text);
  EXPECT_EQ(read(*file, 1'234'567, 1000), text.substr(1'234'567, 1000));
  EXPECT_EQ(read(*file, text.size(), 10), "");
}

TEST_F(FileSystemTest, AnotherMountReadsWhatWasFlushedAtOnce) {
  auto& recorder = mount();
  auto& viewer = mount();
  const auto file = create(recorder, "a.ts");
  const auto seen = open(viewer, file->inode());
  std::string all;
  for (unsigned i = 0; i < 5; ++i) {
    const auto more = pattern(700'000, i);
    write(*file, all.size(), more);
    all += more;
    ASSERT_TRUE(run(file->flush()));
    EXPECT_TRUE(read(*seen) == all) << i;
    write(*file, 100'000 * i, "patched");
    all.replace(100'000 * i, 7, "patched");
    ASSERT_TRUE(run(file->flush()));
    ASSERT_TRUE(run(viewer.get_attributes(file->inode())));
    EXPECT_TRUE(read(*seen) == all) << i;
  }
}

TEST_F(FileSystemTest, AGrowingFileIsSeenElsewhereWithoutAFlush) {
  auto& recorder = mount();
  auto& viewer = mount();
  const auto file = create(recorder, "a.ts");
  write(*file, 0, "first seconds");
  const auto began = clock.now();
  while (run(viewer.get_attributes(file->inode())).value().size == 0 && clock.now() - began < 10s) continue;
  EXPECT_LT(clock.now() - began, 2s);  // 0.6 s on an idle machine
  EXPECT_EQ(read(*open(viewer, file->inode())), "first seconds");
}

TEST_F(FileSystemTest, RandomWritesReadsAndTruncationsAgreeWithAnArrayOfBytes) {
  auto& fs = mount();
  auto& other = mount();
  for (unsigned seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto any = [&](std::size_t below) { return random() % below; };
    const auto file = create(fs, "file" + std::to_string(seed));
    const auto second = open(fs, file->inode());
    std::string model;
    for (int step = 0; step < 150; ++step) {
      switch (any(8)) {
        case 0:
        case 1:
        case 2: {
          const auto text = pattern(1 + any(any(4) == 0 ? 1'500'000 : 3000), random());
          const auto offset = any(model.size() + 5000);
          model.resize(std::max(model.size(), offset + text.size()));
          model.replace(offset, text.size(), text);
          write(any(2) == 0 ? *file : *second, offset, text);
          break;
        }
        case 3:
          ASSERT_TRUE(run(file->flush()));
          break;
        case 4: {
          AttributeChanges changes;
          changes.size = any(model.size() + 1000);
          model.resize(*changes.size);
          ASSERT_EQ(run(fs.set_attributes(file->inode(), changes)).value().size, model.size());
          break;
        }
        case 5: {
          const auto offset = any(model.size() + 10), length = 1 + any(100'000);
          for (auto i = offset; i < std::min(model.size(), offset + length); ++i) model[i] = '\0';
          ASSERT_TRUE(run(file->punch_hole(offset, length)));
          break;
        }
        default: {
          const auto offset = any(model.size() + 10), length = 1 + any(300'000);
          const auto expected = offset < model.size() ? model.substr(offset, length) : std::string();
          ASSERT_TRUE(read(*second, offset, length) == expected) << "at step " << step;
          break;
        }
      }
      ASSERT_EQ(run(fs.get_attributes(file->inode())).value().size, model.size());
    }
    ASSERT_TRUE(read(*file) == model);
    ASSERT_TRUE(run(second->flush()));
    ASSERT_TRUE(read(*open(other, file->inode())) == model);
  }
}

TEST_F(FileSystemTest, FastStartRewritesTheFileWhileReadingIt) {
  auto& fs = mount();
  const auto file = create(fs, "a.mp4");
  const auto media = pattern(6'000'000, 5), head = pattern(70'000, 6);
  write(*file, 0, media);
  ASSERT_TRUE(run(file->flush()));
  // As ffmpeg -movflags +faststart: two buffers, each read before the other is written over its place.
  const auto reader = open(fs, file->inode());
  std::string behind = read(*reader, 0, head.size());
  std::size_t read_to = behind.size(), written_to = 0;
  write(*file, 0, head);
  written_to = head.size();
  while (!behind.empty()) {
    auto next = read_to < media.size() ? read(*reader, read_to, std::min(head.size(), media.size() - read_to))
                                       : std::string();
    read_to += next.size();
    write(*file, written_to, behind);
    written_to += behind.size();
    behind = std::move(next);
  }
  ASSERT_TRUE(run(file->flush()));
  EXPECT_TRUE(read(*file) == head + media);
}

TEST_F(FileSystemTest, WritesOfSeveralThreadsAllArrive) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  constexpr std::size_t kThreads = 4, kPiece = 50'000, kPieces = 40;
  std::vector<std::thread> threads;
  std::atomic<std::size_t> running = kThreads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < kPieces; ++i) {
        const auto text = pattern(kPiece, static_cast<unsigned>(t * 1000 + i));
        auto taken = file->try_write((i * kThreads + t) * kPiece, bytes_of(text));
        EXPECT_TRUE(taken && taken.value());
      }
      --running;
      asio::post(context, [] {});
    });
  }
  const auto work = asio::make_work_guard(context);
  context.restart();
  while (running > 0) context.run_one();
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(run(file->fsync()));
  std::string expected;
  for (std::size_t i = 0; i < kPieces; ++i) {
    for (std::size_t t = 0; t < kThreads; ++t)
      expected += pattern(kPiece, static_cast<unsigned>(t * 1000 + i));
  }
  EXPECT_TRUE(read(*file) == expected);
}

TEST_F(FileSystemTest, ATimeSetAfterWritingStays) {
  auto& fs = mount();
  const auto file = create(fs, "copied");
  write(*file, 0, "bytes");
  AttributeChanges changes;
  changes.mtime_ns = 1'234'567'890'123'456'789;
  EXPECT_EQ(run(fs.set_attributes(file->inode(), changes)).value().mtime_ns, changes.mtime_ns);
  ASSERT_TRUE(run(file->flush()));
  ASSERT_TRUE(run(fs.release(file)));
  EXPECT_EQ(run(fs.get_attributes(file->inode())).value().mtime_ns, changes.mtime_ns);
}

TEST_F(FileSystemTest, SizeAndTimeOfAWriteAreSeenBeforeItIsCommitted) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  const auto before = clock.wall().time_since_epoch().count();
  write(*file, 100, "x");
  const auto attributes = run(fs.lookup(channel(fs), "a.ts")).value();
  EXPECT_EQ(attributes.size, 101u);
  EXPECT_GE(attributes.mtime_ns, before);
  EXPECT_EQ(cluster.calls(wire::Method::commit), 0);
}

TEST_F(FileSystemTest, FlushesThatWaitTogetherShareACommit) {
  auto& fs = mount();
  std::vector<std::shared_ptr<FileHandle>> files;
  for (int i = 0; i < 20; ++i) {
    files.push_back(create(fs, "file" + std::to_string(i)));
    write(*files.back(), 0, "content " + std::to_string(i));
  }
  ASSERT_TRUE(run(fs.sync()));
  EXPECT_LE(cluster.commits.size(), 4u);
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(read(*files[static_cast<std::size_t>(i)]), "content " + std::to_string(i));
}

TEST_F(FileSystemTest, FsyncSyncsTheCopiesBeforeTheJournal) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  write(*file, 0, "precious");
  int syncs_at_commit = 0;
  cluster.before = [&](wire::Method method) {
    if (method == wire::Method::commit) syncs_at_commit = cluster.nodes[0]->syncs + cluster.nodes[1]->syncs;
    return Result<void>(ok());
  };
  ASSERT_TRUE(run(file->fsync()));
  EXPECT_EQ(syncs_at_commit, 2);
  ASSERT_EQ(cluster.commits.size(), 1u);
  EXPECT_TRUE(cluster.commits[0].sync());
}

TEST_F(FileSystemTest, ACloneReadsTheSourcesRecordsAtItsOwnPlace) {
  auto& fs = mount();
  const auto source = create(fs, "source");
  const auto target = create(fs, "target");
  write(*source, 0, std::string(300'000, 's'));
  write(*source, 100'000, "middle");  // not flushed
  write(*target, 0, std::string(50'000, 't'));
  cluster.clone_step = 70'000;
  EXPECT_EQ(run(target->clone_from(*source, 90'000, 40'000, 500'000)).value(), 210'000U);
  EXPECT_EQ(cluster.calls(wire::Method::clone_range), 4) << "the last finds the source's end";
  const auto expected =
      std::string(40'000, 't') + std::string(10'000, 's') + "middle" + std::string(199'994, 's');
  EXPECT_EQ(read(*target), expected);
  write(*source, 90'000, std::string(1000, 'x'));
  auto& other = mount();
  EXPECT_EQ(read(*open(other, target->inode())), expected);
}

TEST_F(FileSystemTest, FsyncOfACloneSyncsWhatWasWrittenToItsSource) {
  auto& fs = mount();
  const auto source = create(fs, "source");
  const auto target = create(fs, "target");
  write(*source, 0, "precious");
  EXPECT_EQ(run(target->clone_from(*source, 0, 0, 8)).value(), 8U);
  EXPECT_EQ(cluster.nodes[0]->syncs + cluster.nodes[1]->syncs, 0);
  ASSERT_TRUE(run(target->fsync()));
  EXPECT_EQ(cluster.nodes[0]->syncs, 1);
  EXPECT_EQ(cluster.nodes[1]->syncs, 1);
}

TEST_F(FileSystemTest, SeeksDataAndHoles) {
  auto& fs = mount();
  const auto file = create(fs, "sparse");
  write(*file, 1'000'000, std::string(20'000, 'd'));
  ASSERT_TRUE(run(file->allocate(0, 3'000'000, false)));
  EXPECT_EQ(run(fs.get_attributes(file->inode())).value().size, 3'000'000u);
  constexpr std::uint64_t kBlock = 4096;
  EXPECT_EQ(run(file->seek(0, false)).value(), 244 * kBlock);
  EXPECT_EQ(run(file->seek(0, true)).value(), 0u);
  EXPECT_EQ(run(file->seek(1'000'500, true)).value(), 250 * kBlock);
  EXPECT_EQ(run(file->seek(1'023'999, false)).value(), 1'023'999u) << "behind the last byte, in its block";
  EXPECT_EQ(run(file->seek(1'000'500, false)).value(), 1'000'500u);
  EXPECT_EQ(run(file->seek(2'000'000, false)).error().code(), Errc::not_found);
  EXPECT_EQ(run(file->seek(3'000'000, true)).error().code(), Errc::not_found);
  ASSERT_TRUE(run(file->punch_hole(1'000'100, 100)));
  EXPECT_EQ(run(file->seek(1'000'000, true)).value(), 250 * kBlock);
  ASSERT_TRUE(run(file->punch_hole(245 * kBlock, 2 * kBlock)));
  EXPECT_EQ(run(file->seek(1'000'000, true)).value(), 245 * kBlock);
  EXPECT_EQ(run(file->seek(245 * kBlock, false)).value(), 247 * kBlock);
  EXPECT_EQ(read(*file, 1'000'000, 300),
            std::string(100, 'd') + std::string(100, '\0') + std::string(100, 'd'));
}

TEST_F(FileSystemTest, AllocatingBehindTheEndModifiesTheFileAndLeavesItsSize) {
  auto& fs = mount();
  const auto file = create(fs, "allocated");
  write(*file, 0, "bytes");
  ASSERT_TRUE(run(file->flush()));
  const auto before = cluster.commits.size();
  ASSERT_TRUE(run(file->allocate(100, 1000, true)));
  ASSERT_EQ(cluster.commits.size(), before + 1);
  EXPECT_TRUE(cluster.commits.back().files(0).has_mtime_ns());
  EXPECT_EQ(run(fs.get_attributes(file->inode())).value().size, 5u);
}

TEST_F(FileSystemTest, ReleasesTheInodeAfterTheLastHandle) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  const auto again = open(fs, file->inode());
  write(*file, 0, "bytes");
  ASSERT_TRUE(run(fs.release(file)));
  EXPECT_EQ(cluster.calls(wire::Method::release), 0);
  ASSERT_TRUE(run(fs.release(again)));
  EXPECT_TRUE(eventually([&] { return cluster.open_inodes.begin()->second.empty(); }));
  EXPECT_EQ(cluster.calls(wire::Method::release), 1);
  EXPECT_EQ(read(*open(fs, file->inode())), "bytes");
}

TEST_F(FileSystemTest, ReleasesTheInodeAlsoWhereItsAttributesAreBeingChanged) {
  auto& fs = mount();
  const auto file = create(fs, "a.ts");
  cluster.hold(wire::Method::set_attributes);
  bool changed = false;
  const auto change = [](FileSystem& of, InodeId inode, bool& done) -> asio::awaitable<void> {
    AttributeChanges changes;
    changes.mode = 0600;
    (void)co_await of.set_attributes(inode, changes);
    done = true;
  };
  asio::co_spawn(context, change(fs, file->inode(), changed),
                 [](const std::exception_ptr& failure) { EXPECT_FALSE(failure); });
  ASSERT_TRUE(eventually([&] { return cluster.calls(wire::Method::set_attributes) == 1; }));
  ASSERT_TRUE(run(fs.release(file)));
  cluster.let_go();
  ASSERT_TRUE(eventually([&] { return changed; }));
  EXPECT_TRUE(eventually([&] { return cluster.open_inodes.begin()->second.empty(); }));
}

TEST_F(FileSystemTest, ReleasesManyFilesTogetherButNotWhatIsOpenAgain) {
  auto& fs = mount();
  std::vector<std::shared_ptr<FileHandle>> files;
  for (int i = 0; i < 50; ++i) files.push_back(create(fs, std::to_string(i)));
  const auto again = files[7]->inode();
  for (const auto& file : files) ASSERT_TRUE(run(fs.release(file)));
  const auto kept = open(fs, again);
  EXPECT_TRUE(eventually([&] { return cluster.open_inodes.begin()->second.size() == 1; }));
  EXPECT_TRUE(cluster.open_inodes.begin()->second.contains(again.value));
  EXPECT_LE(cluster.calls(wire::Method::release), 5);
}

TEST_F(FileSystemTest, AnUnlinkedFileGoesOnWhileItIsOpen) {
  auto& fs = mount();
  const auto file = create(fs, "temporary");
  write(*file, 0, "before ");
  ASSERT_TRUE(run(fs.unlink(channel(fs), "temporary")));
  write(*file, 7, "after");
  ASSERT_TRUE(run(file->flush()));
  EXPECT_EQ(read(*file), "before after");
}

class RemovedFileTest : public FileSystemTest {
 protected:
  FileSystem& mount_keeping() { return go_on_keeping(Standing()); }
  FileSystem& go_on_keeping(Standing standing) {
    FileSystemOptions options;
    options.keep_removed = true;
    options.standing = std::move(standing);
    return mount(options);
  }
  InodeId make_and_remove(FileSystem& fs, const std::string& name) {
    const auto file = create(fs, name);
    EXPECT_TRUE(run(fs.release(file)));
    EXPECT_TRUE(eventually([&] { return open_inodes().empty(); }));
    EXPECT_TRUE(run(fs.unlink(channel(fs), name)));
    return file->inode();
  }
  const std::set<std::uint64_t>& open_inodes() { return cluster.open_inodes.begin()->second; }
};

TEST_F(RemovedFileTest, IsKeptByTheIndexUntilItIsLetGo) {
  auto& fs = mount_keeping();
  const auto inode = make_and_remove(fs, "temporary");
  EXPECT_TRUE(cluster.kept.contains(inode.value));
  fs.let_go(inode);
  EXPECT_TRUE(eventually([&] { return cluster.kept.empty(); }));
  EXPECT_EQ(cluster.calls(wire::Method::open), 0);
}

TEST_F(RemovedFileTest, IsNotKeptWhereNobodyWouldLetItGo) {
  auto& fs = mount();
  make_and_remove(fs, "temporary");
  EXPECT_TRUE(cluster.kept.empty());
}

TEST_F(RemovedFileTest, IsOpenedWhereItIsNeededForLonger) {
  auto& fs = mount_keeping();
  const auto inode = make_and_remove(fs, "temporary");
  EXPECT_TRUE(eventually([&] { return open_inodes().contains(inode.value); }));
  fs.let_go(inode);
  EXPECT_TRUE(eventually([&] { return open_inodes().empty() && cluster.kept.empty(); }));
}

TEST_F(RemovedFileTest, IsOpenForAnIndexThatWasStartedAnew) {
  auto& fs = mount_keeping();
  const auto inode = make_and_remove(fs, "temporary");
  run(cluster.restart_index(false));
  ASSERT_TRUE(run(fs.get_attributes(inode)));
  EXPECT_TRUE(open_inodes().contains(inode.value));
  EXPECT_EQ(cluster.calls(wire::Method::open), 0);
}

TEST_F(RemovedFileTest, IsHandedOverToAnotherProcess) {
  auto& fs = mount_keeping();
  const auto inode = make_and_remove(fs, "temporary");
  const auto standing = run(fs.pause(10s));
  ASSERT_TRUE(standing);
  EXPECT_EQ(standing.value().removed, std::vector{inode});
  auto& successor = go_on_keeping(standing.value());
  EXPECT_TRUE(open_inodes().contains(inode.value));
  run(fs.leave());
  EXPECT_TRUE(open_inodes().contains(inode.value));
  successor.let_go(inode);
  EXPECT_TRUE(eventually([&] { return open_inodes().empty(); }));
}

}  // namespace
}  // namespace reelfs::client
