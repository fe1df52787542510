"""Holds: what nobody can remove or overwrite, through any mount, until it is released."""
import ctypes
import datetime
import errno
import os
import signal
import socket
import time
import unittest

from harness import REELCTL, TwoMountsTest, run, until

HOLD = "user.reel.hold"
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16
RENAME_EXCHANGE = 2
LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def exchange(one, other):
    checked(LIBC.renameat2(-100, bytes(one), -100, bytes(other), RENAME_EXCHANGE))


def allocate(path, mode, offset, length):
    file = os.open(path, os.O_RDWR)
    try:
        checked(LIBC.fallocate(file, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))
    finally:
        os.close(file)


def overwrite(path, data=b"other", offset=0):
    file = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(file, data, offset)
        os.fsync(file)
    finally:
        os.close(file)


def append(path, data=b"more"):
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_into(source, target):
    into = os.open(target, os.O_WRONLY)
    out = os.open(source, os.O_RDONLY)
    try:
        os.copy_file_range(out, into, 4096, 0, 0)
    finally:
        os.close(out)
        os.close(into)


def utc_now():
    ns = time.time_ns()
    return f"{datetime.datetime.fromtimestamp(ns // 10**9, datetime.timezone.utc):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09}Z"


class Holds(TwoMountsTest):
    def recording(self, name, size=100_000):
        path = self.channel / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = os.urandom(size)
        path.write_bytes(data)
        return path, data

    def on_other(self, path):
        return self.other / path.relative_to(self.channel)

    def refused(self, call, *arguments):
        with self.assertRaises(OSError) as raised:
            call(*arguments)
        self.assertEqual(raised.exception.errno, errno.EPERM, f"{call} {arguments}: {raised.exception}")

    def restart_index(self):
        self.box.kill_process("index1")
        self.box.start("index1")

    def expect_held(self, path, data, free):
        """Every call that would take something of it away fails."""
        self.refused(os.unlink, path)
        self.refused(os.rename, path, path.with_name("elsewhere"))
        self.refused(os.rename, free, path)
        self.refused(exchange, path, free)
        self.refused(exchange, free, path)
        self.refused(os.truncate, path, 0)
        self.refused(os.truncate, path, len(data) - 1)
        self.refused(open, path, "wb")
        self.refused(overwrite, path)
        self.refused(overwrite, path, b"x" * 10, len(data) - 5)
        self.refused(allocate, path, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)
        self.refused(allocate, path, FALLOC_FL_ZERO_RANGE, 4096, 4096)
        self.refused(copy_into, free, path)
        self.assertEqual(path.read_bytes(), data)
        self.assertTrue(free.exists())

    def test_a_held_recording_stays(self):
        path, data = self.recording("a.ts")
        free, _ = self.recording("free.ts", 8192)
        os.setxattr(path, HOLD, b"case 4711")
        self.assertEqual(os.getxattr(path, HOLD), b"case 4711")
        self.assertIn(HOLD, os.listxattr(path))
        self.expect_held(path, data, free)
        self.expect_held(self.on_other(path), data, self.on_other(free))
        self.restart_index()
        self.expect_held(path, data, free)
        self.expect_held(self.on_other(path), data, self.on_other(free))
        self.assertEqual(os.getxattr(self.on_other(path), HOLD), b"case 4711")

        # What takes nothing away goes on.
        append(path)
        os.truncate(path, len(data) + 100)
        overwrite(path, b"in the hole", len(data) + 50)
        os.chmod(path, 0o600)
        os.chown(path, 1000, 1000)
        os.utime(path, (1, 2))
        os.setxattr(path, "user.note", b"x")
        os.link(path, path.with_name("second name"))
        self.refused(os.unlink, path.with_name("second name"))
        expected = data + b"more" + bytes(46) + b"in the hole" + bytes(39)
        self.assertEqual(path.read_bytes(), expected)
        self.assertEqual(self.on_other(path).read_bytes(), expected)

        os.removexattr(self.on_other(path), HOLD)
        with self.assertRaises(OSError) as raised:
            os.getxattr(path, HOLD)
        self.assertEqual(raised.exception.errno, errno.ENODATA)
        overwrite(path, b"new")
        self.assertEqual(path.read_bytes()[:4], b"new" + data[3:4])
        allocate(path, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)
        os.truncate(path, 10)
        os.rename(path, path.with_name("b.ts"))
        os.rename(free, path.with_name("b.ts"))
        os.unlink(path.with_name("b.ts"))
        os.unlink(path.with_name("second name"))

    def test_a_held_directory_holds_what_is_and_comes_below(self):
        path, data = self.recording("day/hour/a.ts")
        free, _ = self.recording("free.ts", 8192)
        day = self.channel / "day"
        (day / "empty").mkdir()
        os.setxattr(day, HOLD, b"case 4712")
        self.refused(os.unlink, path)
        self.refused(os.rmdir, day / "empty")
        self.refused(os.rename, path, self.channel / "a.ts")
        self.refused(os.rename, path.parent, self.channel / "hour")
        self.refused(os.rename, day, self.channel / "night")
        self.refused(exchange, path, free)
        self.refused(overwrite, self.on_other(path))
        self.refused(os.truncate, self.on_other(path), 0)
        later, _ = self.recording("day/later.part")
        os.rename(later, day / "hour" / "later.ts")  # as recorders do when one is whole
        self.refused(os.unlink, day / "hour" / "later.ts")
        os.rename(free, day / "free.ts")
        self.refused(os.unlink, day / "free.ts")
        self.assertEqual(path.read_bytes(), data)
        os.removexattr(day, HOLD)
        os.unlink(path)
        os.rmdir(day / "empty")
        os.rename(day, self.channel / "night")

    def test_a_held_channel(self):
        path, data = self.recording("a.ts")
        free, _ = self.recording("free.ts", 8192)
        os.setxattr(self.channel, HOLD, b"the whole week")
        self.refused(os.unlink, path)
        self.refused(os.rename, self.channel, self.channel.with_name("renamed"))
        append(path)
        self.assertEqual(path.read_bytes(), data + b"more")
        os.removexattr(self.channel, HOLD)
        os.unlink(path)
        os.unlink(free)

    def test_a_hold_needs_a_reason_of_one_line(self):
        path, _ = self.recording("a.ts")
        for reason in (b"", b"two\nlines"):
            with self.assertRaises(OSError) as raised:
                os.setxattr(path, HOLD, reason)
            self.assertEqual(raised.exception.errno, errno.EINVAL)
        os.unlink(path)

    def test_a_hold_that_comes_while_a_file_is_open(self):
        """The commit is refused: this file's writer is told, and a file that was written with it is kept."""
        path, data = self.recording("a.ts")
        other = self.channel / "other.ts"
        with open(path, "r+b", buffering=0) as file, open(other, "wb", buffering=0) as good:
            os.setxattr(self.on_other(path), HOLD, b"case 4713")
            good.write(b"kept")
            file.write(b"lost")
            self.refused(os.fsync, file.fileno())
            os.fsync(good.fileno())
            self.refused(file.write, b"and at once from now on")
            os.removexattr(self.on_other(path), HOLD)
            file.seek(0)
            file.write(b"over")
            os.fsync(file.fileno())
        self.assertEqual(self.on_other(other).read_bytes(), b"kept")
        self.assertEqual(path.read_bytes(), b"over" + data[4:])
        self.assertEqual(self.on_other(path).read_bytes(), b"over" + data[4:])

    def test_refused_bytes_are_shown_to_nobody(self):
        path, data = self.recording("a.ts")
        self.assertEqual(path.read_bytes(), data)
        file = os.open(path, os.O_RDWR)
        os.setxattr(self.on_other(path), HOLD, b"case 4714")
        os.pwrite(file, b"x" * 4096, 0)
        self.refused(os.fsync, file)
        os.close(file)
        self.assertEqual(path.read_bytes(), data)
        os.removexattr(path, HOLD)

    # ---- reelctl

    def holds(self):
        return self.box.reelctl("hold", "list", "--channel", self.channel.name)["holds"]

    def test_holds_are_listed_with_who_when_and_why(self):
        path, _ = self.recording("day/a.ts")
        before = datetime.datetime.now(datetime.timezone.utc)
        os.setxattr(path, HOLD, b"by setfattr")
        self.assertEqual(self.box.reelctl("hold", "add", path.parent, "--reason", "by reelctl")["holds"], 1)
        holds = {hold["path"]: hold for hold in self.holds()}
        file = holds[f"{self.channel.name}/day/a.ts"]
        self.assertEqual((file["reason"], file["who"], file["directory"], file["inode"]),
                         ("by setfattr", f"uid 0 on {socket.gethostname()}", False, path.stat().st_ino))
        since = datetime.datetime.fromisoformat(file["since"][:26] + "+00:00")
        self.assertLessEqual(before, since)
        self.assertLessEqual(since, datetime.datetime.now(datetime.timezone.utc))
        directory = holds[f"{self.channel.name}/day"]
        self.assertEqual((directory["reason"], directory["who"], directory["directory"]),
                         ("by reelctl", f"root@{socket.gethostname()}", True))
        text = run(REELCTL, "hold", "list", "--dir", self.box.directory).stdout
        self.assertRegex(text, rf"{self.channel.name}/day/ and all below +by reelctl +root@")
        self.assertEqual(os.getxattr(path.parent, HOLD), b"by reelctl")

        self.assertEqual(self.box.reelctl("hold", "release", path)["holds"], 1)
        self.refused(os.unlink, path)
        nothing = run(REELCTL, "hold", "release", path, "--dir", self.box.directory, check=False)
        self.assertEqual(nothing.returncode, 1)
        self.assertIn("reelctl hold list", nothing.stderr)
        self.assertEqual(self.box.reelctl("hold", "release", "--channel", self.channel.name)["holds"], 1)
        self.assertEqual(self.holds(), [])
        os.unlink(path)

    def test_recordings_of_a_time_are_held_together(self):
        recordings = {}
        times = [utc_now()]  # of the same clock as the index server's: between any two a recording was made
        for name in ("first", "second", "third"):
            recordings[name], _ = self.recording(f"{name}.ts")
            times.append(utc_now())
        # What programs say of their times is no matter.
        for path in recordings.values():
            os.utime(path, (1, 1))
        channel = ("--channel", self.channel.name)
        # The index hears of a close a moment after it; until then bytes may be on their way.
        until(lambda: not any(recording["being_written"] for recording in
                              self.box.reelctl("find", *channel)["recordings"]), "all are closed")
        held = self.box.reelctl("hold", "add", *channel, "--from", times[1], "--to", times[2], "--reason", "second")
        self.assertEqual(held["holds"], 1)
        self.assertEqual([hold["path"].rpartition("/")[2] for hold in self.holds()], ["second.ts"])
        self.box.reelctl("hold", "release", *channel)
        held = self.box.reelctl("hold", "add", *channel, "--from", times[1], "--reason", "after the first")
        self.assertEqual(held["holds"], 2)
        self.assertEqual({hold["path"].rpartition("/")[2] for hold in self.holds()}, {"second.ts", "third.ts"})
        os.unlink(recordings["first"])
        self.refused(os.unlink, recordings["second"])
        none = run(REELCTL, "hold", "add", *channel, "--to", times[0], "--reason", "x", "--dir",
                   self.box.directory, check=False)
        self.assertEqual(none.returncode, 1)
        self.assertIn("no recording to hold", none.stderr)
        wrong = run(REELCTL, "hold", "add", *channel, "--to", "noon", "--reason", "x", "--dir", self.box.directory,
                    check=False)
        self.assertIn("noon is not a time", wrong.stderr)
        self.box.reelctl("hold", "add", recordings["third"], "--reason", "another case")
        self.assertEqual(self.box.reelctl("hold", "release", *channel, "--reason", "after the first")["holds"], 1)
        os.unlink(recordings["second"])
        self.refused(os.unlink, recordings["third"])
        early = run(REELCTL, "hold", "release", *channel, "--to", times[2], "--dir", self.box.directory, check=False)
        self.assertEqual(early.returncode, 1)
        self.refused(os.unlink, recordings["third"])
        self.assertEqual(self.box.reelctl("hold", "release", *channel, "--from", times[2])["holds"], 1)
        os.unlink(recordings["third"])
        self.box.reelctl("hold", "add", *channel, "--reason", "all")
        self.refused(os.rmdir, self.channel)
        self.box.reelctl("hold", "release", *channel)


if __name__ == "__main__":
    unittest.main()
