"""Command lines: what they come to, and the one line that each mistake is answered with."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from twisted.python.usage import Options, UsageError
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command import local_host, server_options, streams, values
from kollacast.command.client_options import ClientOptions
from kollacast.command.logs import STDERR_OBSERVER
from kollacast.command.server_options import ServerOptions
from kollacast.files.digest import ExpectedDigest
from kollacast.operator.expectation import Expectation
from kollacast.wire.structures import MIN_MTU
from tests.identities import Authority, put


class _Twistd(Options):
    """As much of twistd's own options as a subcommand looks at."""

    optFlags = (("nodaemon", "n", ""), ("syslog", None, ""))
    optParameters = (
        ("logger", None, None, ""),
        ("logfile", "l", None, ""),
        ("pidfile", None, "twistd.pid", ""),
    )


@contextmanager
def _redirected(fd: int, path: Path, flags: int) -> Iterator[None]:
    """A standard stream is open on a file, as a shell leaves it."""
    before = os.dup(fd)
    file = os.open(path, flags)
    os.dup2(file, fd)
    os.close(file)
    try:
        yield
    finally:
        os.dup2(before, fd)
        os.close(before)


class _OptionsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.image = self.folder / "image.tgz"
        self.image.write_bytes(b"image")
        self.patch(sys, "excepthook", sys.excepthook)
        self.patch(threading, "excepthook", threading.excepthook)
        self.patch(streams.console, "program", streams.console.program)
        self.said: list[str] = []
        self.patch(streams.console, "write", self.said.append)
        # whatever the standard streams of the test run are
        self.patch(server_options, "prove_readable", mock.Mock())
        self.patch(streams, "prove_standard_output_takes_an_image", mock.Mock())
        self.patch(streams, "fill_closed_streams", frozenset)

    def server(self, *words: str, parent: Options | None = None) -> ServerOptions:
        parsed = ServerOptions()
        parsed.parent = parent
        parsed.parseOptions(words)
        return parsed

    def client(self, *words: str, parent: Options | None = None) -> ClientOptions:
        parsed = ClientOptions()
        parsed.parent = parent
        parsed.parseOptions(words)
        return parsed

    def refused(self, parsed: ServerOptions | ClientOptions, *words: str) -> str:
        """Parse `words`; return the one line that they are refused with."""
        self.said.clear()
        refusal = self.assertRaises(SystemExit, parsed.parseOptions, words)
        self.assertEqual(refusal.code, 2)
        self.assertEqual(len(self.said), 1, self.said)
        [line] = self.said
        self.assertTrue(line.startswith(f"{parsed.program}: "), line)
        self.assertEqual(line.count("\n"), 1, line)
        return line

    def refused_server(self, *words: str) -> str:
        return self.refused(ServerOptions(), *words)

    def refused_client(self, *words: str) -> str:
        return self.refused(ClientOptions(), *words)


