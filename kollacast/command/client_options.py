"""The client's command line, checked before anything waits or is written."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Any, ClassVar

from twisted.python.usage import UsageError

from kollacast.command import local_host, streams, values
from kollacast.command.options import DEFAULT_PORT, SHARED_PARAMETERS, CommandOptions, option
from kollacast.images.versions import prove_root
from kollacast.operator.config import ClientConfig


class ClientOptions(CommandOptions):
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
        option(
            "output",
            "Write the image to this file, which appears only when whole and verified, not to"
            " standard output.",
        ),
        option(
            "registry-root",
            "Unpack the image, an archive of a registry's storage, into a new version in this"
            " folder; <folder>/current is that version once it is whole and verified.",
        ),
        option(
            "connect-timeout",
            "Time to keep trying until the server is up, as in 90, 30s or 5m; so long, too, to look"
            " for one that is lost.",
            partial(values.duration_s, least_s=0.1),
            default=60.0,
        ),
        option(
            "token-file",
            "File with the secret that the server has, too: both prove it, and neither sends it.",
        ),
        option(
            "tls-dir",
            "Folder with ca.pem, cert.pem and key.pem: the server has to prove that it is the one"
            " at <server_ip>, by that authority, and this host proves its name.",
        ),
        option(
            "failsafe",
            "The registry (host:port) to name when the image cannot be had here; status 75 then.",
            values.host_and_port,
        ),
        option(
            "name",
            "What to be called in the server's report, default the host name.",
            partial(values.label, most_bytes=255),
        ),
        option(
            "reserve",
            "Per cent of the file system that stay free, of bytes and of files; 0 lets an image"
            " fill it.",
            values.per_cent,
            default=100 * ClientConfig.reserve,
        ),
        *SHARED_PARAMETERS,
    ]

    optFlags: ClassVar[list[list[Any]]] = [
        [
            "any-source",
            None,
            "Take multicast from everybody, and not only what the server says that it sends.",
        ],
    ]

    config: ClientConfig

    def parseArgs(self, *arguments: str) -> None:
        self["local_ip"], server, self["port"] = self._take_arguments(arguments)
        self["server_ip"] = values.host("server_ip", server)

    def _own_name(self) -> str:
        return self["name"] or socket.gethostname() or str(self["local_ip"])

    def _check(self) -> None:
        local_host.prove_local(self["local_ip"])
        self._check_output()
        self._check_file_to_write("report")
        self._check_apart("output", 1)
        self.config = ClientConfig(
            **self._shared(),
            server_ip=self["server_ip"],
            connect_timeout_s=self["connect-timeout"],
            name=self._own_name(),
            any_source=bool(self["any-source"]),
            output_path=self["output"],
            registry_root=self["registry-root"],
            reserve=self["reserve"] / 100,
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
        remedy = ": redirect it, or give --output"
        with values.refusing("standard output: cannot take the image", remedy):
            streams.prove_standard_output_takes_an_image()

    def _check_registry_root(self) -> None:
        root = self["registry-root"]
        if self["output"] is not None:
            raise UsageError("--registry-root: the image goes there or to --output, not to both")
        with values.refusing(f"--registry-root {root}: cannot be written"):
            prove_root(root)
        self["registry-root"] = os.path.abspath(root)
