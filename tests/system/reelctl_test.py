"""What reelctl does and answers."""
import json
import os
import pathlib
import random
import signal
import subprocess
import time
import unittest

from harness import PATIENCE, REELCTL, Box, BoxTest, is_mounted, run, until


def fails(*command, saying):
    done = run(REELCTL, *command, check=False)
    assert done.returncode != 0, f"{command} succeeded"
    assert saying in done.stderr, f"{command} said {done.stderr!r}, not {saying!r}"
    assert done.stdout == "", done.stdout


class BoxCommands(BoxTest):
    box_settings = {"nodes": 2, "workers": 2}

    def test_status_tells_of_every_process(self):
        status = self.box.status()
        self.assertEqual(status["mount"], str(self.box.mount))
        processes = {process["name"]: process for process in status["processes"]}
        self.assertEqual(list(processes), ["index1", "node1.worker1", "node1.worker2", "node2.worker1", "node2.worker2",
                                           "mount"])
        self.assertEqual(processes["index1"]["state"], "active")
        self.assertEqual(processes["mount"]["state"], "mounted")
        for node in ("node1", "node2"):
            workers = [process for process in processes.values() if process["node"] == node]
            self.assertEqual(sorted(worker["state"] for worker in workers), ["follower", "leader"])
            self.assertEqual([worker["worker"] for worker in workers], [1, 2])
        programs = {"index": "indexd", "node": "noded", "mount": "reelfs"}
        endpoints = set()
        for process in processes.values():
            program = os.readlink(f"/proc/{process['pid']}/exe")
            self.assertEqual(pathlib.Path(program).name, programs[process["role"]])
            self.assertEqual(len(process["endpoints"]), 1)
            endpoints.add(process["endpoints"][0])
            self.assertTrue(pathlib.Path(process["log"]).exists())
        self.assertEqual(len(endpoints), 6, "each has its own")

    def test_status_for_people_has_a_line_for_each(self):
        lines = run(REELCTL, "box", "status", "--dir", self.box.directory).stdout.splitlines()
        self.assertEqual(lines[0].split(), ["NAME", "ROLE", "NODE", "WORKER", "PID", "STATE", "ENDPOINT"])
        self.assertEqual(len(lines), 7)

    def test_up_again_changes_nothing(self):
        before = self.box.status()
        run(REELCTL, "box", "up", "--dir", self.box.directory)
        run(REELCTL, "box", "up", "--dir", self.box.directory, "--mount", self.box.mount, "--nodes", "2")
        self.assertEqual(self.box.status(), before)
        self.assertEqual(self.box.reelctl("box", "up"), before)
        self.assertEqual(self.box.reelctl("box", "start"), before)

    def test_an_empty_path_is_refused(self):
        for command in (("box", "up"), ("box", "start"), ("box", "status"), ("box", "down", "--purge")):
            fails(*command, "--dir", "", saying="the path is empty")
        fails("device", "add", "node1", "", "--dir", self.box.directory, saying="the path is empty")

    def test_up_with_other_options_is_refused(self):
        fails("box", "up", "--dir", self.box.directory, "--nodes", "3", saying="was made with --nodes 2")
        fails("box", "up", "--dir", self.box.directory, "--mount", self.box.base / "elsewhere", saying="is mounted at")

    def test_start_starts_what_was_killed_and_only_that(self):
        before = self.box.processes()
        os.kill(before["node2.worker1"]["pid"], signal.SIGKILL)
        os.kill(before["index1"]["pid"], signal.SIGKILL)
        until(lambda: self.box.processes()["index1"]["state"] == "stopped" and
              self.box.processes()["node2.worker1"]["state"] == "stopped", "both are seen to have stopped")
        self.assertIsNone(self.box.processes()["index1"]["pid"])
        self.box.start("index1", "node2.worker1")
        after = self.box.processes()
        self.assertEqual(after["index1"]["state"], "active")
        self.assertIn(after["node2.worker1"]["state"], ("leader", "follower"))
        for name, process in after.items():
            self.assertEqual(process["pid"] == before[name]["pid"], name not in ("index1", "node2.worker1"), name)
            if process["role"] == "node":
                self.assertIn(process["state"], ("leader", "follower"), f"{name} has found the index server again")
        (self.channel / "a").write_bytes(b"works")

    def test_start_right_after_a_kill_does_not_count_what_is_still_dying(self):
        (self.channel / "a").write_bytes(os.urandom(1 << 20))
        for number in range(12):
            name = ("node1.worker1", "index1", "node2.worker2")[number % 3]
            os.kill(self.box.processes()[name]["pid"], signal.SIGKILL)
            run(REELCTL, "box", "start", "--dir", self.box.directory)
            self.assertNotEqual(self.box.processes()[name]["state"], "stopped", f"{name}, killed for the {number}th time")

    def test_what_an_interrupted_start_has_not_put_down_is_found(self):
        (self.channel / "a").write_bytes(b"kept")
        before = self.box.processes()
        for file in (self.box.directory / "run").iterdir():
            file.unlink()
        self.assertEqual(self.box.processes(), before)
        for number in range(6):
            self.box.kill()
            starting = subprocess.Popen([REELCTL, "box", "start", "--dir", self.box.directory], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                starting.wait(random.uniform(0, 0.2))
            except subprocess.TimeoutExpired:
                starting.kill()
                starting.wait()
            self.box.start()
            self.assertEqual((self.channel / "a").read_bytes(), b"kept", number)

    def test_start_mounts_again_after_the_mount_was_killed(self):
        (self.channel / "a").write_bytes(b"kept")
        os.kill(self.box.processes()["mount"]["pid"], signal.SIGKILL)
        until(lambda: self.box.processes()["mount"]["state"] == "stopped", "the mount has stopped")
        self.assertTrue(is_mounted(self.box.mount), "a dead mount stays in the way")
        self.box.start("mount")
        self.assertEqual((self.channel / "a").read_bytes(), b"kept")

    def test_start_of_an_unknown_name_fails(self):
        fails("box", "start", "--dir", self.box.directory, "node7.worker1", saying="no process node7.worker1")

    def test_a_stopped_process_is_shown_as_paused(self):
        pid = self.box.processes()["node1.worker1"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: self.box.processes()["node1.worker1"]["state"] == "paused", "it is shown as paused")
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: self.box.processes()["node1.worker1"]["state"] in ("leader", "follower"), "it goes on")