class ServerTests(_OptionsTestCase):
    def test_defaults(self) -> None:
        config = self.server("127.0.0.1", "3").config
        self.assertEqual(config.local_ip, "127.0.0.1")
        self.assertEqual(config.clients, 3)
        self.assertEqual(config.port, 18383)
        self.assertEqual(config.group, "239.238.0.31")
        self.assertEqual(config.ttl, 8)
        self.assertEqual(config.mtu, 1500)
        self.assertEqual(config.group_size, 64)
        self.assertEqual(config.accept_timeout_s, 0)
        self.assertEqual(config.dialect_name, "kollacast")
        self.assertEqual(config.digest, "sha256")
        self.assertIsNone(config.buffer_packets)
        self.assertIsNone(config.window)
        self.assertIsNone(config.rate_bps)

    def test_everything(self) -> None:
        parsed = self.server(
            *("--group", "239.1.2.3", "--ttl=1", "--mtu", "9000", "--buffer-packets", "100"),
            *("--window", "2", "--input", str(self.image), "--group-size", "7"),
            *("--accept-timeout", "5m", "--client-timeout", "2.5", "--rate", "500M"),
            *("--report", str(self.folder / "report.json"), "--progress", "none"),
            *("127.0.0.1", "70", "4000"),
        )
        config = parsed.config
        self.assertEqual((config.group, config.ttl, config.mtu), ("239.1.2.3", 1, 9000))
        self.assertEqual((config.buffer_packets, config.window), (100, 2))
        self.assertEqual((config.group_size, config.clients, config.port), (7, 70, 4000))
        self.assertEqual((config.accept_timeout_s, config.client_timeout_s), (300, 2.5))
        self.assertEqual(config.rate_bps, 500_000_000)
        self.assertEqual(parsed["input"], os.path.abspath(self.image))
        self.assertEqual(parsed["report"], os.path.abspath(self.folder / "report.json"))
        self.assertEqual(parsed["progress"], "none")
        self.assertEqual(sorted(self.folder.iterdir()), [self.image])

    def test_what_is_expected_of_the_image(self) -> None:
        here = ("127.0.0.1", "1")
        self.assertEqual(self.server(*here).config.expectation, Expectation())
        parsed = self.server(
            *("--allow-empty", "--expect-size", "3G", "--expect", f"sha256:{'Ab' * 32}"), *here
        )
        expected = ExpectedDigest("sha256", b"\xab" * 32)
        self.assertEqual(parsed.config.expectation, Expectation(3 * 10**9, (expected,), True))
        both = ("--expect", str(expected), "--expect", f"tree:{'01' * 32}")
        digests = (expected, ExpectedDigest("tree", b"\x01" * 32))
        self.assertEqual(self.server(*both, *here).config.expectation.digests, digests)
        at_client = self.client(*both, "127.0.0.1", "127.0.0.1", "--output", str(self.folder / "i"))
        self.assertEqual(at_client.config.expectation, Expectation(digests=digests))
        for option, text in (
            ("--expect-size", "0"),
            ("--expect-size", "many"),
            ("--expect", "ab" * 32),
            ("--expect", f"md5:{'ab' * 16}"),
            ("--expect", f"sha256:{'ab' * 31}"),
            ("--expect", f"sha256:{'ag' * 32}"),
            ("--expect", f"sha256:{'ab' * 33}"),
        ):
            self.assertIn(f"{option} {text!r}: must be", self.refused_server(*here, option, text))

    def test_options_after_arguments(self) -> None:
        config = self.server("127.0.0.1", "--ttl", "3", "2", "--window=4", "5000").config
        self.assertEqual((config.clients, config.port), (2, 5000))
        self.assertEqual((config.ttl, config.window), (3, 4))

    def test_jasmine(self) -> None:
        config = self.server("--dialect", "jasmine", "127.0.0.1", "1").config
        self.assertEqual(config.group, "224.238.0.31")
        self.assertIsNone(config.window)
        config = self.server(
            *("--dialect", "jasmine", "--group", "239.9.9.9", "--buffer-packets", "1024"),
            *("--window", "1", "127.0.0.1", "1"),
        ).config
        self.assertEqual((config.group, config.buffer_packets), ("239.9.9.9", 1024))

    def test_jasmine_limits(self) -> None:
        jasmine = ("127.0.0.1", "1", "--dialect", "jasmine")
        self.assertIn(
            "no more than 1024 packets", self.refused_server(*jasmine, "--buffer-packets=1025")
        )
        self.assertIn("up to 1500 bytes", self.refused_server(*jasmine, "--mtu=1501"))
        self.assertIn("one buffer in flight", self.refused_server(*jasmine, "--window=2"))

    def test_what_jasmine_cannot_honour(self) -> None:
        jasmine = ("127.0.0.1", "1", "--dialect", "jasmine")
        for words, why in (
            (f"--spool={self.folder}", "--spool: in the jasmine dialect nobody can fetch"),
            ("--spool-size=1G", "--spool-size: in the jasmine dialect nobody can fetch"),
            ("--failsafe=10.0.0.9:4000", "--failsafe: the jasmine dialect has no way to name"),
            ("--digest=sha256", "--digest: the jasmine dialect has no digest"),
            ("--patience=5", "--patience: in the jasmine dialect a client that is slow cannot"),
        ):
            self.assertIn(why, self.refused_server(*jasmine, words))
        config = self.server(*jasmine).config
        self.assertEqual((config.patience_s, config.digest), (5.0, "sha256"))

    def test_number_of_arguments(self) -> None:
        self.assertIn("got 0 arguments", self.refused_server())
        self.assertIn("got 1 argument\n", self.refused_server("127.0.0.1"))
        self.assertIn("got 4 arguments", self.refused_server("127.0.0.1", "3", "1", "2"))

    def test_number_of_clients(self) -> None:
        for words in ("0", "-1", "three", "", "1.5", "65536", "9" * 30, "²"):
            self.assertIn("number_of_clients", self.refused_server("127.0.0.1", words))

    def test_port(self) -> None:
        for word in ("0", "65536", "-5", "http"):
            self.assertIn("port", self.refused_server("127.0.0.1", "3", word))

    def test_local_ip(self) -> None:
        for word in ("here", "1.2.3", "::1", "1.2.3.4.5", ""):
            self.assertIn("must be an IPv4 address", self.refused_server(word, "3"))
        self.assertIn("not of all", self.refused_server("0.0.0.0", "3"))
        self.assertIn("not a group", self.refused_server("239.1.1.1", "3"))
        self.assertIn("not a group", self.refused_server("255.255.255.255", "3"))

    def test_local_ip_of_no_interface(self) -> None:
        # of the block for documentation, RFC 5737
        line = self.refused_server("192.0.2.77", "3")
        self.assertIn("no network interface of this host has this address; `ip -br -4 addr", line)

    def test_local_ip_that_is_a_broadcast_address(self) -> None:
        self.assertIn("no network interface", self.refused_server("127.255.255.255", "3"))

    def test_listen(self) -> None:
        self.assertIsNone(self.server("127.0.0.1", "3").config.listen_ip)
        for address in ("127.0.0.2", "0.0.0.0"):
            config = self.server("--listen", address, "127.0.0.1", "3").config
            self.assertEqual((config.local_ip, config.listen_ip), ("127.0.0.1", address))
        line = self.refused_server("--listen", "192.0.2.77", "127.0.0.1", "3")
        self.assertIn("--listen 192.0.2.77: no network interface of this host", line)
        self.assertIn("not a group", self.refused_server("--listen", "239.1.1.1", "127.0.0.1", "3"))

    def test_group(self) -> None:
        for word in ("10.0.0.1", "240.0.0.1", "all", ""):
            line = self.refused_server("127.0.0.1", "3", "--group", word)
            self.assertIn("must be a multicast address", line)

    def test_mtu_holds_one_packet(self) -> None:
        """One with the digest of a piece and a signature, too."""
        self.assertEqual(self.server("127.0.0.1", "3", "--mtu=144").config.mtu, 144)
        self.assertIn("from 144 to 65535", self.refused_server("127.0.0.1", "3", "--mtu=143"))
        self.assertIn("from 144 to 65535", self.refused_server("127.0.0.1", "3", "--mtu=65536"))

    def test_mtu_of_the_interface(self) -> None:
        self.patch(local_host, "interface_mtu", lambda local_ip, group: 1450)
        self.assertEqual(self.server("127.0.0.1", "3", "--mtu=1450").config.mtu, 1450)
        line = self.refused_server("127.0.0.1", "3", "--mtu=1451")
        self.assertIn("--mtu 1451: the interface of 127.0.0.1 takes 1450 bytes", line)
        # Nobody gave one that is too large.
        self.assertEqual(self.server("127.0.0.1", "3").config.mtu, 1450)
        parsed = self.server("127.0.0.1", "3", "--dialect", "jasmine")
        self.assertEqual(parsed.config.mtu, 1450)

    def test_mtu_of_an_interface_that_takes_more(self) -> None:
        self.patch(local_host, "interface_mtu", lambda local_ip, group: 9000)
        self.assertEqual(self.server("127.0.0.1", "3").config.mtu, 1500)

    def test_mtu_of_an_interface_that_takes_no_packet(self) -> None:
        self.patch(local_host, "interface_mtu", lambda local_ip, group: 143)
        self.assertIn("takes 143 bytes", self.refused_server("127.0.0.1", "3"))
        self.patch(local_host, "interface_mtu", lambda local_ip, group: 144)
        self.assertEqual(self.server("127.0.0.1", "3").config.mtu, 144)

    def test_mtu_of_an_unknown_interface(self) -> None:
        self.patch(local_host, "interface_mtu", lambda local_ip, group: None)
        self.assertEqual(self.server("127.0.0.1", "3", "--mtu=9000").config.mtu, 9000)
        self.assertEqual(self.server("127.0.0.1", "3").config.mtu, 1500)

    def test_other_numbers(self) -> None:
        for option, word in (
            ("--ttl", "256"),
            ("--ttl", "-1"),
            ("--buffer-packets", "0"),
            ("--window", "0"),
            ("--group-size", "0"),
            ("--accept-timeout", "-1"),
            ("--accept-timeout", "soon"),
            ("--client-timeout", "0"),
            ("--rate", "fast"),
            ("--rate", "0"),
            ("--dialect", "latin"),
            ("--progress", "much"),
        ):
            line = self.refused_server("127.0.0.1", "3", option, word)
            self.assertIn(f"{option} {word!r}", line)

    def test_unknown_option(self) -> None:
        self.assertIn("--bogus", self.refused_server("127.0.0.1", "3", "--bogus"))
        self.assertIn("-z", self.refused_server("-z", "127.0.0.1", "3"))

    def test_missing_value(self) -> None:
        self.assertIn("--mtu", self.refused_server("127.0.0.1", "3", "--mtu"))

    def test_standard_input_closed(self) -> None:
        self.patch(streams, "fill_closed_streams", lambda: frozenset([0]))
        self.assertIn("standard input is closed", self.refused_server("127.0.0.1", "3"))
        self.server("127.0.0.1", "3", "--input", str(self.image))

    def test_report_over_the_image(self) -> None:
        line = self.refused_server(
            *("127.0.0.1", "3", "--input", str(self.image)),
            *("--report", f"{self.folder}/../{self.folder.name}/image.tgz"),
        )
        self.assertIn("is the file of --input", line)
        self.assertEqual(self.image.read_bytes(), b"image")

    def test_report_over_what_is_redirected(self) -> None:
        with _redirected(0, self.image, os.O_RDONLY):
            line = self.refused_server("127.0.0.1", "3", "--report", str(self.image))
            self.assertIn("is the file of standard input", line)
            other = str(self.folder / "report")
            self.server("127.0.0.1", "3", "--report", other)
            # It is not what is sent.
            words = ("--input", other, "--report", str(self.image))
            self.server("127.0.0.1", "3", *words)

    def test_standard_input_unfit(self) -> None:
        terminal = mock.Mock(side_effect=OSError(22, "is a terminal"))
        self.patch(server_options, "prove_readable", terminal)
        line = self.refused_server("127.0.0.1", "3")
        self.assertIn("is a terminal: redirect the image to it, or give --input", line)

    def test_strangers_links(self) -> None:
        """Each option that names what is written refuses one, in a line, and nothing is made."""
        link = self.folder / "link"
        link.symlink_to(self.folder / "elsewhere")
        if os.geteuid() == 0:
            os.lchown(link, 4711, -1)
        else:
            self.patch(os, "geteuid", lambda: 4711)
        reason = "symbolic link: not followed"
        for words in (("--output", str(link)), ("--report", str(link))):
            self.assertIn(reason, self.refused_client("127.0.0.1", "h", *words))
        (self.folder / "elsewhere").mkdir()
        for path in (link, link / "below"):
            (self.folder / "elsewhere" / "below").mkdir(exist_ok=True)
            self.folder.chmod(0o777)
            line = self.refused_client("127.0.0.1", "h", "--registry-root", str(path))
            self.assertIn(f"--registry-root {path}: cannot be written: ", line)
            self.assertIn(reason, line)
        self.assertIn(reason, self.refused_server("127.0.0.1", "3", "--spool", str(link)))
        self.assertIn(reason, self.refused_server("127.0.0.1", "3", "--report", str(link)))

    def test_report_over_the_secret(self) -> None:
        self.image.write_bytes(b"0123456789abcdef")
        self.image.chmod(0o600)
        words = ("--token-file", str(self.image), "--report", str(self.image))
        line = self.refused_server("127.0.0.1", "3", *words)
        self.assertIn("is the file of --token-file", line)

    def test_a_spool_without_a_name(self) -> None:
        line = self.refused_server("127.0.0.1", "3", "--spool=")
        self.assertIn("--spool : cannot hold the copy: No such file or directory", line)

    def test_numbers_that_are_too_large(self) -> None:
        digits = "9" * 400
        for option in ("--rate", "--expect-size", "--spool-size", "--accept-timeout"):
            for value in (digits, f"{digits}G", f"0.{digits}", "9" * 5000):
                line = self.refused_server("127.0.0.1", "3", option, value)
                self.assertIn(f"{option} '", line)
        exact = self.server("127.0.0.1", "3", "--expect-size", str(2**60 + 1))
        self.assertEqual(exact.config.expectation.size, 2**60 + 1)


