"""When bytes of recordings came: reelctl find, attributes of a recording, and .by-time of each channel."""
import datetime
import errno
import os
import pathlib
import shutil
import signal
import threading
import time
import unittest

from harness import PATIENCE, REELCTL, TwoMountsTest, is_gone, run, until
from posix_test import handle_of, is_stale, open_handle
from takeover_test import Taker

FIRST, LAST = "user.reel.first_byte", "user.reel.last_byte"


def now():
    """As `--from` and `--to` take it, to the nanosecond: the index server has the same clock."""
    ns = time.time_ns()
    seconds = datetime.datetime.fromtimestamp(ns // 10**9, datetime.timezone.utc)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09}Z"


def hour_of(seconds=None):
    return time.strftime("%Y-%m-%d/%H", time.localtime(seconds))


class Times(TwoMountsTest):
    def record(self, name, size=100_000):
        path = self.channel / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        return path

    def refused(self, number, call, *arguments):
        with self.assertRaises(OSError) as raised:
            call(*arguments)
        self.assertEqual(errno.errorcode[raised.exception.errno], errno.errorcode[number],
                         f"{call} {arguments}: {raised.exception}")

    def views(self):
        return self.channel / ".by-time", self.other / ".by-time"

    def steady_hour(self):
        """The present hour, where it does not end before a test is over."""
        left = 3600 - time.time() % 3600
        if left < 60 * PATIENCE:
            until(lambda: 3600 - time.time() % 3600 > 60 * PATIENCE, "the next hour has begun", left + 10)
        return hour_of()


class Find(Times):
    def wait_for_closed(self):
        """The index hears of a close a moment after it; until then bytes may be on their way."""
        until(lambda: not any(recording["being_written"] for recording in
                              self.box.reelctl("find", "--channel", self.channel.name)["recordings"]), "all is closed")

    def find(self, *arguments):
        found = self.box.reelctl("find", "--channel", self.channel.name, *arguments)["recordings"]
        return [recording["path"].removeprefix(self.channel.name + "/") for recording in found]

    def test_recordings_of_a_time(self):
        times = [now()]
        for name in ("a.ts", "day/b.ts", "c.ts"):
            self.record(name)
            times.append(now())
        (self.channel / "empty").touch()
        self.wait_for_closed()
        self.assertEqual(self.find(), ["a.ts", "day/b.ts", "c.ts"])
        self.assertEqual(self.find("--from", times[1], "--to", times[2]), ["day/b.ts"])
        self.assertEqual(self.find("--from", times[1]), ["day/b.ts", "c.ts"])
        self.assertEqual(self.find("--to", times[1]), ["a.ts"])
        self.assertEqual(self.find("--to", times[0]), [])
        self.assertEqual(self.find("--from", times[3]), [])
        # Programs' times do not matter, names that change do.
        os.utime(self.channel / "a.ts", (1, 1))
        os.rename(self.channel / "a.ts", self.channel / "day/a.ts")
        self.assertEqual(self.find("--to", times[1]), ["day/a.ts"])
        with open(self.channel / "day/a.ts", "ab") as file:
            file.write(b"more")
        self.wait_for_closed()
        self.assertEqual(self.find("--from", times[3]), ["day/a.ts"])
        self.assertEqual(self.find("--from", times[1], "--to", times[2]), ["day/a.ts", "day/b.ts"])

    def test_what_it_tells(self):
        before = time.time_ns()
        path = self.record("a.ts", 12345)
        after = time.time_ns()
        self.wait_for_closed()
        os.setxattr(path, "user.reel.hold", b"case 4711")
        told = self.box.reelctl("find", path)["recordings"]
        self.assertEqual(len(told), 1)
        told = told[0]
        self.assertEqual((told["path"], told["inode"], told["size"], told["held"], told["being_written"]),
                         (f"{self.channel.name}/a.ts", path.stat().st_ino, 12345, True, False))
        self.assertLessEqual(before, told["first_byte_ns"])
        self.assertLessEqual(told["first_byte_ns"], told["last_byte_ns"])
        self.assertLessEqual(told["last_byte_ns"], after)
        for mount in (self.channel, self.other):
            self.assertEqual(os.getxattr(mount / "a.ts", FIRST).decode(), told["first_byte"])
            self.assertEqual(os.getxattr(mount / "a.ts", LAST).decode(), told["last_byte"])
        text = run(REELCTL, "find", "--channel", self.channel.name, "--dir", self.box.directory).stdout
        self.assertRegex(text, rf"{self.channel.name}/a.ts +\d{{4}}-\d\d-\d\d .* held")
        os.removexattr(path, "user.reel.hold")

    def test_all_channels(self):
        self.record("a.ts")
        other = self.box.channel("another")
        (other / "b.ts").write_bytes(b"x")
        found = self.box.reelctl("find", "--from", "2000-01-01")["recordings"]
        paths = {recording["path"] for recording in found}
        self.assertLessEqual({f"{self.channel.name}/a.ts", "another/b.ts"}, paths)

    def test_what_is_being_written_is_found(self):
        with open(self.channel / "a.ts", "wb", buffering=0) as file:
            file.write(bytes(1000))
            until(lambda: self.find() == ["a.ts"], "the index has learnt of it", 5)
            ended = threading.Event()

            def record():
                while not ended.wait(0.05):
                    file.write(bytes(1000))

            recorder = threading.Thread(target=record)
            recorder.start()
            try:
                for _ in range(20):
                    self.assertEqual(self.find("--from", now()), ["a.ts"])
            finally:
                ended.set()
                recorder.join()
            self.assertEqual(self.find("--from", "2100-01-01"), [], "of the time to come")
            self.assertTrue(self.box.reelctl("find", self.channel / "a.ts")["recordings"][0]["being_written"])

    def test_wrong_questions(self):
        for arguments in (("--from", "noon"), ("--from", "2020-01-02", "--to", "2020-01-01"),
                          ("--channel", "nosuch"), (self.channel,), (self.box.local,),
                          (self.channel, "--from", "10:00")):
            wrong = run(REELCTL, "find", *arguments, "--dir", self.box.directory, check=False)
            self.assertNotEqual(wrong.returncode, 0, arguments)
            self.assertNotEqual(wrong.stderr, "", arguments)

    def test_attributes_are_read_alone(self):
        path = self.record("a.ts")
        empty = self.channel / "empty"
        empty.touch()
        for name in (FIRST, LAST):
            self.refused(errno.EPERM, os.setxattr, path, name, b"2020-01-01T00:00:00Z")
            self.refused(errno.EPERM, os.removexattr, path, name)
            self.refused(errno.ENODATA, os.getxattr, empty, name)
            self.refused(errno.ENODATA, os.getxattr, self.channel, name)
            self.assertNotIn(name, os.listxattr(path))
        run("cp", "-a", path, self.channel / "copy.ts")
        run("rsync", "-aX", path, self.box.local / "copy.ts")
        self.assertGreater(os.getxattr(self.channel / "copy.ts", FIRST), os.getxattr(path, FIRST))


class ByTime(Times):
    def test_links_lead_to_recordings_on_every_mount(self):
        hour = self.steady_hour()
        plain = self.record("a.ts")
        deep = self.record("2026/11/b%.ts")
        same = self.record("2026/b%.ts")
        long = self.record("d" * 200 + "/" + "ü" * 60 + ".mp4")
        for view, channel in zip(self.views(), (self.channel, self.other)):
            self.assertIn(hour.split("/")[0], os.listdir(view))
            self.assertIn(hour.split("/")[1], os.listdir((view / hour).parent))
            names = os.listdir(view / hour)
            self.assertEqual(len(names), 4, names)
            self.assertLessEqual({"a.ts", "2026%2F11%2Fb%25.ts", "2026%2Fb%25.ts"}, set(names))
            for name in names:
                link = view / hour / name
                self.assertTrue(link.is_symlink())
                self.assertFalse(os.readlink(link).startswith("/"))
                self.assertEqual(link.lstat().st_size, len(os.fsencode(os.readlink(link))))
                self.assertLessEqual(len(os.fsencode(name)), 255)
            for path in (plain, deep, same, long):
                own = channel / path.relative_to(self.channel)
                leading = [name for name in names if (view / hour / name).samefile(own)]
                self.assertEqual(len(leading), 1, path)
                self.assertEqual((view / hour / leading[0]).read_bytes(), path.read_bytes())
        # Found without listing, and no other name is.
        self.assertEqual(os.readlink(self.other / ".by-time" / hour / "a.ts"), "../../../a.ts")
        for absent in ("b%.ts", "2026", "2026%2F11", "..%2Fa.ts", "%2Fa.ts", "%", "x%~1.ts", "x%~987654.ts", "nothing"):
            self.refused(errno.ENOENT, os.lstat, self.channel / ".by-time" / hour / absent)

    def test_only_times_with_recordings_exist(self):
        hour = self.steady_hour()
        view = self.channel / ".by-time"
        self.assertEqual(os.listdir(view), [])
        self.record("a.ts")
        day, of_day = hour.split("/")
        self.assertEqual(os.listdir(view), [day])
        self.assertEqual(os.listdir(view / day), [of_day])
        for absent in ("2001-01-01", day + "x", day.replace("-", ""), "1-1-1", "x"):
            self.refused(errno.ENOENT, os.stat, view / absent)
        for absent in (f"{(int(of_day) + 5) % 24:02}", of_day + "0", "24", "-1", "a"):
            self.refused(errno.ENOENT, os.stat, view / day / absent)
        os.unlink(self.channel / "a.ts")
        until(lambda: os.listdir(view) == [], "no date is left")
        until(lambda: not (view / hour).exists(), "nor is it found by name", 5)

    def test_new_recordings_are_seen_within_a_second(self):
        hour = self.steady_hour()
        for number in range(3):
            path = self.record(f"{number}.ts")
            self.assertIn(path.name, os.listdir(self.other / ".by-time" / hour))
        # One that is being written, and one that was renamed.
        with open(self.channel / "growing.ts", "wb", buffering=0) as file:
            file.write(bytes(100_000))
            began = time.monotonic()
            until(lambda: "growing.ts" in os.listdir(self.other / ".by-time" / hour), "it is listed", 5)
            self.assertLess(time.monotonic() - began, 1.2 * PATIENCE)
            self.assertEqual((self.other / ".by-time" / hour / "growing.ts").stat().st_size, 100_000)
        os.rename(self.channel / "0.ts", self.channel / "renamed.ts")
        self.assertEqual(os.readlink(self.other / ".by-time" / hour / "renamed.ts"), "../../../renamed.ts")
        self.assertEqual(sorted(os.listdir(self.other / ".by-time" / hour)),
                         ["1.ts", "2.ts", "growing.ts", "renamed.ts"])

    def test_an_hour_of_thousands_is_listed_whole(self):
        hour = self.steady_hour()
        names = {f"{number:05}-{'x' * 40}.jpg" for number in range(1500)}
        for name in names:
            (self.channel / name).write_bytes(b"x")
        (self.channel / "empty").touch()  # without a byte it has no time
        self.assertEqual(set(os.listdir(self.other / ".by-time" / hour)), names)
        with os.scandir(self.channel / ".by-time" / hour) as entries:
            self.assertTrue(all(entry.is_symlink() for entry in entries))

    def test_dates_are_those_of_the_mounts_time_zone(self):
        self.steady_hour()
        self.record("a.ts")
        written = time.time()
        os.environ["TZ"] = "Asia/Kolkata"  # half an hour beside the others
        self.addCleanup(time.tzset)
        self.addCleanup(os.environ.pop, "TZ")
        far = self.box.another_mount()
        self.addCleanup(far.unmount)
        time.tzset()
        view = far / self.channel.name / ".by-time"
        day, hour = hour_of(written).split("/")
        self.assertEqual([os.listdir(view), os.listdir(view / day)], [[day], [hour]])
        self.assertEqual(os.listdir(view / day / hour), ["a.ts"])

    def test_a_mounted_channel_has_them_too(self):
        hour = self.steady_hour()
        path = self.record("day/a.ts")
        alone = self.box.another_mount(f",channel={self.channel.name}")
        self.addCleanup(alone.unmount)
        link = alone / ".by-time" / hour / "day%2Fa.ts"
        self.assertEqual(link.read_bytes(), path.read_bytes())
        self.assertNotIn(".by-time", os.listdir(alone.point))

    def test_tools_do_not_meet_it(self):
        hour = self.steady_hour()
        self.record("a.ts")
        self.record("day/b.ts")
        self.assertTrue((self.channel / ".by-time" / hour / "a.ts").exists())
        self.assertEqual(sorted(os.listdir(self.channel)), ["a.ts", "day"])
        found = run("find", self.channel).stdout.splitlines()
        self.assertEqual(len(found), 4, found)
        self.assertNotIn(".by-time", run("du", "-a", self.channel).stdout)
        copy = self.box.local / "copy"
        run("rsync", "-aHAX", f"{self.channel}/", f"{copy}/")
        self.assertEqual(sorted(os.listdir(copy)), ["a.ts", "day"])
        shutil.rmtree(copy)
        run("cp", "-a", self.channel / ".by-time" / hour, copy)  # it can be copied all the same
        self.assertEqual(os.readlink(copy / "a.ts"), "../../../a.ts")
        found = run("find", self.channel / ".by-time", "-type", "l").stdout.splitlines()
        self.assertEqual(len(found), 2, found)
        self.assertEqual(run("find", "-L", self.channel / ".by-time", "-type", "l").stdout, "")

    def test_nobody_changes_it(self):
        hour = self.steady_hour()
        path = self.record("a.ts")
        (self.channel / "below").mkdir()
        view = self.channel / ".by-time"
        for directory in (view, view / hour, (view / hour).parent):
            self.refused(errno.EROFS, (directory / "new").write_bytes, b"")
            self.refused(errno.EROFS, os.mkdir, directory / "new")
            self.refused(errno.EROFS, os.mkfifo, directory / "new")
            self.refused(errno.EROFS, os.symlink, "x", directory / "new")
            self.refused(errno.EROFS, os.link, path, directory / "new")
            self.refused(errno.EROFS, os.rename, path, directory / "new")
            self.refused(errno.EROFS, os.chmod, directory, 0o777)
            self.refused(errno.EROFS, os.utime, directory, (1, 1))
            self.refused(errno.EROFS, os.setxattr, directory, "user.x", b"")
            self.refused(errno.EROFS, os.removexattr, directory, "user.x")
            self.refused(errno.ENODATA, os.getxattr, directory, "user.x")
            self.assertEqual(os.listxattr(directory), [])
            self.assertEqual(os.statvfs(directory).f_blocks, os.statvfs(self.channel).f_blocks)
            self.assertEqual(directory.stat().st_mode & 0o222, 0)
        link = view / hour / "a.ts"
        self.refused(errno.EROFS, os.unlink, link)
        self.refused(errno.EROFS, os.rename, link, self.channel / "b.ts")
        self.refused(errno.EROFS, os.rename, self.channel / "below", view / hour / "below")
        self.refused(errno.EROFS, os.rmdir, view / hour)
        self.refused(errno.EPERM, lambda: os.link(link, self.channel / "b.ts", follow_symlinks=False))
        self.refused(errno.EPERM, os.rmdir, view)
        self.refused(errno.EPERM, os.rename, view, self.channel / "mine")
        self.assertEqual(path.stat().st_size, 100_000)

    def test_nothing_else_gets_its_name(self):
        path = self.record("a.ts")
        for name in (".by-time", ".reel"):
            for channel in (self.channel, self.other):
                taken = channel / name
                self.refused(errno.EEXIST, os.mkdir, taken)
                self.refused(errno.EEXIST, os.mkfifo, taken)
                self.refused(errno.EEXIST, os.symlink, "x", taken)
                self.refused(errno.EEXIST, os.link, channel / "a.ts", taken)
                with self.assertRaises(OSError):
                    taken.write_bytes(b"")
                with self.assertRaises(OSError):
                    os.rename(channel / "a.ts", taken)
            # Below a channel they are names as any.
            below = self.channel / "below" / name
            below.mkdir(parents=True)
            self.assertEqual(os.listdir(below), [])
            os.rename(path, below / "a.ts")
            os.rename(below / "a.ts", path)
            os.rmdir(below)
            os.rmdir(self.channel / "below")
        self.assertEqual(os.listdir(self.channel), ["a.ts"])

    def test_it_goes_with_its_channel(self):
        channel = self.box.channel("short-lived")
        (channel / "a.ts").write_bytes(b"x")
        view = channel / ".by-time"
        directory = os.open(view, os.O_RDONLY)
        self.addCleanup(os.close, directory)
        self.assertEqual(len(os.listdir(directory)), 1)
        shutil.rmtree(channel)
        self.assertFalse(channel.exists())
        self.refused(errno.ENOENT, os.stat, view)
        with self.assertRaises(OSError):
            os.listdir(directory)

    def test_a_take_over_does_not_disturb_it(self):
        hour = self.steady_hour()
        for number in range(300):
            self.record(f"{number:03}-{'x' * 60}.ts", 100)
        mount = self.box.another_mount()
        self.addCleanup(mount.unmount)
        taker = Taker(mount)
        view = mount / self.channel.name / ".by-time" / hour
        directory = os.open(view, os.O_RDONLY)
        listing = os.scandir(view)
        seen = [next(listing).name for _ in range(10)]
        wrong, ended = [], threading.Event()

        def look():
            while not ended.is_set():
                try:
                    if len(os.listdir(view)) != 300:
                        wrong.append("listing")
                    (view / f"007-{'x' * 60}.ts").read_bytes()
                except OSError as error:
                    wrong.append(error)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for _ in range(2):
                taker.take_over()
        finally:
            ended.set()
            looking.join()
        self.assertEqual(wrong, [])
        seen += [entry.name for entry in listing]  # goes on where it was
        self.assertEqual(len(seen), 300)
        self.assertEqual(len(set(seen)), 300)
        self.assertEqual(len(os.listdir(directory)), 300)
        os.close(directory)

    def test_handles_lead_to_links(self):
        """As an NFS server keeps them, for longer than the kernel remembers: on a mount that has never shown them, too."""
        hour = self.steady_hour()
        path = self.record("a.ts")
        handle = handle_of(self.channel / ".by-time" / hour / path.name)
        for mount in (self.box.mount, self.second.point):
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
            link = open_handle(mount, handle, os.O_PATH)
            try:
                self.assertEqual(os.readlink("", dir_fd=link), "../../../a.ts")
            finally:
                os.close(link)
        os.unlink(path)
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
        until(lambda: is_stale(self.box.mount, handle), "the handle of what is removed is stale", 5)

    def test_it_waits_for_the_index_as_other_calls_do(self):
        hour = self.steady_hour()
        self.record("a.ts")
        impatient = self.box.another_mount(",timeout=1")
        self.addCleanup(impatient.unmount)
        view = impatient / self.channel.name / ".by-time" / hour
        self.assertEqual(os.listdir(view), ["a.ts"])
        pid = self.box.processes()["index1"]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid), "the index server is gone")
        try:
            began = time.monotonic()
            with self.assertRaises(OSError) as raised:
                os.listdir(view)
            self.assertIn(raised.exception.errno, (errno.EIO, errno.ETIMEDOUT))
            self.assertLess(time.monotonic() - began, 10 * PATIENCE)
        finally:
            self.box.start("index1")
        until(lambda: os.listdir(self.channel / ".by-time" / hour) == ["a.ts"], "it is there again")


if __name__ == "__main__":
    unittest.main()
