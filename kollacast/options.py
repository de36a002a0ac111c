"""The command lines of the server and the client, checked before anything waits or is written.

Every mistake ends in one line on standard error and exit status 2 (`Status.USAGE`). Left to itself
twistd would print the whole usage to standard output, where an image is expected.
"""

from __future__ import annotations

import getopt
import os
import re
import socket
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.python import usage
from twisted.python.usage import UsageError

from kollacast import __version__, local_host, streams, values
from kollacast.atomic_file import prove_writable
from kollacast.config import ClientConfig, ServerConfig
from kollacast.core.digest import KNOWN_DIGESTS, available_digests
from kollacast.core.expectation import Expectation
from kollacast.images.versions import prove_root
from kollacast.logs import STDERR_OBSERVER, shorten_crashes
from kollacast.outcome import Status
from kollacast.source import is_read_twice, prove_readable
from kollacast.spool import prove_spool
from kollacast.wire.dialect import DIALECTS, JASMINE, KOLLACAST
from kollacast.wire.structures import MAX_MTU, MIN_MTU

DEFAULT_PORT = 18383
DEFAULT_SPOOL_BYTES = 32 * 10**9

PROGRESS_MODES = ("auto", "bar", "plain", "none")

#: What every host of an Ethernet takes.
_DEFAULT_MTU = 1500


_MOST_CLIENTS = 65535

#: What the jasmine dialect has no word for, and why.
_NOT_JASMINE = {
    "token-file": "the jasmine dialect has no proof of a secret",
    "unicast": "the jasmine dialect has multicast only",
    "spool": "in the jasmine dialect nobody can fetch what was before",
    "spool-size": "in the jasmine dialect nobody can fetch what was before",
    "patience": "in the jasmine dialect a client that is slow cannot go on by itself: see"
    " --client-timeout",
    "failsafe": "the jasmine dialect has no way to name a registry to the clients",
    "digest": "the jasmine dialect has no digest",
}
#: Bytes of a shared secret: fewer can be guessed.
_LEAST_SECRET = 16
_MOST_SECRET = 4096

#: Without an option that says otherwise.
_PATIENCE_S = 5.0
_DIGEST = "sha256"

_port = values.integer("port", 1, 65535)
_local_ip = values.interface_address("local_ip")

_SHARED_PARAMETERS: list[list[Any]] = [
    ["report", None, None, "Write a report in JSON to this file."],
    [
        "progress",
        None,
        "auto",
        "How to show progress on standard error: bar, plain (a line every few seconds), none, or"
        " auto (a bar on a terminal, else plain).",
        values.one_of("--progress", PROGRESS_MODES),
    ],
]