class InputTests(_OptionsTestCase):
    """What is checked about the input, for real."""

    def setUp(self) -> None:
        super().setUp()
        from kollacast.files.file_source import prove_readable

        self.patch(server_options, "prove_readable", prove_readable)

    def test_missing(self) -> None:
        line = self.refused_server("127.0.0.1", "3", "--input", "/no/such/file")
        self.assertIn("--input /no/such/file: cannot be read: No such file or directory", line)

    def test_folder(self) -> None:
        line = self.refused_server("127.0.0.1", "3", "--input", str(self.folder))
        self.assertIn("cannot be read: Is a directory", line)

    def test_empty_name(self) -> None:
        self.assertIn("cannot be read", self.refused_server("127.0.0.1", "3", "--input="))


class ClientTests(_OptionsTestCase):
    def test_defaults(self) -> None:
        config = self.client("127.0.0.1", "10.1.2.3").config
        self.assertEqual((config.local_ip, config.server_ip), ("127.0.0.1", "10.1.2.3"))
        self.assertEqual((config.port, config.connect_timeout_s), (18383, 60))
        self.assertEqual(config.name, socket.gethostname())

    def test_everything(self) -> None:
        parsed = self.client(
            *("--output", str(self.image), "--connect-timeout", "1.5", "--name", "rack 7, host 3"),
            *("127.0.0.1", "installer.example.org", "99"),
        )
        self.assertEqual(parsed.config.server_ip, "installer.example.org")
        self.assertEqual(parsed.config.port, 99)
        self.assertEqual(parsed.config.connect_timeout_s, 1.5)
        self.assertEqual(parsed.config.name, "rack 7, host 3")
        self.assertEqual(parsed["output"], os.path.abspath(self.image))
        self.assertEqual(self.image.read_bytes(), b"image")

    def test_server_ip(self) -> None:
        for word in ("300.1.1.1", "1.2.3", "", "a b", "::1", "239.1.1.1", "0.0.0.0", "-host"):
            self.assertIn("server_ip", self.refused_client("--", "127.0.0.1", word))

    def test_name(self) -> None:
        for word in ("", " ", "two\nlines", "x" * 256):
            self.assertIn("--name", self.refused_client("127.0.0.1", "h", "--name", word))

    def test_connect_timeout(self) -> None:
        for word in ("0", "-1", "inf", "nan", "1e3", "1 week"):
            line = self.refused_client("127.0.0.1", "h", "--connect-timeout", word)
            self.assertIn("--connect-timeout", line)

    def test_output_in_a_missing_folder(self) -> None:
        line = self.refused_client("127.0.0.1", "h", "--output", "/no/such/folder/image")
        self.assertIn("cannot be written: No such file or directory", line)

    def test_registry_root(self) -> None:
        root = self.folder / "new" / "root"
        parsed = self.client("127.0.0.1", "h", "--registry-root", str(root))
        self.assertEqual(parsed["registry-root"], str(root.absolute()))
        self.assertFalse(root.parent.exists())

    def test_registry_root_that_cannot_be(self) -> None:
        for path in (self.image, self.image / "root"):
            line = self.refused_client("127.0.0.1", "h", "--registry-root", str(path))
            self.assertIn(f"--registry-root {path}: cannot be written: Not a directory", line)
        line = self.refused_client("127.0.0.1", "h", "--registry-root=")
        self.assertIn("cannot be written: No such file or directory", line)
        both = ("--registry-root", str(self.folder), "--output", str(self.image))
        self.assertIn("not to both", self.refused_client("127.0.0.1", "h", *both))

    def test_output_that_is_a_folder(self) -> None:
        for word in (f"{self.folder}", f"{self.folder}/", f"{self.folder}/new/"):
            line = self.refused_client("127.0.0.1", "h", "--output", word)
            self.assertIn("Is a directory", line)

    def test_output_that_is_a_device(self) -> None:
        line = self.refused_client("127.0.0.1", "h", "--output", "/dev/null")
        self.assertIn("not a regular file", line)

    def test_report_over_the_image(self) -> None:
        words = ("--output", str(self.image), "--report", str(self.image))
        self.assertIn("is the file of --output", self.refused_client("127.0.0.1", "h", *words))

    def test_report_over_what_is_redirected(self) -> None:
        with _redirected(1, self.image, os.O_WRONLY):
            line = self.refused_client("127.0.0.1", "h", "--report", str(self.image))
        self.assertIn("is the file of standard output", line)

    def test_an_image_over_the_secret(self) -> None:
        self.image.write_bytes(b"0123456789abcdef")
        self.image.chmod(0o600)
        words = ("--token-file", str(self.image), "--output", str(self.image))
        line = self.refused_client("127.0.0.1", "h", *words)
        self.assertIn("is the file of --token-file", line)

    def test_standard_output_closed(self) -> None:
        self.patch(streams, "fill_closed_streams", lambda: frozenset([1]))
        self.assertIn("standard output is closed", self.refused_client("127.0.0.1", "h"))
        self.client("127.0.0.1", "h", "--output", str(self.image))

    def test_standard_output_unfit(self) -> None:
        self.patch(
            streams,
            "prove_standard_output_takes_an_image",
            mock.Mock(side_effect=OSError(22, "is a terminal")),
        )
        self.assertIn("is a terminal: redirect it, or", self.refused_client("127.0.0.1", "h"))


