"""What a mount believes without asking, and that it believes nothing another mount has changed."""
import errno
import mmap
import multiprocessing
import os
import signal
import threading
import time
import unittest

from harness import PATIENCE, TwoMountsTest, until

ROUNDS = int(200 / PATIENCE)
# indexd waits this long for a mount that does not say that it has forgotten something.
LONGEST_WAIT_S = 0.5
MOVING_S = 5


class Leases(TwoMountsTest):
    def index_is_stopped(self):
        return Stopped(process["pid"] for name, process in self.box.processes().items() if name.startswith("index"))

    def known_without_the_index(self, look):
        look()
        again = threading.Thread(target=look)
        with self.index_is_stopped():
            again.start()
            again.join(0.3)
            at_once = not again.is_alive()
        again.join()
        return at_once

    def until_known(self, look):
        """Nothing is believed for ten seconds after a call was given up."""
        until(lambda: self.known_without_the_index(look), "names and attributes are known without the index", 20)

    def test_what_is_leased_is_known_without_the_index(self):
        (self.channel / "there").write_bytes(b"1234")

        def look():
            self.assertEqual(os.stat(self.channel / "there").st_size, 4)
            self.assertFalse((self.channel / "absent").exists())

        self.until_known(look)

    def test_a_change_is_seen_by_the_other_mount_as_soon_as_it_has_returned(self):
        for number in range(ROUNDS):
            here, there = (self.channel, self.other) if number % 2 else (self.other, self.channel)
            self.change_and_look(here, there, str(number))

    def change_and_look(self, here, there, text):
        name, second = "name", "second"
        self.assertFalse((there / name).exists())
        descriptor = os.open(here / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self.assertTrue((there / name).exists())
        os.write(descriptor, b"abc")
        os.close(descriptor)
        self.assertEqual(os.stat(there / name).st_size, 3)
        os.chmod(here / name, 0o644)
        self.assertEqual(os.stat(there / name).st_mode & 0o777, 0o644)
        os.utime(here / name, ns=(1, 2))
        self.assertEqual(os.stat(there / name).st_mtime_ns, 2)
        os.setxattr(here / name, "user.a", text.encode())
        self.assertEqual(os.getxattr(there / name, "user.a"), text.encode())
        with open(here / name, "ab") as file:
            file.write(b"def")
        self.assertEqual((there / name).read_bytes(), b"abcdef")
        os.link(here / name, here / second)
        self.assertEqual(os.stat(there / name).st_nlink, 2)
        os.rename(here / second, here / "third")
        self.assertFalse((there / second).exists())
        self.assertTrue((there / "third").exists())
        os.truncate(here / "third", 1)
        self.assertEqual(os.stat(there / name).st_size, 1)
        changed = os.stat(there).st_mtime_ns
        os.unlink(here / name)
        self.assertFalse((there / name).exists())
        self.assertGreater(os.stat(there).st_mtime_ns, changed)
        self.assertEqual(os.listdir(there), ["third"])
        os.unlink(here / "third")
        self.assertEqual(os.listdir(there), [])

    def test_a_directory_that_was_replaced_leads_to_the_new_one(self):
        for name in ("old", "new"):
            (self.channel / name).mkdir()
            (self.channel / name / "which").write_text(name)
        for number in range(20):
            before = (self.other / "old" / "which").read_text()
            os.rename(self.channel / "old", self.channel / "aside")
            os.rename(self.channel / "new", self.channel / "old")
            os.rename(self.channel / "aside", self.channel / "new")
            self.assertNotEqual((self.other / "old" / "which").read_text(), before, number)

    def test_two_mounts_that_make_files_in_one_directory_do_not_wait_for_each_other(self):
        with multiprocessing.Pool(4) as pool:
            places = [self.channel, self.other, self.channel, self.other]
            worst = max(pool.starmap(longest_creation, [(place, number) for number, place in enumerate(places)]))
        self.assertEqual(len(os.listdir(self.channel)), 4 * ROUNDS)
        self.assertLess(worst, LONGEST_WAIT_S * PATIENCE)

    def test_a_mount_that_has_stopped_holds_up_others_once(self):
        (self.channel / "a").write_bytes(b"")
        self.assertEqual(os.listdir(self.other), ["a"])
        with Stopped([self.second.process.pid]):
            waits = []
            for number in range(20):
                began = time.monotonic()
                (self.channel / f"new{number}").write_bytes(b"")
                waits.append(time.monotonic() - began)
        print(f"longest creations while the other mount is stopped: {sorted(waits)[-3:]} s")
        self.assertLess(max(waits), 2 * LONGEST_WAIT_S * PATIENCE)
        self.assertLess(sorted(waits)[-2], LONGEST_WAIT_S * PATIENCE, "more than one had to wait")
        until(lambda: len(os.listdir(self.other)) == 21 and (self.other / "new19").exists(), "it has caught up", 2 * PATIENCE)

    def test_directories_that_move_on_two_mounts_do_not_wait_for_each_other(self):
        """The kernel locks what it moves, and each mount makes files in what the other one moves."""
        for name in ("left", "right", "left/0", "left/1"):
            (self.channel / name).mkdir()
        mounts = [self.channel, self.other]
        calls = [(work, mounts[number], moved) for number in range(2)
                 for work, moved in ((longest_move, number), (longest_creation_within, 1 - number))]
        with multiprocessing.Pool(len(calls)) as pool:
            worst = [result.get() for result in [pool.apply_async(work, arguments) for work, *arguments in calls]]
        self.assertLess(max(worst), LONGEST_WAIT_S * PATIENCE, worst)

    def test_a_change_whose_caller_was_killed_shows_on_both_mounts_or_on_none(self):
        (self.channel / "a").write_bytes(b"")
        carried_out = 0
        for number in range(2):
            mode, name = 0o700 + number, f"new{number}"

            def look(root=self.channel, name=name):
                os.stat(root / "a")
                self.assertFalse((root / name).exists())

            def show_the_same(name=name):
                modes = [os.stat(root / "a").st_mode for root in (self.channel, self.other)]
                return modes[0] == modes[1] and (self.channel / name).exists() == (self.other / name).exists()

            self.until_known(look)  # so that the calls reach the index, and do not wait for names
            look(self.other)
            with self.index_is_stopped():
                callers = [multiprocessing.Process(target=os.chmod, args=(self.channel / "a", mode)),
                           multiprocessing.Process(target=os.mkdir, args=(self.channel / name,))]
                for caller in callers:
                    caller.start()
                for caller in callers:
                    until(lambda caller=caller: "fuse" in where_it_waits(caller.pid), "the call waits")
                    caller.kill()
                    caller.join()
            until(show_the_same, "both mounts show the same", 2 * PATIENCE)
            carried_out += (os.stat(self.channel / "a").st_mode & 0o777 == mode) + (self.channel / name).exists()
        print(f"{carried_out} of 4 calls of killed callers were carried out")
        self.assertGreater(carried_out, 0, "so nothing was tried")

    def test_what_changed_around_a_restart_of_the_index_is_seen(self):
        (self.channel / "held").mkdir()
        descriptor = os.open(self.other / "held", os.O_RDONLY | os.O_DIRECTORY)  # which no path leads through
        self.addCleanup(os.close, descriptor)
        for number in range(3):
            name = f"{number}"
            self.assertFalse((self.other / name).exists())
            self.assertNotEqual(os.fstat(descriptor).st_mode & 0o777, 0o700 + number)
            self.box.signal(signal.SIGKILL, keep=[one for one in self.box.processes() if not one.startswith("index")])
            self.box.start()
            (self.channel / name).write_bytes(b"x")
            os.chmod(self.channel / "held", 0o700 + number)
            until((self.other / name).exists, "the other mount sees what was made", 2 * PATIENCE)
            until(lambda number=number: os.fstat(descriptor).st_mode & 0o777 == 0o700 + number,
                  "the other mount sees the mode of a directory that it has open", 2 * PATIENCE)

    def test_what_is_written_through_a_mapping_changes_size_and_times(self):
        path = self.channel / "mapped"
        path.write_bytes(bytes(8192))
        os.utime(path, ns=(1, 2))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
            self.assertEqual(os.stat(path).st_mtime_ns, 2)
            mapping[5000:5003] = b"new"
            mapping.flush()
            until(lambda: os.stat(path).st_mtime_ns > 2, "the time of the write shows", 1 * PATIENCE)
        self.assertGreater(os.stat(self.other / "mapped").st_mtime_ns, 2)
        self.assertEqual((self.other / "mapped").read_bytes()[5000:5003], b"new")


class Stopped:
    """Processes are stopped while this is entered."""

    def __init__(self, pids):
        self.pids = list(pids)

    def __enter__(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *_):
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)


