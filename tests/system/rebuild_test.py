"""An index server that has lost everything: it is made again from the nodes, with all that was fsynced."""
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import threading
import time
import unittest

from harness import Box, REELCTL, run, until

LEASE = 10  # seconds that a mount which says nothing is taken for alive


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def manifest(root):
    """Everything there is below it: attributes, contents, extended attributes and policies."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        told = path.lstat()
        kind = stat.S_IFMT(told.st_mode)
        entry = {"mode": told.st_mode, "uid": told.st_uid, "gid": told.st_gid, "inode": told.st_ino, "mtime": told.st_mtime_ns,
                 "nlink": told.st_nlink,
                 "xattrs": {name: os.getxattr(path, name, follow_symlinks=False)
                            for name in os.listxattr(path, follow_symlinks=False)}}
        if stat.S_ISREG(kind):
            entry["size"], entry["blocks"] = told.st_size, told.st_blocks
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(kind):
            entry["target"] = os.readlink(path)
        found[str(path.relative_to(root))] = entry
    return found


class RebuildTest(unittest.TestCase):
    maxDiff = 4000
    nodes = 2

    def setUp(self):
        self.box = Box(nodes=self.nodes)
        self.addCleanup(self.box.close)
        self.index = self.box.directory / "index1"

    def index_status(self):
        return self.box.reelctl("index", "status")

    def until_stored(self):
        until(lambda: not self.index_status()["nodes"]["behind"], "the nodes have all of the journal", 60)

    def kill_index(self):
        self.box.kill_process("index1")

    def lose_index(self):
        """Its process and its disk."""
        self.kill_index()
        shutil.rmtree(self.index)
        self.index.mkdir()

    def start_index(self):
        """It is there, though it may know nothing yet: then starting says so."""
        run(REELCTL, "box", "start", "--dir", self.box.directory, "index1", check=False)
        until(lambda: run(REELCTL, "index", "status", "--dir", self.box.directory, check=False).returncode == 0,
              "the index server answers", 60)

    def rebuild(self, *options):
        """Nodes register within a second."""
        arguments = (REELCTL, "index", "rebuild", "--dir", self.box.directory, "--json", *options)
        done = until(lambda: (lambda done: done if done.returncode == 0 else None)(run(*arguments, check=False)),
                     "the index is made again", 60)
        report = json.loads(done.stdout)
        self.assertEqual(report["state"], "done")
        return report

    def record_all_sorts(self):
        mount = self.box.mount
        for channel in ("cam1", "cam2", "cam3"):
            (mount / channel).mkdir()
            (mount / channel / "2026" / "11").mkdir(parents=True)
        cam1, cam2, cam3 = mount / "cam1", mount / "cam2", mount / "cam3"
        for number in range(60):
            write(cam1 / "2026" / f"{number:03}.ts", os.urandom(random.Random(number).randrange(1, 60_000)))
        write(cam2 / "large.ts", os.urandom(9 << 20))
        with open(cam2 / "large.ts", "r+b") as file:  # overwritten, and with a hole
            file.seek(1 << 20)
            file.write(os.urandom(300_000))
            file.seek(12 << 20)
            file.write(b"behind the hole")
        write(cam2 / "cut.ts", os.urandom(500_000))
        os.truncate(cam2 / "cut.ts", 123_456)
        os.rename(cam1 / "2026" / "000.ts", cam1 / "2026" / "11" / "renamed.ts")
        os.replace(cam1 / "2026" / "001.ts", cam1 / "2026" / "002.ts")
        os.link(cam1 / "2026" / "003.ts", cam1 / "2026" / "11" / "linked.ts")
        os.symlink("2026/003.ts", cam1 / "symlink")
        for number in range(10, 20):
            os.unlink(cam1 / "2026" / f"{number:03}.ts")
        with open(cam2 / "large.ts", "rb") as source, open(cam2 / "clone.ts", "wb") as target:
            os.copy_file_range(source.fileno(), target.fileno(), 4 << 20)
        os.setxattr(cam1 / "2026" / "020.ts", "user.note", b"seen \0 and kept")
        os.setxattr(cam2, "user.reel.max_age", b"30d")
        os.setxattr(cam3, "user.reel.quota", b"100M")
        os.setxattr(cam2 / "cut.ts", "user.reel.hold", b"evidence 17")
        os.chmod(cam2 / "cut.ts", 0o640)
        os.chown(cam1 / "2026" / "021.ts", 1234, 4321)
        os.utime(cam1 / "2026" / "022.ts", ns=(10**18, 10**18 + 1))
        os.mkfifo(cam3 / "fifo")
        for path in [mount, *mount.rglob("*")]:
            if path.is_dir() or path.is_file() and not path.is_symlink():
                fsync(path)

    def holds(self):
        return sorted((hold["path"], hold["reason"]) for hold in self.box.reelctl("hold", "list")["holds"])

    def mounts_session(self):
        return [session["session"] for session in self.box.reelctl("status")["sessions"] if "mount" in session["purpose"]]

    def assert_goes_on(self):
        """Recording, on old and new channels, and what it takes off again."""
        for channel in ("cam1", "after"):
            directory = self.box.mount / channel
            directory.mkdir(exist_ok=True)
            data = os.urandom(6 << 20)
            write(directory / "new.ts", data)
            self.assertEqual((directory / "new.ts").read_bytes(), data)
        with self.assertRaises(PermissionError):
            os.unlink(self.box.mount / "cam2" / "cut.ts")  # held
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)


class AfterALoss(RebuildTest):
    def test_everything_that_was_fsynced_is_back(self):
        self.record_all_sorts()
        self.until_stored()
        recorder = os.open(self.box.mount / "cam3" / "going-on.ts", os.O_RDWR | os.O_CREAT)
        self.addCleanup(os.close, recorder)
        os.write(recorder, b"before ")
        os.fsync(recorder)
        before, holds, session = manifest(self.box.mount), self.holds(), self.mounts_session()
        self.assertEqual(len(holds), 1)
        self.lose_index()
        self.start_index()
        self.assertIn("does not know", self.index_status()["withheld"])
        report = self.rebuild()
        self.assertEqual((report["lost_segments"], report["lost_file_count"]), (0, 0))
        self.assertGreater(report["rows"], 300)
        after = manifest(self.box.mount)
        self.assertEqual(set(after), set(before))
        for path, entry in before.items():
            self.assertEqual(after[path], entry, path)
        self.assertEqual(self.holds(), holds)
        self.assertEqual(self.mounts_session(), session, "the mount goes on with what it has open")
        os.write(recorder, b"after")
        os.fsync(recorder)
        self.assertEqual((self.box.mount / "cam3" / "going-on.ts").read_bytes(), b"before after")
        self.assert_goes_on()
        # What it is now outlives the next loss, too.
        self.until_stored()
        before = manifest(self.box.mount)
        self.lose_index()
        self.start_index()
        self.rebuild()
        self.assertEqual(manifest(self.box.mount), before)
        self.assertEqual(self.box.faults(), [])

    def test_fsyncs_until_the_last_moment(self):
        """Whatever fsync had answered when the index server was lost is there, though it was lost in mid-work."""
        self.until_stored()
        channel = self.box.channel("cam1")
        acknowledged, stop = {}, threading.Event()

        def record(recorder):
            generator = random.Random(recorder)
            number = 0
            while not stop.is_set():
                name, data = f"{recorder}-{number:04}", generator.randbytes(generator.randrange(1, 9000))
                try:
                    write(channel / name, data)
                except OSError:
                    return  # the index was away for longer than calls wait
                acknowledged[name] = data
                number += 1

        recorders = [threading.Thread(target=record, args=(number,)) for number in range(3)]
        for recorder in recorders:
            recorder.start()
        until(lambda: len(acknowledged) > 150, "some were recorded")
        self.kill_index()
        expected = dict(acknowledged)
        shutil.rmtree(self.index)
        self.index.mkdir()
        self.start_index()
        self.rebuild()
        stop.set()
        for recorder in recorders:
            recorder.join()
        for name, data in {**expected, **acknowledged}.items():
            self.assertEqual((channel / name).read_bytes(), data, name)

    def test_killed_at_any_time_it_is_begun_anew(self):
        self.record_all_sorts()
        self.until_stored()
        before = manifest(self.box.mount)
        self.lose_index()
        done = False
        for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
            self.start_index()
            done = self.index_status()["rebuild"]["state"] == "done"
            if done:
                break
            until(lambda: "does not know" in self.index_status()["withheld"], "nodes have registered")
            rebuilding = subprocess.Popen([REELCTL, "index", "rebuild", "--dir", self.box.directory],
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)  # another step each time
            self.kill_index()
            rebuilding.kill()
            rebuilding.wait()
        self.start_index()
        if self.index_status()["rebuild"]["state"] != "done":
            self.rebuild()
        self.assertEqual(manifest(self.box.mount), before)
        self.assert_goes_on()

    def test_an_index_that_has_something_is_left_alone(self):
        self.box.channel("cam1")
        done = run(REELCTL, "index", "rebuild", "--dir", self.box.directory, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("has an index", done.stderr)
        self.assertTrue((self.box.mount / "cam1").is_dir())

    def test_what_was_placed_and_not_fsynced_is_rolled_forward(self):
        self.box.channel("cam1")
        recorder = self.box.another_mount()
        fd = os.open(recorder / "cam1" / "growing.ts", os.O_RDWR | os.O_CREAT)
        expected = os.urandom(200_000)
        os.write(fd, expected)
        os.fsync(fd)
        self.until_stored()
        os.kill(self.box.processes()["index1"]["pid"], signal.SIGSTOP)
        more = os.urandom(300_000)
        os.write(fd, more)
        until(lambda: self.box.is_on_both_nodes(more[-64:]), "the bytes are on both nodes")
        recorder.process.kill()
        recorder.process.wait()
        with contextlib.suppress(OSError):  # its mount is gone
            os.close(fd)
        run("umount", "-l", recorder.point)
        self.lose_index()
        self.start_index()
        self.rebuild()
        path = self.box.mount / "cam1" / "growing.ts"
        until(lambda: path.stat().st_size == 500_000, "what was placed is there", LEASE + 20)
        self.assertEqual(path.read_bytes(), expected + more)


class WithANodeAway(RebuildTest):
    nodes = 3

    def test_a_node_that_is_missed_is_named(self):
        self.record_all_sorts()
        self.until_stored()
        before = manifest(self.box.mount)
        processes = self.box.processes()
        self.box.kill(keep=[name for name in processes if not name.startswith("node3")])
        self.until_stored()
        self.lose_index()
        self.start_index()
        until(lambda: "does not know" in self.index_status()["withheld"], "nodes have registered")

        def refusal():
            done = run(REELCTL, "index", "rebuild", "--dir", self.box.directory, check=False)
            self.assertNotEqual(done.returncode, 0)
            return "node3" in done.stderr and done.stderr

        self.assertIn("--without node3", until(refusal, "both others are there and it names the third"))
        report = self.rebuild("--without", "node3")
        self.assertEqual(report["without_nodes"], ["node3"])
        self.assertEqual(manifest(self.box.mount), before)
        self.box.start()
        self.assert_goes_on()


class Cost(RebuildTest):
    def test_the_log_of_many_changes_stays_small_and_is_given_back(self):
        channel = self.box.channel("cam1")
        self.until_stored()
        until(lambda: self.index_status()["nodes"]["checkpoint_index"] > 0, "there is a checkpoint")
        first = self.index_status()["nodes"]["checkpoint_index"]
        stopping = threading.Event()
        self.addCleanup(stopping.set)

        def change(number):
            path = channel / f"{number}"
            path.touch()
            while not stopping.is_set():
                os.setxattr(path, "user.note", os.urandom(32_000))

        for number in range(2):
            threading.Thread(target=change, args=(number,), daemon=True).start()
        until(lambda: self.index_status()["nodes"]["checkpoint_index"] > first, "another checkpoint is taken", 120)
        stopping.set()
        until(lambda: self.index_status()["nodes"]["segments"] <= 4, "older segments are given back", 60)
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)


if __name__ == "__main__":
    unittest.main()
