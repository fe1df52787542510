"""Segments that are mostly dead give their space back: what lives in them is moved, and nobody who reads or records notices."""
import os
import random
import signal
import threading
import time
import unittest

from harness import PATIENCE, BoxTest, TwoMountsTest, is_gone, until

MIB = 1 << 20
PIECE = 256 << 10
SIZE = 6 * MIB
FILES = 12
# Sealed for ten seconds, found by a look every five, moved a few a second.
MOVED = 60


def content(number, size=SIZE):
    return random.Random(number).randbytes(size)


def record_interleaved(channel, numbers, size=SIZE):
    """All at once, so that each segment holds some of every file."""
    files = [(open(channel / str(number), "xb", buffering=0), content(number, size)) for number in numbers]
    for at in range(0, size, PIECE):
        for file, data in files:
            file.write(data[at:at + PIECE])
    for file, _ in files:
        os.fsync(file.fileno())
        file.close()


class Reading(threading.Thread):
    """Reads parts of files through descriptors that it keeps, again and again, and compares."""

    def __init__(self, directory, numbers, seed):
        super().__init__()
        self.files = {number: os.open(directory / str(number), os.O_RDONLY) for number in numbers}
        self.random = random.Random(seed)
        self.reads = 0
        self.wrong = []
        self.done = threading.Event()

    def run(self):
        data = {number: content(number) for number in self.files}
        try:
            while not self.done.is_set():
                number = self.random.choice(list(self.files))
                offset = self.random.randrange(SIZE)
                length = self.random.choice((1, 4096, 100_000, MIB))
                # Past the kernel's cache: it is the mount that is to answer.
                os.posix_fadvise(self.files[number], 0, 0, os.POSIX_FADV_DONTNEED)
                if os.pread(self.files[number], length, offset) != data[number][offset:offset + length]:
                    self.wrong.append(f"{number} at {offset}, {length} bytes")
                self.reads += 1
        except OSError as error:
            self.wrong.append(repr(error))

    def end(self):
        self.done.set()
        self.join()
        for descriptor in self.files.values():
            os.close(descriptor)


class CompactionTest(BoxTest):
    box_settings = {"device_size": "160M", "journal_copies": 0}  # free blocks are counted

    def setUp(self):
        super().setUp()
        os.setxattr(self.channel, "user.reel.overwrite", b"off")  # what is to be moved is not to go

    def set_rate(self, rate):
        """The index server's, from now on."""
        config = self.box.directory / "index1.toml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("compaction_rate")]
        config.write_text("\n".join([f'compaction_rate = "{rate}"'] + lines) + "\n")
        pid = self.box.processes()["index1"]["pid"]
        os.kill(pid, signal.SIGTERM)
        until(lambda: is_gone(pid), "the index server ends")
        self.box.start("index1")
        self.channel.stat()

    def compaction(self):
        return self.box.reelctl("status")["compaction"]

    def is_free(self, part):
        status = self.box.reelctl("status")
        return status["free_bytes"] > status["total_bytes"] * part

    def is_plenty(self):
        """Then hardly anything is worth moving."""
        return self.is_free(0.6)

    def expect_whole(self, directory, numbers):
        for number in numbers:
            self.assertEqual((directory / str(number)).read_bytes(), content(number), f"{directory}/{number}")

    def make_mostly_dead(self, files=FILES):
        """@return the files that are left: a third of each segment"""
        for first in range(0, files, FILES):
            record_interleaved(self.channel, range(first, first + FILES))
        for number in range(files):
            if number % 3 != 0:
                (self.channel / str(number)).unlink()
        return [number for number in range(files) if number % 3 == 0]


