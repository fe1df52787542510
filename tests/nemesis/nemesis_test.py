"""The nemesis' own tools, and a short run of it: one fault of each kind."""
import errno
import mmap
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest

import nemesis
from cluster import PATIENCE, PREFIX, Disk, Network, run, until
from faults import DISK, HUNG, KILLED, KINDS, Schedule
from load import FSYNC, WRITE, Load
from report import CALM, Fault, Statistics


class Recorded(unittest.TestCase):
    """What the check says of files on a local disk."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        self.load = Load(self.root, self.root, seed=7, streams=2, full_rate=50 << 20, file_bytes=1 << 20, sync_ms=50)
        self.addCleanup(self.load.kill)
        self.load.goes_on(30)
        self.load.stop()
        self.assertEqual(self.bad(), [])

    def bad(self):
        return [finding for finding in self.load.check(self.root) if finding.lost or finding.excess]

    def path(self, stream):
        return self.load.streams[stream].path(0)

    def test_everything_acknowledged_is_looked_at(self):
        files = self.load.files()
        self.assertEqual({stream for stream, _ in files}, {0, 1, 2})
        self.assertTrue(all(file.acknowledged for file in files.values()), files)
        for file in files.values():
            self.assertEqual(file.acknowledged, self.load.streams[file.stream].path(file.number).stat().st_size)

    def test_files_that_a_recorder_removes_are_not_looked_for(self):
        root = self.root / "ring"
        root.mkdir()
        load = Load(root, root, seed=8, streams=0, file_bytes=1 << 20, sync_ms=50)
        self.addCleanup(load.kill)
        until(lambda: (load.streams[0].channel / f"r8.{load.KEPT + 2:05}").exists(), "it has gone round", 60)
        load.stop()
        self.assertFalse(load.streams[0].path(0).exists())
        self.assertEqual({load.streams[0].path(number).name for _, number in load.files()},
                         {path.name for path in load.streams[0].channel.iterdir()})
        self.assertEqual([finding for finding in load.check(root) if finding.lost or finding.excess], [])

    def test_a_byte_that_is_another_is_lost(self):
        with open(self.path(0), "r+b") as file:
            file.seek(5000)
            byte = file.read(1)[0]
            file.seek(5000)
            file.write(bytes([byte ^ 1]))
        self.assertEqual([(one.stream, one.wrong, one.first) for one in self.bad()], [(0, 1, 5000)])

    def test_bytes_of_another_place_or_file_are_lost(self):
        piece = self.path(0).read_bytes()[:4096]
        with open(self.path(0), "r+b") as file:
            file.seek(8192)
            file.write(piece)
        with open(self.path(1), "r+b") as file:
            file.write(piece)
        found = self.bad()
        self.assertEqual([(one.stream, one.first) for one in found], [(0, 8192), (1, 0)])
        self.assertTrue(all(one.wrong > 4000 for one in found), found)

    def test_what_is_cut_off_is_lost(self):
        size = self.path(2).stat().st_size
        os.truncate(self.path(2), 1000)
        self.assertEqual([(one.stream, one.missing, one.first) for one in self.bad()], [(2, size - 1000, 1000)])

    def test_a_file_that_is_gone_is_lost(self):
        size = self.path(0).stat().st_size
        self.path(0).unlink()
        self.assertEqual([(one.stream, one.missing, one.error) for one in self.bad()], [(0, size, errno.ENOENT)])

    def test_what_nobody_wrote_is_in_excess(self):
        size = self.path(1).stat().st_size
        with open(self.path(1), "ab") as file:
            file.write(b"0123456789")
        self.assertEqual([(one.stream, one.lost, one.excess, one.first) for one in self.bad()], [(1, 0, 10, size)])


class Conditions(unittest.TestCase):
    """What a disk does when it is told to."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        base = pathlib.Path(directory.name)
        (base / "log").mkdir()
        self.disk = Disk(base, "disk1", 1 << 20)
        self.addCleanup(self.disk.close)
        self.fd = os.open(self.disk.path, os.O_RDWR | os.O_DIRECT)
        self.addCleanup(os.close, self.fd)
        self.page = mmap.mmap(-1, 4096)  # aligned, as O_DIRECT wants it
        self.page[:] = os.urandom(4096)

    def write(self):
        return os.pwrite(self.fd, self.page, 4096)

    def read(self):
        into = mmap.mmap(-1, 4096)
        os.preadv(self.fd, [into], 4096)
        return into[:]

    def fails(self, call, number):
        with self.assertRaises(OSError) as failed:
            call()
        self.assertEqual(failed.exception.errno, number)

    def test_it_keeps_what_is_written(self):
        self.assertEqual(self.write(), 4096)
        os.fsync(self.fd)
        self.assertEqual(self.read(), self.page[:])
        self.assertGreaterEqual(os.fstat(self.fd).st_blocks * 512, 1 << 20, "set aside, as a node wants a device's file")

    def test_slow(self):
        self.disk.set("slow 200")
        for call in (self.write, self.read, lambda: os.fsync(self.fd)):
            start = time.monotonic()
            call()
            self.assertGreaterEqual(time.monotonic() - start, 0.2)

    def test_full(self):
        self.write()
        self.disk.set("full")
        self.fails(self.write, errno.ENOSPC)
        self.assertEqual(self.read(), self.page[:])
        self.disk.set("ok")
        self.write()

    def test_broken(self):
        self.disk.set("broken")
        for call in (self.write, self.read, lambda: os.fsync(self.fd)):
            self.fails(call, errno.EIO)

    def test_hangs_until_it_is_well_again(self):
        self.disk.set("hang")
        thread = threading.Thread(target=self.write)
        thread.start()
        thread.join(0.5)
        self.assertTrue(thread.is_alive())
        self.disk.set("ok")
        thread.join(30)
        self.assertFalse(thread.is_alive())


