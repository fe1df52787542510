"""Bits that rot while the box runs: they are read around, found by scrubbing or by a reader, and repaired from another copy."""
import errno
import os
import random
import struct
import threading
import time
import unittest

from harness import Box, REELCTL, run, until

PAGE = 4096
CHUNK = 64 << 10


class Device:
    """A device file, behind the node's back."""

    def __init__(self, path):
        self.path = path
        page = self.read(0, PAGE)
        self.block_bytes, = struct.unpack_from("<Q", page, 48)
        self.data_offset, = struct.unpack_from("<Q", page, 72)

    def read(self, offset, size):
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def write(self, offset, data):
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def flip(self, offset):
        self.write(offset, bytes([self.read(offset, 1)[0] ^ 0x10]))

    def place(self, block):
        return self.data_offset + block * self.block_bytes


class Record:
    def __init__(self, segment, offset, header, payload):
        self.segment, self.offset, self.header, self.payload = segment, offset, header, payload


class Scrub(unittest.TestCase):
    box_settings = {"nodes": 3, "copies": 2}

    def setUp(self):
        self.random = random.Random(17)
        self.box = Box(**self.box_settings)
        self.addCleanup(self.box.close)
        self.data = {}
        for name in ("cam1", "cam2", "cam3"):
            channel = self.box.channel(name)
            for number in range(3):
                self.record(channel / f"{number}", self.random.randrange(3 << 20, 5 << 20))
        self.devices = {device["device"]: Device(device["path"]) for device in self.box.devices()}
        self.good = {}

    def record(self, path, size):
        self.data[str(path.relative_to(self.box.mount))] = data = self.random.randbytes(size)
        with open(path, "wb", buffering=0) as file:
            for at in range(0, size, 300_000):
                file.write(data[at:at + 300_000])
            os.fsync(file.fileno())

    def copies(self):
        """(segment, node) -> (device, where its block is), of segments that nobody writes any more."""
        found = {}
        for segment in self.box.segments():
            for copy in segment["copies"]:
                device = self.devices[copy["device"]]
                found[segment["segment"], copy["node"]] = device, device.place(copy["block"])
        return found

    def records(self, segment, device, place):
        block, at, found = device.read(place, device.block_bytes), 0, []
        while at + 128 <= len(block) and block[at:at + 4] == b"RLRC":
            header, payload = struct.unpack_from("<II", block, at + 8)
            if struct.unpack_from("<QQQ", block, at + 16)[0] != segment:
                break
            found.append(Record(segment, at, header, payload))
            at += -(-(header + payload) // 64) * 64
            if block[at:at + 4] != b"RLRC":
                at = -(-at // PAGE) * PAGE
        return found

    def close_all(self):
        """Segments without a writer, so that nothing changes behind the test's back."""
        run("umount", self.box.mount)
        self.box.start()
        until(lambda: all(segment["state"] in ("sealed", "unfilled") for segment in self.box.segments()), "no segment is open", 30)

    def damage(self, copy, record, at):
        device, place = self.copies_now[copy]
        if copy not in self.good:
            self.good[copy] = device.read(place, device.block_bytes)
        device.flip(place + record.offset + at)

    def is_whole(self, copy):
        device, place = self.copies_now[copy]
        return device.read(place, device.block_bytes) == self.good[copy]

    def rot(self):
        """In many records of two nodes' devices, never in both copies of one. @return how many"""
        self.copies_now = self.copies()
        rotten = self.random.sample(sorted({node for _, node in self.copies_now}), 2)
        count = 0
        for segment in sorted({segment for segment, _ in self.copies_now}):
            nodes = [node for of, node in self.copies_now if of == segment]
            some = self.records(segment, *self.copies_now[segment, nodes[0]])
            for record in self.random.sample(some, min(4, len(some))):
                node = self.random.choice(nodes)
                if node not in rotten:
                    continue
                at = self.random.choice((5, record.header + self.random.randrange(record.payload)))
                self.damage((segment, node), record, at)
                count += 1
        self.assertGreater(count, 10)
        self.assertEqual({node for _, node in self.good}, set(rotten))
        return count

    def read_all(self, mount):
        for name, data in self.data.items():
            self.assertEqual((mount / name).read_bytes(), data, name)

    def status(self):
        return self.box.reelctl("scrub", "status")

    def test_two_of_three_nodes_rot(self):
        self.close_all()
        count = self.rot()
        mount = self.box.another_mount()
        failures = []

        def read():
            try:
                self.read_all(mount)
            except (AssertionError, OSError) as failure:
                failures.append(failure)

        reader = threading.Thread(target=read)
        reader.start()
        self.assertEqual(len(self.box.reelctl("scrub", "start")["nodes"]), 3)
        reader.join()
        self.assertEqual(failures, [], "meanwhile everything reads right")
        until(lambda: all(device["ordered_since"] is None for device in self.status()["devices"]), "the pass is over", 60)
        until(lambda: self.status()["pending_ranges"] == 0, "everything is repaired", 30)
        for copy in self.good:
            self.assertTrue(self.is_whole(copy), f"segment {copy[0]} on node {copy[1]} is as it was, to the bit")
        status = self.status()
        self.assertEqual(status["damages"], [])
        self.assertEqual(status["unrepairable_ranges"], 0)
        self.assertGreaterEqual(status["repaired_ranges"], count / 2, "neighbours may count as one")
        self.assertGreaterEqual(status["rewritten_bytes"], PAGE * count / 2)
        self.assertTrue(all(device["percent"] == 100 for device in status["devices"]), status["devices"])
        self.assertTrue(all(device["all_verified_since"] for device in status["devices"]))
        self.assertEqual(self.box.faults(), [])
        mount.unmount()
        names = sorted(name for name in self.box.processes() if name.startswith("node"))
        for node in ("node1", "node2", "node3"):
            self.box.kill(keep=("mount", "index1", *[name for name in names if not name.startswith(node + ".")]))
            alone = self.box.another_mount()
            self.read_all(alone)
            alone.unmount()
            self.box.start()

    def test_what_a_reader_meets_is_repaired_within_a_second(self):
        self.close_all()
        self.copies_now = self.copies()
        some, segment = max(((self.records(segment, *place), segment) for (segment, _), place in self.copies_now.items()),
                            key=lambda found: len(found[0]))
        nodes = [node for of, node in self.copies_now if of == segment]
        self.assertGreater(len(some), 1)
        # Whichever copy is read, there is something to be met.
        self.damage((segment, nodes[0]), some[0], some[0].header + 3)
        self.damage((segment, nodes[1]), some[-1], some[-1].header + 3)
        mount = self.box.another_mount()
        self.read_all(mount)
        met = time.monotonic()
        until(lambda: self.status()["repaired_ranges"] > 0 and self.status()["pending_ranges"] == 0, "it is repaired")
        self.assertLess(time.monotonic() - met, 1)
        self.assertTrue(any(self.is_whole(copy) for copy in self.good))
        self.box.reelctl("scrub", "start")
        until(lambda: all(self.is_whole(copy) for copy in self.good), "what nobody met is found by the scrubber", 60)

    def test_what_is_bad_in_every_copy_is_named_and_costs_no_more_than_itself(self):
        self.close_all()
        self.copies_now = self.copies()
        segment = max(segment for segment, _ in self.copies_now)
        nodes = [node for of, node in self.copies_now if of == segment]
        record = max(self.records(segment, *self.copies_now[segment, nodes[0]]), key=lambda record: record.payload)
        self.assertGreater(record.payload, 2 * CHUNK)
        for node in nodes:
            self.damage((segment, node), record, record.header + CHUNK + 7 * (1 + node))
        damaged = {copy: self.copies_now[copy][0].read(self.copies_now[copy][1], 4 << 20) for copy in self.good}
        self.box.reelctl("scrub", "start")
        until(lambda: self.status()["unrepairable_ranges"] == 2, "both copies are known to be bad", 60)
        status = self.status()
        self.assertEqual(status["pending_ranges"], 0)
        self.assertTrue(all(damage["unrepairable"] for damage in status["damages"]), status["damages"])
        lost = {(piece["path"].lstrip("/"), piece["offset"], piece["length"])
                for damage in status["damages"] for piece in damage["files"]}
        self.assertEqual(len(lost), 1, status["damages"])
        (name, offset, length), = lost
        self.assertEqual(length, CHUNK)
        self.assertIn("damaged in every copy", str(self.box.reelctl("status")["problems"]))
        for copy, bytes_then in damaged.items():
            device, place = self.copies_now[copy]
            self.assertEqual(device.read(place, len(bytes_then)), bytes_then, "nothing was overwritten")
        mount = self.box.another_mount()
        with open(mount / name, "rb", buffering=0) as file:
            for at in range(0, len(self.data[name]), PAGE):
                is_lost = offset <= at + PAGE - 1 and at < offset + length
                try:
                    got = os.pread(file.fileno(), PAGE, at)
                    self.assertEqual(got, self.data[name][at:at + PAGE], at)
                except OSError as error:
                    self.assertEqual(error.errno, errno.EIO)
                    self.assertTrue(is_lost, f"{at} is not lost: {offset} to {offset + length} is")
                    continue
                self.assertFalse(is_lost, at)
        for other in self.data:
            if other != name:
                self.assertEqual((mount / other).read_bytes(), self.data[other], other)
        run(REELCTL, "scrub", "status", "--dir", self.box.directory)


if __name__ == "__main__":
    unittest.main()
