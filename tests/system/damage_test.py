"""Parts of a box that were lost while it was down: nothing is made worse, and what can be reached is reached."""
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


if __name__ == "__main__":
    unittest.main()