class _Options(usage.Options):
    """What both command lines share."""

    program: ClassVar[str]
    arguments: ClassVar[str]  #: the positional ones, for the usage line

    def getSynopsis(self) -> str:
        return f"Usage: twistd -n {self.program} [options] {self.arguments}"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse and check. Raises SystemExit with status 2 after a line that says what is wrong."""
        streams.console.program = self.program
        shorten_crashes()
        self.closed_streams = streams.fill_closed_streams()
        try:
            words = list(sys.argv[1:] if options is None else options)
            super().parseOptions(self._options_first(words))
        except UsageError as error:
            streams.console.write_line(str(error))
            raise SystemExit(int(Status.USAGE)) from None

    def opt_version(self) -> None:
        """
        Display the version and exit.
        """
        print(f"{self.program} {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        self._check()
        self._settle_with_twistd()

    def _check(self) -> None:
        raise NotImplementedError

    @property
    def is_daemon(self) -> bool:
        """Whether twistd is going to run this detached, without standard streams."""
        parent = self.parent
        return parent is not None and not (parent.get("nodaemon", True) or parent.get("debug"))

    def _options_first(self, words: list[str]) -> list[str]:
        """Let options stand after the arguments too, as in most programs.

        A negative number is an argument, or an option's value, and no option.
        """
        if "--_shell-completion" in words:
            return words
        escaped = ["\0" + word if re.match(r"-\d", word) else word for word in words]
        try:
            options, arguments = getopt.gnu_getopt(escaped, self.shortOpt, self.longOpt)
        except getopt.error as error:
            raise UsageError(str(error).replace("\0", "")) from None
        ordered = []
        for name, value in options:
            takes_value = f"{name[2:]}=" in self.longOpt
            ordered.append(f"{name}={value}" if takes_value else name)
        return [word.replace("\0", "") for word in [*ordered, "--", *arguments]]

    def _take(self, arguments: tuple[str, ...], least: int, most: int) -> None:
        if not least <= len(arguments) <= most:
            raise UsageError(
                f"expected {self.arguments}, got"
                f" {len(arguments)} argument{'' if len(arguments) == 1 else 's'}"
            )

    def _settle_with_twistd(self) -> None:
        """In the foreground: log to standard error, and leave no pid file, unless told otherwise.

        twistd would log to standard output, and keep a second run out of the same folder.
        """
        parent = self.parent
        if parent is None or self.is_daemon:
            return
        if not (parent.get("logger") or parent.get("logfile") or parent.get("syslog")):
            parent["logger"] = STDERR_OBSERVER
        if parent.get("pidfile") == parent.defaults.get("pidfile"):
            parent["pidfile"] = ""

    def _check_file_to_write(self, option: str) -> None:
        """Make the path of `option` absolute; raise `UsageError` when no file can be made there."""
        path = self[option]
        if path is None:
            return
        try:
            prove_writable(path)
        except OSError as error:
            raise UsageError(f"--{option} {path}: cannot be written: {error.strerror}") from None
        self[option] = os.path.abspath(path)

    def _read_secret(self) -> bytes | None:
        """The secret in the token file, without the white space around it."""
        path = self["token-file"]
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                is_open_to_others = bool(os.fstat(file.fileno()).st_mode & 0o077)
                secret = file.read(_MOST_SECRET + 1).strip()
        except OSError as error:
            raise UsageError(f"--token-file {path}: cannot be read: {error.strerror}") from None
        if not _LEAST_SECRET <= len(secret) <= _MOST_SECRET:
            raise UsageError(
                f"--token-file {path}: must hold {_LEAST_SECRET} to {_MOST_SECRET} bytes"
            )
        if is_open_to_others:
            streams.console.write_line(f"--token-file {path}: others can read it: chmod 600 {path}")
        return secret

    def _check_apart(self, image: str, stream: int) -> None:
        """Raise `UsageError` when a file that is written would take the place of another one.

        The image is the file of the option `image`, or else behind the descriptor `stream`.
        """
        for written in ("report", "output"):
            for other in (image, "token-file"):
                if written == other or None in (self.get(written), self.get(other)):
                    continue
                if os.path.realpath(self[written]) == os.path.realpath(self[other]):
                    raise UsageError(f"--{written} {self[written]}: is the file of --{other}")
        report = self["report"]
        if report is not None and self[image] is None and _is_behind(stream, report):
            name = "standard output" if stream else "standard input"
            raise UsageError(f"--report {report}: is the file of {name}")


def _is_behind(fd: int, path: str) -> bool:
    """Whether a descriptor is open on the file at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


