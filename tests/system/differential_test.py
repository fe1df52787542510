"""Random operations on the mount and on a local ext4: the same results, errors, contents and attributes.

REELFS_SEED repeats a run, REELFS_OPERATIONS makes it longer. Of operations that end in a difference the few that matter are found and told.
"""
import os
import random
import shutil
import stat
import subprocess
import time
import unittest

from harness import BoxTest, PATIENCE, run
from operations import Place, acting_as, difference, random_operations, seen, shortest

OPERATIONS = int(os.environ.get("REELFS_OPERATIONS", int(100_000 / PATIENCE)))
SEED = int(os.environ.get("REELFS_SEED", random.SystemRandom().randrange(1 << 32)))
A_ROUND = 5000  # operations in one directory
WATCHED = 4  # of so many operations, attributes are looked at before and after one
# Of a local file system times move with the kernel's clock, of which a tick takes up to 10 ms.
TICK_NS = 20_000_000
BLOCK = 4096
# These write what is in memory when the kernel likes; only then do times move.
LATER = ("map_write",)
# Where nothing changes ext4 leaves ctime alone, and others do not.
ONLY_CHANGES = ("setxattr",)


def moved(before, after):
    """Which of the times have changed."""
    if isinstance(before, str) or isinstance(after, str) or before.st_ino != after.st_ino or stat.S_ISFIFO(before.st_mode):
        return None
    return before.st_mtime_ns != after.st_mtime_ns, before.st_ctime_ns != after.st_ctime_ns


def may_move_times(operation):
    """POSIX leaves it open whether times move where chown changes nobody: ext4 moves ctime, we do not."""
    return operation.kind in ("chown", "fchown") and operation.arguments[-2:] == (-1, -1)


def wrong_times(operation, local, mount, now):
    """Of one file, before and after an operation: whether a time has moved on one and not on the other."""
    if operation.kind in LATER or may_move_times(operation):
        return None
    want, got = moved(*local), moved(*mount)
    if want is None or got is None:
        return None
    for name, expected, found, old in zip(("mtime", "ctime"), want, got, (local[0].st_mtime_ns, local[0].st_ctime_ns)):
        if expected and not found:
            return f"{name} has not moved"
        if found and not expected and abs(now - old) > TICK_NS and operation.kind not in ONLY_CHANGES:
            return f"{name} has moved"
    return None


class Differential(BoxTest):
    box_settings = {"device_size": "4G"}

    def setUp(self):
        super().setUp()
        os.chmod(self.box.base, 0o755)
        self.tries = 0
        self.local_root = self.ext4()

    def ext4(self):
        """An ext4 of its own, or what the temporary directory is on where none can be made."""
        image, point = self.box.base / "ext4.img", self.box.base / "ext4"
        point.mkdir()
        run("truncate", "-s", "2G", image)
        run("mkfs.ext4", "-q", "-F", "-b", BLOCK, image)
        if subprocess.run(["mount", "-o", "loop,nodev", image, point], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            self.addCleanup(run, "umount", point)
        return point

    def places(self):
        """An empty directory on each, in one in which there is nothing else."""
        self.tries += 1
        found = []
        for root in (self.local_root, self.channel):
            tree = root / str(self.tries) / "tree"
            tree.mkdir(parents=True)
            os.chmod(tree.parent, 0o777)
            os.chmod(tree, 0o777)
            found.append(Place(tree))
        return found

    def first_difference(self, operations, every):
        """Carries them out. @return (its number, what differs), or None."""
        local, mount = self.places()
        try:
            for number, operation in enumerate(operations):
                differs = self.step(local, mount, operation, number % every == 0)
                if differs:
                    return number, differs
            differs = self.picture_difference(local, mount)
            return (len(operations) - 1, differs) if differs else None
        finally:
            for place in (local, mount):
                place.close_all()
                shutil.rmtree(os.path.dirname(place.root))

    @staticmethod
    def step(local, mount, operation, watched):
        touched = operation.touched() if watched else ()
        now = time.time_ns()
        before = {what: (local.attributes(what), mount.attributes(what)) for what in touched}
        with acting_as(operation.user):
            want = local.outcome(operation)
            got = mount.outcome(operation)
        differs = difference(want, got)
        if differs:
            return differs
        for what in touched:
            here, there = local.attributes(what), mount.attributes(what)
            differs = difference(seen(here), seen(there))
            if not differs:
                differs = wrong_times(operation, (before[what][0], here), (before[what][1], there), now)
            if differs:
                return f"{what!r}: {differs}"
        return None

    @staticmethod
    def picture_difference(local, mount):
        for place in (local, mount):
            place.close_all()
        (want, want_links), (got, got_links) = local.picture(), mount.picture()
        differs = difference(want, got) or difference(want_links, got_links)
        if differs:
            return f"in the end {differs}"
        for name, (_, body, _) in want.items():
            if not isinstance(body, bytes):
                continue
            told = os.lstat(mount.at(name))
            if told.st_blocks * 512 > os.lstat(local.at(name)).st_blocks * 512 + BLOCK:
                return f"in the end {name} has {told.st_blocks} blocks"
            if body.strip(b"\0") and told.st_blocks == 0:
                return f"in the end {name} has no blocks"
        return None

    def test_the_mount_behaves_as_ext4(self):
        begun = time.monotonic()
        for round_number, first in enumerate(range(0, OPERATIONS, A_ROUND)):
            seed = SEED + round_number
            operations = random_operations(random.Random(seed), min(A_ROUND, OPERATIONS - first))
            found = self.first_difference(operations, WATCHED)
            if found is not None:
                self.tell(seed, operations, found)
        print(f"{OPERATIONS} operations in {time.monotonic() - begun:.0f} s")

    def tell(self, seed, operations, found):
        number, differs = found
        told = [f"REELFS_SEED={seed} REELFS_OPERATIONS={A_ROUND}: operation {number}, {operations[number]}: {differs}"]

        def fails(some):
            again = self.first_difference(some, 1)
            return None if again is None else again[0]

        few = shortest(operations[:number + 1], fails, 60)
        again = self.first_difference(few, 1)
        told += [f"    {one}" for one in few[-40:]]
        told.append(f"{len(few)} operations, which end with: {again[1]}" if again else f"{len(few)} operations, which do not always fail")
        self.fail("\n".join(told))


if __name__ == "__main__":
    unittest.main()
