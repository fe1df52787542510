"""Worker processes killed under load, at random moments and at each crash point: the streams go on, nothing that was
fsynced is lost, and no block is leaked or owned twice. $REELFS_KILLS says how many random moments (30 by default).
"""
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import unittest

from harness import BoxTest, HERE, PATIENCE, REELCTL, is_gone, run, until

KILLS = int(os.environ.get("REELFS_KILLS", "30"))
WRITERS = 3
PIECE = 64 * 1024
STALL = 1.0  # seconds; the promise is 0.1 and a machine at rest keeps it, but one that builds beside this does not
SOURCES = HERE.parent.parent / "noded"


def pattern(number, offset):
    return random.Random(f"{number}/{offset}").randbytes(PIECE)


def record(path, log, number):
    """Appends until it is killed; puts down after each fsync how much is safe, and the longest call so far. An error ends it."""
    dice = random.Random(number)
    size, longest = 0, 0.0
    with open(log, "w", encoding="utf-8", buffering=1) as journal:
        def timed(call, *arguments):
            nonlocal longest
            start = time.monotonic()
            try:
                return call(*arguments)
            except OSError as error:
                journal.write(f"error {size} {error}\n")
                raise
            finally:
                longest = max(longest, time.monotonic() - start)

        fd = timed(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        while True:
            piece = pattern(number, size)
            while piece:
                piece = piece[timed(os.write, fd, piece):]
            size += PIECE
            if dice.random() < 0.05:
                timed(os.fsync, fd)
                journal.write(f"safe {size} {longest:.3f}\n")
                longest = 0.0
            time.sleep(0.002)  # a fast camera: the machine's cores are to be left to the processes that start again


class Stream:
    def __init__(self, channel, local, number):
        self.number, self.path, self.log = number, channel / f"stream{number}", local / f"log{number}"
        self.process = subprocess.Popen([sys.executable, __file__, "--record", self.path, self.log, str(number)],
                                        stderr=subprocess.DEVNULL)

    def said(self, word):
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return [line.split() for line in text.splitlines() if line.startswith(word)]

    def safe(self):
        return int(self.said("safe")[-1][1]) if self.said("safe") else 0

    def longest(self):
        return max(float(line[2]) for line in self.said("safe"))

    def stop(self):
        self.process.kill()
        self.process.wait()


class WorkersDie(BoxTest):
    """Streams of two copies on two nodes, each of two workers."""

    # Large enough that no block has to be given back while the streams run.
    box_settings = {"device_size": "6G", "block_size": "4M"}

    def setUp(self):
        super().setUp()
        local = self.local()
        self.streams = [Stream(self.channel, local, number) for number in range(WRITERS)]
        for stream in self.streams:
            self.addCleanup(stream.stop)
        until(lambda: all(stream.safe() > 0 for stream in self.streams), "every stream has fsynced something")

    def workers(self):
        return {name: process for name, process in self.box.processes().items() if process["role"] == "node"}

    def streams_write(self, why):
        before = [stream.safe() for stream in self.streams]
        until(lambda: all(stream.safe() > size or stream.said("error") for stream, size in zip(self.streams, before)),
              f"every stream goes on after {why}")
        for stream in self.streams:
            self.assertEqual(stream.said("error"), [], why)

    def streams_go_on(self, why):
        self.streams_write(why)
        self.assertEqual(self.box.faults(), [], why)

    def takes_writes(self, why):
        content = os.urandom(300_000)
        with open(self.channel / why, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        self.assertEqual((self.channel / why).read_bytes(), content)

    def everything_is_right(self):
        for stream in self.streams:
            stream.stop()
        for stream in self.streams:
            size = stream.safe()
            with open(stream.path, "rb") as file:
                self.assertGreaterEqual(os.fstat(file.fileno()).st_size, size)
                for offset in range(0, size, PIECE):
                    if file.read(PIECE) != pattern(stream.number, offset):
                        self.fail(f"{stream.path}: other bytes at {offset} than were fsynced")
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)

    def test_at_random_moments(self):
        seed = time.time_ns()
        dice = random.Random(seed)
        for number in range(KILLS):
            workers = self.workers()
            # Leaders and followers in turn.
            name = dice.choice([name for name, process in workers.items()
                                if process["state"] == ("leader", "follower")[number % 2]])
            time.sleep(dice.uniform(0, 0.3))  # the random moment
            os.kill(workers[name]["pid"], signal.SIGKILL)
            until(lambda: is_gone(workers[name]["pid"]), f"{name} is gone")
            self.streams_go_on(f"kill {number} of {name}, seed {seed}")
            self.box.start(name)
        longest = max(stream.longest() for stream in self.streams)
        self.everything_is_right()
        total = sum(stream.safe() for stream in self.streams)
        print(f"{KILLS} workers killed: {total >> 20} MiB fsynced and right, longest call {longest:.2f} s", file=sys.stderr)
        self.assertLess(longest, STALL * PATIENCE)

    def test_at_each_crash_point(self):
        points = {point for source in SOURCES.rglob("*.cc")
                  for point in re.findall(r'crash_point\("([a-z._]+)"\)', source.read_text(encoding="utf-8"))}
        self.assertGreater(len(points), 10)
        cold = {"leader.removed", "leader.devices", "leader.process"}  # where a node starts whose workers are all gone
        leading = {"leader.adopted"}
        copying = {"copy.counted"}  # where a copy that is behind is completed
        # After another death in the table; where a writer leaves its segment; where a device fails: not under a stream.
        seldom = {"table.repair.redone", "unfilled.filled", "table.retire.filled"}
        self.assertLess(cold | leading | seldom | copying, points)
        for point in sorted(points - cold - leading - seldom - copying):
            name = next(name for name, process in self.workers().items() if process["state"] == "follower")
            self.kill(name)
            self.start_armed(name, f"{point}:3")
            until(lambda: not self.workers()[name]["pid"], f"{name} dies at {point}")
            self.streams_go_on(point)
            self.box.start(name)
        for point in sorted(copying):
            self.kill("node1.worker1")
            self.kill("node1.worker2")
            self.streams_write(f"node1 went, for {point}")
            self.start_armed("node1.worker1", point)
            until(lambda: not self.workers()["node1.worker1"]["pid"], f"it dies at {point}")
            self.streams_write(point)
            self.box.start()
            self.streams_go_on(point)
        self.everything_is_right()
        # The rest takes both workers of a node with it, which a stream of two copies on two nodes is told of.
        for point in sorted(cold):
            self.kill("node1.worker1")
            self.kill("node1.worker2")
            self.start_armed("node1.worker1", point)
            until(lambda: not self.workers()["node1.worker1"]["pid"], f"it dies at {point}")
            self.box.start()
            self.takes_writes(point)
        for point in sorted(leading):
            leader = next(name for name, process in self.workers().items()
                          if name.startswith("node1") and process["state"] == "leader")
            follower = "node1.worker2" if leader == "node1.worker1" else "node1.worker1"
            self.kill(follower)
            self.start_armed(follower, point)
            self.kill(leader)
            until(lambda: not self.workers()[follower]["pid"], f"the new leader dies at {point}")
            self.box.start()
            self.takes_writes(point)
        self.everything_is_right()
        print(f"died at {len(points - seldom)} points", file=sys.stderr)

    def kill(self, name):
        pid = self.workers()[name]["pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)
            until(lambda: is_gone(pid), f"{name} is gone")

    def start_armed(self, name, point):
        # It may die before it has registered, which box start reports.
        run(REELCTL, "box", "start", "--dir", self.box.directory, name, check=False,
            env={**os.environ, "REELFS_CRASH_POINT": point})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        record(pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        unittest.main()
