"""Every process of a box killed at once, in the middle of recording."""
import hashlib
import os
import random
import subprocess
import sys
import threading
import unittest

import harness


def block_at(seed, offset, size):
    """Bytes that depend on file and offset alone, so that what was read can be checked without keeping it."""
    return random.Random(seed * 1_000_003 + offset).randbytes(size)


class Recorder(threading.Thread):
    """Appends and fsyncs, and remembers what it was promised, until the mount fails."""

    def __init__(self, path, seed):
        super().__init__(daemon=True)
        self.path, self.seed = path, seed
        self.promised = 0  # bytes that fsync has acknowledged
        self.closed = []   # clips whose close was acknowledged, with their digests
        self.start()

    def run(self):
        try:
            rng = random.Random(self.seed)
            with open(self.path, "wb", buffering=0) as file:
                offset, clip = 0, 0
                while True:
                    for _ in range(rng.randrange(1, 8)):
                        size = rng.choice([700, 4096, 65536, 300_000])
                        file.write(block_at(self.seed, offset, size)[:size])
                        offset += size
                        self.sizes.append(size)
                    os.fsync(file.fileno())
                    self.promised = offset
                    body = rng.randbytes(5000)
                    name = f"{self.path}.{clip}"
                    with open(name, "wb") as short:
                        short.write(body)
                        short.flush()
                        os.fsync(short.fileno())
                    self.closed.append((name, hashlib.sha256(body).hexdigest()))
                    clip += 1
        except OSError:
            pass

    @property
    def sizes(self):
        return self.__dict__.setdefault("_sizes", [])

    def verify(self, test):
        with open(self.path, "rb", buffering=0) as file:
            offset = 0
            for size in list(self.sizes):
                if offset + size > self.promised:
                    break
                test.assertEqual(os.pread(file.fileno(), size, offset), block_at(self.seed, offset, size),
                                 f"{self.path} at {offset}")
                offset += size
            test.assertEqual(offset, self.promised)
        for name, want in self.closed:
            with open(name, "rb") as file:
                test.assertEqual(hashlib.sha256(file.read()).hexdigest(), want, name)


def blocks_add_up(box):
    """True when every block of the devices is free or belongs to a copy that the index knows; else why not."""
    devices = box.ask("device", "list")["devices"]
    segments = box.ask("segment", "list")["segments"]
    copies = {}
    for segment in segments:
        for copy in segment["copies"]:
            copies[copy["device"]] = copies.get(copy["device"], 0) + 1
    wrong = []
    for device in devices:
        used = device["blocks"] - device["free_blocks"]
        if used != copies.get(device["device"], 0):
            wrong.append(f"device {device['device']}: {used} blocks used, {copies.get(device['device'], 0)} copies")
    return wrong


class PowerCut(harness.BoxTest):
    ROUNDS = int(os.environ.get("REELFS_ROUNDS", "3"))

    def test_everything_fsynced_survives_the_death_of_every_process(self):
        recorders = []
        for round_number in range(self.ROUNDS):
            fresh = []
            for camera in range(4):
                fresh.append(Recorder(str(self.channel / f"r{round_number}c{camera}"), round_number * 10 + camera + 1))
            harness.until(lambda: all(len(r.closed) > 5 and r.promised > 500_000 for r in fresh), "something recorded")
            self.box.kill(self.box.pids().values())
            for recorder in fresh:
                recorder.join(timeout=60)
                self.assertFalse(recorder.is_alive(), "a recorder hangs on the dead mount")
            recorders += fresh
            self.box.start()
            with open(self.channel / "at-once", "wb", buffering=0) as file:
                file.write(b"accepted")
                os.fsync(file.fileno())
            for recorder in recorders:
                recorder.verify(self)
            for folder, _, names in os.walk(self.channel):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        while file.read(1 << 20):
                            pass
        harness.until(lambda: not blocks_add_up(self.box), f"blocks add up: {blocks_add_up(self.box)}", 60)

    def test_space_comes_back(self):
        free = lambda: sum(d["free_blocks"] for d in self.box.ask("device", "list")["devices"])
        before = free()
        for number in range(3):
            (self.channel / str(number)).write_bytes(os.urandom(70 << 20))
        self.assertLess(free(), before)
        for number in range(3):
            os.unlink(self.channel / str(number))
        # The writer keeps a current grant and a spare on two nodes.
        harness.until(lambda: free() >= before - 4, "freed blocks")
        harness.until(lambda: not blocks_add_up(self.box), "blocks add up")

    def test_index_server_restarts_under_a_mount(self):
        (self.channel / "before").write_bytes(b"1" * 100_000)
        names = [name for name in self.box.pids("index")]
        self.box.kill(self.box.pids("index").values())
        self.box.start(*names)
        self.assertEqual((self.channel / "before").read_bytes(), b"1" * 100_000)
        (self.channel / "after").write_bytes(b"2" * 100_000)
        self.assertEqual((self.channel / "after").read_bytes(), b"2" * 100_000)

    def test_worker_restarts_under_a_mount(self):
        (self.channel / "before").write_bytes(b"1" * 300_000)
        for name, pid in sorted(self.box.pids("node").items()):
            self.box.kill([pid])
            self.box.start(name)
            self.assertEqual((self.channel / "before").read_bytes(), b"1" * 300_000, name)
            (self.channel / f"after-{name}").write_bytes(b"2" * 300_000)
            self.assertEqual((self.channel / f"after-{name}").read_bytes(), b"2" * 300_000, name)


if __name__ == "__main__":
    unittest.main()
