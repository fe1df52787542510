"""A disk that hangs: its calls end neither well nor badly, and the processes in them cannot be killed. The disk is a file on
a file system that is frozen (fsfreeze), below which every write waits in the kernel."""
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import unittest

from harness import Box, PATIENCE, REELCTL, is_gone, limit, run, until

PIECE = 64 << 10
# Seconds; 1 is aimed at. With as many copies as nodes, the writer waits 2 s for a reply, and then until the node does
# without the disk (docs/design/architecture.md, "Promises when something fails").
STALL = 5.0
EJECTED = 5.0  # seconds after the first call that hangs
ENDED = 10.0  # seconds until a process has ended that was told to
LED = 2.0  # seconds until a node has another leader


def in_a_call(pid):
    """Whether a thread of the process is in a call that no signal ends."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
    return "D" in states


def is_gone_whole(pid):
    return not pathlib.Path(f"/proc/{pid}").exists() or (is_gone(pid) and not in_a_call(pid))


class Stream:
    """Appends and calls fsync until it is stopped; remembers what is safe and how long calls took."""

    def __init__(self, path):
        self.path, self.safe, self.longest, self.error = path, 0, (0.0, ""), None
        self.stop_asked = threading.Event()
        self.thread = threading.Thread(target=self.record)
        self.thread.start()

    def timed(self, name, call, *arguments):
        start = time.monotonic()
        try:
            return call(*arguments)
        finally:
            self.longest = max(self.longest, (time.monotonic() - start, name))

    def record(self):
        try:
            fd = self.timed("open", os.open, self.path, os.O_WRONLY | os.O_CREAT, 0o644)
            size = 0
            while not self.stop_asked.is_set():
                size += self.timed("write", os.write, fd, self.pattern(size))
                if size % (8 * PIECE) == 0:
                    self.timed("fsync", os.fsync, fd)
                    self.safe = size
                self.stop_asked.wait(0.03)
            self.timed("close", os.close, fd)
        except OSError as error:
            self.error = error

    @staticmethod
    def pattern(offset):
        return (offset // PIECE).to_bytes(8, "little") * (PIECE // 8)

    def stop(self):
        self.stop_asked.set()
        self.thread.join()

    def is_right(self):
        with open(self.path, "rb") as file:
            return all(file.read(PIECE) == self.pattern(offset) for offset in range(0, self.safe, PIECE))


class DeviceHangs(unittest.TestCase):
    def setUp(self):
        self.box = Box(device_size="512M")  # nothing that is looked at in the end is overwritten
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        self.disk = self.box.local / "disk"
        self.disk.mkdir()
        image = self.box.local / "disk.img"
        with open(image, "wb") as file:
            file.truncate(2 << 30)
        run("mkfs.ext4", "-q", image)
        try:
            run("mount", "-o", "loop", image, self.disk)
        except AssertionError as error:
            self.skipTest(f"no loop mount here: {error}")
        self.frozen = False
        self.addCleanup(self.thaw)
        # Larger than the node's other device, so that it is the one that is written to.
        self.path = self.disk / "device"
        with open(self.path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 30)
        self.box.reelctl("device", "add", "node1", self.path)
        self.number = self.device()["device"]

    def freeze(self):
        run("fsfreeze", "-f", self.disk)
        self.frozen = True
        return time.monotonic()

    def thaw(self):
        if self.frozen:
            run("fsfreeze", "-u", self.disk)
        self.frozen = False

    def device(self):
        return next(device for device in self.box.devices() if device["path"] == str(self.path))

    def copies_on(self, number):
        return {segment["segment"] for segment in self.box.segments()
                for copy in segment["copies"] if copy["device"] == number}

    def stream(self, name):
        stream = Stream(self.channel / name)
        self.addCleanup(stream.stop)
        return stream

    def goes_on(self, streams, what):
        before = [stream.safe for stream in streams]
        until(lambda: all(stream.safe > size or stream.error for stream, size in zip(streams, before)), f"the streams go on {what}")
        self.assertEqual([stream.error for stream in streams], [None] * len(streams), what)

    def hang_under(self, streams):
        """From then on the device's writes hang, of both workers. The seconds until it is out of service."""
        until(lambda: self.copies_on(self.number) and all(stream.safe for stream in streams), "it is written to")
        frozen = self.freeze()
        until(lambda: self.device()["state"] == "failed", "it is ejected", 3 * EJECTED)
        return time.monotonic() - frozen

    def test_it_is_ejected_while_the_streams_go_on_and_comes_back(self):
        before = os.urandom(20 << 20)
        (self.channel / "before").write_bytes(before)
        streams = [self.stream(f"{number}") for number in range(2)]
        had = {segment["segment"] for segment in self.box.segments() if segment["state"] == "sealed"} & self.copies_on(self.number)
        self.assertTrue(had, "segments are sealed before it hangs")
        ejected = self.hang_under(streams)
        self.goes_on(streams, "while it hangs")
        self.assertIn("has not ended", self.device()["reason"])
        problems = [problem["what"] for problem in self.box.reelctl("status")["problems"]]
        self.assertTrue(any(str(self.path) in what for what in problems), problems)
        other = next(device["device"] for device in self.box.devices()
                     if device["node_name"] == "node1" and device["device"] != self.number)
        lies_there = self.copies_on(other)
        until(lambda: self.copies_on(other) - lies_there, "the other device of the node takes its place")
        self.goes_on(streams, "on the other device")
        self.thaw()
        until(lambda: self.device()["state"] == "online", "it is back by itself", 20)
        self.goes_on(streams, "after it came back")
        for stream in streams:
            stream.stop()
        longest = max(stream.longest for stream in streams)
        print(f"ejected {ejected:.1f} s after it hung; longest call of a stream {longest[0]:.2f} s ({longest[1]})", file=sys.stderr)
        self.assertTrue(all(stream.is_right() for stream in streams))
        self.assertEqual((self.channel / "before").read_bytes(), before)
        self.assertLessEqual(had, self.copies_on(self.number), "it has what it had")
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)
        self.assertLess(ejected, EJECTED * PATIENCE)
        self.assertLess(longest[0], STALL * PATIENCE)

    def test_a_worker_ends_and_is_replaced_while_it_hangs(self):
        streams = [self.stream("0")]
        self.hang_under(streams)
        for name in ("node1.worker1", "node1.worker2"):
            pid = self.box.processes()[name]["pid"]
            with limit(self, ENDED * PATIENCE, f"the end of {name}"):
                os.kill(pid, signal.SIGTERM)
                until(lambda: is_gone(pid), f"{name} ends", 60)
            self.box.start(name)
            self.goes_on(streams, f"after {name} was stopped and started again")
        self.assertIn(self.box.processes()["node1.worker1"]["state"], ("leader", "follower"))
        self.assertEqual(self.device()["state"], "failed")
        self.thaw()
        until(lambda: self.device()["state"] == "online", "it is back by itself", 20)
        streams[0].stop()
        self.assertTrue(streams[0].is_right())
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)

    def workers(self, state):
        """Name and pid of node1's workers in this state."""
        return [(name, process["pid"]) for name, process in self.box.processes().items()
                if name.startswith("node1.") and process["state"] == state]

    @staticmethod
    def can_be_locked(path):
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def freeze_under(self, pid):
        """Until a call of that worker hangs there."""
        def writes():
            told = self.box.reelctl("node", "show", "node1")
            return any(block["device"] == self.number for process in told["processes"] if process["pid"] == pid
                       for block in process["blocks"])
        until(writes, "it writes to the device")
        self.freeze()
        until(lambda: in_a_call(pid), "a call of it hangs")

    def test_a_leader_that_is_killed_while_it_hangs_is_replaced(self):
        before = os.urandom(20 << 20)
        (self.channel / "before").write_bytes(before)
        streams = [self.stream(f"{number}") for number in range(4)]
        (leader, pid), = self.workers("leader")
        self.freeze_under(pid)
        (follower, _), = self.workers("follower")
        log = self.box.directory / "log" / f"{follower}.log"
        with limit(self, LED * PATIENCE, "the next leader"):
            os.kill(pid, signal.SIGKILL)
            # In its own words: the index may be waiting for the device.
            until(lambda: "leading node=node1" in log.read_text(), "the other worker leads")
        self.assertTrue(in_a_call(pid), "the killed one has not ended")
        self.goes_on(streams, "under the next leader")
        self.assertEqual([name for name, _ in self.workers("leader")], [follower])
        until(lambda: self.device()["state"] == "failed", "the device is ejected", 3 * EJECTED)
        self.goes_on(streams, "without the device")
        (self.channel / "another").write_bytes(before)
        self.box.start(leader)
        self.assertEqual([name for name, _ in self.workers("follower")], [leader], "its successor")
        self.assertTrue(in_a_call(pid), "the killed one has not ended")
        self.assertEqual(self.box.faults(), [])
        self.assertEqual(self.device()["state"], "failed", "it comes back when the last call has ended")
        self.goes_on(streams, "with the successor")
        self.thaw()
        until(lambda: is_gone_whole(pid), "the killed one ends")
        until(lambda: self.device()["state"] == "online", "it is back by itself", 20)
        self.goes_on(streams, "after it came back")
        for stream in streams:
            stream.stop()
        longest = max(stream.longest for stream in streams)
        print(f"leader killed in a call that hangs: longest call of a stream {longest[0]:.2f} s ({longest[1]})", file=sys.stderr)
        self.assertTrue(all(stream.is_right() for stream in streams))
        for name in ("before", "another"):
            self.assertEqual((self.channel / name).read_bytes(), before)
        self.assertEqual(self.box.faults(), [])
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)
        self.assertLess(longest[0], STALL * PATIENCE)

    def test_a_node_that_is_killed_while_it_hangs_starts_without_the_device(self):
        streams = [self.stream(f"{number}") for number in range(4)]
        (_, pid), = self.workers("leader")
        self.freeze_under(pid)
        for stream in streams:
            stream.stop_asked.set()
        for _, worker in self.workers("leader") + self.workers("follower"):
            os.kill(worker, signal.SIGKILL)
        until(lambda: self.can_be_locked(self.box.directory / "node1.dev1"), "the other device is let go")
        self.assertFalse(self.can_be_locked(self.path), "what hangs may still be written: nobody else may have the device")
        with limit(self, 2 * ENDED * PATIENCE, "box start"):
            self.box.start()
        self.assertTrue(in_a_call(pid), "the killed one has not ended")
        self.assertEqual(self.device()["state"], "offline")
        self.assertIn("still in use by a process of this node", self.device()["reason"])
        with open(self.channel / "another", "wb", buffering=0) as file:
            file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        for stream in streams:
            stream.stop()
        self.thaw()
        until(lambda: self.device()["state"] == "online", "it is back by itself", 20)
        self.assertTrue(all(stream.is_right() for stream in streams))
        self.assertEqual(self.box.faults(), [])
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)

    def test_the_box_goes_down_and_up_while_it_hangs(self):
        streams = [self.stream("0")]
        self.hang_under(streams)
        streams[0].stop()
        with limit(self, 2 * ENDED * PATIENCE, "box down"):
            said = run(REELCTL, "box", "down", "--dir", self.box.directory, timeout=300).stdout
        self.assertIn("hangs in the kernel", said)
        with limit(self, 2 * ENDED * PATIENCE, "box start"):
            self.box.start()
        self.assertEqual(self.device()["state"], "offline")
        self.assertIn("still in use by a process of this node", self.device()["reason"])
        self.assertTrue(streams[0].is_right())
        self.thaw()
        until(lambda: self.device()["state"] == "online", "it is back by itself", 20)
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)


if __name__ == "__main__":
    unittest.main()
