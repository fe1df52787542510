"""Copies that are missing, short or on lost nodes are made whole again, and what is good is left alone."""
import os
import random
import signal
import threading
import time
import unittest

from harness import PATIENCE, REELCTL, Box, is_gone, run, until

MIB = 1 << 20
HEALED = 90


def content(number, size):
    return random.Random(number).randbytes(size)


class Recording(threading.Thread):
    """Writes files of a MiB one after the other, each with an fsync, until it is told to end."""

    def __init__(self, channel, prefix):
        super().__init__()
        self.channel = channel
        self.prefix = prefix
        self.written = []
        self.longest = 0
        self.error = None
        self.done = threading.Event()

    def run(self):
        try:
            while not self.done.is_set():
                name = f"{self.prefix}{len(self.written)}"
                began = time.monotonic()
                with open(self.channel / name, "xb", buffering=0) as file:
                    file.write(content(name, MIB))
                    os.fsync(file.fileno())
                self.longest = max(self.longest, time.monotonic() - began)
                self.written.append(name)
                self.done.wait(0.02)
        except OSError as error:
            self.error = error

    def end(self):
        self.done.set()
        self.join()


class RepairTest(unittest.TestCase):
    """A box for each test, as nodes do not come back. Three nodes, two copies, small blocks."""

    nodes = 3
    delay = "1s"
    settings = {}

    def setUp(self):
        self.box = Box(nodes=self.nodes, **self.settings)
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        self.set_delay(self.delay)

    def set_delay(self, delay):
        """The index server's, from now on."""
        config = self.box.directory / "index1.toml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("repair_delay")]
        config.write_text("\n".join([f'repair_delay = "{delay}"'] + lines) + "\n")
        self.restart_index(signal.SIGTERM)

    def restart_index(self, number):
        pid = self.box.processes()["index1"]["pid"]
        os.kill(pid, number)
        until(lambda: is_gone(pid), "the index server ends")
        self.box.start("index1")
        self.channel.stat()

    def record(self, count, size=2 * MIB, first=0):
        for number in range(first, first + count):
            with open(self.channel / str(number), "xb", buffering=0) as file:
                file.write(content(number, size))
                os.fsync(file.fileno())

    def workers(self, node):
        return [name for name in self.box.processes() if name.startswith(f"{node}.")]

    def kill_node(self, node):
        pids = [self.box.processes()[name]["pid"] for name in self.workers(node)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(is_gone(pid) for pid in pids), f"{node} is dead")

    def stop_node(self, node):
        for name in self.workers(node):
            os.kill(self.box.processes()[name]["pid"], signal.SIGSTOP)

    def start_node(self, node):
        self.box.start(*self.workers(node))

    def repair(self):
        return self.box.reelctl("repair", "status")

    def log(self, *filters):
        return self.box.reelctl("repair", "log", "--all", *filters)["entries"]

    def until_logged(self, node, *events):
        """Of this node these, in this order, maybe with others between them."""
        def is_logged():
            left = list(events)
            for entry in self.log("--node", node):
                if left and entry["event"] == left[0]:
                    left.pop(0)
            return not left
        until(is_logged, f"the log has {events} of {node}", HEALED)

    def node_number(self, name):
        return next(node["node"] for node in self.box.reelctl("node", "list")["nodes"] if node["name"] == name)

    def held(self):
        """Segments in which something lives."""
        return [segment for segment in self.box.segments() if segment["live_bytes"] > 0]

    def is_whole(self, without=None):
        """Every segment has both copies within reach, none of them on that node."""
        segments = self.held()
        number = self.node_number(without) if without else None
        return bool(segments) and all(
            len(segment["copies"]) == 2 and
            all(copy["available"] and copy["node"] != number for copy in segment["copies"]) for segment in segments)

    def expect(self, names, size=2 * MIB):
        """On a mount that knows nothing yet."""
        mount = self.box.another_mount()
        for name in names:
            self.assertEqual((mount.point / "cam1" / str(name)).read_bytes(), content(name, size), name)
        mount.unmount()

    def expect_with_any_node_down(self, nodes, names, size=2 * MIB):
        for node in nodes:
            with self.subTest(down=node):
                self.kill_node(node)
                self.expect(names, size)
                self.start_node(node)
                until(lambda: all(node["state"] == "online" for node in self.box.reelctl("node", "list")["nodes"]
                                  if node["name"] in nodes), "the node is back", HEALED)