class UnderTwistdTests(_OptionsTestCase):
    """What a subcommand does to the options of twistd above it."""

    def _twistd(self, *words: str) -> _Twistd:
        parent = _Twistd()
        parent.parseOptions(words)
        return parent

    def test_foreground(self) -> None:
        parent = self._twistd("-n")
        self.assertFalse(self.client("127.0.0.1", "h", parent=parent).is_daemon)
        self.assertEqual(parent["logger"], STDERR_OBSERVER)
        self.assertEqual(parent["pidfile"], "")

    def test_foreground_with_choices(self) -> None:
        parent = self._twistd("-n", "--logfile", "x.log", "--pidfile", "x.pid")
        self.client("127.0.0.1", "h", parent=parent)
        self.assertIsNone(parent["logger"])
        self.assertEqual(parent["pidfile"], "x.pid")

    def test_daemon(self) -> None:
        parent = self._twistd()
        parsed = self.client("127.0.0.1", "h", "--output", str(self.image), parent=parent)
        self.assertTrue(parsed.is_daemon)
        self.assertIsNone(parent["logger"])
        self.assertEqual(parent["pidfile"], "twistd.pid")

    def test_daemon_has_no_streams(self) -> None:
        client, server = ClientOptions(), ServerOptions()
        client.parent = server.parent = self._twistd()
        self.assertIn("give --output", self.refused(client, "127.0.0.1", "h"))
        self.assertIn("give --input", self.refused(server, "127.0.0.1", "3"))


