"""What fsync waits for is a channel's policy: what need not be on a disk for it is flushed a moment later all the same."""
import os
import re
import time
import unittest
import urllib.request

from harness import Box, until


class AcknowledgeTest(unittest.TestCase):
    def flushes(self):
        """That nodes were asked for since they began."""
        total = 0
        for log in (self.box.directory / "log").glob("node*.log"):
            for port in re.findall(r"metrics host=\S+ port=(\d+)", log.read_text(errors="replace")):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                        text = answer.read().decode()
                except OSError:
                    continue  # of an earlier process
                total += sum(int(float(count)) for count in re.findall(
                    r'reelfs_noded_request_seconds_count{method="sync_segments"} (\S+)', text))
        return total

    def test_what_is_asked_for_in_memory_is_flushed_all_the_same_but_not_for_each_fsync(self):
        self.box = Box(block_size="16M")
        self.addCleanup(self.box.close)
        for config in self.box.directory.glob("node?.toml"):
            config.write_text('metrics_listen = "127.0.0.1:0"\n' + config.read_text())
        workers = [name for name in self.box.processes() if name.startswith("node")]
        for name in workers:
            self.box.kill_process(name)
        self.box.start(*workers)
        channel = self.box.channel("cam1")
        count = {}
        for level in ("memory", "disks"):
            self.box.reelctl("channel", "set", "cam1", "--acknowledge", level)
            with open(channel / level, "xb", buffering=0) as file:
                began, before = time.monotonic(), self.flushes()
                for _ in range(100):
                    file.write(b"x" * 1000)
                    os.fsync(file.fileno())
                count[level] = self.flushes() - before
                took = time.monotonic() - began
            print(f"{level}: {count[level]} flushes for 100 times fsync on two copies, in {took:.2f} s")
            if level == "memory":
                self.assertLess(count[level], 2 * (took + 4))
                until(lambda: self.flushes() > before, "what is old is flushed")
                self.box.reelctl("channel", "set", "cam1", "--acknowledge", "disks")
                # The level is told with each grant: the next one is of another mount.
                channel = self.box.another_mount().point / "cam1"
            else:
                self.assertGreaterEqual(count[level], 200)


if __name__ == "__main__":
    unittest.main()