class LostNode(RepairTest):
    def test_its_copies_are_made_again_on_the_others(self):
        self.record(24)
        lost = self.node_number("node2")
        on_it = sum(any(copy["node"] == lost for copy in segment["copies"]) for segment in self.held())
        self.assertGreater(on_it, 3)
        self.kill_node("node2")
        began = time.monotonic()
        until(lambda: self.is_whole("node2"), "all segments have two copies on the others", HEALED)
        status = self.repair()
        print(f"\n{on_it} copies of a lost node made again in {time.monotonic() - began:.1f} s, "
              f"{status['copied_bytes'] / MIB:.0f} MiB copied")
        until(lambda: self.repair()["at_risk_bytes"] == 0, "nothing is at risk", HEALED)
        self.assertGreaterEqual(status["copies_made"], on_it - 1)
        def made():
            return [entry for entry in self.log() if entry["event"] == "copy_made" and entry["instead_of"] == "node2"]
        until(lambda: len(made()) == self.repair()["copies_made"], "the log has each of them", HEALED)
        self.assertEqual({entry["segment"] for entry in made()} - {segment["segment"] for segment in self.box.segments()}, set())
        self.expect_with_any_node_down(("node1", "node3"), range(24))
        # The node comes back with blocks that nobody names any more.
        self.start_node("node2")
        until(self.box.blocks_add_up, "they are given back", HEALED)
        self.assertEqual(self.box.faults(), [])
        self.until_logged("node2", "node_away", "copy_made", "node_back", "copy_stale")

    def test_nothing_is_lost_when_who_copies_is_killed_again_and_again(self):
        self.record(24)
        self.kill_node("node2")
        rounds = random.Random(7)
        deadline = time.monotonic() + HEALED * PATIENCE
        kills = 0
        while not self.is_whole("node2"):
            self.assertLess(time.monotonic(), deadline)
            victim = rounds.choice(["index1", "node1.worker1", "node1.worker2", "node3.worker1", "node3.worker2"])
            if kills < 12:
                kills += 1
                if victim == "index1":
                    self.restart_index(signal.SIGKILL)
                else:
                    pid = self.box.processes()[victim]["pid"]
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                        until(lambda: is_gone(pid), f"{victim} is dead")
                        self.box.start(victim)
        print(f"\n{kills} kills")
        self.expect_with_any_node_down(("node1", "node3"), range(24))
        self.start_node("node2")
        until(self.box.blocks_add_up, "no block is leaked", HEALED)
        self.assertEqual(self.box.faults(), [])


class PatientTest(RepairTest):
    delay = "10m"

    def test_a_node_that_returns_is_not_copied(self):
        self.record(16)
        self.kill_node("node2")
        until(lambda: self.repair()["at_risk_bytes"] > 0, "it is seen that copies are missing", HEALED)
        waits_for = self.repair()["waits_for"]
        self.assertIn("node2 to come back", waits_for)
        self.assertIn("waits for node node2", run(REELCTL, "status", "--dir", self.box.directory).stdout)
        self.record(8, first=16)  # on the others meanwhile
        self.start_node("node2")
        until(lambda: self.is_whole(), "its copies are within reach again", HEALED)
        until(lambda: self.repair()["at_risk_bytes"] == 0, "nothing is at risk", HEALED)
        status = self.repair()
        print(f"\n{status['copied_bytes']} bytes copied after the return of a node")
        # At most what the segments that were open when it went away were short of.
        self.assertLessEqual(status["copied_bytes"], 8 * MIB)
        self.expect(range(24))

    def test_repair_now_does_not_wait(self):
        self.record(8)
        self.kill_node("node2")
        until(lambda: self.repair()["at_risk_bytes"] > 0, "it is seen that copies are missing", HEALED)
        time_before = self.repair()["copies_made"]
        self.box.reelctl("repair", "now")
        until(lambda: self.is_whole("node2"), "copies are made without it", HEALED)
        self.assertGreater(self.repair()["copies_made"], time_before)
        self.expect(range(8))

    def test_a_copy_that_is_behind_is_completed(self):
        """A node killed in the middle of appends has less than the others, and what it lacks is all that is copied."""
        completed = 0
        recorded = []
        for attempt in range(12):
            recorder = Recording(self.channel, f"{attempt}-")
            recorder.start()
            until(lambda: len(recorder.written) > 2 + attempt % 4, "it records", HEALED)
            self.stop_node("node2")  # what the others take now it will never have read
            before = len(recorder.written)
            until(lambda: len(recorder.written) > before + 1, "it records without the node", HEALED)
            self.kill_node("node2")
            recorder.end()
            self.assertIsNone(recorder.error)
            recorded += recorder.written
            self.start_node("node2")
            until(lambda: self.is_whole(), "all copies are within reach", HEALED)
            until(lambda: self.box.faults() == [], "nothing is wrong", HEALED)
            completed = self.repair()["copied_bytes"]
            if completed > 0:
                break
        print(f"\n{completed} bytes completed after {attempt + 1} kills of a node in the middle of appends")
        self.assertGreater(completed, 0, "no copy ever was behind")
        self.until_logged("node2", "node_away", "node_back", "copy_behind", "copy_completed")
        self.assertLess(completed, 32 * MIB)
        self.expect_with_any_node_down(("node1", "node2", "node3"), recorded, MIB)


