"""The ledger of gaps: a channel that goes silent is reported within five seconds of its cadence, with the right cause, and one that records never is."""
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

from harness import PATIENCE, REELCTL, BoxTest, run, until

# Writes to files of so many seconds each, as a recorder of segments does, so many times a second, and says when it wrote last.
RECORDER = """
import os, sys, time
channel, told, rate, segment, synced = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "sync"
number, due = 0, time.monotonic()
while True:
    number += 1
    with open(f"{channel}/{os.getpid()}-{number}", "xb", buffering=0) as file:
        end = due + max(segment, 2 / rate)
        while due < end:
            file.write(b"frame" * 1000)
            if synced:
                os.fsync(file.fileno())
            with open(told + ".new", "w") as last:
                last.write(str(time.monotonic()))
            os.replace(told + ".new", told)
            due = max(due + 1 / rate, time.monotonic() - 1)
            time.sleep(max(0, due - time.monotonic()))
"""
SLACK = 5.0  # beyond the cadence: the promise
ASKING = 1.0 * PATIENCE  # what reelctl takes


class Recorder:
    def __init__(self, channel, told, rate=25, segment=1, synced=False):
        self.told = pathlib.Path(told)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORDER, channel, told, str(rate), str(segment), "sync" if synced else "plain"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(self.told.exists, "the recorder writes")

    def last(self):
        return float(self.told.read_text())

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Gaps(BoxTest):
    @contextlib.contextmanager
    def recorder(self, seconds, **options):
        """Of the test's channel; it has written that long when the block begins, and usually does."""
        recorder = Recorder(self.channel, self.local() / "told", **options)
        try:
            begun = time.monotonic()
            until(lambda: time.monotonic() - begun > seconds, "it has recorded for a while", 4 * seconds)
            yield recorder
        finally:
            recorder.kill()

    def ledger(self, channel=None):
        return self.box.reelctl("gaps", "--channel", (channel or self.channel).name)["channels"][0]

    def gaps(self):
        return self.ledger()["gaps"]

    def problems(self):
        return [problem["what"] for problem in self.box.reelctl("status")["problems"]
                if f"channel {self.channel.name} " in problem["what"]]

    def noticed(self, cause, seconds=15.0):
        def found():
            return next((gap for gap in self.gaps() if gap["open"] and gap["cause"] == cause), None)
        return until(found, f"a gap by {cause} is open: {self.ledger()}", seconds)

    def ended(self, seconds=15.0):
        return until(lambda: next((gap for gap in self.gaps() if not gap["open"]), None), "the gap has ended", seconds)

    def index_log(self):
        return (self.box.directory / "log" / "index1.log").read_text(errors="replace")

    def metrics(self, name):
        """By channel."""
        port = re.findall(r"metrics host=\S+ port=(\d+)", self.index_log())[-1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode()
        return {channel: float(value) for channel, value in re.findall(rf'^{name}{{channel="([^"]+)"}} (\S+)$', lines, re.M)}

    def check_file(self):
        """The ledger as a file of the channel, which no listing shows."""
        header, *rows = (self.channel / ".reel/gaps.tsv").read_text().splitlines()
        self.assertEqual(header.split("\t"), ["start", "end", "seconds", "cause", "longest_stall_seconds"])
        told = [[gap["start"], gap["end"] or "open", gap["cause"]] for gap in self.gaps()]
        self.assertEqual([[row[0], row[1], row[3]] for row in (line.split("\t") for line in rows)], told)
        self.assertTrue(rows)
        self.assertNotIn(".reel", os.listdir(self.channel))
        self.assertEqual(os.listdir(self.channel / ".reel"), ["gaps.tsv", "paths.tsv"])

    def check_promise(self, silent_since, cadence=0.2):
        took = time.monotonic() - silent_since
        print(f"silence noticed after {took:.2f} s, cadence {cadence:.2f} s", file=sys.stderr)
        self.assertLess(took, cadence + SLACK + ASKING)

    def test_a_silent_source_is_reported_in_time(self):
        with self.recorder(8) as recorder:
            self.assertEqual(self.gaps(), [])
            recorder.signal(signal.SIGSTOP)
            stopped = recorder.last()
            gap = self.noticed("source_silent")
            self.check_promise(stopped)
            # It began with the last byte.
            began_ago = time.time() - gap["start_ns"] / 1e9
            self.assertAlmostEqual(began_ago, time.monotonic() - stopped, delta=0.5 + ASKING)
            self.assertTrue(self.problems(), "reelctl status")
            self.assertRegex(self.index_log(), rf'channel silent channel="{self.channel.name}" cause=source_silent')
            recorder.signal(signal.SIGCONT)
            ended = self.ended()
            self.assertEqual(ended["start_ns"], gap["start_ns"])
            self.assertEqual(ended["cause"], "source_silent")
            self.assertAlmostEqual(ended["length_ms"] / 1e3, time.monotonic() - stopped, delta=2 + ASKING)
            self.assertEqual(self.problems(), [])
            back = f'channel records again channel="{self.channel.name}"'
            until(lambda: back in self.index_log(), "the log says that it is back", 5)
            self.assertEqual(len(self.gaps()), 1)

    def test_a_slow_camera_is_not_reported_each_time(self):
        with self.recorder(25, rate=0.5) as recorder:
            self.assertEqual(self.gaps(), [])
            self.assertAlmostEqual(self.ledger()["cadence_ms"], 2000, delta=600 * PATIENCE)
            recorder.signal(signal.SIGSTOP)
            stopped = recorder.last()
            self.noticed("source_silent")
            self.check_promise(stopped, 2.0)

    def test_a_recorder_that_is_killed_is_gone(self):
        with self.recorder(6) as recorder:
            stopped = recorder.last()
            recorder.kill()
            self.noticed("recorder_gone")
            self.check_promise(stopped)
            self.assertTrue(any("nobody has a file open" in what for what in self.problems()), self.problems())
            self.check_file()
        table = run(REELCTL, "gaps", "--dir", self.box.directory, "--channel", self.channel.name).stdout
        self.assertRegex(table, rf"{self.channel.name} .* open .*recorder_gone")
        with self.recorder(3):
            self.assertEqual(self.ended()["cause"], "recorder_gone")
        self.check_file()
        ledger = self.ledger()
        self.assertLess(ledger["coverage"]["percent"], 100)
        self.assertGreater(ledger["coverage"]["covered_s"], 6)

    def test_nodes_that_stand_still_are_a_stall(self):
        nodes = [process["pid"] for name, process in self.box.processes().items() if name.startswith("node")]
        with self.recorder(6, synced=True) as recorder:
            for pid in nodes:
                os.kill(pid, signal.SIGSTOP)
            try:
                stopped = recorder.last()
                self.noticed("store_stalled")
                self.check_promise(stopped)
            finally:
                for pid in nodes:
                    os.kill(pid, signal.SIGCONT)
            ended = self.ended(60)
            self.assertEqual(ended["cause"], "store_stalled")
            self.assertGreater(ended["longest_stall_ms"], 3000)
            self.assertGreaterEqual(self.ledger()["longest_stall_ms"], ended["longest_stall_ms"])

    def test_a_restart_of_the_index_makes_no_gap_and_loses_none(self):
        other = self.box.channel("silent-channel")
        gone = Recorder(other, self.local() / "told")
        with self.recorder(6) as recorder:
            gone.kill()
            def is_open():
                return any(gap["open"] and gap["cause"] == "recorder_gone" for gap in self.ledger(other)["gaps"])
            until(is_open, "the other channel is silent", 15)
            before = self.ledger(other)["gaps"]
            pid = self.box.processes()["index1"]["pid"]
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: time.monotonic() - killed > 7, "longer than silence is borne", 10)
            config = self.box.directory / "index1.toml"
            config.write_text(config.read_text() + 'metrics_listen = "127.0.0.1:0"\n')
            self.box.start("index1")
            written = recorder.last()
            until(lambda: recorder.last() > written, "it records")
            restarted = time.monotonic()
            # Longer than it takes to notice what is not so.
            until(lambda: time.monotonic() - restarted > 8, "a gap would have been noticed", 10)
            after = self.ledger(other)["gaps"]
            self.assertEqual([gap["start_ns"] for gap in after], [gap["start_ns"] for gap in before])
            self.assertTrue(after[0]["open"])
            silent = self.metrics("reelfs_indexd_channel_silent")
            self.assertEqual((silent[other.name], silent[self.channel.name]), (1, 0))
            self.assertGreater(self.metrics("reelfs_indexd_channel_silence_seconds")[other.name], 15)
            # The recorder waited for the index where it made its next file: that is a gap, and the store's.
            for gap in self.gaps():
                self.assertEqual((gap["cause"], gap["open"]), ("store_stalled", False), gap)
            self.assertEqual(self.problems(), [])

    def test_a_source_that_writes_on_while_the_index_is_away_has_no_gap(self):
        with self.recorder(6, segment=1000) as recorder:
            os.kill(self.box.processes()["index1"]["pid"], signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: time.monotonic() - killed > 8, "longer than silence is borne", 10)
            self.assertLess(time.monotonic() - recorder.last(), 2 * PATIENCE, "it writes on")
            self.box.start("index1")
            started = time.monotonic()
            until(lambda: time.monotonic() - started > 8, "a gap would have been noticed", 10)
            self.assertLess(time.monotonic() - recorder.last(), 2 * PATIENCE, "it writes on")
            self.assertEqual(self.gaps(), [])
            self.assertEqual(self.ledger()["coverage"]["percent"], 100)

    def test_what_is_copied_into_a_channel_does_not_make_it_recorded(self):
        (self.channel / "file").write_bytes(b"x" * (8 << 20))
        self.assertFalse(self.ledger()["recorded"])
        self.assertEqual(self.gaps(), [])


if __name__ == "__main__":
    unittest.main()