def where_it_waits(pid):
    with open(f"/proc/{pid}/stack", encoding="ascii") as stack:
        return stack.read()


def longest_move(root, moved):
    worst = 0.0
    sides = ["left", "right"]
    until_then = time.monotonic() + MOVING_S
    while time.monotonic() < until_then:
        began = time.monotonic()
        os.rename(root / sides[0] / str(moved), root / sides[1] / str(moved))
        worst = max(worst, time.monotonic() - began)
        sides.reverse()
    return worst


def longest_creation_within(root, moved):
    worst = 0.0
    until_then = time.monotonic() + MOVING_S
    while time.monotonic() < until_then:
        for side in ("left", "right"):
            path = root / side / str(moved) / "file"
            began = time.monotonic()
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                os.unlink(path)
            except OSError as failed:
                # It is on the other side; or it is found there while this mount moves something, and then the kernel,
                # which cannot have both directories' locks at once, gives up after a second try.
                if failed.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
            worst = max(worst, time.monotonic() - began)
    return worst


def longest_creation(directory, number):
    worst = 0.0
    for file in range(ROUNDS):
        began = time.monotonic()
        os.close(os.open(directory / f"{number}-{file}", os.O_CREAT | os.O_WRONLY))
        worst = max(worst, time.monotonic() - began)
    return worst


if __name__ == "__main__":
    unittest.main()
