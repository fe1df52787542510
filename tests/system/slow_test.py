"""A disk that becomes slow is noticed by its latency against that of others, told of, avoided, and forgiven."""
import os
import pathlib
import sys
import time
import unittest

from harness import Box, PATIENCE, until
from repair_test import MIB, Recording, content

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "nemesis"))
from cluster import Disk  # noqa: E402

SLOW_MS = 200  # each read, write and sync in addition: less than what makes a writer leave a node at once
NOTICED = 10.0  # seconds
FORGIVEN = 40.0


class SlowDisk(unittest.TestCase):
    """Three nodes, two copies. The only disk of node1 becomes slow."""

    def setUp(self):
        self.box = Box(nodes=3, device_size="512M")
        self.addCleanup(self.box.close)
        (self.box.local / "log").mkdir()
        self.disk = Disk(self.box.local, "disk", 512 << 20)
        self.addCleanup(self.disk.close)
        own = next(device for device in self.box.devices() if device["node"] == self.number("node1"))
        self.box.reelctl("device", "add", "node1", self.disk.path)
        self.box.reelctl("device", "remove", "node1", own["path"])
        self.channels = 0

    def number(self, name):
        return next(node["node"] for node in self.nodes() if node["name"] == name)

    def nodes(self):
        return self.box.reelctl("node", "list")["nodes"]

    def is_slow(self, name="node1"):
        return next(node["slow"] for node in self.nodes() if node["name"] == name)

    def new_segments(self, count):
        """Those of channels that are recorded to for the first time: the ones in use, and the spares."""
        channels = [f"new{self.channels + number}" for number in range(count)]
        self.channels += count
        for name in channels:
            with open(self.box.channel(name) / "file", "xb", buffering=0) as file:
                file.write(content(name, MIB))
                os.fsync(file.fileno())
        segments = [segment for segment in self.box.segments() if segment["channel_name"] in channels]
        self.assertGreaterEqual(len(segments), count)
        return segments

    def on_node1(self, segments):
        node1 = self.number("node1")
        return [segment for segment in segments if any(copy["node"] == node1 for copy in segment["copies"])]

    def test_it_is_avoided_told_of_and_forgiven(self):
        recording = Recording(self.box.channel("cam1"), "file")
        recording.start()
        try:
            until(lambda: self.on_node1(self.new_segments(2)), "node1 gets segments")
            self.assertFalse(any(node["slow"] for node in self.nodes()))
            self.disk.set(f"slow {SLOW_MS}")
            began = time.monotonic()
            # Something is written to it: by the recording, or by those.
            while not self.is_slow() and time.monotonic() < began + NOTICED * PATIENCE:
                self.new_segments(1)
            took = time.monotonic() - began
            self.assertTrue(self.is_slow(), "it is noticed")
            print(f"\nslow disk noticed in {took:.1f} s")
            for others in ("node2", "node3"):
                self.assertFalse(self.is_slow(others))
            problems = [problem for problem in self.box.reelctl("status")["problems"] if " is slow: " in problem["what"]]
            self.assertEqual(len(problems), 1)
            self.assertIn(str(self.disk.path), problems[0]["what"])
            shown = next(device for device in self.box.reelctl("node", "show", "node1")["devices"]
                         if device["path"] == str(self.disk.path))
            self.assertIn("slow for", shown["slow"])
            self.assertGreater(max(shown["write_us"], shown["flush_us"]), 1000 * SLOW_MS / 2)
            new = self.new_segments(6)
            self.assertTrue(all(len(segment["copies"]) == 2 for segment in new), "never fewer copies for it")
            now_on_it = [segment for segment in self.on_node1(new) if segment["live_bytes"] > 0]
            self.assertEqual(now_on_it, [], "what is recorded now is elsewhere")
            self.disk.set("ok")
            until(lambda: not self.is_slow(), "it is forgiven", FORGIVEN)
            until(lambda: self.on_node1(self.new_segments(2)), "it gets segments again")
        finally:
            recording.end()
        self.assertIsNone(recording.error)
        until(lambda: {"device_slow", "device_fast"} <=
              {entry["event"] for entry in self.box.reelctl("repair", "log", "--node", "node1")["entries"]}, "both are in the log")
        mount = self.box.another_mount()
        for name in recording.written:
            self.assertEqual((mount.point / "cam1" / name).read_bytes(), content(name, MIB), name)
        mount.unmount()

    def test_where_there_is_no_other_it_is_used(self):
        recording = Recording(self.box.channel("cam1"), "file")
        recording.start()
        try:
            self.disk.set(f"slow {SLOW_MS}")
            began = time.monotonic()
            while not self.is_slow() and time.monotonic() < began + NOTICED * PATIENCE:
                self.new_segments(1)
            self.assertTrue(self.is_slow())
            self.box.kill(keep=[name for name in self.box.processes() if not name.startswith("node3.")])
            until(lambda: next(node["state"] for node in self.nodes() if node["name"] == "node3") == "offline", "node3 is away")
            new = self.new_segments(2)
            in_use = [segment for segment in new if segment["live_bytes"] > 0]
            self.assertTrue(in_use)
            self.assertEqual(self.on_node1(in_use), in_use, "two copies need it")
            self.assertTrue(all(len(segment["copies"]) == 2 for segment in in_use))
        finally:
            recording.end()
        self.assertIsNone(recording.error)
        self.box.start()


if __name__ == "__main__":
    unittest.main()
