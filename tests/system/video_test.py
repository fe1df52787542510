"""Recording and playing back with ffmpeg."""
import hashlib
import pathlib
import subprocess
import unittest

from harness import BoxTest, PATIENCE, run, until

FFMPEG = ("ffmpeg", "-v", "error", "-nostdin", "-y")
SECONDS = 8


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(directory):
    return {path.name: digest(path) for path in directory.iterdir()}


class Recording(BoxTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = cls.box.local / "source.mkv"
        run(*FFMPEG, "-f", "lavfi", "-i", "testsrc2=s=1280x720:r=25", "-t", SECONDS, "-c:v", "libx264", "-preset",
            "ultrafast", "-g", "25", "-b:v", "6M", cls.source)

    def record(self, name, *options):
        """The same stream to the channel and to the local disk; both must come out the same, byte for byte."""
        local = self.local()
        for directory in (local, self.channel):
            run(*FFMPEG, "-i", self.source, "-c", "copy", "-bitexact", *options, directory / name)
        self.assertEqual(digests(self.channel), digests(local))
        return sorted(self.channel.iterdir())

    def assert_plays(self, *recordings):
        """Every frame decodes, and a player finds a video stream of the right length."""
        frames = 0
        for path in recordings:
            run(*FFMPEG, "-xerror", "-i", path, "-f", "null", "-")
            told = run("ffprobe", "-v", "error", "-count_packets", "-select_streams", "v", "-show_entries",
                       "stream=codec_name,nb_read_packets", "-of", "csv=p=0", path).stdout
            codec, count = told.split("\n")[0].rstrip(",").split(",")[:2]
            self.assertEqual(codec, "h264")
            frames += int(count)
        self.assertEqual(frames, SECONDS * 25)

    def test_mp4_whose_head_is_rewritten_at_the_end(self):
        self.assert_plays(*self.record("a.mp4"))

    def test_mp4_shifted_whole_to_bring_the_index_to_the_front(self):
        self.assert_plays(*self.record("a.mp4", "-movflags", "+faststart"))

    def test_fragmented_mp4(self):
        self.assert_plays(*self.record("a.mp4", "-movflags", "+frag_keyframe+empty_moov+default_base_moof"))

    def test_mkv(self):
        self.assert_plays(*self.record("a.mkv"))

    def test_transport_stream(self):
        self.assert_plays(*self.record("a.ts"))

    def test_transport_stream_segments(self):
        recordings = self.record("%03d.ts", "-f", "segment", "-segment_time", "2")
        self.assertGreaterEqual(len(recordings), SECONDS // 2)
        self.assert_plays(*recordings)

    def test_each_packet_in_a_write_of_its_own(self):
        self.assert_plays(*self.record("a.ts", "-flush_packets", "1", "-blocksize", "188"))

    def test_a_playlist_replaced_by_rename_is_never_seen_cut_short(self):
        playlist, looks = self.channel / "live.m3u8", 0
        command = [*FFMPEG, "-readrate", 4, "-i", self.source, "-c", "copy", "-f", "hls", "-hls_time", 1, "-hls_list_size", 4,
                   "-hls_flags", "delete_segments+temp_file", playlist]
        recorder = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL)
        until(playlist.exists, "there is a playlist")
        while recorder.poll() is None:
            text = playlist.read_text()
            self.assertTrue(text.startswith("#EXTM3U") and text.endswith("\n"), text)
            looks += 1
        self.assertEqual(recorder.returncode, 0)
        self.assertGreater(looks, 20)
        listed = [line for line in playlist.read_text().splitlines() if line.endswith(".ts")]
        self.assertEqual(len(listed), 4)
        for name in listed:
            run(*FFMPEG, "-xerror", "-i", self.channel / name, "-f", "null", "-")
        self.assertFalse(list(self.channel.glob("*.tmp")))

    def test_two_channels_at_once(self):
        other = self.box.channel("second")
        local = self.local()
        recorders = []
        for directory, name in ((self.channel, "a.mp4"), (other, "b.ts"), (local, "a.mp4"), (local, "b.ts")):
            command = [*FFMPEG, "-re", "-i", self.source, "-t", "4", "-c", "copy", "-bitexact", directory / name]
            recorders.append(subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL))
        for recorder in recorders:
            self.assertEqual(recorder.wait(60 * PATIENCE), 0)
        self.assertEqual(digest(self.channel / "a.mp4"), digest(local / "a.mp4"))
        self.assertEqual(digest(other / "b.ts"), digest(local / "b.ts"))

    def test_segment_show_tells_where_a_recording_lies(self):
        path = self.record("a.mp4")[0]
        told = self.box.reelctl("segment", "show", path)
        self.assertEqual(told["inode"], path.stat().st_ino)
        self.assertEqual(told["size"], path.stat().st_size)
        self.assertEqual(sum(segment["file_bytes"] for segment in told["segments"]), path.stat().st_size)
        names = set(self.box.processes())
        devices = {device["device"]: device for device in self.box.devices()}
        for segment in told["segments"]:
            self.assertEqual(len({copy["node"] for copy in segment["copies"]}), 2, "copies lie on different nodes")
            for copy in segment["copies"]:
                self.assertIn(copy["process"], names)
                self.assertTrue(copy["available"])
                self.assertLess(copy["block"], devices[copy["device"]]["blocks"])
                self.assertTrue(pathlib.Path(copy["device_path"]).exists())
            by_number = self.box.reelctl("segment", "show", segment["segment"])
            mine = [file for file in by_number["files"] if file["inode"] == told["inode"]]
            self.assertEqual(len(mine), 1)
            self.assertTrue(mine[0]["path"].endswith(f"{self.channel.name}/a.mp4"), mine[0]["path"])


if __name__ == "__main__":
    unittest.main()
