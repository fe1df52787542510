"""Asynchronous copies: nobody waits for the second one, and what is lost with the first is told to the byte."""
import errno
import os
import random
import signal
import threading
import time
import unittest

from harness import PATIENCE, Box, is_gone, until

KIB = 1 << 10
MIB = 1 << 20
PIECE = 256 * KIB
PAGE = 4 * KIB


class Recording(threading.Thread):
    """One file, as fast as it goes, with an fsync after each MiB."""

    def __init__(self, path, seed):
        super().__init__()
        self.path = path
        self.random = random.Random(seed)
        self.content = bytearray()
        self.acknowledged = 0
        self.longest = 0
        self.error = None
        self.done = threading.Event()

    def run(self):
        try:
            with open(self.path, "xb", buffering=0) as file:
                while not self.done.is_set():
                    began = time.monotonic()
                    for _ in range(MIB // PIECE):
                        piece = self.random.randbytes(PIECE)
                        self.content += piece
                        file.write(piece)
                    os.fsync(file.fileno())
                    self.acknowledged = len(self.content)
                    self.longest = max(self.longest, time.monotonic() - began)
        except OSError as error:
            self.error = error

    def wait_for(self, size):
        until(lambda: self.acknowledged >= size or self.error, f"{size} bytes are recorded", 60)
        if self.error:
            raise self.error

    def end(self):
        self.done.set()
        self.join()
        if self.error:
            raise self.error


def unreadable(path, size):
    """Pages of the file that cannot be read, and what can be of the rest."""
    lost, content = [], {}
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    for at in range(0, size, PAGE):
        try:
            content[at] = os.pread(handle, PAGE, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            lost.append(at)
    os.close(handle)
    return lost, content


class AsyncTest(unittest.TestCase):
    nodes = 3

    def setUp(self):
        self.box = Box(nodes=self.nodes, block_size="16M")
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        shown = self.box.reelctl("channel", "set", "cam1", "--replication", "async")
        self.assertEqual(shown["policy"]["replication"], {"value": "async", "decided": True})

    def workers(self, node):
        return [name for name in self.box.processes() if name.startswith(f"{node}.")]

    def signal(self, node, number):
        pids = [self.box.processes()[name]["pid"] for name in self.workers(node)]
        for pid in pids:
            os.kill(pid, number)
        return pids

    def kill_node(self, node):
        pids = self.signal(node, signal.SIGKILL)
        until(lambda: all(is_gone(pid) for pid in pids), f"{node} is dead")

    def node_names(self):
        return {node["node"]: node["name"] for node in self.box.reelctl("node", "list")["nodes"]}

    def written_now(self):
        """Names of the first and the second copy's nodes of the segment that is written."""
        names = self.node_names()
        opened = [segment for segment in self.box.segments() if segment["state"] == "open" and segment["length"] > 0]
        copies = max(opened, key=lambda segment: segment["segment"])["copies"]
        return [names[copy["node"]] for copy in copies]

    def lag(self):
        return self.box.reelctl("status")["lag"]

    def lost(self):
        return self.box.reelctl("repair", "lost")

    def logged(self, event):
        return [entry for entry in self.box.reelctl("repair", "log", "--all")["entries"] if entry["event"] == event]

    def record_until_it_lags(self, name, seed):
        """A recording at full rate, with its first copy's node and its second's, which is stopped and lacks some."""
        recording = Recording(self.channel / name, seed)
        recording.start()
        recording.wait_for(4 * MIB)
        for _ in range(20):
            first, second = until(lambda: len(self.written_now()) == 2 and self.written_now(), "two copies are written")
            self.signal(second, signal.SIGSTOP)
            try:
                until(lambda: self.lag()["bytes"] > 2 * MIB, "the second copy lags", 3)
                if self.written_now() == [first, second]:
                    return recording, first, second
            except AssertionError:
                pass  # another segment had its turn
            self.signal(second, signal.SIGCONT)
            until(lambda: self.lag()["bytes"] < MIB, "the second copy has it all")
        raise AssertionError("no second copy was caught")

    def is_whole(self):
        held = [segment for segment in self.box.segments() if segment["live_bytes"] > 0]
        return all(len(segment["copies"]) == 2 and all(copy["available"] for copy in segment["copies"])
                   for segment in held)


class WithThreeNodes(AsyncTest):
    def test_what_is_lost_with_the_first_node_is_told_to_the_byte(self):
        recording, first, second = self.record_until_it_lags("recording", 1)
        devices = [device["path"] for device in self.box.devices() if self.node_names()[device["node"]] == first]
        self.kill_node(first)
        self.signal(second, signal.SIGCONT)
        for device in devices:
            os.unlink(device)  # for good
        recording.wait_for(recording.acknowledged + 8 * MIB)
        recording.end()
        print(f"longest MiB with its fsync: {recording.longest:.2f} s")

        until(lambda: self.logged("tail_away") and self.lag()["away_bytes"] > 0, "what only the dead node has is known", 60)
        reported = until(lambda: self.lag()["bytes"] == 0 and self.lag()["away_bytes"], "the rest was sent on", 60)
        listed = self.lost()
        self.assertEqual(listed["away_bytes"], reported)
        self.assertEqual(listed["lost_bytes"], 0)
        self.assertEqual(sum(part["length"] for part in listed["ranges"]), reported)
        self.assertEqual({(part["path"], part["node"], part["state"]) for part in listed["ranges"]},
                         {("cam1/recording", first, "away")})
        channel = next(each for each in self.box.reelctl("channel", "list")["channels"] if each["name"] == "cam1")
        self.assertEqual(channel["lag"]["away_bytes"], reported)
        self.expect_lost(recording, listed["ranges"], reported)

        self.box.reelctl("node", "remove", first, "--lost")
        until(lambda: self.lag()["lost_bytes"] == reported and self.lag()["away_bytes"] == 0, "it is lost", 60)
        finally_listed = self.lost()
        self.assertEqual(finally_listed["lost_bytes"], reported)
        places = [(part["path"], part["offset"], part["length"]) for part in listed["ranges"]]
        self.assertEqual([(part["path"], part["offset"], part["length"]) for part in finally_listed["ranges"]], places)
        self.assertEqual({part["state"] for part in finally_listed["ranges"]}, {"lost"})
        until(lambda: sum(entry["bytes"] for entry in self.logged("tail_lost")) == reported, "the log says so")
        problems = [problem["what"] for problem in self.box.reelctl("status")["problems"]]
        self.assertTrue(any(f"{reported} bytes of recordings were lost" in what for what in problems), problems)
        until(self.is_whole, "what is left has two copies again", 120)
        self.expect_lost(recording, finally_listed["ranges"], reported)
        print(f"acknowledged {recording.acknowledged}, lost {reported} in {len(places)} ranges")

        (self.channel / "recording").unlink()
        until(lambda: not self.lost()["ranges"] and self.lag()["lost_bytes"] == 0, "what is removed is lost no more", 60)

    def expect_lost(self, recording, ranges, reported):
        """Compared with what was recorded: just these bytes cannot be read, and quickly, and the others are right."""
        mount = self.box.another_mount()
        began = time.monotonic()
        lost, content = unreadable(mount.point / "cam1" / "recording", recording.acknowledged)
        self.assertLess(time.monotonic() - began, 60 * PATIENCE)
        for at, page in content.items():
            self.assertEqual(page, recording.content[at:at + PAGE], at)
        held = sum(len(page) for page in content.values())
        self.assertEqual(recording.acknowledged - held, reported, "acknowledged, less what the survivors hold")
        expected = {at for part in ranges for at in range(part["offset"], part["offset"] + part["length"], PAGE)}
        self.assertEqual(set(lost), expected)
        mount.unmount()

    def test_a_first_node_that_comes_back_loses_nothing(self):
        recording, first, second = self.record_until_it_lags("recording", 2)
        self.kill_node(first)
        self.signal(second, signal.SIGCONT)
        recording.wait_for(recording.acknowledged + 8 * MIB)
        recording.end()
        until(lambda: self.logged("tail_away"), "what only the dead node has is known", 60)
        self.box.start(*self.workers(first))
        until(lambda: self.lag()["away_bytes"] == 0 and self.logged("tail_back"), "the node gave what it had", 60)
        self.assertEqual(self.lost(), {"away_bytes": 0, "lost_bytes": 0, "ranges": []})
        until(lambda: self.lag()["bytes"] == 0 and self.is_whole(), "every copy has everything", 60)
        self.expect_from_any_node(recording, [first, second])

    def expect_from_any_node(self, recording, nodes):
        for node in nodes:
            with self.subTest(down=node):
                until(lambda: self.box.reelctl("repair", "status")["at_risk"] == [], "nothing is at risk", 60)
                self.kill_node(node)
                mount = self.box.another_mount()
                data = (mount.point / "cam1" / "recording").read_bytes()
                self.assertEqual(len(data), recording.acknowledged)
                self.assertEqual(data, bytes(recording.content))
                mount.unmount()
                self.box.start(*self.workers(node))

    def test_a_worker_that_is_killed_loses_nothing(self):
        recording, first, second = self.record_until_it_lags("recording", 3)
        self.signal(second, signal.SIGCONT)
        killed = self.workers(first) + self.workers(second)
        for name in killed:
            self.box.kill_process(name)
        self.box.start(*killed)
        recording.wait_for(recording.acknowledged + 4 * MIB)
        recording.end()
        until(lambda: self.lag()["bytes"] == 0 and self.lag()["away_bytes"] == 0 and self.is_whole(),
              "every copy has everything", 60)
        self.assertEqual(self.lost()["ranges"], [])
        self.expect_from_any_node(recording, [first])


class WithTwoNodes(AsyncTest):
    nodes = 2

    def test_a_stopped_second_node_makes_nobody_wait_and_has_everything_in_the_end(self):
        recording, first, second = self.record_until_it_lags("recording", 4)
        recording.longest = 0
        seen = self.lag()
        names = {node["name"]: node for node in self.box.reelctl("node", "list")["nodes"]}
        self.assertGreater(names[first]["to_send"]["bytes"], 0)
        self.assertGreater(names[second]["to_receive"]["bytes"], 0)
        recording.wait_for(recording.acknowledged + 4 * MIB)
        later = until(lambda: self.lag()["oldest_ms"] >= seen["oldest_ms"] + 1000 and self.lag(), "it lags longer")
        self.assertGreaterEqual(later["bytes"], seen["bytes"])
        self.assertLess(recording.longest, PATIENCE)
        recording.end()
        self.signal(second, signal.SIGCONT)
        until(lambda: self.lag() == {"bytes": 0, "oldest_ms": 0, "away_bytes": 0, "lost_bytes": 0},
              "the second node has everything", 60)
        print(f"longest MiB with its fsync: {recording.longest:.2f} s; it lagged {later['bytes']} bytes")
        until(lambda: self.box.reelctl("repair", "status")["at_risk"] == [], "nothing is at risk", 90)
        self.kill_node(first)
        mount = self.box.another_mount()
        self.assertEqual((mount.point / "cam1" / "recording").read_bytes(), bytes(recording.content))
        mount.unmount()


if __name__ == "__main__":
    unittest.main()
