"""Two mounts of one cluster, tried against a model: what either does, both show from the moment it has returned.

Strict for names, attributes of files, and contents of what was closed or synced; a directory's attributes may be 100 ms old, a growing file's
length a second. REELFS_SEED repeats a run, REELFS_OPERATIONS makes it longer.
"""
import errno
import fcntl
import os
import random
import stat
import subprocess
import sys
import threading
import time
import unittest

from harness import PATIENCE, TwoMountsTest, until
from operations import NAMES, OPEN_FILES, ROOT, Operation, Place, Slot, difference, random_operations, seen

OPERATIONS = int(os.environ.get("REELFS_OPERATIONS", int(2000 / PATIENCE)))
SEED = int(os.environ.get("REELFS_SEED", random.SystemRandom().randrange(1 << 32)))
RACES = int(os.environ.get("REELFS_RACES", int(120 / PATIENCE)))
REPLACED_S = float(os.environ.get("REELFS_REPLACED_S", 4))
DIRECTORY_ATTRIBUTES_S = 0.1
GROWING_S = 1.0
GRACE_S = 1.9  # for which the index keeps what it has just told another mount of
MIB = 1 << 20
# Open files are written as one mount after the other has them: each write is followed by fsync.
WRITES = ("pwrite", "write", "writev", "fallocate", "ftruncate")
TOGETHER = tuple(one for one in OPEN_FILES if one[1] in WRITES + (
    "open", "close", "pread", "fsync", "fchmod", "fchown", "futime", "data_and_holes", "link_open")) + NAMES
SPECIAL = (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)

# A name is replaced again and again, and others read what it leads to: always one or the other.
REPLACER = """
import os
number = 0
while True:
    number += 1
    with open("new", "wb") as file:
        file.write(b"%08d" % number * 100)
    os.rename("new", "latest")
"""
READER = """
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
count = 0
while time.monotonic() < end:
    with open("latest", "rb") as file:
        contents = file.read()
    assert contents == contents[:8] * 100, contents
    count += 1
print(count)
"""


class Model(Place):
    """A directory on the local disk: the kernel's own file system is the model."""


class Together:
    """The model, and one directory as two mounts show it. Of the open files, the even ones are open on the first mount, the odd on the second."""

    def __init__(self, model, mounts, dice):
        self.model = Model(model)
        self.mounts = [Place(mount) for mount in mounts]
        self.dice = dice
        for place in (self.model, self.mounts[0]):
            os.makedirs(place.root)
            os.chmod(os.path.dirname(place.root), 0o755)  # which a link to "." and ".." lead to

    def who(self, operation):
        slots = [one for one in operation.arguments if isinstance(one, Slot)]
        return self.mounts[slots[0] % 2] if slots else self.dice.choice(self.mounts)

    def step(self, operation):
        """@return what differs from the model, or None"""
        actor = self.who(operation)
        want, got = self.model.outcome(operation), actor.outcome(operation)
        slots = [one for one in operation.arguments if isinstance(one, Slot)]
        if got == "ESTALE" and any(is_held_by_a_kernel_alone(one, self.model.attributes(one)) for one in slots):
            return None
        if got == "ENXIO" and self.is_fifo(operation):  # its reader is the other mount's, and a fifo is each machine's own
            for slot in slots:
                self.model.close(slot)
            return None
        differs = difference(want, got)
        if differs:
            return differs
        if operation.kind in WRITES:
            for one in operation.arguments:
                if isinstance(one, Slot):
                    actor.outcome(Operation(ROOT, "fsync", (one,)))
        for what in operation.touched():
            differs = self.look_at(what)
            if differs:
                return f"{what!r}, then: {differs}"
        return None

    def is_fifo(self, operation):
        return operation.kind in ("create", "open") and stat.S_ISFIFO(os.stat(self.model.at(operation.arguments[0])).st_mode)

    def look_at(self, what):
        want = self.model.attributes(what)
        others = [self.mounts[what % 2]] if isinstance(what, Slot) else self.dice.sample(self.mounts, 2)
        told = []
        for mount in others:
            got = mount.attributes(what)
            if got == "ESTALE" and is_held_by_a_kernel_alone(what, want):
                continue
            differs = difference(seen(want), seen(got))
            if differs and is_directory(want) and is_directory(got):
                differs = self.directory_differs(mount, what)
            differs = differs or self.contents_differ(mount, what, want)
            if differs:
                return f"mount {self.mounts.index(mount) + 1} shows {differs}"
            told.append(got)
        if len(told) == 2 and not isinstance(want, str) and not is_directory(want):
            times = [(one.st_ino, one.st_mtime_ns, one.st_ctime_ns) for one in told]
            if times[0] != times[1]:
                return f"inode, mtime and ctime are {times[0]} on one mount, {times[1]} on the other"
        return None

    def directory_differs(self, mount, what):
        """Attributes of a directory, which may be some time old, but no longer."""
        deadline = time.monotonic() + DIRECTORY_ATTRIBUTES_S * PATIENCE
        while True:
            now = time.monotonic()
            differs = difference(seen(self.model.attributes(what)), seen(mount.attributes(what)))
            if not differs or now > deadline:
                return differs

    def contents_differ(self, mount, what, told):
        if isinstance(told, str) or stat.S_IFMT(told.st_mode) in SPECIAL:
            return None
        if isinstance(what, Slot):
            read = Operation(ROOT, "pread", (what, 0, MIB))
        elif is_directory(told):
            read = Operation(ROOT, "list", (what,))
        elif stat.S_ISLNK(told.st_mode):
            read = Operation(ROOT, "readlink", (what,))
        else:
            read = Operation(ROOT, "contents", (what,))
        return difference(self.model.outcome(read), mount.outcome(read))

    def whole_tree_differs(self):
        for place in (self.model, *self.mounts):
            place.close_all()
        want = self.model.picture()
        for mount in self.mounts:
            differs = difference(want, mount.picture())
            if differs:
                return f"mount {self.mounts.index(mount) + 1} shows {differs}"
        return None


