"""Copies are moved until nodes and devices are about equally full, while recording goes on and whatever dies meanwhile."""
import os
import signal
import time
import unittest

from harness import Box, PATIENCE, is_gone, until
from repair_test import HEALED, MIB, Recording, content

NEAR = 0.10  # of what is full, while recording goes on; copies are moved until it is 0.03
PAUSE = 0.2  # seconds between two files of a MiB: the devices are not to become full meanwhile
STALL = 1.0  # seconds that one write and its fsync may take at most: no node fails


class Rebalancing(unittest.TestCase):
    nodes = 3
    rate = "32M"
    settings = {"device_size": "512M"}

    def setUp(self):
        self.box = Box(nodes=self.nodes, **self.settings)
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        self.names = []
        self.set_rate(self.rate)

    def set_rate(self, rate):
        config = self.box.directory / "index1.toml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("rebalance_rate")]
        config.write_text("\n".join([f'rebalance_rate = "{rate}"'] + lines) + "\n")
        pid = self.box.processes()["index1"]["pid"]
        os.kill(pid, signal.SIGTERM)
        until(lambda: is_gone(pid), "the index server ends")
        self.box.start("index1")
        self.channel.stat()

    def workers(self, node):
        return [name for name in self.box.processes() if name.startswith(f"{node}.")]

    def kill_node(self, node):
        pids = [self.box.processes()[name]["pid"] for name in self.workers(node)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(is_gone(pid) for pid in pids), f"{node} is dead")

    def record(self, count, size=2 * MIB):
        for _ in range(count):
            name = str(len(self.names))
            with open(self.channel / name, "xb", buffering=0) as file:
                file.write(content(name, size))
                os.fsync(file.fileno())
            self.names.append(name)

    def rebalance(self):
        return self.box.reelctl("repair", "status")["rebalance"]

    def fills(self, devices=False):
        return {(fill["node_name"], fill["device"]): fill["used_blocks"] / fill["blocks"]
                for fill in self.rebalance()["fills"] if bool(fill["device"]) == devices}

    def are_near(self, count, near=NEAR, devices=False):
        fills = self.fills(devices).values()
        return len(fills) == count and max(fills) - min(fills) <= near

    def events(self):
        return [entry["event"] for entry in self.box.reelctl("repair", "log", "--all")["entries"]]

    def expect(self, names=None, size=2 * MIB):
        """On a mount that knows nothing yet."""
        mount = self.box.another_mount()
        for name in self.names if names is None else names:
            self.assertEqual((mount.point / "cam1" / name).read_bytes(), content(name, size), name)
        mount.unmount()

    def is_settled(self):
        """Every segment in which something lives has two copies, and every block is somebody's."""
        segments = [segment for segment in self.box.segments() if segment["live_bytes"] > 0]
        return bool(segments) and all(
            len(segment["copies"]) == 2 and all(copy["state"] in ("open", "sealed") for copy in segment["copies"])
            for segment in segments)


