"""One-box clusters for tests: real processes, a real mount, all in a private directory that is gone afterwards.

    class Recording(BoxTest):
        def test_plays_back(self):
            channel = self.box.channel("cam1")

$REELFS_BIN names the folder of the programs (build/release/bin by default), $REELFS_TEST_DIR where the directories are made. Whatever happens to the test, even SIGKILL at
its time limit, its guardian takes the box down and removes the directory.
"""
import contextlib
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = pathlib.Path(os.environ.get("REELFS_BIN", HERE.parent.parent / "build/release/bin")).resolve()
REELCTL = PROGRAMS / "reelctl"
REELFS = PROGRAMS / "reelfs"
# A sanitizer build on two busy cores is several times slower; limits that are promises to users are not scaled by it.
PATIENCE = float(os.environ.get("REELFS_PATIENCE", "1"))
TROUBLE = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:|Assertion|assertion failed|"
                     r"terminate called", re.IGNORECASE)


def until(condition, what, seconds=30.0):
    """Asks until the answer is true, and returns it; fails when that takes too long."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds * PATIENCE:.0f} s still not so: {what}")
        time.sleep(0.02)  # between two looks at the condition


def run(*command, check=True, timeout=120.0, **options):
    """A command's completed process, its output as text."""
    done = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, timeout=timeout * PATIENCE, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} gave {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def is_mounted(point):
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return any(line.split()[4] == str(point) for line in mounts)


class Mount:
    """Another mount of a box, by its own reelfs process."""

    def __init__(self, box, point, options=""):
        self.point = point
        self.log = box.directory / "log" / (point.name + ".log")
        point.mkdir()
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [REELFS, point, "-f", "-o", f"cluster={box.cluster_file}" + options], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        until(lambda: is_mounted(point) or self.process.poll() is not None, f"{point} is mounted", 60)
        if self.process.poll() is not None:
            raise AssertionError(f"reelfs ended with {self.process.returncode}:\n{self.log.read_text()}")

    def __truediv__(self, name):
        return self.point / name

    def unmount(self):
        run("umount", self.point)
        self.process.wait(60 * PATIENCE)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if is_mounted(self.point):
            run("umount", "-l", self.point)


class Box:
    def __init__(self, *options, nodes=2, workers=2, copies=2, device_size="512M", block_size="4M",
                 journal_copies=3):
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="reelfs-test-", dir=os.environ.get("REELFS_TEST_DIR")))
        self.guardian = subprocess.Popen([sys.executable, HERE / "guardian.py", self.base], stdin=subprocess.PIPE,
                                         start_new_session=True)
        self.directory = self.base / "box"
        self.mount = self.base / "mnt"
        self.local = self.base / "local"
        self.local.mkdir()
        self.cluster_file = self.directory / "cluster.toml"
        self.mounts = []
        self.trouble = []
        self.purged = False  # a test has removed the box itself
        run(REELCTL, "box", "up", "--dir", self.directory, "--mount", self.mount, "--nodes", nodes, "--workers", workers,
            "--copies", copies, "--journal-copies", journal_copies, "--device-size", device_size, "--block-size", block_size, *options)

    def close(self):
        """Takes the box down and removes it. Fails where a process reported a bug of its own."""
        try:
            for mount in self.mounts:
                mount.kill()
            down = run(REELCTL, "box", "down", "--dir", self.directory, check=False, timeout=180)
            self.look_for_trouble()
            self.keep_logs()
        finally:
            self.guardian.stdin.close()
            self.guardian.wait()
        if down.returncode != 0 and not self.purged:
            self.trouble.append(down.stdout + down.stderr)
        if self.trouble:
            raise AssertionError("\n".join(self.trouble))

    def look_for_trouble(self):
        for log in sorted((self.directory / "log").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                if TROUBLE.search(line):
                    self.trouble.append(f"{log.name}:\n" + "\n".join(lines[max(0, number - 5):number + 40]))
                    break

    def keep_logs(self):
        """In $REELFS_KEEP_LOGS, where that is set: a test that fails may want looking into."""
        keep = os.environ.get("REELFS_KEEP_LOGS")
        if keep and (self.directory / "log").exists():
            shutil.copytree(self.directory / "log", pathlib.Path(keep) / self.base.name, dirs_exist_ok=True)

    def reelctl(self, *arguments, **options):
        """The answer in JSON."""
        return json.loads(run(REELCTL, *arguments, "--dir", self.directory, "--json", **options).stdout)

    def status(self):
        return self.reelctl("box", "status")

    def faults(self):
        """Of every node's shared memory: what must never be there, or is not on the device as it should be."""
        return [fault for node in self.reelctl("node", "list")["nodes"]
                for fault in self.reelctl("node", "show", node["name"], "--check")["faults"]]

    def processes(self):
        return {process["name"]: process for process in self.status()["processes"]}

    def start(self, *names):
        run(REELCTL, "box", "start", "--dir", self.directory, *names, timeout=180)

    def signal(self, number, keep=()):
        """To every process of the box at once, but those named in keep."""
        pids = [process["pid"] for name, process in self.processes().items() if process["pid"] and name not in keep]
        for pid in pids:
            os.kill(pid, number)
        return pids

    def kill(self, keep=()):
        pids = self.signal(signal.SIGKILL, keep)
        until(lambda: all(is_gone(pid) for pid in pids), "the killed processes are gone")

    def kill_process(self, name):
        pid = self.processes()[name]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.processes()[name]["pid"] != pid, f"{name} is gone")

    def keep_everything(self):
        """Channels overwrite nothing: a full cluster says so."""
        os.setxattr(self.mount, "user.reel.overwrite", b"off")

    def channel(self, name):
        directory = self.mount / name
        directory.mkdir()
        return directory

    def another_mount(self, options=""):
        mount = Mount(self, self.base / f"mnt{len(self.mounts) + 2}", options)
        self.mounts.append(mount)
        return mount

    def devices(self):
        return self.reelctl("device", "list")["devices"]

    def all_segments(self):
        return self.reelctl("segment", "list")["segments"]

    def segments(self):
        """Those of channels: not where the index's journal is kept."""
        return [segment for segment in self.all_segments() if segment["channel_name"] != "(journal)"]

    def is_on_both_nodes(self, data):
        """Whether the first device of each of two nodes has these bytes somewhere."""
        for node in ("node1", "node2"):
            with open(self.directory / f"{node}.dev1", "rb") as device:
                with mmap.mmap(device.fileno(), 0, prot=mmap.PROT_READ) as view:
                    if view.find(data) < 0:
                        return False
        return True

    def blocks_add_up(self):
        """Whether each device's blocks are either free or hold a copy of a segment that the index knows."""
        segments = self.all_segments()
        if any(segment["state"] in ("allocating", "freeing") for segment in segments):
            return False
        used = {}
        for segment in segments:
            for copy in segment["copies"]:
                used[copy["device"]] = used.get(copy["device"], 0) + 1
        return all(device["free_blocks"] + used.get(device["device"], 0) == device["blocks"]
                   for device in self.devices())


def is_gone(pid):
    """A zombie counts: who has to collect it is not our matter."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


class BoxTest(unittest.TestCase):
    """One box for all tests of a class, and a channel of its own for each test."""

    box_options = ()
    box_settings = {}

    @classmethod
    def setUpClass(cls):
        cls.box = Box(*cls.box_options, **cls.box_settings)
        cls.addClassCleanup(cls.box.close)

    def setUp(self):
        self.channel = self.box.channel(self.id().rpartition(".")[2])

    def local(self):
        """An empty directory on the local disk."""
        return pathlib.Path(tempfile.mkdtemp(dir=self.box.local))


class TwoMountsTest(BoxTest):
    """The same channel on another mount of the box, too: `other`."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.second = cls.box.another_mount()

    def setUp(self):
        super().setUp()
        self.other = self.second.point / self.channel.name


@contextlib.contextmanager
def limit(test, seconds, what):
    """Fails where the block takes longer. The seconds are a promise, so they hold for every build."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    test.assertLess(took, seconds, f"{what} took {took:.2f} s")