class BoxLife(unittest.TestCase):
    def test_down_keeps_the_data_and_up_brings_it_back(self):
        box = Box()
        self.addCleanup(box.close)
        channel = box.channel("cam1")
        data = os.urandom(3 << 20)
        (channel / "a").write_bytes(data)
        pids = [process["pid"] for process in box.processes().values()]
        run(REELCTL, "box", "down", "--dir", box.directory)
        self.assertFalse(is_mounted(box.mount))
        self.assertFalse([pid for pid in pids if pathlib.Path(f"/proc/{pid}/exe").exists()])
        self.assertEqual({process["state"] for process in box.processes().values()}, {"stopped"})
        run(REELCTL, "box", "up", "--dir", box.directory)
        self.assertEqual((channel / "a").read_bytes(), data)

    def test_purge_removes_the_box_and_nothing_else(self):
        box = Box()
        self.addCleanup(box.close)
        (box.directory / "mine").write_text("not the box's")
        cluster = box.cluster_file.read_text().split('"')[1]
        self.assertTrue([path for path in pathlib.Path("/dev/shm").iterdir() if cluster[:8] in path.name])
        box.kill()  # nodes that end by themselves take their shared memory with them
        self.assertEqual(box.reelctl("box", "down", "--purge"), {"removed": str(box.directory)})
        box.purged = True
        self.assertEqual([path.name for path in box.directory.iterdir()], ["mine"])
        self.assertFalse([path for path in pathlib.Path("/dev/shm").iterdir() if cluster[:8] in path.name])
        self.assertEqual(box.reelctl("box", "down", "--purge"), {"removed": None})

    def test_what_makes_no_sense_is_refused_before_anything_is_made(self):
        box = Box()
        self.addCleanup(box.close)
        place = box.base / "other"
        fails("box", "up", "--dir", place, "--indexes", "2", saying="--indexes")
        fails("box", "up", "--dir", place, "--arbiters", "3", saying="--arbiters")
        fails("box", "up", "--dir", place, "--copies", "3", saying="--nodes 3")
        fails("box", "up", "--dir", place, "--block-size", "1M", saying="--block-size")
        fails("box", "up", "--dir", place, "--block-size", "5M", saying="power of two")
        fails("box", "up", "--dir", place, "--device-size", "64M", saying="--device-size")
        self.assertFalse(place.exists())
        fails("box", "status", "--dir", place, saying="no box")
        fails("box", "down", "--dir", place, saying="no box")
        fails("status", "--dir", place, saying="reelctl box up")