class ValuesTests(SynchronousTestCase):
    def test_rate(self) -> None:
        def parse(text: str) -> int | None:
            return values.rate_bps("--rate", text, 1000, 10**12)

        for text, rate in (
            ("1G", 10**9),
            ("500M", 5 * 10**8),
            ("950mbit", 95 * 10**7),
            ("1.5g", 15 * 10**8),
            ("64kbit/s", 64000),
            ("64kbps", 64000),
            ("1000000", 10**6),
            ("auto", None),
        ):
            self.assertEqual(parse(text), rate, text)
        for text in ("", "G", "-1M", "1T", "1MB", "1,5G", "999", "2000G"):
            self.assertRaises(UsageError, parse, text)

    def test_duration(self) -> None:
        def parse(text: str) -> float:
            return values.duration_s("--accept-timeout", text, 0)

        for text, seconds in (("0", 0), ("90", 90), ("1.5", 1.5), ("30s", 30), ("5m", 300)):
            self.assertEqual(parse(text), seconds, text)
        for text in ("", "s", "-1", "1d", "1e9", "٣", "721h"):
            error = self.assertRaises(UsageError, parse, text)
            self.assertIn("from 0s to 720h", str(error))
        self.assertEqual(parse("720h"), 720 * 3600)


class LocalHostTests(SynchronousTestCase):
    """What the kernel says about the loopback interface."""

    def test_loopback(self) -> None:
        local_host.prove_local("127.0.0.1")
        self.assertRaises(UsageError, local_host.prove_local, "192.0.2.77")

    def test_mtu(self) -> None:
        told = Path("/sys/class/net/lo/mtu").read_text()
        self.assertEqual(
            local_host.interface_mtu("127.0.0.1", "239.238.0.31"), min(int(told), 65535)
        )