class Space(CompactionTest, TwoMountsTest):
    def setUp(self):
        super().setUp()
        self.addCleanup(self.make_room)

    def make_room(self):
        """For the next test."""
        for path in self.channel.iterdir():
            path.unlink()
        until(lambda: self.is_free(0.9), "all blocks are free again", MOVED)

    def test_comes_back_while_everything_left_is_read(self):
        left = self.make_mostly_dead()
        (self.channel / "gone").write_bytes(content("gone", MIB))
        full = len(self.box.segments())
        before = self.compaction()["freed_segments"]
        free = os.statvfs(self.channel).f_bfree
        readers = [Reading(self.channel, left, 1), Reading(self.other, left, 2)]
        for reader in readers:
            reader.start()
        with open(self.channel / "gone", "rb", buffering=0) as gone:
            (self.channel / "gone").unlink()
            until(lambda: self.compaction()["freed_segments"] >= before + full // 3, "segments were emptied", MOVED)
            until(lambda: len(self.box.segments()) <= full * 2 // 3, "emptied segments are freed", MOVED)
            until(self.box.blocks_add_up, "every block is free or holds what the index knows", MOVED)
            os.posix_fadvise(gone.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.assertEqual(gone.read(), content("gone", MIB))
        for reader in readers:
            reader.end()
            self.assertEqual(reader.wrong, [])
            self.assertGreater(reader.reads, 20)
        self.expect_whole(self.channel, left)
        self.expect_whole(self.other, left)
        until(lambda: os.statvfs(self.channel).f_bfree > free, "df says so")
        self.assertEqual(self.box.faults(), [])
        print(f"\nsegments {full} -> {len(self.box.segments())}, {sum(reader.reads for reader in readers)} reads beside it")
        # Also to who starts anew and knows no extents.
        third = self.box.another_mount()
        self.expect_whole(third.point / self.channel.name, left)
        third.unmount()

    def test_passes_over_a_copy_that_rotted(self):
        left = self.make_mostly_dead()
        # Of the copies that are asked first a bit of each record.
        firsts = [segment["copies"][0]["device"] for segment in self.box.segments() if segment["state"] == "sealed"]
        asked_first = max(firsts, key=firsts.count)
        path = next(device["path"] for device in self.box.devices() if device["device"] == asked_first)
        with open(path, "r+b") as file:
            data = file.read()
            for number in left:
                for at in range(100_000, SIZE, MIB):
                    piece = content(number)[at:at + 64]
                    place = data.index(piece)
                    while place >= 0:  # it may be left over in a free block as well
                        file.seek(place)
                        file.write(bytes(64))
                        place = data.find(piece, place + 64)
            file.flush()
            os.fsync(file.fileno())
        before = self.compaction()["freed_segments"]
        until(lambda: self.compaction()["freed_segments"] >= before + 8, "segments were emptied", MOVED)
        logs = (self.box.directory / "log").glob("node*.log")
        self.assertTrue(any("noded.transfer copy is bad" in log.read_text() for log in logs))
        self.expect_whole(self.channel, left)
        self.expect_whole(self.other, left)

    def test_follows_clones_holes_and_overwrites(self):
        names = [str(number) for number in range(FILES)]
        record_interleaved(self.channel, range(FILES))
        expected = {name: bytearray(content(int(name))) for name in names[::3]}
        for name in names:
            if name not in expected:
                (self.channel / name).unlink()
        # Half a record of each, more than once, elsewhere in a file; some of it is overwritten, some cut off.
        with open(self.channel / "0", "rb") as source, open(self.channel / "clone", "xb") as target:
            self.assertEqual(os.copy_file_range(source.fileno(), target.fileno(), 2 * MIB, 100_000, 5_000), 2 * MIB)
            self.assertEqual(os.copy_file_range(source.fileno(), target.fileno(), MIB, 100_000, 3 * MIB), MIB)
        clone = bytearray(4 * MIB)
        clone[5_000:5_000 + 2 * MIB] = expected["0"][100_000:100_000 + 2 * MIB]
        clone[3 * MIB:] = expected["0"][100_000:100_000 + MIB]
        expected["clone"] = clone
        with open(self.channel / "3", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x" * 70_001, 1_000_003)
            os.fsync(file.fileno())
        expected["3"][1_000_003:1_070_004] = b"x" * 70_001
        os.truncate(self.channel / "6", 3_333_333)
        del expected["6"][3_333_333:]
        before = self.compaction()["freed_segments"]
        stop = threading.Event()
        changing = threading.Thread(target=self.change, args=(expected, stop))
        changing.start()
        try:
            until(lambda: self.compaction()["freed_segments"] >= before + 5, "segments were emptied", MOVED)
        finally:
            stop.set()
            changing.join()
        for name, data in expected.items():
            self.assertEqual((self.channel / name).read_bytes(), data, name)
            self.assertEqual((self.other / name).read_bytes(), data, name)

    def change(self, expected, stop):
        """Overwrites and punches what is being moved."""
        chance = random.Random(7)
        with open(self.channel / "9", "r+b", buffering=0) as file:
            while not stop.wait(0.05):
                at = chance.randrange(SIZE - 20_000)
                data = chance.randbytes(chance.randrange(1, 20_000))
                os.pwrite(file.fileno(), data, at)
                expected["9"][at:at + len(data)] = data
                os.fsync(file.fileno())


class Killed(CompactionTest):
    def test_in_the_middle_loses_and_leaks_nothing(self):
        self.set_rate("2M")
        left = self.make_mostly_dead()
        victims = ["index1", "node1.worker1", "node2.worker1", "node1.worker2", "index1", None]
        chance = random.Random(int(os.environ.get("REELFS_SEED", "5")))
        killed = 0
        for victim in victims:
            if not self.wait_for_a_move():
                break
            time.sleep(chance.random())  # whichever step it is at
            if victim is None:
                self.box.kill(keep=["mount"])
                self.box.start()
            else:
                self.kill(victim)
            killed += 1
            self.expect_whole(self.channel, left)
        self.assertGreaterEqual(killed, 3)
        until(self.is_plenty, "it went on and ended", 2 * MOVED)
        until(self.box.blocks_add_up, "every block is free or holds what the index knows", 2 * MOVED)
        other = self.box.another_mount()
        self.expect_whole(other.point / self.channel.name, left)
        self.assertEqual(self.box.faults(), [])

    def wait_for_a_move(self):
        deadline = time.monotonic() + MOVED * PATIENCE
        while time.monotonic() < deadline:
            compaction = self.compaction()
            if compaction["moving_segment"]:
                return True
            if self.is_plenty():
                return False
            time.sleep(0.02)  # between two looks
        raise AssertionError("nothing is moved")

    def kill(self, name):
        pid = self.box.processes()[name]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid), f"{name} is gone")
        self.box.start(name)


class Recording(CompactionTest):
    box_settings = {"device_size": "640M"}

    def record(self, name, is_over, work):
        """16 KiB each 20 ms, as a camera does, until it is over.

        @param work  looked at between writes: those before which and after which it is the same, and not None, do not count
        @return how long each of the others took, in ms
        """
        took = []
        data = random.Random(name).randbytes(16 << 10)
        with open(self.channel / name, "xb", buffering=0) as file:
            before = work()
            while not is_over():
                some = []
                for number in range(10):
                    began = time.monotonic()
                    file.write(data)
                    if number == 0:
                        os.fdatasync(file.fileno())
                    last = time.monotonic() - began
                    some.append(last * 1000)
                    time.sleep(max(0.0, 0.02 - last))  # a camera's pace
                after = work()
                if before is None or before != after:
                    took += some
                before = after
        return sorted(took)

    def test_beside_it_hardly_waits(self):
        self.set_rate("0")
        left = self.make_mostly_dead(4 * FILES)
        quiet = time.monotonic() + 12
        without = self.record("without", lambda: time.monotonic() > quiet, lambda: None)
        self.assertEqual(self.compaction()["freed_segments"], 0)
        self.set_rate("16M")  # which it has by itself
        with_it = self.record("with", lambda: self.compaction()["freed_segments"] >= 24 and not self.is_moving(), self.work)
        freed = self.compaction()["freed_segments"]
        print(f"\nlongest write {with_it[-1]:.1f} ms of {len(with_it)} while {freed} segments were emptied, {without[-1]:.1f} ms of "
              f"{len(without)} without: ratio {with_it[-1] / without[-1]:.2f}; p99 {p99(with_it):.1f} and {p99(without):.1f} ms")
        self.assertGreaterEqual(len(with_it), 50)
        self.assertLess(with_it[-1], 1000 * PATIENCE)
        self.assertLess(p99(with_it), max(2 * p99(without), 50 * PATIENCE))
        self.expect_whole(self.channel, left)

    def is_moving(self):
        return self.compaction()["moving_segment"] != 0

    def work(self):
        """What has been done; None while something is being done."""
        compaction = self.compaction()
        return None if compaction["moving_segment"] else compaction["copied_bytes"]


def p99(times):
    return times[len(times) * 99 // 100]


if __name__ == "__main__":
    unittest.main()