class ServerOptions(_Options):
    """``twistd -n kollacast-server``. After parsing, `config` holds the checked values."""

    program = "kollacast-server"
    arguments = "<local_ip> <number_of_clients> [port]"
    longdesc = (
        "Sends the image on standard input to <number_of_clients> clients by multicast from the"
        f" interface of <local_ip>. Port is for UDP and TCP, default {DEFAULT_PORT}. SIGUSR2 has it"
        " start now with the clients that came. Exit status:"
        " 0 when every client has a verified image, 4 when some have, 1 when none has, 2 for a"
        " wrong command line."
    )

    optParameters: ClassVar[list[list[Any]]] = [
        [
            "group",
            None,
            None,
            f"Multicast group, default {KOLLACAST.default_group}"
            f" (jasmine: {JASMINE.default_group}).",
            values.multicast_group("--group"),
        ],
        [
            "ttl",
            None,
            8,
            "Routers that the multicast may pass, plus one.",
            values.integer("--ttl", 0, 255),
        ],
        [
            "mtu",
            None,
            None,
            f"Bytes of one datagram with its IP and UDP headers, default {_DEFAULT_MTU}, or what"
            " the interface takes where that is less.",
            values.integer("--mtu", MIN_MTU, MAX_MTU),
        ],
        [
            "buffer-packets",
            None,
            None,
            "Packets a buffer; chosen by itself when not given.",
            values.integer("--buffer-packets", 1, KOLLACAST.max_buffer_packets),
        ],
        [
            "window",
            None,
            None,
            "Buffers in flight at once; chosen by itself when not given.",
            values.integer("--window", 1, KOLLACAST.max_window),
        ],
        ["input", None, None, "Read the image from this file, not from standard input."],
        [
            "dialect",
            None,
            "kollacast",
            "What to speak: kollacast, or jasmine with the C programs.",
            values.one_of("--dialect", tuple(DIALECTS)),
        ],
        [
            "group-size",
            None,
            64,
            "Clients a TCP group.",
            values.integer("--group-size", 1, _MOST_CLIENTS),
        ],
        [
            "accept-timeout",
            None,
            0.0,
            "Seconds to wait for all clients; 0 waits for ever.",
            values.duration_s("--accept-timeout", 0),
        ],
        [
            "client-timeout",
            None,
            60.0,
            "Seconds of silence after which a client is given up; in the jasmine dialect 4 for"
            " an answer to an announcement.",
            values.duration_s("--client-timeout", 0.1),
        ],
        [
            "token-file",
            None,
            None,
            "Secret shared with the clients, in this file: who cannot prove it is refused.",
        ],
        [
            "failsafe",
            None,
            None,
            "Registry (host:port) that has the image, too: clients name it when all else fails.",
            values.host_and_port("--failsafe"),
        ],
        [
            "min-clients",
            None,
            None,
            "Start with so many clients when --accept-timeout is over, not with all of them only.",
            values.integer("--min-clients", 1, _MOST_CLIENTS),
        ],
        [
            "patience",
            None,
            None,
            "Seconds for which one client may hold up the others, before they go on without it"
            f" and it fetches the rest by TCP at its own pace, default {_PATIENCE_S:g}.",
            values.duration_s("--patience", 0.1),
        ],
        [
            "spool",
            None,
            None,
            "Keep a copy of an image that comes by a pipe in this folder while the server runs,"
            " for clients that are late or slow.",
        ],
        [
            "spool-size",
            None,
            None,
            "The most bytes of that copy, as in 500M or 20G; default 32G.",
            values.size_bytes("--spool-size", 1, 1 << 62),
        ],
        [
            "rate",
            None,
            None,
            "Bits a second to multicast at most, as in 500M or 1G; auto (the default) finds it.",
            values.rate_bps("--rate", 10_000, 10**12),
        ],
        [
            "digest",
            None,
            None,
            f"What proves the image: {_DIGEST} (the default), which sha256sum shows too, or blake3,"
            " several times as fast, which every client must have installed.",
            values.one_of("--digest", KNOWN_DIGESTS),
        ],
        [
            "expect-size",
            None,
            None,
            "Bytes of the image, as in 3000000000 or 20G: nobody keeps one of another size.",
            values.size_bytes("--expect-size", 1, 1 << 62),
        ],
        [
            "expect",
            None,
            None,
            "Digest of the image, as in sha256:9f86d0...: nobody keeps one with another.",
            values.expected_digest("--expect"),
        ],
        *_SHARED_PARAMETERS,
    ]

    config: ServerConfig

    optFlags: ClassVar[list[list[Any]]] = [
        [
            "unicast",
            None,
            "Send to each client by TCP alone, with no multicast: for a few.",
        ],
        [
            "allow-empty",
            None,
            "An image of 0 bytes is meant, and no mistake: by default nobody gets one.",
        ],
    ]

    def opt_allow(self, text: str) -> None:
        """
        Let this address or network join, or several with commas; may be given again. Default all.
        """
        self["allow"] = (*self.get("allow", ()), *values.networks("--allow")(text))

    def parseArgs(self, *arguments: str) -> None:
        self._take(arguments, 2, 3)
        self["local_ip"] = _local_ip(arguments[0])
        self["clients"] = values.integer("number_of_clients", 1, _MOST_CLIENTS)(arguments[1])
        self["port"] = _port(arguments[2]) if len(arguments) > 2 else DEFAULT_PORT

    def _check(self) -> None:
        is_jasmine = self["dialect"] == "jasmine"
        if is_jasmine:
            self._check_jasmine()
        group = self["group"] or DIALECTS[self["dialect"]].default_group
        local_host.prove_local(self["local_ip"])
        self._settle_mtu(group)
        digest = self["digest"] or _DIGEST
        if digest not in available_digests():
            raise UsageError(f"--digest {digest}: is not installed: pip install blake3")
        self._check_input()
        self._check_spool()
        self._check_clients()
        self._check_file_to_write("report")
        self._check_apart("input", 0)
        self.config = ServerConfig(
            local_ip=self["local_ip"],
            clients=self["clients"],
            port=self["port"],
            group=group,
            ttl=self["ttl"],
            mtu=self["mtu"],
            buffer_packets=self["buffer-packets"],
            window=self["window"],
            dialect_name=self["dialect"],
            group_size=self["group-size"],
            accept_timeout_s=self["accept-timeout"],
            client_timeout_s=self["client-timeout"],
            min_clients=self["min-clients"],
            allowed=self.get("allow"),
            failsafe=self["failsafe"],
            secret=self._read_secret(),
            patience_s=self["patience"] or _PATIENCE_S,
            unicast=bool(self["unicast"]),
            rate_bps=self["rate"],
            digest=digest,
            expectation=self._expectation(),
        )

    def _expectation(self) -> Expectation:
        expected = self["expect"]
        if expected is not None and expected.name not in available_digests():
            raise UsageError(f"--expect {expected}: is not installed: pip install blake3")
        return Expectation(
            size=self["expect-size"], digest=expected, allow_empty=bool(self["allow-empty"])
        )

    def _check_clients(self) -> None:
        least = self["min-clients"]
        if least is not None and not self["accept-timeout"]:
            raise UsageError(
                f"--min-clients {least}: needs --accept-timeout, to know when to start"
            )
        if least is not None and least > self["clients"]:
            raise UsageError(f"--min-clients {least}: there are {self['clients']} clients in all")

    def _check_spool(self) -> None:
        if self["unicast"] and self["spool"] is None and not is_read_twice(self["input"]):
            raise UsageError("--unicast: the image comes by a pipe, so this needs --spool")
        if self["spool"] is None:
            return
        try:
            prove_spool(self["spool"])
        except OSError as error:
            raise UsageError(f"--spool {self['spool']}: {error.strerror}") from None
        self["spool"] = os.path.abspath(self["spool"])

    def _check_jasmine(self) -> None:
        """The limits of the C client, which has no way to say what it can take."""
        for option, why in _NOT_JASMINE.items():
            if self[option]:
                raise UsageError(f"--{option}: {why}")
        if (self["buffer-packets"] or 0) > JASMINE.max_announced:
            raise UsageError(
                f"--buffer-packets {self['buffer-packets']}: a jasmine client may hold no more than"
                f" {JASMINE.max_announced} packets"
            )
        if (self["mtu"] or 0) > JASMINE.max_mtu:
            raise UsageError(
                f"--mtu {self['mtu']}: a jasmine client takes datagrams of up to"
                f" {JASMINE.max_mtu} bytes"
            )
        if (self["window"] or 1) > JASMINE.max_window:
            raise UsageError(
                f"--window {self['window']}: the jasmine dialect has one buffer in flight"
            )

    def _settle_mtu(self, group: str) -> None:
        """Choose the MTU unless it was given; raise `UsageError` when the interface takes less."""
        limit = local_host.interface_mtu(self["local_ip"], group)
        if self["mtu"] is None and (limit is None or limit >= MIN_MTU):
            self["mtu"] = min(_DEFAULT_MTU, limit or _DEFAULT_MTU)
        mtu = self["mtu"] or MIN_MTU
        if limit is not None and mtu > limit:
            raise UsageError(
                f"--mtu {mtu}: the interface of {self['local_ip']} takes {limit} bytes"
            )

    def _check_input(self) -> None:
        path = self["input"]
        if path is None and self.is_daemon:
            raise UsageError("a daemon has no standard input: give --input, or run twistd -n")
        if path is None and 0 in self.closed_streams:
            raise UsageError("standard input is closed: redirect the image to it, or give --input")
        try:
            prove_readable(path)
        except OSError as error:
            what = "standard input" if path is None else f"--input {path}"
            raise UsageError(f"{what}: cannot be read: {error.strerror}") from None
        if path is not None:
            self["input"] = os.path.abspath(path)


