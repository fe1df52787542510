"""With the cluster gone, calls on the mount end with an error, can be interrupted, and umount works."""
import os
import signal
import subprocess
import time
import unittest

import harness

TIMEOUT_SECONDS = 6


class Outage(harness.BoxTest):
    def lose_the_cluster(self):
        self.box.kill(self.box.pids("index", "node").values())

    def tearDown(self):
        self.box.start()

    def start(self, *command):
        return subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def test_calls_end_with_an_error_within_the_timeout(self):
        with self.box.second_mount(f"timeout={TIMEOUT_SECONDS}") as mount:
            channel = mount / self.channel.name
            (channel / "f").write_bytes(b"x" * 100_000)
            self.lose_the_cluster()
            started = time.monotonic()
            calls = [self.start("ls", channel), self.start("cat", channel / "f"), self.start("df", mount),
                     self.start("cp", "/etc/services", channel / "new"), self.start("find", mount)]
            for call in calls:
                _, complaint = call.communicate(timeout=TIMEOUT_SECONDS * 4)
                self.assertNotEqual(call.returncode, 0, call.args)
                self.assertTrue(complaint, call.args)
            # ls and find make a few calls one after the other, each with the timeout for itself.
            self.assertLess(time.monotonic() - started, TIMEOUT_SECONDS * 3)
            started = time.monotonic()
            with self.assertRaises(OSError):
                os.stat(channel / "f")
            self.assertLess(time.monotonic() - started, TIMEOUT_SECONDS + 1)

    def test_a_waiting_call_is_interrupted_at_once(self):
        self.lose_the_cluster()
        call = self.start("cat", self.channel / "whatever")
        harness.until(lambda: "request_wait" in self.where(call.pid) or "fuse" in self.where(call.pid), "cat to wait for the mount")
        started = time.monotonic()
        call.send_signal(signal.SIGINT)
        call.communicate(timeout=20)
        self.assertLess(time.monotonic() - started, 1.0)

    def test_umount_works(self):
        with self.box.second_mount() as mount:
            (mount / self.channel.name / "f").write_bytes(b"x")
            self.lose_the_cluster()
            started = time.monotonic()
        self.assertLess(time.monotonic() - started, 10)

    def where(self, pid):
        try:
            with open(f"/proc/{pid}/stack") as stack:
                return stack.read()
        except FileNotFoundError:
            return ""


if __name__ == "__main__":
    unittest.main()