class ANodeIsAdded(Rebalancing):
    """Two nodes are filled before the third comes."""

    def setUp(self):
        super().setUp()
        self.kill_node("node3")
        until(lambda: len(self.fills()) == 2, "node3 is known to be away")
        self.record(120)
        self.assertGreater(min(self.fills().values()), 0.45)

    def test_it_takes_over_its_share_while_recording_goes_on(self):
        recording = Recording(self.channel, "more", PAUSE)
        recording.start()
        try:
            began = time.monotonic()
            self.box.start(*self.workers("node3"))
            until(lambda: self.rebalance()["active"], "copies are being moved", HEALED)
            until(lambda: self.rebalance()["expected_ms"] > 0, "an end is expected", HEALED)
            until(lambda: self.are_near(3), "all nodes are about equally full", HEALED)
            until(lambda: not self.rebalance()["active"], "nothing is moved any more", HEALED)
            took = time.monotonic() - began
        finally:
            recording.end()
        status = self.rebalance()
        print(f"\n{status['moved_copies']} copies, {status['moved_bytes'] / MIB:.0f} MiB moved in {took:.1f} s while "
              f"{len(recording.written)} files were written, the longest in {recording.longest:.2f} s")
        self.assertIsNone(recording.error)
        self.assertGreater(len(recording.written), 10)
        self.assertLess(recording.longest, STALL * PATIENCE)
        self.assertGreater(status["moved_copies"], 8)
        until(lambda: self.events().count("copy_moved") == status["moved_copies"], "the log has every move")
        events = self.events()
        for event in ("rebalance_began", "copy_moved", "rebalance_ended"):
            self.assertIn(event, events)
        self.assertLess(events.index("rebalance_began"), events.index("copy_moved"))
        self.assertNotIn("copy_failed", events)
        self.expect()
        self.expect(recording.written, MIB)
        until(self.is_settled, "every segment has its copies")
        self.assertEqual(self.box.faults(), [])
        until(self.box.blocks_add_up, "what was moved was given back")
        # What was moved is right where it is now: the other two cannot help.
        moved = {entry["segment"] for entry in self.box.reelctl("repair", "log", "--all")["entries"]
                 if entry["event"] == "copy_moved"}
        self.assertTrue(moved)
        self.kill_node("node1")
        self.expect()
        self.box.start(*self.workers("node1"))
        # Hysteresis: nothing swings back.
        until(lambda: len(self.fills()) == 3, "node1 is back")
        self.assertEqual(self.rebalance()["moved_copies"], status["moved_copies"])


class ANodeIsAddedAndDies(ANodeIsAdded):
    rate = "8M"

    def test_it_takes_over_its_share_while_recording_goes_on(self):
        """In the middle of it the new node is killed, and comes back."""
        recording = Recording(self.channel, "more", PAUSE)
        recording.start()
        try:
            self.box.start(*self.workers("node3"))
            until(lambda: self.rebalance()["moved_copies"] >= 3 and self.rebalance()["under_way"], "it is in the middle", HEALED)
            self.kill_node("node3")
            until(lambda: len(self.fills()) == 2, "node3 is known to be away", HEALED)
            self.expect()
            self.box.start(*self.workers("node3"))
            until(lambda: self.are_near(3), "all nodes are about equally full", HEALED)
        finally:
            recording.end()
        self.assertIsNone(recording.error)
        self.assertGreater(len(recording.written), 10)
        self.assertLess(recording.longest, STALL * PATIENCE)
        self.expect()
        self.expect(recording.written, MIB)
        until(self.is_settled, "every segment has its copies", HEALED)
        until(lambda: not self.rebalance()["active"], "nothing is moved any more", HEALED)
        self.assertEqual(self.box.faults(), [])
        until(self.box.blocks_add_up, "what was moved was given back")


class ADeviceIsAdded(Rebalancing):
    nodes = 2

    def test_it_takes_from_the_other_device_of_its_node(self):
        self.record(120)
        path = self.box.local / "device"
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 512 << 20)
        recording = Recording(self.channel, "more", PAUSE)
        recording.start()
        try:
            self.box.reelctl("device", "add", "node1", path)
            until(lambda: self.are_near_on("node1"), "both devices are about equally full", HEALED)
            until(lambda: not self.rebalance()["active"], "nothing is moved any more", HEALED)
        finally:
            recording.end()
        self.assertIsNone(recording.error)
        self.assertLess(recording.longest, STALL * PATIENCE)
        moved = self.rebalance()["moved_copies"]
        self.assertGreater(moved, 8)
        until(self.is_settled, "every segment has its copies", HEALED)
        self.assertEqual(self.box.faults(), [])
        until(self.box.blocks_add_up, "what was moved was given back")
        self.kill_node("node2")
        self.expect()
        self.expect(recording.written, MIB)
        self.box.start(*self.workers("node2"))

    def are_near_on(self, node):
        fills = [fill for (name, _), fill in self.fills(devices=True).items() if name == node]
        return len(fills) == 2 and max(fills) - min(fills) <= NEAR


if __name__ == "__main__":
    unittest.main()