class StatusTests(_OptionsTestCase):
    """The status page."""

    def test_off(self) -> None:
        config = self.server("127.0.0.1", "3").config
        self.assertIsNone(config.status_at)

    def test_where(self) -> None:
        for text, expected in (
            ("8080", ("127.0.0.1", 8080)),
            ("0.0.0.0:9100", ("0.0.0.0", 9100)),
            ("127.0.0.1:1", ("127.0.0.1", 1)),
        ):
            config = self.server("127.0.0.1", "3", "--status-port", text).config
            self.assertEqual(config.status_at, expected)
            self.assertEqual((config.status_linger_s, config.metrics_per_host), (0.0, False))

    def test_more_of_it(self) -> None:
        words = ("--status-port=80", "--status-linger", "10m", "--metrics-per-host")
        config = self.server("127.0.0.1", "3", *words).config
        self.assertEqual((config.status_linger_s, config.metrics_per_host), (600.0, True))

    def test_refused(self) -> None:
        for text in ("", "0", "65536", "http", "-1", "1 2", ":", "127.0.0.1:", "8080:127.0.0.1"):
            line = self.refused_server("127.0.0.1", "3", f"--status-port={text}")
            self.assertIn("must be a port from 1 to 65535", line)
        for address, why in (
            ("192.0.2.1", "no network interface of this host has this address"),
            ("239.1.1.1", "not a group"),
            ("localhost", "must be an IPv4 address"),
            ("", "must be an IPv4 address"),
        ):
            line = self.refused_server("127.0.0.1", "3", f"--status-port={address}:8080")
            self.assertIn(f"--status-port '{address}'" if "no network" not in why else why, line)
            self.assertIn(why, line)
        taken = self.refused_server("127.0.0.1", "3", "--status-port", "18383")
        self.assertIn("is the port of the clients", taken)
        for words in (("--status-linger", "5"), ("--metrics-per-host",)):
            self.assertIn("needs --status-port", self.refused_server("127.0.0.1", "3", *words))