class ClientOptions(_Options):
    """``twistd -n kollacast-client``. After parsing, `config` holds the checked values."""

    program = "kollacast-client"
    arguments = "<local_ip> <server_ip> [port]"
    longdesc = (
        "Receives the image that the server at <server_ip> multicasts, on the interface of"
        f" <local_ip>, and writes it to standard output. Default port {DEFAULT_PORT}. Exit status:"
        " 0 when the image is complete and verified, 75 when it cannot be had and a failsafe"
        " registry is known, 1 otherwise, 2 for a wrong command line."
    )

    optParameters: ClassVar[list[list[Any]]] = [
        [
            "output",
            None,
            None,
            "Write the image to this file, which appears only when whole and verified, not to"
            " standard output.",
        ],
        [
            "registry-root",
            None,
            None,
            "Unpack the image, an archive of a registry's storage, into a new version in this"
            " folder; <folder>/current is that version once it is whole and verified.",
        ],
        [
            "connect-timeout",
            None,
            60.0,
            "Seconds to keep trying until the server is up.",
            values.duration_s("--connect-timeout", 0.1),
        ],
        [
            "token-file",
            None,
            None,
            "Secret shared with the server, in this file: both prove it, and neither sends it.",
        ],
        [
            "failsafe",
            None,
            None,
            "The registry (host:port) to name when the image cannot be had here; status 75 then.",
            values.host_and_port("--failsafe"),
        ],
        [
            "name",
            None,
            None,
            "What to be called in the server's report, default the host name.",
            values.label("--name", 255),
        ],
        *_SHARED_PARAMETERS,
    ]

    config: ClientConfig

    def parseArgs(self, *arguments: str) -> None:
        self._take(arguments, 2, 3)
        self["local_ip"] = _local_ip(arguments[0])
        self["server_ip"] = values.host("server_ip")(arguments[1])
        self["port"] = _port(arguments[2]) if len(arguments) > 2 else DEFAULT_PORT

    def _check(self) -> None:
        local_host.prove_local(self["local_ip"])
        self._check_output()
        self._check_file_to_write("report")
        self._check_apart("output", 1)
        self.config = ClientConfig(
            local_ip=self["local_ip"],
            server_ip=self["server_ip"],
            port=self["port"],
            connect_timeout_s=self["connect-timeout"],
            failsafe=self["failsafe"],
            secret=self._read_secret(),
            name=self["name"] or socket.gethostname() or self["local_ip"],
        )

    def _check_output(self) -> None:
        if self["registry-root"] is not None:
            self._check_registry_root()
            return
        if self["output"] is not None:
            self._check_file_to_write("output")
            return
        if self.is_daemon:
            raise UsageError("a daemon has no standard output: give --output, or run twistd -n")
        if 1 in self.closed_streams:
            raise UsageError("standard output is closed: redirect it, or give --output")
        try:
            streams.prove_standard_output_takes_an_image()
        except OSError as error:
            raise UsageError(f"standard output: cannot take the image: {error.strerror}") from None

    def _check_registry_root(self) -> None:
        root = self["registry-root"]
        if self["output"] is not None:
            raise UsageError("--registry-root: the image goes there or to --output, not to both")
        try:
            prove_root(root)
        except OSError as error:
            raise UsageError(
                f"--registry-root {root}: cannot be written: {error.strerror}"
            ) from None
        self["registry-root"] = os.path.abspath(root)
