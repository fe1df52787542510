"""A cluster of real processes for a test: started with reelctl, mounted, torn down whatever happens.

    class Names(harness.BoxTest):
        def test_rename_is_atomic(self):
            (self.channel / "a").write_bytes(b"x")

REELFS_BIN names the folder of the programs (build/release/bin by default).
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("REELFS_BIN", ROOT / "build/release/bin"))
# Sanitizers slow everything down; bounds that are promises are not scaled by it, waits for a condition are.
PATIENCE = float(os.environ.get("REELFS_PATIENCE", "1"))


def until(condition, what, seconds=30.0):
    """Polls until condition() is true and returns its value; fails with `what` otherwise."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * PATIENCE:.0f} s: {what}")
        time.sleep(0.02)


def run(*command, **options):
    """Runs a program, whose failure fails the test with what it printed; returns its standard output."""
    options.setdefault("timeout", 300 * PATIENCE)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Box:
    """reelctl's one-box cluster in a folder of its own."""

    def __init__(self, base, **options):
        self.base = pathlib.Path(base)
        self.dir = self.base / "box"
        self.mount = self.base / "mnt"
        self.options = options

    def reelctl(self, *words):
        return run(BIN / "reelctl", *words)

    def up(self):
        flags = []
        for name, value in self.options.items():
            flags.append("--" + name.replace("_", "-"))
            if value is not True:
                flags.append(str(value))
        self.reelctl("box", "up", "--dir", self.dir, "--mount", self.mount, *flags)

    def start(self, *names):
        self.reelctl("box", "start", "--dir", self.dir, *names)

    def down(self):
        self.reelctl("box", "down", "--dir", self.dir, "--purge")

    def status(self):
        return json.loads(self.reelctl("box", "status", "--dir", self.dir, "--json"))["processes"]

    def ask(self, *words):
        """The JSON that `reelctl WORDS --json` prints."""
        return json.loads(self.reelctl(*words, "--json", "--cluster", self.cluster_file))

    @property
    def cluster_file(self):
        return self.dir / "cluster.toml"

    def pids(self, *roles):
        """{name: pid} of what runs, of these roles or all (index, node, mount)."""
        return {p["name"]: p["pid"] for p in self.status() if p.get("pid") and (not roles or p["role"] in roles)}

    def kill(self, pids, number=signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
        if number == signal.SIGKILL:
            for pid in pids:
                until(lambda: not alive(pid), f"the end of process {pid}")

    @contextlib.contextmanager
    def second_mount(self, *options):
        """Another mount of the same cluster, as another recorder's machine would have it."""
        where = pathlib.Path(tempfile.mkdtemp(prefix="mnt2-", dir=self.base))
        words = ",".join([f"cluster={self.cluster_file}", *options])
        run(BIN / "reelfs", where, "-o", words)
        try:
            yield where
        finally:
            run("umount", where)
            until(lambda: not os.path.ismount(where), "the second mount to go")


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class BoxTest(unittest.TestCase):
    """One box for the tests of a class; each test has a channel of its own."""

    options = {"device_size": "2G"}

    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="reelfs-test-", dir=os.environ.get("REELFS_TEST_DIR")))
        cls.addClassCleanup(shutil.rmtree, cls.base, ignore_errors=True)
        cls.box = Box(cls.base, **cls.options)
        cls.addClassCleanup(cls.tear_down_box)
        cls.box.up()

    @classmethod
    def tear_down_box(cls):
        keep = os.environ.get("REELFS_KEEP_LOGS")
        if keep and (cls.box.dir / "log").exists():
            shutil.copytree(cls.box.dir / "log", pathlib.Path(keep) / cls.__name__, dirs_exist_ok=True)
        subprocess.run([BIN / "reelctl", "box", "down", "--dir", cls.box.dir, "--purge"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        if os.path.ismount(cls.box.mount):
            subprocess.run(["umount", "-l", cls.box.mount], check=False)

    def setUp(self):
        self.channel = self.box.mount / self.id().rsplit(".", 1)[1]
        self.channel.mkdir()
