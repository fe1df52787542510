"""Policies of channels: what they say, and that the oldest recordings go, and no others, so that new ones always find room."""
import errno
import multiprocessing
import os
import random
import shutil
import time
import unittest

from harness import PATIENCE, BoxTest, until

MIB = 1 << 20
KILLS = 8
DEFAULTS = {"quota": "none", "max_age": "none", "min_age": "none", "overwrite": "on", "copies": "2", "replication": "sync"}
VALUES = {"quota": ("500G", "1T", "1536M", "12345"), "max_age": ("30d", "1d12h", "1m30s"), "min_age": ("1h", "10d"),
          "overwrite": ("off", "on"), "copies": ("1", "4"), "replication": ("sync",)}
WRONG = {"quota": ("", "0", "x", "-1G", "5X", "1G1"), "max_age": ("1y", "d", "1.5d", ""), "min_age": ("soon", "-1h"),
         "overwrite": ("maybe", "ON", ""), "copies": ("0", "5", "two"), "replication": ("async", "")}


def attribute(name):
    return f"user.reel.{name}"


def policy(path, name):
    return os.getxattr(path, attribute(name)).decode()


def decide(path, **settings):
    for name, value in settings.items():
        os.setxattr(path, attribute(name), value.encode())


def undecide(path, *names):
    for name in names:
        os.removexattr(path, attribute(name))


def record(path, size, seed):
    """A recording that is on stable storage when this returns."""
    with open(path, "xb", buffering=0) as file:
        file.write(random.Random(seed).randbytes(size))
        os.fsync(file.fileno())


