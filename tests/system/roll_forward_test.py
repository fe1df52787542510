"""Recorders that die between storing their bytes on the nodes and telling the index of them: the bytes are there all the same."""
import os
import signal
import time
import unittest

from harness import Box, PATIENCE, is_gone, run, until

LEASE = 10  # seconds that a mount which says nothing is taken for alive


def marked(size):
    """Bytes that are nowhere else."""
    return os.urandom(size)


class DeadRecorder(unittest.TestCase):
    def setUp(self):
        self.box = Box()
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        self.recorder = self.box.another_mount()
        self.index = self.box.processes()["index1"]["pid"]
        self.addCleanup(self.let_go_on)

    def let_go_on(self):
        if not is_gone(self.index):
            os.kill(self.index, signal.SIGCONT)

    def freeze_index(self):
        os.kill(self.index, signal.SIGSTOP)

    def open(self, name):
        fd = os.open(self.recorder / "cam1" / name, os.O_RDWR | os.O_CREAT, 0o644)
        self.addCleanup(self.close, fd)
        return fd

    @staticmethod
    def close(fd):
        try:
            os.close(fd)
        except OSError:
            pass  # its mount was killed

    def place(self, fd, data, offset):
        """Returns when the bytes are stored on every copy; the index need not know."""
        self.assertEqual(os.pwrite(fd, data, offset), len(data))
        until(lambda: self.box.is_on_both_nodes(data[-64:]), "the bytes are on both nodes")

    def take_grants(self):
        """The recorder has segments to write to when the index server is frozen."""
        fd = self.open("first.ts")
        os.write(fd, marked(5000))
        os.fsync(fd)

    def kill_recorder(self):
        self.recorder.process.kill()
        self.recorder.process.wait()
        run("umount", "-l", self.recorder.point)
        self.killed_at = time.monotonic()

    def assert_comes_to_be(self, name, expected):
        path = self.channel / name
        until(lambda: path.stat().st_size == len(expected), f"{name} has what was placed", LEASE + 10)
        self.assertLess(time.monotonic() - self.killed_at, (LEASE + 5) * PATIENCE, "within the lease, and little more")
        self.assertEqual(path.read_bytes(), bytes(expected))

    def test_what_was_placed_is_there(self):
        fd = self.open("growing.ts")
        expected = bytearray(marked(100_000))
        self.place(fd, bytes(expected), 0)
        os.fsync(fd)
        self.freeze_index()
        for size in (70_000, 1, 4096, 1_300_000, 5000):
            data = marked(size)
            self.assertEqual(os.pwrite(fd, data, len(expected)), size)
            expected += data
        until(lambda: self.box.is_on_both_nodes(bytes(expected[-64:])), "the last bytes are on both nodes")
        self.kill_recorder()
        self.let_go_on()
        self.assert_comes_to_be("growing.ts", expected)

    def test_files_that_were_never_committed(self):
        names = [f"small{number}.jpg" for number in range(20)]
        files = {name: (self.open(name), marked(3000 + 500 * number)) for number, name in enumerate(names)}
        self.take_grants()
        self.freeze_index()
        for fd, data in files.values():
            os.pwrite(fd, data, 0)
        for _, data in files.values():
            until(lambda data=data: self.box.is_on_both_nodes(data[-64:]), "the bytes are on both nodes")
        self.kill_recorder()
        self.let_go_on()
        for name, (_, data) in files.items():
            self.assert_comes_to_be(name, data)

    def test_later_writes_shadow_earlier_ones(self):
        fd = self.open("overwritten.ts")
        expected = bytearray(marked(300_000))
        self.place(fd, bytes(expected), 0)
        os.fsync(fd)
        self.freeze_index()
        # Each is stored before the next is written, so that each is a record of its own.
        for offset, size in ((0, 200_000), (100_000, 150_000), (50_000, 100_000), (290_000, 30_000), (50_000, 10)):
            data = marked(max(size, 64))[:size] if size >= 64 else marked(64)
            self.place(fd, data, offset)
            expected[offset:offset + len(data)] = data
        self.kill_recorder()
        self.let_go_on()
        self.assert_comes_to_be("overwritten.ts", expected)

    def test_what_was_cut_off_or_removed_does_not_come_back(self):
        cut, gone = self.open("cut.ts"), self.open("gone.ts")
        kept = marked(50_000)
        for fd in (cut, gone):
            self.place(fd, marked(400_000), 0)
        os.ftruncate(cut, 0)
        self.place(cut, kept, 0)
        os.fsync(cut)
        other = self.open("other.ts")
        self.freeze_index()
        late, last = marked(100_000), marked(60_000)
        self.place(gone, late, 400_000)
        self.place(other, last, 0)
        self.kill_recorder()
        self.let_go_on()
        os.unlink(self.channel / "gone.ts")
        self.assert_comes_to_be("other.ts", last)
        self.assertEqual((self.channel / "cut.ts").read_bytes(), kept)
        self.assertFalse((self.channel / "gone.ts").exists())

    def test_the_index_server_dies_as_well(self):
        fd = self.open("both.ts")
        expected = bytearray(marked(80_000))
        self.place(fd, bytes(expected), 0)
        os.fsync(fd)
        self.freeze_index()
        data = marked(500_000)
        self.place(fd, data, len(expected))
        expected += data
        self.kill_recorder()
        os.kill(self.index, signal.SIGKILL)
        until(lambda: is_gone(self.index), "the index server is gone")
        self.box.start("index1")
        self.killed_at = time.monotonic()  # it has a full lease to come back
        self.assert_comes_to_be("both.ts", expected)

    def test_blocks_are_free_again_when_it_is_removed(self):
        fd = self.open("removed.ts")
        self.take_grants()
        self.freeze_index()
        data = marked(600_000)
        self.place(fd, data, 0)
        self.kill_recorder()
        self.let_go_on()
        self.assert_comes_to_be("removed.ts", data)
        os.unlink(self.channel / "removed.ts")
        os.unlink(self.channel / "first.ts")
        until(lambda: not self.box.segments(), "no segment is left", 60)
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)
        self.assertEqual(self.box.faults(), [])


if __name__ == "__main__":
    unittest.main()
