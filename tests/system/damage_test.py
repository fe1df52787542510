"""Parts of a box that were lost, or rotted, while it was down: nothing is made worse, and what can be reached is reached."""
import os
import shutil
import unittest

from harness import Box, REELCTL, is_mounted, run, until


class LostParts(unittest.TestCase):
    def setUp(self):
        self.box = Box()
        self.addCleanup(self.box.close)
        self.index = self.box.directory / "index1"
        self.data = {}
        self.channel = self.box.channel("cam1")

    def record(self, name):
        self.data[name] = os.urandom(2 << 20)
        with open(self.channel / name, "wb", buffering=0) as file:
            file.write(self.data[name])
            os.fsync(file.fileno())

    def assert_everything_is_there(self):
        for name, data in self.data.items():
            self.assertEqual((self.channel / name).read_bytes(), data, name)

    def fails_to_start(self, saying):
        done = run(REELCTL, "box", "start", "--dir", self.box.directory, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(saying, done.stderr)

    def test_a_lost_journal_is_refused_until_it_is_back(self):
        self.record("stored by RocksDB")
        run(REELCTL, "box", "down", "--dir", self.box.directory)
        self.box.start()
        self.record("in the journal alone")
        self.box.kill()
        journal = next((self.index / "journal").iterdir())
        away = self.box.local / journal.name
        shutil.move(journal, away)
        self.fails_to_start("--without-journal")
        journal.touch()
        self.fails_to_start("--without-journal")
        shutil.copy(away, journal)
        self.box.start()
        self.assert_everything_is_there()

    def test_an_index_that_lost_its_data_frees_nothing(self):
        self.record("a")
        self.box.kill()
        self.index.rename(self.box.local / "index1")
        self.index.mkdir()
        self.fails_to_start("recordings that this index does not know")
        self.assertIn("holds recordings that this index does not know", str(self.box.reelctl("status")["problems"]))
        run(REELCTL, "box", "down", "--dir", self.box.directory)
        shutil.rmtree(self.index)
        (self.box.local / "index1").rename(self.index)
        self.box.start()
        self.assert_everything_is_there()
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)

    def test_with_a_device_gone_the_rest_is_mounted(self):
        self.record("a")
        run(REELCTL, "box", "down", "--dir", self.box.directory)
        device = self.box.directory / "node1.dev1"
        device.rename(self.box.local / device.name)
        self.fails_to_start("there is nothing at this path")
        self.assertTrue(is_mounted(self.box.mount))
        self.assert_everything_is_there()
        (self.box.local / device.name).rename(device)
        until(lambda: all(device["state"] == "online" for device in self.box.devices()), "it is back by itself", 10)
        self.assert_everything_is_there()


PAGE = 4096


class Rot(unittest.TestCase):
    """Bits that rotted on a device while its node was down. Nothing acknowledged is lost, and the node says what it found."""

    def setUp(self):
        self.box = Box("--devices", "2")
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        self.data = {}
        for number in range(3):
            self.record(f"{number}", 6 << 20)  # blocks that are sealed and one that is open, on each device
        self.path = self.box.directory / "node1.dev1"
        device = next(device for device in self.box.devices() if device["path"] == str(self.path))
        self.number, self.blocks = device["device"], device["blocks"]
        self.assertGreater(self.copies(), 1)

    def record(self, name, size):
        self.data[name] = os.urandom(size)
        with open(self.channel / name, "wb", buffering=0) as file:
            for at in range(0, size, 1 << 20):
                file.write(self.data[name][at:at + (1 << 20)])
            os.fsync(file.fileno())

    def copies(self):
        return sum(copy["device"] == self.number for segment in self.box.segments() for copy in segment["copies"])

    def until_whole(self):
        """What was recorded while a node counted as sick has one copy until it is repaired."""
        until(lambda: all(len(segment["copies"]) == 2 for segment in self.box.segments()), "every segment has two copies", 60)
        until(lambda: self.box.reelctl("repair", "status")["at_risk_bytes"] == 0, "nothing is at risk", 60)

    def damage(self, offset, size, check=True):
        """Random bytes on the device, while node1 is down. @return what box start says"""
        self.until_whole()
        self.box.kill(keep=("mount", "index1", "node2.worker1", "node2.worker2"))
        self.logged = {log: log.stat().st_size for log in (self.box.directory / "log").glob("node1.*.log")}
        with open(self.path, "r+b") as file:
            for at in offset if isinstance(offset, list) else [offset]:
                file.seek(at if at >= 0 else self.path.stat().st_size + at)
                file.write(os.urandom(size))
        return run(REELCTL, "box", "start", "--dir", self.box.directory, check=check)

    def log(self):
        return "".join(log.read_text()[size:] for log, size in self.logged.items())

    def assert_node1_has_all(self):
        self.until_whole()
        self.box.kill(keep=("mount", "index1", "node1.worker1", "node1.worker2"))
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as caches:
            caches.write("1")
        for name, data in self.data.items():
            self.assertEqual((self.channel / name).read_bytes(), data, name)
        self.box.start()

    def test_one_superblock(self):
        with open(self.path, "rb") as file:
            good = file.read(PAGE)
        # Of the first one a bit of the part that tells it from anything else's, of the copy all.
        for offset, size, which in ((60, 1, "first"), (-PAGE, PAGE, "copy")):
            self.damage(offset, size)
            self.assertIn(f"superblock damaged, written anew device={self.path} which={which}", self.log())
            with open(self.path, "rb") as file:
                self.assertEqual(file.read(PAGE), good)
                file.seek(-PAGE, os.SEEK_END)
                self.assertEqual(file.read(PAGE), good)
            self.assert_node1_has_all()
            self.record(f"after {which}", 1 << 20)
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)

    def test_the_block_table(self):
        for pages in (1, -(-self.blocks // 32)):
            self.until_whole()
            had = self.copies()
            self.damage(PAGE, pages * PAGE)
            self.assertIn(f"block descriptor damaged device={self.path}", self.log())
            self.assertIn("recovered from its records", self.log())
            self.assertEqual(self.copies(), had)
            self.assert_node1_has_all()
            self.record(f"after {pages}", 1 << 20)
            until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)

    def test_both_superblocks(self):
        said = self.damage([0, -PAGE], PAGE, check=False)
        self.assertNotEqual(said.returncode, 0)
        broken = "both its superblocks are damaged"
        self.assertIn(broken, said.stderr)
        self.assertIn(broken, self.log())
        self.assertEqual([device["state"] for device in self.box.devices() if broken in device["reason"]], ["foreign"])
        self.assertIn(broken, str(self.box.reelctl("status")["problems"]))
        self.assertIn(broken, run(REELCTL, "device", "add", "node1", self.path, "--dir", self.box.directory, check=False).stderr)
        # The other copies are there, and the node's other device takes new ones.
        self.record("after", 6 << 20)
        for name, data in self.data.items():
            self.assertEqual((self.channel / name).read_bytes(), data, name)
        with open(self.path, "r+b") as file:
            for at in (0, self.path.stat().st_size - (1 << 20)):
                file.seek(at)
                file.write(bytes(1 << 20))
        added = self.box.reelctl("device", "add", "node1", self.path)["device"]
        self.assertEqual(added["state"], "online")
        self.assertEqual(added["free_blocks"], added["blocks"])


if __name__ == "__main__":
    unittest.main()