class DrainTest(RepairTest):
    def test_a_node_is_emptied_while_recording_goes_on_and_removed(self):
        self.record(16)
        number = self.node_number("node2")
        refused = run(REELCTL, "node", "remove", "node2", "--dir", self.box.directory, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("drain it first", refused.stderr)
        recorder = Recording(self.channel, "r")
        recorder.start()
        until(lambda: len(recorder.written) > 3, "it records", HEALED)
        drained = self.box.reelctl("node", "drain", "node2")
        self.assertTrue(drained["node"]["leaving"])
        until(lambda: not any(copy["node"] == number for segment in self.box.all_segments() for copy in segment["copies"]),
              "it has no copy any more, nor one of the index's journal", HEALED)
        recorder.end()
        self.assertIsNone(recorder.error)
        print(f"\nlongest write of a MiB with fsync while a node was drained: {recorder.longest * 1e3:.0f} ms")
        self.assertTrue(self.is_whole("node2"))
        self.box.reelctl("node", "remove", "node2")
        self.kill_node("node2")
        nodes = [node["name"] for node in self.box.reelctl("node", "list")["nodes"]]
        self.assertNotIn("node2", nodes)
        self.assertEqual([entry["event"] for entry in self.log() if entry["event"].startswith("node_")][-1], "node_removed")
        self.assertEqual([problem["what"] for problem in self.box.reelctl("status")["problems"]], [])
        self.expect(range(16))
        self.expect(recorder.written, MIB)

    def test_undone_it_takes_copies_again(self):
        self.box.reelctl("node", "drain", "node2")
        self.record(4)
        number = self.node_number("node2")
        self.assertFalse(any(copy["node"] == number for segment in self.held() for copy in segment["copies"]))
        self.box.reelctl("node", "undrain", "node2")
        self.record(24, first=4)
        self.assertTrue(any(copy["node"] == number for segment in self.held() for copy in segment["copies"]))


class Measured(RepairTest):
    delay = "0s"
    settings = {"device_size": "2G", "block_size": "64M"}

    def test_half_a_gib_is_healed_soon(self):
        self.record(16, size=32 * MIB)
        # What is open is not sealed before its writer goes on.
        lost = self.node_number("node2")
        bytes_on_it = sum(segment["length"] for segment in self.held()
                          if any(copy["node"] == lost for copy in segment["copies"]))
        began = time.monotonic()
        self.kill_node("node2")
        until(lambda: self.is_whole("node2"), "all is whole", HEALED)
        took = time.monotonic() - began
        print(f"\n{bytes_on_it / MIB:.0f} MiB of a lost node healed in {took:.1f} s: "
              f"{bytes_on_it / MIB / took * 1:.0f} MiB/s, seen from the moment it was killed")
        self.expect(range(16), 32 * MIB)


if __name__ == "__main__":
    unittest.main()