def is_held_by_a_kernel_alone(what, told):
    """A kernel tells nobody that a fifo, device or directory is open: one that the other mount removes is gone for good (man reelfs)."""
    return isinstance(what, Slot) and not isinstance(told, str) and told.st_nlink == 0 and (
        is_directory(told) or stat.S_IFMT(told.st_mode) in SPECIAL)


def is_directory(told):
    return not isinstance(told, str) and stat.S_ISDIR(told.st_mode)


class TwoMounts(TwoMountsTest):
    box_settings = {"device_size": "2G"}

    def carry_out(self, count, seed):
        dice = random.Random(seed)
        together = Together(self.local() / "tree", [self.channel / "tree", self.other / "tree"], dice)
        operations = random_operations(dice, count, kinds=TOGETHER, users=(ROOT,))
        for number, operation in enumerate(operations):
            differs = together.step(operation)
            if differs:
                before = "\n".join(f"    {one}" for one in operations[max(0, number - 30):number])
                self.fail(f"REELFS_SEED={SEED} operation {number}, after\n{before}\n{operation}: {differs}")
        differs = together.whole_tree_differs()
        self.assertIsNone(differs, f"REELFS_SEED={SEED}, in the end")

    def test_what_either_does_both_show(self):
        self.carry_out(OPERATIONS, SEED)

    def test_what_either_does_both_show_while_others_look(self):
        """Answers are on their way to a mount all the time, and must not be believed longer than what overtakes them."""
        done = threading.Event()
        looks = []

        def look(root, seed):
            dice = random.Random(seed)
            place = Place(root)
            kinds = [one for one in NAMES if one[1] in ("stat", "list", "contents", "readlink", "getxattr")]
            while not done.is_set():
                for operation in random_operations(dice, 50, kinds=kinds, users=(ROOT,)):
                    place.outcome(operation)
                looks.append(50)

        lookers = [threading.Thread(target=look, args=(root / "tree", number))
                   for number, root in enumerate((self.channel, self.other))]
        for looker in lookers:
            looker.start()
        try:
            self.carry_out(OPERATIONS // 4, SEED + 1)
        finally:
            done.set()
            for looker in lookers:
                looker.join()
        self.assertGreater(sum(looks), 0)

    def test_of_two_that_want_the_same_one_gets_it(self):
        """As lock files, spool directories and numbered recordings rely on."""
        (self.channel / "from").mkdir()
        contests = {
            "created": lambda root, number: os.close(os.open(root / f"f{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
            "made": lambda root, number: os.mkdir(root / f"d{number}"),
            "linked": lambda root, number: os.link(root / "linked", root / f"l{number}"),
            # To a name of its own: where both names are one file by the time the kernel looks, rename does nothing.
            "taken": lambda root, number: os.rename(root / "from" / str(number), root / f"t{number}-{root.parent.name}"),
            "removed": lambda root, number: os.unlink(root / f"f{number}"),
            "emptied": lambda root, number: os.rmdir(root / f"d{number}"),
        }
        (self.channel / "linked").touch()
        for number in range(RACES // len(contests)):
            (self.channel / "from" / str(number)).touch()
            for what, contest in contests.items():
                results = self.race([lambda root=root: contest(root, number) for root in (self.channel, self.other)])
                losers = [one for one in results if one is not None]
                self.assertEqual(len(losers), 1, f"{what} {number}: {results}")
                self.assertIn(losers[0].errno, (errno.EEXIST, errno.ENOENT), f"{what} {number}: {results}")
                self.assertEqual(sorted(os.listdir(self.channel)), sorted(os.listdir(self.other)), what)

    @staticmethod
    def race(contestants):
        """Each in a thread of its own, all at once. @return the error of each, or None"""
        results = [None] * len(contestants)
        start = threading.Barrier(len(contestants))

        def one(index):
            start.wait()
            try:
                contestants[index]()
            except OSError as failed:
                results[index] = failed

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(contestants))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def test_a_file_that_grows_is_seen_growing(self):
        """Its length never goes back, is at most a second old, and what lies before it is what was written."""
        noise = random.Random(SEED).randbytes(MIB)
        with open(self.channel / "growing", "wb", buffering=0) as file, open(self.other / "growing", "rb") as reader:
            last = 0
            for number in range(8):
                begin = file.tell()
                file.write(noise[number:number + 50_000 + number])
                written, size = time.monotonic(), file.tell()

                def grown(size=size):
                    nonlocal last
                    length = os.stat(self.other / "growing").st_size
                    self.assertGreaterEqual(length, last)
                    last = length
                    return length >= size

                until(grown, "the other mount sees it", 30)
                self.assertLess(time.monotonic() - written, GROWING_S * PATIENCE)
                self.assertEqual(os.pread(reader.fileno(), MIB, begin), noise[number:number + 50_000 + number])

    def test_what_is_synced_is_seen_at_once_where_it_is_open(self):
        noise = random.Random(SEED).randbytes(MIB)
        (self.channel / "shared").touch()
        with open(self.channel / "shared", "r+b", buffering=0) as one, open(self.other / "shared", "r+b", buffering=0) as two:
            content = bytearray()
            for number in range(int(100 / PATIENCE)):
                writer, reader = random.Random(SEED + number).sample((one, two), 2)
                at = random.Random(SEED - number).randrange(len(content) + 1)
                data = noise[number:number + 3000]
                os.pwrite(writer.fileno(), data, at)
                os.fsync(writer.fileno())
                content[at:at + len(data)] = data
                self.assertEqual(os.fstat(reader.fileno()).st_size, len(content))
                self.assertEqual(os.pread(reader.fileno(), MIB, 0), content, f"REELFS_SEED={SEED}, write {number}")

    def test_attributes_set_here_hide_nothing_written_there(self):
        """A kernel that takes over the new mtime with the answer would keep its pages."""
        (self.channel / "file").write_bytes(b"a" * 20000)
        with open(self.channel / "file", "r+b", buffering=0) as there, open(self.other / "file", "r+b", buffering=0) as here:
            for number, change in enumerate((lambda: os.fchmod(here.fileno(), 0o600), lambda: os.fchown(here.fileno(), 1, 1),
                                             lambda: os.ftruncate(here.fileno(), 20000), lambda: os.utime(here.fileno()))):
                self.assertEqual(len(os.pread(here.fileno(), 20000, 0)), 20000)
                written = b"%d" % number * 5000
                os.pwrite(there.fileno(), written, 0)
                os.fsync(there.fileno())
                change()
                until(lambda: os.pread(here.fileno(), 5000, 0) == written, "it is seen", 1)  # a length is set first and told then

    def test_a_log_of_both_holds_every_line(self):
        """Each appends through a descriptor of its own that it never looks at, and syncs the line."""
        logs = [open(root / "log", "ab", buffering=0) for root in (self.channel, self.other)]
        try:
            lines = []
            for number in range(int(100 / PATIENCE)):
                dice = random.Random(SEED + number)
                log = dice.choice(logs)
                if dice.randrange(20) == 0:
                    os.ftruncate(log.fileno(), 0)  # rotated
                    lines.clear()
                lines.append(b"%d %s\n" % (number, dice.randbytes(dice.randrange(3000)).hex().encode()))
                log.write(lines[-1])
                os.fsync(log.fileno())
                self.assertEqual((self.channel / "log").read_bytes(), b"".join(lines), f"REELFS_SEED={SEED}, line {number}")
                self.assertEqual((self.other / "log").read_bytes(), b"".join(lines), f"REELFS_SEED={SEED}, line {number}")
        finally:
            for log in logs:
                log.close()

    def test_a_name_that_is_replaced_all_the_time_can_always_be_read(self):
        (self.channel / "latest").write_bytes(b"%08d" % 0 * 100)
        with subprocess.Popen([sys.executable, "-c", REPLACER], cwd=self.channel) as replacer:
            try:
                readers = [subprocess.Popen([sys.executable, "-c", READER, str(REPLACED_S)], cwd=root, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, text=True) for root in (self.channel, self.channel, self.other)]
                for reader in readers:
                    count, trouble = reader.communicate()
                    self.assertEqual(trouble, "")
                    self.assertGreater(int(count), 0)
            finally:
                replacer.kill()

    def test_what_another_mount_has_just_replaced_can_be_opened(self):
        """By a process that has found the name before and is about to open it."""
        for _ in range(20):
            for root in (self.channel, self.other):
                (root / "file").write_bytes(b"old")
            (self.channel / "new").write_bytes(b"new")
            found = os.open(self.other / "file", os.O_PATH)
            start = time.monotonic()
            try:
                os.rename(self.channel / "new", self.channel / "file")
                with open(f"/proc/self/fd/{found}", "rb") as file:
                    self.assertEqual(file.read(), b"old")
            except OSError as error:
                self.assertGreater(time.monotonic() - start, GRACE_S, error)
            finally:
                os.close(found)

    def test_a_log_that_both_lock_holds_every_line(self):
        """Without a sync: a lock given up has what was written under it stored."""
        count = int(100 / PATIENCE)

        def append(root):
            with open(root / "locked", "ab", buffering=0) as log:
                for number in range(count):
                    fcntl.flock(log, fcntl.LOCK_EX)
                    log.write(f"{root.parent.name} {number}\n".encode())
                    fcntl.flock(log, fcntl.LOCK_UN)

        self.assertEqual(self.race([lambda root=root: append(root) for root in (self.channel, self.other)]), [None, None])
        lines = (self.channel / "locked").read_text().splitlines()
        for root in (self.channel, self.other):
            own = [line for line in lines if line.startswith(f"{root.parent.name} ")]
            self.assertEqual(own, [f"{root.parent.name} {number}" for number in range(count)])
        self.assertEqual(len(lines), 2 * count)


class Full(TwoMountsTest):
    box_settings = {"device_size": "128M"}

    def test_what_is_removed_makes_room_though_another_mount_knows_it(self):
        """As where recordings are watched on one machine, and an old one is removed on another so that it can go on."""
        def record(name):
            with open(self.channel / name, "xb", buffering=0) as file:
                file.write(os.urandom(8 * MIB))
                os.fsync(file.fileno())

        self.box.keep_everything()
        full = None
        for number in range(32):
            try:
                record(str(number))
            except OSError as error:
                full = error.errno
                break
        self.assertEqual(full, errno.ENOSPC)
        for number in range(3):
            self.assertEqual(len((self.other / str(number)).read_bytes()), 8 * MIB)
        for number in range(3):
            os.unlink(self.channel / str(number))
        start = time.monotonic()
        record("new")
        self.assertLess(time.monotonic() - start, 2 * PATIENCE)


if __name__ == "__main__":
    unittest.main()
