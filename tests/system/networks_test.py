"""Nodes and an index server with two addresses each: one network dies, and nobody notices.

Runs in a network namespace of its own, where nftables cuts what a test says.
"""
import os
import re
import sys
import threading
import time
import unittest

if os.environ.get("REELFS_OWN_NETWORK") is None:
    os.environ["REELFS_OWN_NETWORK"] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, "-B", *sys.argv])

from harness import PATIENCE, REELCTL, Box, run, until  # noqa: E402: the process is replaced before

PIECE = bytes(range(256)) * 256


class Recorder(threading.Thread):
    """Appends pieces of 64 KiB, each followed by fsync, until it is told to end."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.pieces = 0
        self.longest = 0.0
        self.error = None
        self.ending = threading.Event()

    def run(self):
        try:
            with open(self.path, "wb", buffering=0) as file:
                while not self.ending.is_set():
                    began = time.monotonic()
                    file.write(PIECE)
                    os.fsync(file.fileno())
                    self.longest = max(self.longest, time.monotonic() - began)
                    self.pieces += 1
        except OSError as failed:
            self.error = failed

    def goes_on(self, pieces=20):
        wanted = self.pieces + pieces
        until(lambda: self.error or self.pieces >= wanted, "it records", 20)

    def end(self):
        self.ending.set()
        self.join()


class NetworksTest(unittest.TestCase):
    def setUp(self):
        run("ip", "link", "set", "lo", "up")
        self.box = Box()
        self.addCleanup(self.box.close)
        self.addCleanup(self.heal)
        run(REELCTL, "box", "down", "--dir", self.box.directory)
        self.give_addresses()
        self.box.start()
        self.channel = self.box.channel("cam")

    def give_addresses(self):
        """To each server a second one, 127.0.0.2."""
        for file in self.box.directory.glob("node*.toml"):
            self.edit(file, r'host = "127.0.0.1"', f'host = "127.0.0.1"\n{self.more_hosts}')
        self.edit(self.box.directory / "index1.toml", r'listen = "127.0.0.1:(\d+)"', r'listen = ["127.0.0.1:\1", "127.0.0.2:\1"]')
        for file in [self.box.cluster_file, *self.box.directory.glob("node*.toml")]:
            self.edit(file, r'indexes = \["127.0.0.1:(\d+)"\]', r'indexes = ["127.0.0.1:\1 127.0.0.2:\1"]')

    def edit(self, file, what, by):
        text, changes = re.subn(what, by, file.read_text())
        self.assertEqual(changes, 1, file)
        file.write_text(text)

    more_hosts = 'hosts = ["127.0.0.2"]'

    def cut(self, address, ports=None):
        """Drops what comes to it or from it, without a word."""
        ports = f"tcp {{}} {{{{ {', '.join(map(str, ports))} }}}}" if ports else ""
        run("nft", f"table inet cut {{ chain c {{ type filter hook input priority 0; "
                   f"ip daddr {address} {ports.format('dport')} drop; ip saddr {address} {ports.format('sport')} drop; }}; }}")

    def heal(self):
        run("nft", "flush", "ruleset")

    def paths(self):
        header, *rows = (self.channel / ".reel/paths.tsv").read_text().splitlines()
        return [dict(zip(header.split("\t"), row.split("\t"))) for row in rows]

    def up(self, address):
        paths = [path for path in self.paths() if path["address"].startswith(address + ":")]
        return bool(paths) and all(path["state"] == "up" for path in paths)

    def down(self, address):
        return any(path["state"] == "down" for path in self.paths() if path["address"].startswith(address + ":"))

    def worker_ports(self, address):
        """Of one address: internal ports stay open."""
        return sorted({int(path["address"].rpartition(":")[2]) for path in self.paths()
                       if path["address"].startswith(address + ":")})


class TwoNetworks(NetworksTest):
    def test_a_network_that_dies_is_left_and_comes_back(self):
        recorder = Recorder(self.channel / "file")
        recorder.start()
        self.addCleanup(recorder.end)
        recorder.goes_on()
        until(lambda: self.up("127.0.0.1") and self.up("127.0.0.2"), "both are in use")
        for node in self.box.reelctl("node", "list")["nodes"]:
            for worker in node["workers"]:
                self.assertEqual([one.rpartition(":")[0] for one in worker["other_endpoints"]], ["127.0.0.2"])
        for path in self.paths():
            if path["used_for"] == "appends":
                self.assertGreater(float(path["latency_ms"]), 0, path)
        recorder.longest = 0.0
        self.cut("127.0.0.2")
        recorder.goes_on(100)
        until(lambda: self.down("127.0.0.2"), "it is seen to be down")
        self.assertTrue(self.up("127.0.0.1"))
        self.heal()
        until(lambda: self.up("127.0.0.2"), "it is back")
        self.cut("127.0.0.1", self.worker_ports("127.0.0.1"))
        recorder.goes_on(100)
        until(lambda: self.down("127.0.0.1"), "the other is seen to be down")
        self.assertTrue(self.up("127.0.0.2"))
        self.heal()
        until(lambda: self.up("127.0.0.1"), "it is back, too")
        recorder.end()
        self.assertIsNone(recorder.error)
        print(f"\nlongest write and fsync while networks were cut: {recorder.longest * 1e3:.0f} ms")
        self.assertLess(recorder.longest, 0.6 * PATIENCE)
        content = (self.channel / "file").read_bytes()
        self.assertEqual(len(content), recorder.pieces * len(PIECE))
        self.assertTrue(all(content[at:at + len(PIECE)] == PIECE for at in range(0, len(content), len(PIECE))))

    def test_reads_go_on_without_a_network(self):
        (self.channel / "file").write_bytes(PIECE * 64)
        other = self.box.another_mount()
        self.assertEqual((other / "cam/file").read_bytes(), PIECE * 64)
        self.cut("127.0.0.2")
        (self.channel / "after").write_bytes(PIECE)
        began = time.monotonic()
        self.assertEqual((other / "cam/after").read_bytes(), PIECE)
        self.assertLess(time.monotonic() - began, 2 * PATIENCE)

    def test_the_index_server_is_found_at_its_other_address(self):
        port = re.search(r'127.0.0.1:(\d+)', self.box.cluster_file.read_text()).group(1)
        (self.channel / "before").write_bytes(b"1")
        self.cut("127.0.0.1", [port])
        began = time.monotonic()
        (self.channel / "after").write_bytes(b"2")
        took = time.monotonic() - began
        print(f"\na file made while the index server's first address is cut off: {took * 1e3:.0f} ms")
        self.assertLess(took, 2.5 * PATIENCE)
        self.assertEqual(sorted(os.listdir(self.channel)), ["after", "before"])
        until(lambda: all(node["state"] == "online" for node in self.box.reelctl("node", "list")["nodes"]), "nodes are online")


class OneForCopies(NetworksTest):
    more_hosts = 'copy_hosts = ["127.0.0.2"]'

    def test_clients_use_the_other_as_long_as_it_is_there(self):
        recorder = Recorder(self.channel / "file")
        recorder.start()
        self.addCleanup(recorder.end)
        recorder.goes_on()
        until(lambda: self.up("127.0.0.1") and self.up("127.0.0.2"), "both are kept up")

        def appends(address):
            return sum(int(path["calls"]) for path in self.paths()
                       if path["used_for"] == "appends" and path["address"].startswith(address + ":"))

        self.assertEqual({path["meant_for"] for path in self.paths()}, {"any", "copies"})
        recorder.goes_on(50)
        self.assertEqual(appends("127.0.0.2"), 0)
        self.assertGreater(appends("127.0.0.1"), 0)
        self.cut("127.0.0.1", self.worker_ports("127.0.0.1"))
        recorder.goes_on(50)
        until(lambda: appends("127.0.0.2") > 0, "what is meant for copies is better than nothing")
        self.heal()
        recorder.end()
        self.assertIsNone(recorder.error)
        self.assertEqual(os.path.getsize(self.channel / "file"), recorder.pieces * len(PIECE))


if __name__ == "__main__":
    unittest.main()
