"""Recorders at work: what they recorded plays back, and is byte for byte what a local disk would hold."""
import hashlib
import json
import os
import pathlib
import subprocess

import harness

SOURCE = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=25"]
ENCODE = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-b:v", "4M"]
# The muxers write no random or dated bytes, so that two runs can be compared.
EXACT = ["-fflags", "+bitexact", "-flags", "+bitexact"]


def ffmpeg(*words):
    return ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, words)]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def frames(path):
    shown = harness.run("ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-show_entries",
                        "stream=nb_read_frames,codec_name", "-of", "json", path)
    stream = json.loads(shown)["streams"][0]
    return stream["codec_name"], int(stream["nb_read_frames"])


class Video(harness.BoxTest):
    SECONDS = 12

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = cls.base / "source.mkv"
        harness.run(*ffmpeg(*SOURCE, "-t", cls.SECONDS, *ENCODE, cls.source))
        cls.local = cls.base / "local"
        cls.local.mkdir()

    def record_both(self, name, *flags):
        """The same muxing on the local disk and in the channel."""
        for root in (self.local, self.channel):
            harness.run(*ffmpeg("-i", self.source, "-c", "copy", *EXACT, *flags, root / name))
        return self.local / name, self.channel / name

    def check(self, name, *flags):
        local, stored = self.record_both(name, *flags)
        self.assertEqual(digest(stored), digest(local))
        self.assertEqual(frames(stored), ("h264", 25 * self.SECONDS))

    def test_mp4_whose_header_is_rewritten_at_the_end(self):
        self.check("a.mp4")

    def test_mp4_moved_for_fast_start(self):
        self.check("a.mp4", "-movflags", "+faststart")

    def test_fragmented_mp4(self):
        self.check("a.mp4", "-movflags", "+frag_keyframe+empty_moov")

    def test_matroska_with_cues(self):
        self.check("a.mkv")

    def test_transport_stream_in_small_writes(self):
        self.check("a.ts", "-flush_packets", "1")

    def test_segments_of_two_cameras_at_once(self):
        running = []
        for camera in ("left", "right"):
            (self.channel / camera).mkdir()
            (self.local / camera).mkdir()
            for root in (self.local, self.channel):
                running.append(subprocess.Popen(ffmpeg("-i", self.source, "-c", "copy", *EXACT, "-f", "segment", "-segment_time", 2,
                                                       root / camera / "%03d.ts")))
        for process in running:
            self.assertEqual(process.wait(timeout=120), 0)
        for camera in ("left", "right"):
            names = sorted(os.listdir(self.local / camera))
            self.assertEqual(sorted(os.listdir(self.channel / camera)), names)
            self.assertGreaterEqual(len(names), self.SECONDS // 2 - 1)
            for name in names:
                self.assertEqual(digest(self.channel / camera / name), digest(self.local / camera / name))

    def test_playlist_replaced_by_rename_is_never_seen_cut_short(self):
        process = subprocess.Popen(ffmpeg("-readrate", 4, "-i", self.source, "-c", "copy", "-f", "hls", "-hls_time", 1, "-hls_list_size", 4,
                                          "-hls_flags", "delete_segments+temp_file", self.channel / "live.m3u8"))
        playlist, looks = self.channel / "live.m3u8", 0
        harness.until(playlist.exists, "the playlist")
        while process.poll() is None:
            text = playlist.read_text()
            self.assertTrue(text.startswith("#EXTM3U") and text.endswith("\n"), text)
            looks += 1
        self.assertEqual(process.returncode, 0)
        self.assertGreater(looks, 20)
        self.assertEqual([name for name in os.listdir(self.channel) if name.endswith(".tmp")], [])

    def test_reelctl_tells_where_a_recording_lies(self):
        _, stored = self.record_both("where.ts")
        shown = self.box.ask("segment", "show", stored)
        segments = shown["segments"]
        self.assertGreaterEqual(len(segments), 1)
        for segment in segments:
            self.assertEqual(len({copy["node"] for copy in segment["copies"]}), 2)
            for copy in segment["copies"]:
                self.assertTrue({"node", "worker", "device", "block"} <= copy.keys(), copy)
            self.assertIn(f"{self.channel.name}/where.ts", [file["path"].lstrip("/") for file in segment["files"]])

    def test_rsync_there_and_back_again(self):
        tree = self.base / "tree"
        for number in range(2000):
            path = tree / f"dir{number % 40:02}" / f"file {number:04}.dat"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom((number * 37) % 20_000))
            os.chmod(path, 0o600 | number % 0o100)
            os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_003))
        os.symlink("dir00", tree / "link")
        back = self.base / "back"
        harness.run("rsync", "-a", f"{tree}/", f"{self.channel}/tree/")
        again = harness.run("rsync", "-ai", f"{tree}/", f"{self.channel}/tree/")
        self.assertEqual(again, "")
        harness.run("rsync", "-a", f"{self.channel}/tree/", f"{back}/")
        self.assertEqual(harness.run("rsync", "-aic", f"{back}/", f"{tree}/"), "")
        for path in tree.rglob("*"):
            other = back / path.relative_to(tree)
            self.assertEqual(path.lstat().st_mtime_ns, other.lstat().st_mtime_ns, path)
            self.assertEqual(path.lstat().st_mode, other.lstat().st_mode, path)


if __name__ == "__main__":
    import unittest
    unittest.main()
