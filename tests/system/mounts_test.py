"""Two mounts of one cluster, as two machines have them."""
import os
import threading
import time
import unittest

import harness


class TwoMounts(harness.BoxTest):
    def setUp(self):
        super().setUp()
        stack = self.box.second_mount()
        self.other = stack.__enter__() / self.channel.name
        self.addCleanup(stack.__exit__, None, None, None)

    def test_what_one_closes_the_other_reads_at_once(self):
        for number in range(50):
            body = os.urandom(10_000 + number * 1000)
            (self.channel / "f").write_bytes(body)
            self.assertEqual((self.other / "f").read_bytes(), body)
            (self.other / "f").write_bytes(body[::-1])
            self.assertEqual((self.channel / "f").read_bytes(), body[::-1])

    def test_names_are_seen_at_once(self):
        for number in range(30):
            name = f"n{number}"
            self.assertFalse((self.other / name).exists())
            (self.channel / name).mkdir()
            self.assertTrue((self.other / name).is_dir())
            os.rename(self.other / name, self.other / f"{name}-moved")
            self.assertEqual(os.listdir(self.channel), [f"{name}-moved"])
            os.rmdir(self.channel / f"{name}-moved")
            self.assertEqual(os.listdir(self.other), [])

    def test_a_growing_recording_is_at_most_a_second_behind(self):
        written = []  # (time, size)
        stop = threading.Event()

        def record():
            with open(self.channel / "live.ts", "wb", buffering=0) as file:
                size = 0
                while not stop.wait(0.02):
                    size += file.write(b"\x47" * 188 * 50)
                    written.append((time.monotonic(), size))

        recorder = threading.Thread(target=record)
        recorder.start()
        self.addCleanup(recorder.join)
        self.addCleanup(stop.set)
        harness.until((self.other / "live.ts").exists, "the recording on the other mount")
        behind = []
        end = time.monotonic() + 8
        with open(self.other / "live.ts", "rb", buffering=0) as player:
            position = 0
            while time.monotonic() < end:
                while part := player.read(1 << 20):
                    self.assertEqual(part.strip(b"\x47"), b"")
                    position += len(part)
                now = time.monotonic()
                unseen = [at for at, size in written if size > position]
                behind.append(now - unseen[0] if unseen else 0.0)
                time.sleep(0.01)
        self.assertGreater(position, 100_000)
        self.assertLess(max(behind), 1.0)

    def test_file_unlinked_there_stays_readable_here(self):
        (self.channel / "f").write_bytes(b"x" * 100_000)
        with open(self.channel / "f", "rb", buffering=0) as file:
            os.unlink(self.other / "f")
            self.assertEqual(file.read(), b"x" * 100_000)


if __name__ == "__main__":
    unittest.main()