class LadderTests(_OptionsTestCase):
    """For clients that are few, late or slow."""

    def test_defaults(self) -> None:
        parsed = self.server("127.0.0.1", "3")
        self.assertEqual(parsed.config.patience_s, 5)
        self.assertIsNone(parsed.config.min_clients)
        self.assertFalse(parsed.config.unicast)
        self.assertEqual((parsed["spool"], parsed["spool-size"]), (None, None))

    def test_everything(self) -> None:
        parsed = self.server(
            *("--min-clients", "2", "--accept-timeout", "60", "--patience=0.5", "--unicast"),
            *("--spool", str(self.folder), "--spool-size", "1.5G", "127.0.0.1", "3"),
        )
        config = parsed.config
        self.assertEqual((config.min_clients, config.patience_s, config.unicast), (2, 0.5, True))
        self.assertEqual(parsed["spool"], os.path.abspath(self.folder))
        self.assertEqual(parsed["spool-size"], 1_500_000_000)
        self.assertEqual(sorted(self.folder.iterdir()), [self.image])

    def test_min_clients(self) -> None:
        few = ("127.0.0.1", "3", "--min-clients")
        self.assertIn("needs --accept-timeout", self.refused_server(*few, "2"))
        self.assertIn(
            "there are 3 clients in all", self.refused_server(*few, "4", "--accept-timeout=9")
        )
        self.assertIn("from 1 to", self.refused_server(*few, "0", "--accept-timeout=9"))

    def test_spool(self) -> None:
        spool = ("127.0.0.1", "3", "--spool")
        self.assertIn("No such file", self.refused_server(*spool, "/no/such/folder"))
        self.assertIn("Not a directory", self.refused_server(*spool, str(self.image)))
        for size in ("", "0", "many", "1X", "-5"):
            words = (*spool, str(self.folder), f"--spool-size={size}")
            self.assertIn("must be bytes, as in 500M or 20G", self.refused_server(*words))
        size_alone = ("127.0.0.1", "3", "--spool-size=1G")
        self.assertIn("--spool-size: is of the copy in --spool", self.refused_server(*size_alone))

    def test_unicast(self) -> None:
        self.assertIn(
            "multicast only",
            self.refused_server("127.0.0.1", "3", "--unicast", "--dialect=jasmine"),
        )
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        pipe = ("127.0.0.1", "3", "--unicast", "--input", str(fifo))
        self.assertIn("needs --spool", self.refused_server(*pipe))
        self.assertTrue(self.server(*pipe, "--spool", str(self.folder)).config.unicast)

    def test_failsafe(self) -> None:
        registry = "registry.example:4000"
        parsed = self.server("127.0.0.1", "3", "--failsafe", registry)
        self.assertEqual(parsed.config.failsafe, registry)
        client = self.client("127.0.0.1", "127.0.0.1", "--failsafe", registry)
        self.assertEqual(client.config.failsafe, registry)
        for wrong in ("registry", "registry:", ":4000", "registry:http", "a b:4000"):
            self.refused_server("127.0.0.1", "3", "--failsafe", wrong)
        self.assertIn(
            "from 1 to 65535", self.refused_server("127.0.0.1", "3", "--failsafe=registry:65536")
        )

    def test_who_may_join(self) -> None:
        config = self.server("127.0.0.1", "3", "--allow", "10.0.0.7, 10.0.1.0/24").config
        self.assertEqual([str(n) for n in config.allowed or ()], ["10.0.0.7/32", "10.0.1.0/24"])
        self.assertIsNone(self.server("127.0.0.1", "3").config.allowed)

    def test_who_may_join_in_several_options(self) -> None:
        words = ("--allow", "10.0.0.7", "127.0.0.1", "3", "--allow=10.0.1.0/24,10.0.2.1")
        self.assertEqual(
            [str(network) for network in self.server(*words).config.allowed or ()],
            ["10.0.0.7/32", "10.0.1.0/24", "10.0.2.1/32"],
        )
        line = self.refused_server(*words, "--allow", "10.0.0.1/24")
        self.assertIn("'10.0.0.1/24'", line)
        self.assertIn("10.0.0.1 for the host, 10.0.0.0/24 for the network", line)

    def test_who_may_join_has_to_be_addresses(self) -> None:
        for wrong in ("", "host", "10.0.0.7,", "10.0.0.0/33"):
            self.assertIn(
                "addresses or networks", self.refused_server("127.0.0.1", "3", "--allow", wrong)
            )

    def test_sealed_packets_need_a_connection_that_nobody_reads(self) -> None:
        token = self.folder / "token"
        token.write_bytes(b"a secret of many words")
        token.chmod(0o600)
        words = ("127.0.0.1", "3", "--encrypt")
        self.assertIn("give --tls-dir or --token-file, too", self.refused_server(*words))
        secret = ("--token-file", str(token))
        config = self.server(*words, *secret).config
        self.assertTrue(config.encrypt)
        self.assertFalse(self.server(*words[:2], *secret).config.encrypt)
        line = self.refused_server(*words, "--dialect", "jasmine")
        self.assertIn("--encrypt: the jasmine dialect encrypts nothing", line)
        line = self.refused_server(*words, *secret, "--mtu", str(MIN_MTU + 15))
        self.assertIn(f"needs an MTU of {MIN_MTU + 16} bytes", line)

    def test_secret(self) -> None:
        token = self.folder / "token"
        token.write_bytes(b"  a secret of many words\n")
        token.chmod(0o600)
        words = ("--token-file", str(token), "127.0.0.1")
        config = self.server(*words, "3").config
        self.assertEqual(config.secret, b"a secret of many words")
        self.assertNotIn("secret of", repr(config))
        self.assertEqual(self.client(*words, "127.0.0.1").config.secret, config.secret)
        self.assertIn("no proof", self.refused_server(*words, "3", "--dialect", "jasmine"))
        # A group may be that of the program's own user.
        token.chmod(0o640)
        self.assertEqual(self.server(*words, "3").config.secret, config.secret)
        token.chmod(0o644)
        line = self.refused_server(*words, "3")
        self.assertIn(f"--token-file {token}: everybody can read it: chmod 600 {token}", line)
        token.chmod(0o600)
        token.write_bytes(b"short\n")
        self.assertIn("must hold 16 to", self.refused_server(*words, "3"))
        token.unlink()
        self.assertIn("No such file", self.refused_server(*words, "3"))

    def test_certificates(self) -> None:
        authority = Authority()
        folder = put(self.folder / "tls", authority.certificates("installer", "127.0.0.1"))
        words = ("--tls-dir", str(folder), "127.0.0.1")
        config = self.server(*words, "3").config
        self.assertEqual(config.certificates, self.client(*words, "127.0.0.1").config.certificates)
        self.assertNotIn("PRIVATE", repr(config))
        line = self.refused_server(*words, "3", "--dialect", "jasmine")
        self.assertIn("--tls-dir: the jasmine dialect has no TLS", line)
        line = self.refused_client(*words, "127.0.0.1", "--report", str(folder / "key.pem"))
        self.assertIn("is the file of --tls-dir, key.pem", line)
        (folder / "key.pem").chmod(0o640)
        line = self.refused_server(*words, "3")
        self.assertIn(f"others can read key.pem: chmod 600 {folder}/key.pem", line)
        (folder / "key.pem").chmod(0o600)
        (folder / "cert.pem").write_bytes(b"nonsense")
        self.assertIn("cert.pem: holds no certificate", self.refused_client(*words, "127.0.0.1"))
        (folder / "cert.pem").unlink()
        self.assertIn("cert.pem cannot be read: No such", self.refused_server(*words, "3"))

    def test_expected_hosts(self) -> None:
        path = self.folder / "hosts"
        path.write_text("# rack 1\nhost-1\n\n  host-2  # the second\n")
        words = ("--expect-hosts", str(path), "127.0.0.1")
        self.assertEqual(self.server(*words, "2").config.expected_names, {"host-1", "host-2"})
        line = self.refused_server(*words, "3")
        self.assertIn("names 2 hosts, and number_of_clients is 3", line)
        line = self.refused_server(*words, "2", "--dialect", "jasmine")
        self.assertIn("--expect-hosts: in the jasmine dialect hosts do not say", line)
        for text, why in (
            ("host-1\nhost-1\n", "line 2 names host-1 once more"),
            ("a\tb\n", "line 1 is no name of up to 200 printable characters"),
            ("x" * 201, "line 1 is no name of up to 200"),
        ):
            path.write_text(text)
            self.assertIn(why, self.refused_server(*words, "2"))
        path.write_bytes(b"\xff")
        self.assertIn("is no text", self.refused_server(*words, "1"))
        path.unlink()
        self.assertIn("cannot be read: No such file", self.refused_server(*words, "1"))