def record_on(channel, count, stop):
    while not stop.is_set():
        record(channel / str(count.value), MIB // 4, count.value)
        count.value += 1


def is_whole(path, size, seed):
    return path.read_bytes() == random.Random(seed).randbytes(size)


def numbers(channel):
    return sorted(int(path.name) for path in channel.iterdir())


def files_bytes(channel):
    """None while something goes."""
    try:
        return sum(path.stat().st_size for path in channel.iterdir())
    except FileNotFoundError:
        return None


def used(channel):
    """As df says it."""
    space = os.statvfs(channel)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def kill_index(box):
    box.kill_process("index1")
    box.start("index1")


class Policies(BoxTest):
    def test_each_setting_is_kept_and_what_is_none_refused(self):
        for name, values in VALUES.items():
            self.assertEqual(policy(self.channel, name), DEFAULTS[name])
            for value in values:
                decide(self.channel, **{name: value})
                self.assertEqual(policy(self.channel, name), value)
            for wrong in WRONG[name]:
                with self.assertRaises(OSError, msg=f"{name} {wrong!r}") as raised:
                    decide(self.channel, **{name: wrong})
                self.assertEqual(raised.exception.errno, errno.EINVAL, f"{name} {wrong!r}")
                self.assertEqual(policy(self.channel, name), values[-1])

    def test_a_channel_goes_by_what_is_decided_for_all(self):
        mount = self.channel.parent
        decide(mount, quota="7G", overwrite="off")
        try:
            self.assertEqual(policy(self.channel, "quota"), "7G")
            self.assertEqual(policy(self.channel, "overwrite"), "off")
            self.assertEqual([name for name in os.listxattr(self.channel) if name.startswith("user.reel.")], [])
            decide(self.channel, quota="none")
            self.assertEqual(policy(self.channel, "quota"), "none")
            self.assertEqual([name for name in os.listxattr(self.channel) if name.startswith("user.reel.")], [attribute("quota")])
            undecide(self.channel, "quota")
            self.assertEqual(policy(self.channel, "quota"), "7G")
            with self.assertRaises(OSError) as raised:
                undecide(self.channel, "quota")
            self.assertEqual(raised.exception.errno, errno.ENODATA)
        finally:
            undecide(mount, "quota", "overwrite")
        self.assertEqual(policy(self.channel, "quota"), "none")

    def test_only_channels_have_policies(self):
        (self.channel / "below").mkdir()
        (self.channel / "file").touch()
        for name in ("below", "file"):
            with self.assertRaises(OSError) as raised:
                decide(self.channel / name, quota="1G")
            self.assertEqual(raised.exception.errno, errno.EINVAL)
        for name in ("quote", "QUOTA", ""):
            with self.assertRaises(OSError) as raised:
                decide(self.channel, **{name: "1G"})
            self.assertEqual(raised.exception.errno, errno.EINVAL, name)

    def test_copies_of_new_channels(self):
        mount = self.channel.parent
        decide(mount, copies="1")
        try:
            (mount / "single").mkdir()
            self.assertEqual(policy(mount / "single", "copies"), "1")
            self.assertEqual(policy(self.channel, "copies"), "2")
        finally:
            undecide(mount, "copies")

    def test_it_survives_a_restart_of_the_index(self):
        decide(self.channel, quota="77M", min_age="5m")
        kill_index(self.box)
        self.assertEqual(policy(self.channel, "quota"), "77M")
        self.assertEqual(policy(self.channel, "min_age"), "5m")


class Overwriting(BoxTest):
    box_settings = {"device_size": "256M"}

    def setUp(self):
        super().setUp()
        self.addCleanup(lambda: [path.unlink() for path in self.channel.iterdir()])

    def test_a_quota_is_wrapped_around_many_times(self):
        quota, size, count = 24 * MIB, MIB, 130
        decide(self.channel, quota="24M")
        told = []
        for number in range(count):
            record(self.channel / str(number), size, number)
            told.append(used(self.channel))
        space = os.statvfs(self.channel)
        self.assertEqual(space.f_blocks * space.f_frsize, quota)
        self.assertLessEqual(max(told), quota)
        until(lambda: used(self.channel) == files_bytes(self.channel), "df and files agree", 5)
        left = numbers(self.channel)
        self.assertEqual(left, list(range(left[0], count)), "the oldest are gone, and no others")
        self.assertGreaterEqual(len(left), 16)
        for number in left:
            self.assertTrue(is_whole(self.channel / str(number), size, number))

    def test_where_nothing_may_go_it_says_so_at_once(self):
        for keeping, mended in (({"min_age": "1h"}, {"min_age": "none"}), ({"overwrite": "off"}, {"overwrite": "on"}),
                                ({"overwrite": "off"}, {"quota": "none"})):
            with self.subTest(keeping):
                for path in self.channel.iterdir():
                    path.unlink()
                decide(self.channel, quota="4M", min_age="none", overwrite="on")
                decide(self.channel, **keeping)
                for number in range(4):
                    record(self.channel / str(number), MIB, number)
                begun = time.monotonic()
                with self.assertRaises(OSError) as raised:
                    record(self.channel / "refused", MIB, 9)
                self.assertEqual(raised.exception.errno, errno.EDQUOT)
                self.assertLess(time.monotonic() - begun, 2 * PATIENCE)
                self.assertTrue(all(is_whole(self.channel / str(number), MIB, number) for number in range(4)))
                decide(self.channel, **mended)
                record(self.channel / "mended", MIB, 10)

    def test_what_is_held_does_not_count_as_available(self):
        decide(self.channel, quota="8M", min_age="none")
        day = self.channel / "day"
        day.mkdir()
        self.addCleanup(lambda: shutil.rmtree(day))
        for path in (self.channel / "one", self.channel / "two", day / "three", day / "four"):
            record(path, MIB, 1)

        def available():
            space = os.statvfs(self.channel)
            return space.f_bavail * space.f_frsize

        until(lambda: available() == 8 * MIB, "what may be overwritten is available", 5)
        os.setxattr(self.channel / "one", "user.reel.hold", b"case 4711")
        until(lambda: available() == 7 * MIB, "a held recording is not", 5)
        os.setxattr(day, "user.reel.hold", b"case 4711")
        until(lambda: available() == 5 * MIB, "nor are those in a held directory", 5)
        os.setxattr(self.channel, "user.reel.hold", b"case 4711")
        until(lambda: available() == 4 * MIB, "nor those in a held channel", 5)
        for path in (self.channel, day, self.channel / "one"):
            os.removexattr(path, "user.reel.hold")
        until(lambda: available() == 8 * MIB, "until they are released", 5)

    def test_a_recording_that_is_being_written_stays(self):
        decide(self.channel, quota="8M")
        with open(self.channel / "long", "xb", buffering=0) as long:
            long.write(b"x" * MIB)
            os.fsync(long.fileno())
            for number in range(24):
                record(self.channel / str(number), MIB, number)
            long.write(b"y" * MIB)
            os.fsync(long.fileno())
        self.assertEqual((self.channel / "long").read_bytes(), b"x" * MIB + b"y" * MIB)
        self.assertTrue(is_whole(self.channel / "23", MIB, 23))

    def test_what_is_too_old_goes(self):
        record(self.channel / "old", MIB, 1)
        decide(self.channel, max_age="3s", min_age="2s", quota="1G")
        self.assertEqual(used(self.channel), MIB)
        until(lambda: not (self.channel / "old").exists(), "it is gone", 10)
        until(lambda: used(self.channel) == 0, "its space is back", 10)

    def test_a_full_cluster_takes_from_who_has_most(self):
        mount = self.channel.parent
        other = mount / "other"
        other.mkdir()
        total = os.statvfs(mount).f_blocks * os.statvfs(mount).f_frsize
        failed = []

        def fill(channel, bytes_, size):
            try:
                for number in range(bytes_ // size):
                    record(channel / str(number), size, number)
            except OSError as error:
                failed.append(error)

        fill(other, total // 4, 2 * MIB)
        first = len(numbers(other))
        fill(self.channel, 2 * total, 2 * MIB)
        self.assertEqual(failed, [])
        self.assertEqual(len(numbers(other)), first, "it uses less than its share")
        self.assertGreater(len(numbers(self.channel)) * 2 * MIB, total // 4)
        space = os.statvfs(mount)
        self.assertGreater(space.f_bavail, space.f_bfree, "what may be overwritten counts as available")
        for path in other.iterdir():
            path.unlink()

    def test_a_full_cluster_that_keeps_everything_says_so(self):
        mount = self.channel.parent
        decide(mount, overwrite="off")
        try:
            total = os.statvfs(mount).f_blocks * os.statvfs(mount).f_frsize
            with self.assertRaises(OSError) as raised:
                for number in range(total // MIB):
                    record(self.channel / str(number), MIB, number)
            self.assertEqual(raised.exception.errno, errno.ENOSPC)
            kept = [number for number in numbers(self.channel) if is_whole(self.channel / str(number), MIB, number)]
            self.assertGreater(len(kept), total // MIB // 2)
            problems = [one["what"] for one in self.box.reelctl("status")["problems"]]
            self.assertTrue(any("nothing may be overwritten" in what for what in problems), problems)
        finally:
            undecide(mount, "overwrite")
        record(self.channel / "999", MIB, 999)

    def test_nodes_that_are_away_cost_no_recording(self):
        """Less than a tenth is free for a moment where not all have been heard; that is no reason to remove anything."""
        count = 8
        for number in range(count):
            record(self.channel / str(number), MIB, number)
        for lost in (("node2.worker1", "node2.worker2"), ("index1",), ("node1.worker1", "node1.worker2", "index1")):
            with self.subTest(lost):
                for name in lost:
                    self.box.kill_process(name)
                if "index1" in lost:
                    self.box.start("index1")
                watched = time.monotonic() + 3  # many looks of the index server
                while time.monotonic() < watched:
                    self.assertEqual(numbers(self.channel), list(range(count)))
                    time.sleep(0.05)
                self.box.start(*(name for name in lost if name != "index1"))
                until(lambda: all(node["state"] == "online" for node in self.box.reelctl("node", "list")["nodes"]), "all are back")
                self.assertEqual(numbers(self.channel), list(range(count)))
        self.assertTrue(all(is_whole(self.channel / str(number), MIB, number) for number in range(count)))

    def test_killed_index_servers_lose_nothing_young_and_leak_nothing(self):
        # Space comes back when every session of before has been heard, or its lease has run out: little is recorded until then.
        decide(self.channel, quota="4M", min_age="none")
        # By a process of its own: one that is forked here would hold the recordings open, too.
        context = multiprocessing.get_context("spawn")
        count, stop = context.Value("i", 0), context.Event()
        recorder = context.Process(target=record_on, args=(self.channel, count, stop))
        recorder.start()
        for _ in range(KILLS):
            goal = count.value + random.randrange(1, 40)
            until(lambda: count.value >= goal or not recorder.is_alive(), "it records")
            kill_index(self.box)
        stop.set()
        recorder.join()
        self.assertEqual(recorder.exitcode, 0)
        count = count.value
        left = numbers(self.channel)
        self.assertEqual(left, list(range(left[0], count)))
        self.assertGreaterEqual(len(left), 8)
        self.assertTrue(all(is_whole(self.channel / str(number), MIB // 4, number) for number in left))
        until(lambda: used(self.channel) <= 4 * MIB, "it is within its quota again", 10)
        until(self.box.blocks_add_up, "blocks add up", 20)


if __name__ == "__main__":
    unittest.main()
