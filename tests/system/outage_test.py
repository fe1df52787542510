"""With the cluster gone nothing hangs: errors come in time, an interrupt works at once, and the mount can be removed."""
import os
import pathlib
import signal
import subprocess
import time
import unittest

from harness import Box, PATIENCE, is_mounted, limit, run, until

TIMEOUT = 4  # of the mount under test; the default of 30 s is looked at once
SLACK = 2 * PATIENCE


def is_waiting(pid):
    """Whether the process sleeps in a request to the mount."""
    try:
        waits_in = pathlib.Path(f"/proc/{pid}/wchan").read_text()
        stack = pathlib.Path(f"/proc/{pid}/stack").read_text()
    except OSError:
        return False
    return "fuse" in stack or "request_wait_answer" in waits_in


class ClusterGone(unittest.TestCase):
    """A box for each test, as none is of use afterwards."""

    def setUp(self):
        self.box = Box()
        self.addCleanup(self.box.close)
        self.channel = self.box.channel("cam1")
        (self.channel / "recording").write_bytes(os.urandom(5 << 20))
        self.mount = self.box.another_mount(f",timeout={TIMEOUT}")
        self.assertEqual(os.listdir(self.mount.point), ["cam1"])

    def fails_in_time(self, *command, within=TIMEOUT + SLACK):
        with limit(self, within, " ".join(map(str, command))):
            done = run(*command, check=False, timeout=within + 30)
        self.assertNotEqual(done.returncode, 0, f"{command} succeeded without a cluster")
        self.assertTrue(done.stderr.strip(), "it says what is wrong")

    def everything_fails_in_time(self, mount):
        self.fails_in_time("ls", mount / "cam1")
        self.fails_in_time("cat", mount / "cam1/recording")
        self.fails_in_time("mkdir", mount / "cam2")
        self.fails_in_time("dd", "if=/dev/zero", f"of={mount / 'cam1/new'}", "bs=64k", "count=1")

    def interrupted_at_once(self, *command):
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: is_waiting(process.pid), f"{command} waits for the cluster", TIMEOUT)
            process.send_signal(signal.SIGINT)
            with limit(self, 1 * PATIENCE, f"interrupting {command}"):
                self.assertEqual(process.wait(30 * PATIENCE), -signal.SIGINT)
        finally:
            process.kill()
            process.wait()

    def unmounts(self, mount):
        with limit(self, 5 + SLACK, "umount"):
            run("umount", mount.point)
        self.assertFalse(is_mounted(mount.point))
        # What it had to write back cannot be written; it waits for that no longer than the timeout.
        mount.process.wait((TIMEOUT + 10) * PATIENCE)

    def test_killed(self):
        self.box.kill(keep=("mount",))
        self.everything_fails_in_time(self.mount)
        self.unmounts(self.mount)

    def test_stopped_so_that_connections_stay_but_nobody_answers(self):
        self.box.signal(signal.SIGSTOP, keep=("mount",))
        self.everything_fails_in_time(self.mount)
        self.interrupted_at_once("ls", self.mount / "cam1")
        self.interrupted_at_once("cat", self.mount / "cam1/recording")
        self.unmounts(self.mount)
        self.box.signal(signal.SIGCONT)

    def test_an_open_file_that_is_being_written(self):
        with self.assertRaises(OSError):
            with open(self.mount / "cam1/written", "wb", buffering=0) as file:
                file.write(b"x" * 65536)
                self.box.kill(keep=("mount",))
                with limit(self, TIMEOUT + SLACK, "fsync"):
                    os.fsync(file.fileno())
        self.unmounts(self.mount)

    def test_the_mount_recovers_when_the_cluster_is_back(self):
        self.box.kill(keep=("mount",))
        self.fails_in_time("ls", self.mount / "cam1")
        self.box.start()
        until(lambda: run("ls", self.mount / "cam1", check=False).returncode == 0, "the other mount works again", 10)
        self.assertEqual((self.mount / "cam1/recording").read_bytes(), (self.channel / "recording").read_bytes())
        (self.mount / "cam1/again").write_bytes(b"again")
        self.assertEqual((self.channel / "again").read_bytes(), b"again")

    def test_the_default_timeout_is_thirty_seconds(self):
        self.box.signal(signal.SIGSTOP, keep=("mount",))
        start = time.monotonic()
        self.fails_in_time("ls", self.box.mount / "cam1", within=30 + SLACK)
        self.assertGreater(time.monotonic() - start, 10, "it waits for the cluster to come back")
        self.interrupted_at_once("ls", self.box.mount / "cam1")
        self.box.signal(signal.SIGCONT)


if __name__ == "__main__":
    unittest.main()
