"""How soon a node serves, and what memory it needs, with devices far larger than those of other tests: sparse files."""
import os
import pathlib
import signal
import struct
import sys
import time
import unittest

from harness import Box, PATIENCE, is_gone, run, until

PAGE = 4096
DESCRIPTOR = 128
MIB, GIB, TB = 1 << 20, 1 << 30, 10**12
STARTED = 2.0  # seconds that a start with 100,000 blocks takes at most


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def descriptor(device, block, segment, length):
    """A sealed block's, without its checksum: docs/formats/device.md."""
    return struct.pack("<4sBBBBIIQQQQQQQqI40x", b"RLBD", 1, 2, 0, 0, device, block, segment, 1, 2, length, 0, 0, 1, 0, 1)


def sealed_table(device, blocks, first_segment, length):
    """A block table in which every block is sealed. The checksum of data of one length is affine: what a byte adds to it is
    looked up and not computed a hundred thousand times."""
    places = {}  # of the bytes that differ -> what each value adds
    plain = bytes(descriptor(device, 0, 0, length))
    base = crc32c(plain)
    for at in (*range(12, 16), *range(16, 24)):
        places[at] = [crc32c(plain[:at] + bytes([value]) + plain[at + 1:]) ^ base for value in range(256)]
    table = bytearray()
    for block in range(blocks):
        entry = descriptor(device, block, first_segment + block, length)
        crc = base
        for at, adds in places.items():
            crc ^= adds[entry[at]]
        table += entry + struct.pack("<I", crc)
    return table


def area_bytes(blocks):
    """Of a device's shared memory, without its fixed part: docs/formats/shm.md."""
    return 112 * blocks + 32 * -(-blocks // 32) + 4 * (1 << (blocks - 1).bit_length())


class Startup(unittest.TestCase):
    def make_box(self, **settings):
        self.box = Box(**settings)
        self.addCleanup(self.box.close)

    def add(self, path, size):
        with open(path, "wb") as file:
            file.truncate(size)
        self.path = path
        return self.box.reelctl("device", "add", "node1", path)["device"]

    def device(self):
        return next(device for device in self.box.devices() if device["path"] == str(self.path))

    def end_node1(self, number):
        pids = [process["pid"] for name, process in self.box.processes().items() if name.startswith("node1.")]
        for pid in pids:
            os.kill(pid, number)
        until(lambda: all(is_gone(pid) for pid in pids), "the node is down", 60)
        until(lambda: self.device()["state"] == "offline", "the index knows")

    def areas(self):
        cluster = self.box.reelctl("status")["cluster"]
        return {path.name: path.stat().st_size for path in pathlib.Path("/dev/shm").glob(f"reelfs-{cluster[:8]}-node1-*")}

    def time_to_serve(self):
        begun = time.monotonic()
        self.box.start("node1.worker1", "node1.worker2")
        until(lambda: self.device()["state"] == "online", "the device is online", 60)
        return time.monotonic() - begun

    def test_a_device_of_a_hundred_thousand_blocks(self):
        self.make_box(device_size="64M", block_size="4M")
        added = self.add(self.box.local / "large", 100_016 * 4 * MIB)
        self.assertGreaterEqual(added["blocks"], 100_000)
        table = sealed_table(added["device"], added["blocks"], 1 << 20, 4 * MIB)
        took = {}
        for how, number in (("after it was stopped", signal.SIGTERM), ("beside a dead instance's shared memory", signal.SIGKILL)):
            self.end_node1(number)
            self.assertEqual(bool(self.areas()), number == signal.SIGKILL)
            with open(self.path, "r+b") as file:
                file.seek(PAGE)
                file.write(table)
            took[how] = self.time_to_serve()
            self.assertIn(f"blocks={added['blocks']} free=0 open=0 sealed={added['blocks']}",
                          "".join(log.read_text() for log in (self.box.directory / "log").glob("node1.*.log")))
        print(f"{added['blocks']} blocks: " + ", ".join(f"{seconds:.2f} s {how}" for how, seconds in took.items()),
              file=sys.stderr)
        self.assertLess(max(took.values()), STARTED * PATIENCE, took)

    def test_a_device_of_24_tb(self):
        self.make_box(device_size="512M", block_size="64M")
        # Not every file system has files of that size; this one does.
        tmpfs = self.box.local / "tmpfs"
        tmpfs.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=256M", "tmpfs", tmpfs)
        added = self.add(tmpfs / "disk", 24 * TB)
        self.assertEqual(added["blocks"], (24 * TB - 50 * MIB) // (64 * MIB))
        self.end_node1(signal.SIGKILL)
        took = self.time_to_serve()
        area = next(size for name, size in self.areas().items() if name.endswith(f"-dev-{added['device']}"))
        computed = area_bytes(added["blocks"])
        print(f"{added['blocks']} blocks: {took:.2f} s, {area / MIB:.1f} MiB of shared memory, {computed / MIB:.1f} computed",
              file=sys.stderr)
        self.assertLess(abs(area - computed), 64 << 10)
        self.assertLess(took, 2 * STARTED * PATIENCE)
        content = os.urandom(3 * MIB)
        channel = self.box.channel("cam1")
        (channel / "file").write_bytes(content)
        self.assertEqual((channel / "file").read_bytes(), content)


if __name__ == "__main__":
    unittest.main()
