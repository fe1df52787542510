"""A box whose connections are all TLS 1.3 with certificates on both ends."""
import os
import socket
import ssl
import unittest

from harness import BoxTest, run


class Tls(BoxTest):
    box_options = ("--tls",)

    def endpoints(self):
        return [process["endpoints"][0].rsplit(":", 1) for process in self.box.processes().values()
                if process["role"] != "mount"]

    def shake_hands(self, context, host, port):
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=host) as encrypted:
                encrypted.settimeout(10)
                # With TLS 1.3 a refused certificate shows at the first read.
                encrypted.sendall(b"\0" * 64)
                return encrypted.version(), encrypted.recv(1)

    def context(self, *identity):
        context = ssl.create_default_context(cafile=self.box.directory / "tls/authority.pem")
        if identity:
            context.load_cert_chain(*identity)
        return context

    def test_records_and_plays_back(self):
        data = os.urandom(10 << 20)
        (self.channel / "a").write_bytes(data)
        other = self.box.another_mount()
        self.assertEqual((other / self.channel.name / "a").read_bytes(), data)
        self.assertEqual(len(self.box.reelctl("node", "list")["nodes"]), 2)

    def test_every_server_asks_for_a_certificate(self):
        self.assertEqual(len(self.endpoints()), 5)
        for host, port in self.endpoints():
            with self.subTest(port=port), self.assertRaises((ssl.SSLError, ConnectionError)):
                self.shake_hands(self.context(), host, port)

    def test_every_server_refuses_a_certificate_of_another_authority(self):
        other = self.local()
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stranger", "-days", "1",
            "-keyout", other / "key", "-out", other / "cert")
        for host, port in self.endpoints():
            with self.subTest(port=port), self.assertRaises((ssl.SSLError, ConnectionError)):
                self.shake_hands(self.context(other / "cert", other / "key"), host, port)

    def test_the_clusters_own_certificate_is_taken(self):
        tls = self.box.directory / "tls"
        for host, port in self.endpoints():
            # The handshake succeeds; the zeros that follow are no frame, so the server closes without a word.
            version, answer = self.shake_hands(self.context(tls / "client.pem", tls / "client.key"), host, port)
            self.assertEqual((version, answer), ("TLSv1.3", b""))

    def test_plain_tcp_is_not_answered(self):
        for host, port in self.endpoints():
            with socket.create_connection((host, int(port)), timeout=10) as plain:
                plain.settimeout(30)
                plain.sendall(b"RLFS" + b"\0" * 60)
                try:
                    answer = plain.recv(64)
                except ConnectionResetError:
                    continue  # closed with our bytes unread
                self.assertNotEqual(answer[:4], b"RLFS")

    def test_keys_are_private(self):
        for key in (self.box.directory / "tls").glob("*.key"):
            self.assertEqual(key.stat().st_mode & 0o077, 0, key)


if __name__ == "__main__":
    unittest.main()