class Cluster(BoxTest):
    def test_status(self):
        status = self.box.reelctl("status")
        self.assertTrue(status["healthy"], status["problems"])
        self.assertEqual(status["cluster"], self.box.status()["cluster"])
        self.assertEqual(status["index"]["pid"], self.box.processes()["index1"]["pid"])
        self.assertGreater(status["free_bytes"], 0)
        self.assertLessEqual(status["free_bytes"], status["total_bytes"])
        mounts = [session for session in status["sessions"] if session["pid"] == self.box.processes()["mount"]["pid"]]
        self.assertEqual(len(mounts), 1)
        self.assertIn("healthy", run(REELCTL, "status", "--dir", self.box.directory).stdout)

    def test_status_names_what_is_wrong_and_what_to_do(self):
        pid = self.box.processes()["node2.worker2"]["pid"]
        os.kill(pid, signal.SIGKILL)
        try:
            status = until(lambda: (lambda told: not told["healthy"] and told)(self.box.reelctl("status")),
                           "the dead worker is a problem", 30)
            self.assertTrue(any("node2" in problem["what"] for problem in status["problems"]), status["problems"])
            self.assertTrue(all(problem["advice"] for problem in status["problems"]), status["problems"])
        finally:
            self.box.start()
        until(lambda: self.box.reelctl("status")["healthy"], "all is well again", 30)

    def test_channels(self):
        made = self.box.reelctl("channel", "create", "cam7", "--copies", "1")
        self.assertEqual((made["name"], made["copies"]), ("cam7", 1))
        self.assertEqual((self.box.mount / "cam7").stat().st_ino, made["inode"])
        self.assertEqual(self.box.reelctl("channel", "set", "cam7", "--copies", "2")["copies"], 2)
        changed = self.box.reelctl("channel", "set", "cam7", "--quota", "5G", "--min-age", "2d")["policy"]
        self.assertEqual(changed["quota"], {"value": "5G", "decided": True})
        self.assertEqual(os.getxattr(self.box.mount / "cam7", "user.reel.min_age"), b"2d")
        changed = self.box.reelctl("channel", "set", "cam7", "--unset", "quota", "min_age")["policy"]
        self.assertEqual(changed["quota"], {"value": "none", "decided": False})
        self.box.reelctl("channel", "set", "/", "--max-age", "400d")
        self.assertEqual(self.box.reelctl("channel", "show", "cam7")["policy"]["max_age"], {"value": "400d", "decided": False})
        self.box.reelctl("channel", "set", "/", "--unset", "max_age")
        (self.box.mount / "cam7/a").write_bytes(b"x" * 100_000)
        shown = self.box.reelctl("channel", "show", "cam7")
        self.assertEqual((shown["files"], shown["live_bytes"]), (1, 100_000))
        self.assertIn("cam7", [channel["name"] for channel in self.box.reelctl("channel", "list")["channels"]])
        directory = ("--dir", self.box.directory)
        fails("channel", "create", "cam7", *directory, saying="exists already")
        fails("channel", "show", "cam8", *directory, saying="no channel cam8")
        fails("channel", "set", "cam8", "--copies", "2", *directory, saying="no channel cam8")

    def test_copies_are_as_many_as_the_channel_asks_for(self):
        for copies in (1, 2):
            self.box.reelctl("channel", "create", f"copies{copies}", "--copies", str(copies))
            path = self.box.mount / f"copies{copies}" / "a"
            path.write_bytes(os.urandom(1 << 20))
            for segment in self.box.reelctl("segment", "show", path)["segments"]:
                self.assertEqual(len(segment["copies"]), copies)

    def test_nodes_and_devices(self):
        nodes = self.box.reelctl("node", "list")["nodes"]
        self.assertEqual(sorted(node["name"] for node in nodes), ["node1", "node2"])
        processes = self.box.processes()
        for node in nodes:
            self.assertEqual(node["state"], "online")
            self.assertEqual(sum(worker["leader"] for worker in node["workers"]), 1)
            for worker in node["workers"]:
                process = processes[f"{node['name']}.worker{worker['worker']}"]
                self.assertEqual((worker["pid"], worker["endpoint"]), (process["pid"], process["endpoints"][0]))
        for device in self.box.devices():
            self.assertEqual(device["state"], "online")
            self.assertEqual(device["block_bytes"], 4 << 20)
            self.assertEqual(device["free_blocks"] + device["open_blocks"] + device["sealed_blocks"], device["blocks"])

    def worker(self, node, number):
        """A worker process as node list tells of it."""
        nodes = {known["name"]: known for known in self.box.reelctl("node", "list")["nodes"]}
        return next(worker for worker in nodes[node]["workers"] if worker["worker"] == number)

    def follower(self, node):
        """The number and pid of a worker that does not lead."""
        nodes = {known["name"]: known for known in self.box.reelctl("node", "list")["nodes"]}
        worker = next(worker for worker in nodes[node]["workers"] if not worker["leader"])
        return worker["worker"], worker["pid"]

    def test_a_stopped_worker_is_known_within_a_second_and_gets_nothing_new(self):
        number, pid = self.follower("node1")
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            seen = []
            while not seen or seen[-1] == "online":
                asked = time.monotonic() - stopped
                seen.append(self.worker("node1", number)["state"])
                self.assertTrue(seen[-1] != "online" or asked < 1.0 * PATIENCE, f"online when asked after {asked:.2f} s")
            self.assertIn(seen[-1], ("suspect", "offline"))
            (self.channel / "a").write_bytes(os.urandom(24 << 20))
            processes = [copy["process"] for segment in self.box.reelctl("segment", "show", self.channel / "a")["segments"]
                         for copy in segment["copies"]]
            self.assertGreater(len(processes), 10)
            self.assertNotIn(f"node1.worker{number}", processes)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: self.worker("node1", number)["state"] == "online", "it is seen to have come back")

    def test_a_dead_worker_is_known_within_a_second(self):
        number, pid = self.follower("node2")
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        try:
            state = "online"
            while state == "online":
                asked = time.monotonic() - killed
                state = self.worker("node2", number)["state"]
                self.assertTrue(state != "online" or asked < 1.0 * PATIENCE, f"online when asked after {asked:.2f} s")
            self.assertEqual(state, "offline", "its connection broke")
        finally:
            self.box.start()

    def show(self, node):
        return self.box.reelctl("node", "show", node)

    def test_node_show_draws_the_shared_memory(self):
        (self.channel / "a").write_bytes(os.urandom(9 << 20))
        segments = self.box.reelctl("segment", "show", self.channel / "a")["segments"]
        devices = {device["device"]: device for device in self.box.devices()}
        for name in ("node1", "node2"):
            shown = self.show(name)
            self.assertEqual((shown["name"], shown["state"]), (name, "online"))
            self.assertEqual(shown["epoch"], self.box.reelctl("status")["index"]["epoch"])
            self.assertRegex(shown["incarnation"], r"^[0-9a-f-]{36}$")
            (device,) = shown["devices"]
            known = devices[device["device"]]
            self.assertEqual((device["path"], device["uuid"], device["blocks"]),
                             (known["path"], known["uuid"], known["blocks"]))
            self.assertEqual(sum(device[f"{state}_blocks"] for state in ("free", "open", "unfilled", "sealed", "freeing")),
                             device["blocks"])
            used = {copy["block"] for segment in segments for copy in segment["copies"]
                    if copy["device"] == device["device"]}
            self.assertGreaterEqual(device["blocks"] - device["free_blocks"], len(used))
            processes = self.box.processes()
            self.assertEqual(sum(process["leader"] for process in shown["processes"]), 1)
            for process in shown["processes"]:
                real = processes[f"{name}.worker{process['worker']}"]
                self.assertEqual((process["pid"], process["endpoint"]), (real["pid"], real["endpoints"][0]))
                self.assertEqual((process["alive"], process["state"]), (True, "online"))
                self.assertEqual(process["leader"], real["state"] == "leader")
                self.assertTrue(-1 < time.time() - process["started_ns"] / 1e9 < 3600)
                self.assertLessEqual(len(process["blocks"]), process["owned_blocks"])
            self.assertGreater(sum(process["owned_blocks"] for process in shown["processes"]), 0)

    def test_a_block_whose_writer_left_is_unfilled_until_the_next_comes(self):
        channel = self.box.mount / "left"  # of its own: with one segment to go on with
        channel.mkdir()
        (channel / "a").write_bytes(os.urandom(1 << 20))
        (segment,) = {segment["segment"] for segment in self.box.reelctl("segment", "show", channel / "a")["segments"]}

        def is_unfilled():
            return [segment in {entry["segment"] for entry in self.show(name)["unfilled"]} for name in ("node1", "node2")]
        self.assertEqual(is_unfilled(), [False, False])
        run("umount", self.box.mount)
        try:
            until(lambda: is_unfilled() == [True, True], "both nodes know that nobody writes it")
            owned = {block["segment"] for name in ("node1", "node2") for process in self.show(name)["processes"]
                     for block in process["blocks"]}
            self.assertNotIn(segment, owned)
        finally:
            self.box.start()
        (channel / "b").write_bytes(os.urandom(1 << 20))
        self.assertEqual({segment["segment"] for segment in self.box.reelctl("segment", "show", channel / "b")["segments"]},
                         {segment}, "it is gone on with")
        self.assertEqual(is_unfilled(), [False, False])

    def test_node_show_for_people(self):
        text = run(REELCTL, "node", "show", "node1", "--dir", self.box.directory).stdout
        for word in ("node1", "epoch", "DEVICE", "UNFILLED", "FREEING", "WORKER", "leader", "follower", "node1.dev1"):
            self.assertIn(word, text)

    def test_node_show_asks_another_worker_where_one_does_not_answer(self):
        directory = ("--dir", self.box.directory)
        fails("node", "show", "node9", *directory, saying="no node node9")
        pids = [self.box.processes()[f"node2.worker{number}"]["pid"] for number in (1, 2)]
        os.kill(pids[0], signal.SIGKILL)
        try:
            shown = self.show("node2")
            self.assertEqual(shown["answered_by"], 2)
            until(lambda: [process["alive"] for process in self.show("node2")["processes"]] == [False, True],
                  "worker 1 is shown to be dead")
            os.kill(pids[1], signal.SIGKILL)
            until(lambda: self.worker("node2", 2)["state"] == "offline", "worker 2 is gone")
            fails("node", "show", "node2", *directory, saying="no worker process of node2 answers")
        finally:
            self.box.start()
        until(lambda: self.box.reelctl("status")["healthy"], "all is well again", 30)

    def test_segments(self):
        (self.channel / "a").write_bytes(os.urandom(9 << 20))
        name = self.channel.name
        segments = self.box.reelctl("segment", "list", "--channel", name)["segments"]
        self.assertGreaterEqual(len(segments), 3, "9 MiB do not fit in two blocks of 4 MiB")
        self.assertEqual({segment["channel_name"] for segment in segments}, {name})
        self.assertLessEqual({segment["segment"] for segment in segments},
                             {segment["segment"] for segment in self.box.segments()})
        self.assertEqual(sum(segment["live_bytes"] for segment in segments), 9 << 20)
        for segment in segments:
            self.assertLessEqual(segment["live_bytes"], 4 << 20)
            shown = self.box.reelctl("segment", "show", segment["segment"])
            self.assertEqual(sum(file["bytes"] for file in shown["files"]), shown["live_bytes"])
        directory = ("--dir", self.box.directory)
        text = run(REELCTL, "segment", "show", self.channel / "a", *directory).stdout
        for word in ("NODE", "PROCESS", "DEVICE", "BLOCK", "node1.worker", "node2.worker", "node1.dev1"):
            self.assertIn(word, text)
        fails("segment", "show", "999999999", *directory, saying="999999999")
        fails("segment", "show", self.channel / "missing", *directory, saying="missing")
        fails("segment", "show", self.box.cluster_file, *directory, saying="not on a reelfs mount")
        fails("segment", "list", "--channel", "none", *directory, saying="no channel none")

    def test_the_cluster_may_be_named_in_the_environment(self):
        environment = dict(os.environ, REELFS_CLUSTER=str(self.box.cluster_file))
        told = json.loads(run(REELCTL, "status", "--json", env=environment).stdout)
        self.assertEqual(told["cluster"], self.box.status()["cluster"])
        fails("status", saying="which cluster?")
        fails("status", "--cluster", "/no/such/file", saying="/no/such/file")

    def test_every_command_has_help_and_answers_in_json(self):
        groups = ("", "box", "channel", "node", "device", "segment")
        commands = ("box up", "box status", "box start", "box down", "status", "channel list", "channel create",
                    "channel set", "channel show", "node list", "node show", "device list", "device add", "device remove",
                    "segment list", "segment show")
        for command in groups + commands:
            with self.subTest(command=command):
                told = run(REELCTL, *command.split(), "--help").stdout
                self.assertIn("--help", told)
                self.assertEqual("--json" in told, command in commands)
        self.assertRegex(run(REELCTL, "--version").stdout, r"^reelctl \d")
        self.assertNotEqual(run(REELCTL, check=False).returncode, 0)
        self.assertNotEqual(run(REELCTL, "nonsense", check=False).returncode, 0)


if __name__ == "__main__":
    unittest.main()