def namespaces_or_skip(test):
    try:
        network = Network(f"{PREFIX}{os.getpid()}t")
    except (AssertionError, FileNotFoundError) as error:
        test.skipTest(f"no network namespaces here: {error}")
    test.addCleanup(lambda: [run("ip", "netns", "delete", name)
                             for name in run("ip", "netns", "list").stdout.split() if name.startswith(network.name + "-")])
    return network


class Cuts(unittest.TestCase):
    def setUp(self):
        network = namespaces_or_skip(self)
        self.a, self.b = network.host("a", 11), network.host("b", 12)
        self.listener = subprocess.Popen(self.b.command(sys.executable, "-c", f"""
import socket
server = socket.create_server(('{self.b.address}', 7000))
print('listening', flush=True)
while True:
    server.accept()[0].close()
"""), stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.listener.stdout.close)
        self.addCleanup(self.listener.wait)
        self.addCleanup(self.listener.kill)
        self.listener.stdout.readline()

    def connects(self):
        """'' or the name of what was raised."""
        return run(*self.a.command(sys.executable, "-c", f"""
import socket
try:
    socket.create_connection(('{self.b.address}', 7000), timeout=0.5)
except OSError as error:
    print(type(error).__name__)
""")).stdout.strip()

    def test_each_direction_and_healing(self):
        self.assertEqual(self.connects(), "")
        for address, directions in ((self.a.address, ("in",)), (self.a.address, ("out",)), (self.a.address, ("in", "out")),
                                    (None, ("in", "out"))):
            with self.subTest(address=address, directions=directions):
                self.b.cut(address, directions)
                self.assertEqual(self.connects(), "TimeoutError")
                self.b.heal()
                self.assertEqual(self.connects(), "")

    def test_a_cut_between_two_leaves_others_alone(self):
        self.b.cut("10.77.0.99", ("in", "out"))
        self.assertEqual(self.connects(), "")

    def test_refused_at_once(self):
        self.a.refuse(self.b.address)
        self.assertEqual(self.connects(), "OSError")  # EHOSTUNREACH


