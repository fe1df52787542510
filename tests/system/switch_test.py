"""A node dies or hangs under recorders: they go on within the promised time, without an error, and nothing that fsync has acknowledged is
lost, whichever copy is read afterwards. What is recorded with fewer copies is seen as such."""
import multiprocessing
import os
import pathlib
import signal
import threading
import time
import unittest

from harness import Box, is_gone, until

PIECE = 64 << 10
STREAMS = 4
QUIET = 4.0  # seconds without a fault: what this machine adds by itself
# Seconds beyond that; docs/design/architecture.md, "Promises when something fails".
KILLED = 0.1
HUNG = 1.0
LASTS = 5.0  # seconds for which a node is away


def pattern(stream, offset):
    return (stream << 48 | offset).to_bytes(8, "little") * (PIECE // 8)


class Recorder:
    """A process that appends to several files and calls fsync after each piece, as long as it is let. A process of its own, as one that forks
    with a file open on the mount would flush it in the child."""

    def __init__(self, directory):
        self.directory = directory
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=self.record, args=(directory, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self.ours.recv() == "begun"

    @staticmethod
    def record(directory, pipe):
        end = threading.Event()
        calls, safe, errors = [], [0] * STREAMS, []

        def append(stream):
            fd = os.open(directory / f"stream{stream}", os.O_WRONLY | os.O_CREAT, 0o644)
            offset = 0
            while not end.is_set():
                begun = time.monotonic()
                try:
                    os.write(fd, pattern(stream, offset))
                    offset += PIECE
                    os.fsync(fd)
                    safe[stream] = offset
                except OSError as error:
                    errors.append(f"stream {stream} at {offset}: {error}")
                calls.append((begun, time.monotonic() - begun))
                end.wait(0.01)
            os.close(fd)

        threads = [threading.Thread(target=append, args=(stream,)) for stream in range(STREAMS)]
        for thread in threads:
            thread.start()
        pipe.send("begun")
        while pipe.recv() != "end":
            pipe.send(max(safe))
        end.set()
        for thread in threads:
            thread.join()
        pipe.send((calls, safe, errors))

    def stop(self):
        """@return calls (when begun, how long; seconds), bytes fsynced of each stream, errors"""
        self.ours.send("end")
        answer = self.ours.recv()
        self.process.join()
        return answer


def longest(calls, begin, end):
    """Of the calls that were under way between two moments; seconds."""
    return max((took for begun, took in calls if begun < end and begun + took > begin), default=0.0)


class Switching(unittest.TestCase):
    nodes = 2

    def setUp(self):
        self.box = Box(nodes=self.nodes, device_size="1G")
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")

    def pids(self, node):
        return [process["pid"] for name, process in self.box.processes().items() if name.startswith(node + ".")]

    def record_through(self, fault, mend, promised):
        recorder = Recorder(self.channel)
        quiet_from = time.monotonic() + 1  # the first grants have come
        time.sleep(QUIET)  # recording goes on undisturbed: the measure for what follows
        begin = time.monotonic()
        fault()
        time.sleep(LASTS)  # and with the fault
        end = time.monotonic()
        mend()
        time.sleep(LASTS)  # and after it
        after = time.monotonic()
        calls, safe, errors = recorder.stop()
        noise = longest(calls, quiet_from, begin)
        stall, later = longest(calls, begin, end), longest(calls, end, after)
        print(f"\n{self.id()}: longest of {len(calls)} writes with fsync: {noise * 1000:.0f} ms before, {stall * 1000:.0f} ms "
              f"with the fault, {later * 1000:.0f} ms after it", flush=True)
        self.assertEqual(errors, [])
        self.assertGreater(min(safe), 10 * PIECE)
        self.assertLess(stall, promised + 3 * noise)
        self.assertLess(later, promised + 3 * noise)
        self.is_right(self.box.mount, safe)
        self.is_right(self.box.another_mount().point, safe)

    def is_right(self, mount, safe):
        for stream, size in enumerate(safe):
            with open(mount / "cam1" / f"stream{stream}", "rb") as file:
                for offset in range(0, size, PIECE):
                    self.assertEqual(file.read(PIECE), pattern(stream, offset), f"stream {stream} at {offset} in {mount}")

    def kill_node(self):
        pids = self.pids("node1")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(is_gone(pid) for pid in pids), "the node is gone")

    def start_node(self):
        self.box.start()

    def stop_node(self):
        self.stopped = self.pids("node1")
        for pid in self.stopped:
            os.kill(pid, signal.SIGSTOP)

    def continue_node(self):
        for pid in self.stopped:
            os.kill(pid, signal.SIGCONT)

    def test_killed(self):
        self.record_through(self.kill_node, self.start_node, KILLED)

    def test_hung(self):
        self.record_through(self.stop_node, self.continue_node, HUNG)


class SwitchingOfThree(Switching):
    nodes = 3


class FewerCopies(unittest.TestCase):
    """Where fewer nodes than copies are to be had."""

    def setUp(self):
        self.box = Box()
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")

    def stop_node(self):
        pids = [process["pid"] for name, process in self.box.processes().items() if name.startswith("node1.")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: any(node["name"] == "node1" and node["state"] == "offline"
                          for node in self.box.reelctl("node", "list")["nodes"]), "node1 counts as offline")

    def write(self, name):
        with open(self.channel / name, "wb", buffering=0) as file:
            file.write(os.urandom(PIECE))
            os.fsync(file.fileno())

    def copies(self, name):
        shown = self.box.reelctl("segment", "show", self.channel / name)
        return {len(segment["copies"]) for segment in shown["segments"]}

    def test_goes_on_with_as_many_as_the_channel_allows(self):
        self.write("before")
        self.assertEqual(self.copies("before"), {2})
        self.stop_node()
        self.write("meanwhile")
        self.assertEqual(self.copies("meanwhile"), {1})
        self.box.start()

        def is_whole_again():
            self.write("after")
            return self.copies("after") == {2}
        until(is_whole_again, "what is recorded has two copies again", 15)

    def test_a_channel_may_want_more(self):
        os.setxattr(self.channel, "user.reel.min_copies", b"2")
        self.write("before")
        self.stop_node()
        os.setxattr(self.channel, "user.reel.min_copies", b"1")
        self.write("meanwhile")
        os.setxattr(self.channel, "user.reel.min_copies", b"2")
        mount = self.box.another_mount(",timeout=3")
        with self.assertRaises(OSError):
            with open(mount.point / "cam1" / "refused", "wb", buffering=0) as file:
                file.write(b"x" * PIECE)
                os.fsync(file.fileno())
        self.box.start()


if __name__ == "__main__":
    unittest.main()
