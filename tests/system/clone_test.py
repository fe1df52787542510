"""copy_file_range: files that share the bytes of others."""
import errno
import os
import unittest

from harness import BoxTest, run, until

MIB = 1 << 20


class Cloning(BoxTest):
    box_settings = {"device_size": "256M"}

    def setUp(self):
        super().setUp()
        self.source = self.channel / "source"
        self.data = os.urandom(3 * MIB + 12_345)

    def open(self, path, flags=os.O_RDWR | os.O_CREAT):
        fd = os.open(path, flags, 0o644)
        self.addCleanup(os.close, fd)
        return fd

    def used(self):
        """Blocks that hold something of a channel."""
        of_the_journal = sum(len(segment["copies"]) for segment in self.box.all_segments()
                             if segment["channel_name"] == "(journal)")
        return sum(device["blocks"] - device["free_blocks"] for device in self.box.devices()) - of_the_journal

    def stored(self):
        """Bytes that the channel's segments hold, dead ones included."""
        return next(channel["stored_bytes"] for channel in self.box.reelctl("channel", "list")["channels"]
                    if channel["name"] == self.channel.name)

    def test_a_clone_has_the_bytes_and_takes_no_space(self):
        self.source.write_bytes(self.data)
        stored = self.stored()
        run("cp", "--reflink=auto", "--sparse=never", self.source, self.channel / "copy")
        self.assertEqual((self.channel / "copy").read_bytes(), self.data)
        self.assertEqual(self.stored(), stored)
        other = self.box.another_mount()
        self.assertEqual((other / self.channel.name / "copy").read_bytes(), self.data)
        other.unmount()

    def test_what_is_not_written_out_yet_is_cloned(self):
        source, target = self.open(self.source), self.open(self.channel / "target")
        os.pwrite(source, self.data, 0)
        os.pwrite(target, b"t" * MIB, 0)
        self.assertEqual(os.copy_file_range(source, target, 2 * MIB, 1000, 500), 2 * MIB)
        expected = b"t" * 500 + self.data[1000:1000 + 2 * MIB]
        self.assertEqual(os.pread(target, 4 * MIB, 0), expected)
        os.pwrite(source, b"s" * MIB, 0)
        os.pwrite(target, b"T" * 1000, 1000)
        self.assertEqual(os.pread(source, 4 * MIB, 0), b"s" * MIB + self.data[MIB:])
        self.assertEqual(os.pread(target, 4 * MIB, 0), expected[:1000] + b"T" * 1000 + expected[2000:])

    def test_source_and_clone_outlive_each_other(self):
        for number in range(4):
            self.source.write_bytes(self.data)
            run("cp", self.source, self.channel / "copy")
            run("cp", self.channel / "copy", self.channel / "third")
            if number % 2:
                os.truncate(self.source, 0)
                os.unlink(self.source)
            else:
                os.unlink(self.channel / "copy")
                os.rename(self.source, self.channel / "copy")
            self.assertEqual((self.channel / "copy").read_bytes(), self.data)
            self.assertEqual((self.channel / "third").read_bytes(), self.data)
            os.unlink(self.channel / "copy")
            os.unlink(self.channel / "third")
        (self.channel / "last").write_bytes(b"x")  # the segment in use stays
        until(self.box.blocks_add_up, "blocks are free or belong to a segment")

    def test_space_is_free_when_the_last_clone_is_gone(self):
        before = self.used()
        size = 48 * MIB
        run("dd", "if=/dev/urandom", f"of={self.source}", "bs=1M", "count=48", "conv=fsync", "status=none")
        clones = [self.channel / f"clone{number}" for number in range(8)]
        for clone in clones:
            run("cp", self.source, clone)
        self.assertEqual(sum(clone.stat().st_size for clone in clones), 8 * size)
        held = self.used()
        os.unlink(self.source)
        for clone in clones[:-1]:
            os.unlink(clone)
        run("cmp", clones[-1], clones[-1])
        self.assertGreaterEqual(self.used(), held - 2, "the last clone holds the blocks")
        os.unlink(clones[-1])
        until(lambda: self.used() <= before + 6, "the blocks are free again")

    def test_holes_stay_holes(self):
        source = self.open(self.source)
        os.pwrite(source, b"x" * MIB, 8 * MIB)
        os.ftruncate(source, 16 * MIB)
        target = self.open(self.channel / "target")
        os.pwrite(target, b"y" * (4 * MIB), 0)
        self.assertEqual(os.copy_file_range(source, target, 16 * MIB, 0, 0), 16 * MIB)
        self.assertEqual(os.fstat(target).st_size, 16 * MIB)
        self.assertEqual(os.fstat(target).st_blocks * 512, MIB)
        self.assertEqual(os.lseek(target, 0, os.SEEK_DATA), 8 * MIB)
        self.assertEqual(os.pread(target, 16 * MIB, 0), b"\0" * (8 * MIB) + b"x" * MIB + b"\0" * (7 * MIB))

    def test_ends_and_overlaps(self):
        source = self.open(self.source)
        os.pwrite(source, self.data, 0)
        self.assertEqual(os.copy_file_range(source, source, MIB, len(self.data), 0), 0, "nothing behind the end")
        self.assertEqual(os.copy_file_range(source, source, 4 * MIB, 3 * MIB, 8 * MIB), 12_345)
        with self.assertRaises(OSError) as failed:
            os.copy_file_range(source, source, MIB, 0, MIB // 2)
        self.assertEqual(failed.exception.errno, errno.EINVAL)
        self.assertEqual(os.copy_file_range(source, source, MIB, 0, MIB), MIB)
        self.assertEqual(os.pread(source, 2 * MIB, 0), self.data[:MIB] * 2)

    def test_between_channels_the_bytes_are_copied(self):
        other = self.box.channel(self.channel.name + "-other")
        self.source.write_bytes(self.data)
        source, target = self.open(self.source), self.open(other / "target")
        done = 0
        while done < len(self.data):
            done += os.copy_file_range(source, target, len(self.data) - done, done, done)
        self.assertEqual((other / "target").read_bytes(), self.data)
        os.unlink(self.source)
        self.assertEqual((other / "target").read_bytes(), self.data)

    def test_clones_survive_a_restart_of_everything(self):
        self.source.write_bytes(self.data)
        run("cp", self.source, self.channel / "copy")
        os.unlink(self.source)
        fd = os.open(self.channel / "copy", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.box.kill()
        self.box.start()
        self.assertEqual((self.channel / "copy").read_bytes(), self.data)

    def test_many_small_pieces(self):
        source = self.open(self.source)
        for number in range(3000):
            os.pwrite(source, b"%05d" % number, number * 10)
            if number % 50 == 0:
                os.fsync(source)
        expected = os.pread(source, 1 << 20, 0)
        run("cp", "--sparse=never", self.source, self.channel / "copy")
        self.assertEqual((self.channel / "copy").read_bytes(), expected)
        target = self.open(self.channel / "copy")
        self.assertEqual(os.copy_file_range(source, target, len(expected), 0, 5), len(expected))
        self.assertEqual(os.pread(target, 1 << 20, 0), expected[:5] + expected)


if __name__ == "__main__":
    unittest.main()
