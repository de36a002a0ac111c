"""What the two command lines share: how words become options, and what is checked at both.

Every mistake ends in one line on standard error and exit status 2 (`Status.USAGE`). Left to itself
twistd would print the whole usage to standard output, where an image is expected.
"""

from __future__ import annotations

import getopt
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from twisted.python import usage
from twisted.python.usage import UsageError

from kollacast import __version__
from kollacast.command import streams, values
from kollacast.command.log_lines import LOG_FORMATS
from kollacast.command.logs import FILE_OBSERVER, STDERR_OBSERVER, shorten_crashes, write_as
from kollacast.files.atomic_file import prove_writable
from kollacast.operator.config import PROGRESS_MODES, Certificates
from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Status

DEFAULT_PORT = 18383

#: Bytes of a shared secret: fewer can be guessed.
_LEAST_SECRET = 16
_MOST_SECRET = 4096
#: What a folder of ``--tls-dir`` holds.
_TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
#: The most bytes that are read of a file in PEM.
_MOST_PEM = 1 << 20


def option(
    name: str, text: str, parse: Callable[[str, str], object] | None = None, default: object = None
) -> list[Any]:
    """One entry of ``optParameters``; `parse`, of `values`, makes a value of the word behind it."""
    return [name, None, default, text, parse and partial(parse, f"--{name}")]


SHARED_PARAMETERS: list[list[Any]] = [
    option("report", "Write a report in JSON to this file."),
    option(
        "progress",
        "How to show progress on standard error: plain (a line every few seconds), none, or bar"
        " and auto (a live view on a terminal, else plain).",
        partial(values.one_of, choices=PROGRESS_MODES),
        default="auto",
    ),
    option(
        "log-format",
        "How to write each line of the log: text, or json (an object a line).",
        partial(values.one_of, choices=LOG_FORMATS),
        default="text",
    ),
]


class CommandOptions(usage.Options):
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

    def opt_expect(self, text: str) -> None:
        """
        Digest of the image, as in sha256:9f86d0... or tree:...: nobody keeps an image with another
        one. May be given again, and then all have to be right.
        """
        self["expect"] = (*self.get("expect", ()), values.expected_digest("--expect", text))

    def postOptions(self) -> None:
        logfile = self.parent.get("logfile") if self.parent is not None else None
        write_as(self["log-format"], self.program, self._own_name(), logfile)
        self._check()
        self._settle_with_twistd()

    def _check(self) -> None:
        raise NotImplementedError

    def _own_name(self) -> str | None:
        """What this host is called in its log; None where each event names a host."""
        return None

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

    def _take_arguments(self, arguments: tuple[str, ...]) -> tuple[str, str, int]:
        """The two arguments that must be there, and the port that may be."""
        if not 2 <= len(arguments) <= 3:
            raise UsageError(
                f"expected {self.arguments}, got"
                f" {len(arguments)} argument{'' if len(arguments) == 1 else 's'}"
            )
        local_ip = values.interface_address("local_ip", arguments[0])
        port = values.integer("port", arguments[2], 1, 65535) if arguments[2:] else DEFAULT_PORT
        return local_ip, arguments[1], port

    def _settle_with_twistd(self) -> None:
        """In the foreground: log to standard error, and leave no pid file, unless told otherwise.

        twistd would log to standard output, and keep a second run out of the same folder. A file
        gets text from twistd, and JSON from here.
        """
        parent = self.parent
        if parent is None:
            return
        is_json = self["log-format"] == "json"
        if is_json and parent.get("syslog"):
            raise UsageError("--log-format json: is for standard error or a file, not for --syslog")
        logfile = parent.get("logfile")
        is_to_file = self.is_daemon or logfile not in (None, "", "-")
        if not (parent.get("logger") or parent.get("syslog")):
            if not is_to_file and (is_json or not logfile):
                parent["logger"] = STDERR_OBSERVER
            elif is_json and logfile != "-":
                parent["logger"] = FILE_OBSERVER
        if self.is_daemon:
            return
        if parent.get("pidfile") == parent.defaults.get("pidfile"):
            parent["pidfile"] = ""

    def _shared(self) -> dict[str, Any]:
        """What of a configuration both command lines have."""
        return {
            "local_ip": self["local_ip"],
            "port": self["port"],
            "failsafe": self["failsafe"],
            "secret": self._read_secret(),
            "certificates": self._read_certificates(),
            "report_path": self["report"],
            "progress_mode": self["progress"],
            "is_daemon": self.is_daemon,
            "expectation": self._expectation(),
        }

    def _expectation(self) -> Expectation:
        return Expectation(digests=self.get("expect", ()))

    def _check_file_to_write(self, option: str) -> None:
        """Make the path of `option` absolute; raise `UsageError` when no file can be made there."""
        path = self[option]
        if path is None:
            return
        with values.refusing(f"--{option} {path}: cannot be written"):
            prove_writable(path)
        self[option] = os.path.abspath(path)

    def _read_secret(self) -> bytes | None:
        """The secret in the token file, without the white space around it."""
        path = self["token-file"]
        if path is None:
            return None
        with values.refusing(f"--token-file {path}: cannot be read"), open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(_MOST_SECRET + 1).strip()
        if not _LEAST_SECRET <= len(secret) <= _MOST_SECRET:
            raise UsageError(
                f"--token-file {path}: must hold {_LEAST_SECRET} to {_MOST_SECRET} bytes"
            )
        if mode & 0o007:
            raise UsageError(f"--token-file {path}: everybody can read it: chmod 600 {path}")
        return secret

    def _read_certificates(self) -> Certificates | None:
        """What is in the folder of ``--tls-dir``, once this host can prove itself by it."""
        folder = self["tls-dir"]
        if folder is None:
            return None
        what = f"--tls-dir {folder}"
        contents = []
        for name in _TLS_FILES:
            path = os.path.join(folder, name)
            with values.refusing(f"{what}: {name} cannot be read"), open(path, "rb") as file:
                contents.append(file.read(_MOST_PEM))
                if name == "key.pem" and os.fstat(file.fileno()).st_mode & 0o077:
                    raise UsageError(f"{what}: others can read key.pem: chmod 600 {path}")
        # It takes its time to load.
        from kollacast.transport import tls

        certificates = Certificates(*contents)
        try:
            tls.prove(certificates)
        except tls.BadCertificates as error:
            raise UsageError(f"{what}: {error}") from None
        return certificates

    def _check_apart(self, image: str, stream: int) -> None:
        """Raise `UsageError` when a file that is written would take the place of another one.

        The image is the file of the option `image`, or else behind the descriptor `stream`.
        """
        folder = self["tls-dir"]
        others = {other: self.get(other) for other in (image, "token-file", "expect-hosts")}
        for name in _TLS_FILES if folder is not None else ():
            others[f"tls-dir, {name}"] = os.path.join(folder, name)
        for written in ("report", "output"):
            for other, path in others.items():
                if written == other or path is None or self.get(written) is None:
                    continue
                if os.path.realpath(self[written]) == os.path.realpath(path):
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