class Schedules(unittest.TestCase):
    def drawn(self, seed, count):
        schedule = Schedule(seed, 3, longest=20)
        return [(kind.name, node, seconds, rng.random()) for kind, node, seconds, rng in (schedule.next() for _ in range(count))]

    def test_a_seed_repeats_it(self):
        self.assertEqual(self.drawn(5, 100), self.drawn(5, 100))
        self.assertNotEqual(self.drawn(5, 100), self.drawn(6, 100))

    def test_each_kind_comes_as_often_and_no_fault_is_too_long(self):
        drawn = self.drawn(random.randrange(1 << 32), 4 * len(KINDS))
        for kind in KINDS:
            self.assertEqual(sum(name == kind.name for name, *_ in drawn), 4)
        self.assertTrue(all(0 < seconds <= 20 for _, _, seconds, _ in drawn))
        self.assertEqual({node for _, node, _, _ in drawn}, {0, 1, 2})


class Attribution(unittest.TestCase):
    """Which fault a call's time is counted to."""

    def longest(self, *calls, since_ns=0):
        faults = [Fault("cut", "", "node1", "", 100, 200, 300, True), Fault("pause", "", "node2", "", 1000, 1100, 1200, True)]
        stream = types.SimpleNamespace(number=0, calls=lambda: [(kind, 0, 0, start, end - start, 0, 0) for kind, start, end in calls])
        statistics = Statistics()
        statistics.add([stream], faults, since_ns)
        return {kind: longest[0] for kind, longest in statistics.longest.items()}

    def test_before_during_and_after(self):
        self.assertEqual(self.longest((WRITE, 10, 20), (WRITE, 310, 340), (WRITE, 150, 155)), {CALM: 30, "cut": 5})

    def test_what_was_begun_before_the_measurement_does_not_count(self):
        self.assertEqual(self.longest((WRITE, 10, 99), (WRITE, 60, 65), since_ns=50), {CALM: 5})

    def test_a_call_that_a_fault_interrupts_or_that_outlives_it_is_the_fault_s(self):
        self.assertEqual(self.longest((FSYNC, 50, 900), (FSYNC, 1190, 1500)), {"cut": 850, "pause": 310})


SHORT = ["--longest", "5", "--calm", "8", "--faults", str(len(KINDS)), "--device-size", "1G", "--full-rate", "2000000", "--rate", "250000",
         "--whole-limit", str(int(30 * PATIENCE))]


# Seconds, the longest write or fsync. 0.1 is aimed at where something is killed; that is for the long run on a quiet machine to show.
STALL = {KILLED: 0.5, HUNG: 1.0, DISK: 1.0}
NOISE = 3  # as many times the longest call without a fault is what a busy machine adds


class ShortRun(unittest.TestCase):
    """One fault of each kind."""

    def test_nothing_acknowledged_is_lost_whatever_fails(self):
        namespaces_or_skip(self)
        seed = int(os.environ.get("REELFS_SEED", random.randrange(1 << 32)))
        options = nemesis.parse(["--seed", str(seed), *SHORT])
        report = nemesis.Nemesis(options).run()
        print(nemesis.to_text(report))
        with self.subTest(seed=seed):
            self.assertEqual(report["ended_by"], "")
            self.assertEqual(report["faults"], len(KINDS))
            self.assertGreater(report["acknowledged_bytes"], 50 << 20)
            self.assertEqual(report["lost_bytes"], 0, report["checks"])
            self.assertEqual(report["excess_bytes"], 0, report["checks"])
            self.assertEqual(report["lacking_copies_bytes"], 0, report["checks"])
            self.assertEqual(report["errors"], 0, report["kinds"])
            noise = NOISE * report["kinds"][CALM]["longest_stall_s"]
            for kind in KINDS:
                one = report["kinds"][kind.name]
                self.assertGreater(one["write"]["calls"], 0, kind.name)
                self.assertEqual(one["not_whole_in_time"], 0, f"{kind.name}: {one}")
                self.assertLess(one["longest_stall_s"], (STALL[kind.family] + noise) * PATIENCE, f"{kind.name}: {one}")


if __name__ == "__main__":
    unittest.main()
