"""Devices that are added, fail, vanish, come back and are removed while the box records."""
import errno
import os
import pathlib
import random
import subprocess
import threading
import unittest

from harness import Box, BoxTest, REELCTL, run, until


class Devices(BoxTest):
    box_options = ("--devices", "2")
    box_settings = {"device_size": "512M"}

    def device(self, path):
        found = [device for device in self.box.devices() if device["path"] == str(path)]
        return found[0] if found else {"state": "absent", "reason": ""}

    def degraded_by(self, number):
        return [segment["segment"] for segment in self.box.reelctl("segment", "list", "--degraded")["segments"]
                if segment["channel_name"] != "(journal)"
                and any(copy["device"] == number and not copy["available"] for copy in segment["copies"])]

    def is_(self, state, path):
        return lambda: self.device(path)["state"] == state

    def adds_up(self, path):
        """As Box.blocks_add_up, for a device alone: one that is out of service has no free blocks to tell."""
        device = self.device(path)
        used = sum(copy["device"] == device["device"] for segment in self.box.all_segments() for copy in segment["copies"])
        return device["free_blocks"] + used == device["blocks"]

    def refused(self, *arguments):
        done = run(REELCTL, *arguments, "--dir", self.box.directory, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stderr

    def backing(self, name, size=64 << 20):
        path = self.box.local / name
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def loop(self, backing):
        try:
            path = pathlib.Path(run("losetup", "--show", "-f", backing).stdout.strip())
        except (AssertionError, FileNotFoundError):
            self.skipTest("loop devices cannot be made here")
        self.addCleanup(lambda: subprocess.run(["losetup", "-d", path], stderr=subprocess.DEVNULL, check=False))
        return path

    def record(self, name, stop):
        """Writes until it is stopped."""
        with open(self.channel / name, "wb", buffering=0) as file:
            while not stop.is_set():
                file.write(os.urandom(64 << 10))
                stop.wait(0.02)

    def recording(self, name):
        stop = threading.Event()
        thread = threading.Thread(target=self.record, args=(name, stop))
        thread.start()

        def end():
            stop.set()
            thread.join()
        return end

    def test_a_device_that_fails_is_ejected_and_recording_goes_on(self):
        # A disk of 1 GiB, of which the file system below has only a part: then its writes fail.
        tmpfs = self.box.local / "tmpfs"
        tmpfs.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", tmpfs)
        self.addCleanup(lambda: run("umount", "-l", tmpfs))
        loop = self.loop(self.backing("tmpfs/failing", 1 << 30))
        self.box.reelctl("device", "add", "node1", loop)
        self.assertEqual(self.device(loop)["state"], "online")
        end = self.recording("going-on")
        try:
            until(self.is_("failed", loop), "it is ejected")
            self.assertIn("writing", self.device(loop)["reason"])
        finally:
            end()
        problems = [problem["what"] for problem in self.box.reelctl("status")["problems"]]
        self.assertTrue(any(str(loop) in what for what in problems), problems)
        (self.channel / "after").write_bytes(b"x" * 300_000)
        self.assertEqual((self.channel / "after").read_bytes(), b"x" * 300_000)
        self.box.reelctl("device", "remove", "node1", loop, "--force")
        self.assertEqual(self.device(loop)["state"], "removed")

    def test_a_loop_device_is_attached_and_detached_under_load(self):
        end = self.recording("going-on")
        try:
            for number in range(3):
                loop = self.loop(self.backing(f"plugged{number}", 256 << 20))
                self.assertEqual(self.box.reelctl("device", "add", "node1", loop)["device"]["state"], "online")
                free = self.device(loop)["free_blocks"]
                written = 0
                while self.device(loop)["free_blocks"] == free:  # the largest devices come first
                    (self.channel / f"{number}.{written}").write_bytes(os.urandom(4 << 20))
                    written += 1
                    self.assertLess(written, 300, "blocks are taken of it")
                self.box.reelctl("device", "remove", "node1", loop, "--force")
                self.assertEqual(self.device(loop)["state"], "removed")
                run("losetup", "-d", loop)
                # Only when no process of the node has it open any more is it gone.
                until(lambda gone=loop: str(gone) not in run("losetup", "--list", "--noheadings", "-O", "NAME").stdout.split(),
                      "every process has let go of it", 10)
        finally:
            end()
        self.assertEqual(self.box.faults(), [])

    def test_a_device_that_vanishes_comes_back_with_what_it_had(self):
        device = self.box.directory / "node1.dev1"
        self.assertEqual(self.device(device)["state"], "online")
        known = self.device(device)["device"]
        for number in range(4):
            (self.channel / f"{number}").write_bytes(bytes([number]) * (5 << 20))
        hidden = device.with_suffix(".hidden")
        device.rename(hidden)
        try:
            until(self.is_("offline", device), "it is missed", 10)
            self.assertTrue(self.degraded_by(known))
            for number in range(4):
                self.assertEqual((self.channel / f"{number}").read_bytes(), bytes([number]) * (5 << 20))
            (self.channel / "meanwhile").write_bytes(b"m" * 300_000)
        finally:
            hidden.rename(device)
        until(self.is_("online", device), "it is back", 10)
        self.assertEqual(self.degraded_by(known), [])
        until(lambda: self.adds_up(device), "its free blocks and segments' copies add up to all its blocks", 30)

    def test_added_and_removed_devices_outlive_the_node(self):
        path = self.backing("spare")
        added = self.box.reelctl("device", "add", "node2", path)["device"]
        self.assertEqual(added["state"], "online")
        self.assertEqual(self.box.reelctl("device", "add", "node2", path)["device"]["device"], added["device"])
        self.assertIn("in use", self.refused("device", "add", "node1", path))
        foreign = self.backing("foreign")
        foreign.write_bytes(b"a file system" + foreign.read_bytes()[13:])
        self.assertIn("wipefs", self.refused("device", "add", "node2", foreign))
        self.assertIn("too small", self.refused("device", "add", "node2", self.backing("small", 3 << 20)))
        self.assertIn("nothing at this path", self.refused("device", "add", "node2", self.box.local / "none"))
        self.box.kill(keep=("mount", "index1"))
        self.box.start()
        until(self.is_("online", path), "it is online again")
        self.box.reelctl("device", "remove", "node2", str(added["device"]), "--force")
        self.assertEqual(self.device(path)["state"], "removed")
        self.box.kill(keep=("mount", "index1"))
        self.box.start()
        until(self.is_("removed", path), "it is still removed")

    def test_the_last_copy_within_reach_is_not_given_up(self):
        (self.channel / "file").write_bytes(b"f" * (5 << 20))
        first = [device for device in self.box.devices() if device["node_name"] == "node1" and device["state"] == "online"]
        other = [device for device in self.box.devices() if device["node_name"] == "node2" and device["state"] == "online"]
        for device in first:
            self.box.reelctl("device", "remove", "node1", device["path"])
        try:
            last = [self.refused("device", "remove", "node2", device["path"]) for device in other
                    if any(copy["device"] == device["device"] for segment in self.box.segments()
                           if segment["live_bytes"] for copy in segment["copies"])]
            self.assertTrue(last)
            for message in last:
                self.assertIn("no other copy within reach", message)
        finally:
            for device in first:
                self.box.reelctl("device", "add", "node1", device["path"])
        self.assertEqual((self.channel / "file").read_bytes(), b"f" * (5 << 20))


class Full(unittest.TestCase):
    """Devices without a free block: said at once, nothing lost, and room is used as soon as there is some."""

    def setUp(self):
        self.box = Box(device_size="64M")
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")

    def fill(self, first=0):
        """Files of 4 MiB until there is no room. @return the names of those that were stored"""
        stored = []
        while self.stores(f"{first + len(stored)}"):
            stored.append(f"{first + len(stored)}")
        return stored

    def stores(self, name):
        try:
            with open(self.channel / name, "wb", buffering=0) as file:
                for _ in range(4):
                    file.write(self.content(name))
                os.fsync(file.fileno())
            return True
        except OSError as error:
            self.assertEqual(error.errno, errno.ENOSPC)
            os.unlink(self.channel / name)
            return False

    @staticmethod
    def content(name):
        return random.Random(name).randbytes(1 << 20)

    def free_blocks(self):
        return {device["path"]: device["free_blocks"] for device in self.box.devices()}

    def test_every_block_is_used_and_room_is_taken_as_soon_as_there_is_some(self):
        self.box.keep_everything()
        full = set(self.free_blocks())
        stored = self.fill()
        self.assertEqual(set(self.free_blocks().values()), {0}, "not a block was left")
        # Of a block of 4 MiB, records of 1 MiB with their headers fill three quarters.
        bytes_stored, capacity = len(stored) << 22, sum(device["blocks"] for device in self.box.devices()) // 2 << 22
        self.assertGreater(bytes_stored, capacity * 3 // 4 - (8 << 20))
        problems = [problem["what"] for problem in self.box.reelctl("status")["problems"]]
        for path in full:
            self.assertTrue(any(f"{path} " in what and "full" in what for what in problems), problems)
        self.assertTrue(any("cluster is full" in what for what in problems), problems)

        # Devices beside the full ones: recording goes on there.
        added = []
        for number in (1, 2):
            added.append(self.box.local / f"spare{number}")
            with open(added[-1], "wb") as file:
                file.truncate(64 << 20)
            self.box.reelctl("device", "add", f"node{number}", added[-1])
        until(lambda: self.stores("beside"), "there is room", 10)
        stored.append("beside")
        self.assertEqual({self.free_blocks()[path] for path in full}, {0})
        stored += self.fill(len(stored))
        self.assertEqual(set(self.free_blocks().values()), {0})
        for name in stored:
            self.assertEqual((self.channel / name).read_bytes(), 4 * self.content(name), name)

        # What is deleted makes room, and whole blocks of it.
        os.unlink(self.channel / stored.pop(0))
        os.unlink(self.channel / stored.pop(0))
        until(lambda: self.stores("instead"), "there is room again", 10)
        for name in (*stored, "instead"):
            self.assertEqual((self.channel / name).read_bytes(), 4 * self.content(name), name)
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)


if __name__ == "__main__":
    unittest.main()
