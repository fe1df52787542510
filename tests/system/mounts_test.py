"""Two mounts of one cluster see each other's work."""
import os
import subprocess
import threading
import time
import unittest

from harness import PATIENCE, TwoMountsTest, run, until

MIB = 1 << 20


class TwoMounts(TwoMountsTest):
    def test_what_one_closes_the_other_reads_at_once(self):
        for number in range(50):
            data = os.urandom(1 + number * 7001)
            (self.channel / f"{number}").write_bytes(data)
            self.assertEqual((self.other / f"{number}").read_bytes(), data)
            (self.other / f"{number}").write_bytes(data[::-1])
            self.assertEqual((self.channel / f"{number}").read_bytes(), data[::-1])

    def test_names_are_seen_at_once(self):
        (self.channel / "one").write_bytes(b"1")
        self.assertEqual(os.listdir(self.other), ["one"])
        os.rename(self.other / "one", self.other / "two")
        self.assertEqual(os.listdir(self.channel), ["two"])
        self.assertFalse((self.channel / "one").exists())
        os.unlink(self.channel / "two")
        self.assertFalse((self.other / "two").exists())
        self.assertEqual(os.listdir(self.other), [])

    def test_a_file_overwritten_on_one_reads_new_on_the_other_where_it_is_open(self):
        (self.channel / "a").write_bytes(b"old" * 10_000)
        with open(self.other / "a", "rb", buffering=0) as reader:
            self.assertEqual(reader.read(3), b"old")
            with open(self.channel / "a", "r+b") as writer:
                writer.write(b"new" * 10_000)
            self.assertEqual(os.pread(reader.fileno(), 30_000, 0), b"new" * 10_000)

    def test_a_growing_recording_is_at_most_a_second_behind(self):
        written = []  # (size, when)
        done = threading.Event()

        def record():
            with open(self.channel / "growing.ts", "wb", buffering=0) as file:
                for number in range(60):
                    file.write(bytes([number]) * (MIB // 4))
                    written.append((file.tell(), time.monotonic()))
                    done.wait(0.1)  # the camera's pace
            done.set()

        recorder = threading.Thread(target=record)
        recorder.start()
        until(lambda: (self.other / "growing.ts").exists(), "the recording has begun")
        worst = 0.0
        with open(self.other / "growing.ts", "rb", buffering=0) as file:
            seen = 0
            while not done.is_set() or seen < written[-1][0]:
                now = time.monotonic()
                data = os.pread(file.fileno(), 4 * MIB, seen)
                seen += len(data)
                behind = [now - when for size, when in written if size > seen]
                worst = max([worst, *behind])
                self.assertLess(worst, 60, "the reader does not get on")
                if not data:
                    done.wait(0.02)
        recorder.join()
        self.assertLess(worst, 1.0 * PATIENCE, "seconds behind")
        self.assertEqual((self.other / "growing.ts").read_bytes(),
                         b"".join(bytes([number]) * (MIB // 4) for number in range(60)))

    def test_a_player_follows_a_recording(self):
        recorder = run_in_background(
            "ffmpeg", "-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-t", "5",
            "-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-f", "mpegts", self.channel / "live.ts")
        try:
            until(lambda: frames(self.other / "live.ts") >= 50, "two seconds can be played while it is recorded", 30)
            self.assertIsNone(recorder.poll(), "it is still being recorded")
        finally:
            recorder.wait(60 * PATIENCE)
        self.assertEqual(frames(self.other / "live.ts"), 125)

    def test_a_deleted_file_lives_on_where_it_is_open(self):
        data = os.urandom(3 * MIB)
        (self.channel / "a").write_bytes(data)
        with open(self.channel / "a", "rb") as reader:
            os.unlink(self.other / "a")
            self.assertEqual(os.listdir(self.channel), [])
            self.assertEqual(reader.read(), data)


def run_in_background(*command):
    return subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL)


def frames(path):
    if not path.exists():
        return 0
    told = run("ffprobe", "-v", "quiet", "-count_packets", "-select_streams", "v", "-show_entries",
               "stream=nb_read_packets", "-of", "csv=p=0", path, check=False).stdout
    first = told.split("\n")[0].rstrip(",")
    return int(first) if first.isdigit() else 0


if __name__ == "__main__":
    unittest.main()
