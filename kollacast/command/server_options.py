"""The server's command line, checked before anything waits or is written."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from twisted.python.usage import UsageError

from kollacast.command import local_host, values
from kollacast.command.options import DEFAULT_PORT, SHARED_PARAMETERS, CommandOptions, option
from kollacast.files.digest import KNOWN_DIGESTS
from kollacast.files.file_source import is_read_twice, prove_readable
from kollacast.files.spool import prove_spool
from kollacast.operator.config import ServerConfig
from kollacast.operator.expectation import Expectation
from kollacast.wire.dialect import DIALECTS, JASMINE, KOLLACAST
from kollacast.wire.sealing import SEAL_SIZE
from kollacast.wire.structures import MAX_MTU, MIN_MTU

#: What every host of an Ethernet takes.
_DEFAULT_MTU = 1500
_MOST_CLIENTS = 65535

#: What the jasmine dialect has no word for, and why.
_NOT_JASMINE = {
    "token-file": "the jasmine dialect has no proof of a secret",
    "tls-dir": "the jasmine dialect has no TLS",
    "expect-hosts": "in the jasmine dialect hosts do not say their names",
    "encrypt": "the jasmine dialect encrypts nothing",
    "unicast": "the jasmine dialect has multicast only",
    "spool": "in the jasmine dialect nobody can fetch what was before",
    "spool-size": "in the jasmine dialect nobody can fetch what was before",
    "patience": "in the jasmine dialect a client that is slow cannot go on by itself: see"
    " --client-timeout",
    "min-rate": "in the jasmine dialect a client that is slow cannot go on by itself",
    "failsafe": "the jasmine dialect has no way to name a registry to the clients",
    "digest": "the jasmine dialect has no digest",
}

#: The most bytes that are read of a file with names of hosts.
_MOST_HOSTS_BYTES = 1 << 24
_SPOOL_BYTES = 32 * 10**9


class ServerOptions(CommandOptions):
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
        option(
            "group",
            f"Multicast group, default {KOLLACAST.default_group}"
            f" (jasmine: {JASMINE.default_group}).",
            values.multicast_group,
        ),
        option(
            "listen",
            "Address at which clients are heard, default <local_ip>; 0.0.0.0 for all of this"
            " host's.",
            values.listen_address,
        ),
        option(
            "ttl",
            "Routers that the multicast may pass, plus one.",
            partial(values.integer, least=0, most=255),
            default=8,
        ),
        option(
            "mtu",
            f"Bytes of one datagram with its IP and UDP headers, default {_DEFAULT_MTU}, or what"
            " the interface takes where that is less.",
            partial(values.integer, least=MIN_MTU, most=MAX_MTU),
        ),
        option(
            "buffer-packets",
            "Packets in one buffer at the most; fewer take less memory. By default the server"
            " chooses.",
            partial(values.integer, least=1, most=KOLLACAST.max_buffer_packets),
        ),
        option(
            "window",
            "Buffers in flight at a time, default 4 (jasmine: 1); fewer take less memory.",
            partial(values.integer, least=1, most=KOLLACAST.max_window),
        ),
        option("input", "Read the image from this file, not from standard input."),
        option(
            "dialect",
            "What to speak: kollacast, or jasmine with the C programs.",
            partial(values.one_of, choices=tuple(DIALECTS)),
            default=ServerConfig.dialect_name,
        ),
        option(
            "group-size",
            "Clients in one group of the barrier.",
            partial(values.integer, least=1, most=_MOST_CLIENTS),
            default=ServerConfig.group_size,
        ),
        option(
            "accept-timeout",
            "Time to wait for all clients, as in 90, 30s or 5m; 0 waits for ever.",
            partial(values.duration_s, least_s=0),
            default=ServerConfig.accept_timeout_s,
        ),
        option(
            "client-timeout",
            "Time of silence after which a client is given up, as in 90, 30s or 5m; in the jasmine"
            " dialect it is 4 s for an answer to an announcement.",
            partial(values.duration_s, least_s=0.1),
            default=ServerConfig.client_timeout_s,
        ),
        option(
            "token-file",
            "File with the secret that the clients have, too, 16 bytes or more: who cannot prove to"
            " know it is refused.",
        ),
        option(
            "tls-dir",
            "Folder with ca.pem, cert.pem and key.pem: clients have to prove who they are, by that"
            " authority, and the server proves that it is the one at its address.",
        ),
        option(
            "expect-hosts",
            "File that names the hosts that are expected, one a line: others are refused.",
        ),
        option(
            "failsafe",
            "Registry (host:port) that has the image, too: clients name it when all else fails.",
            values.host_and_port,
        ),
        option(
            "min-clients",
            "When --accept-timeout is over, start if so many clients or more are in; by default all"
            " must be.",
            partial(values.integer, least=1, most=_MOST_CLIENTS),
        ),
        option(
            "patience",
            "Time for which one client may hold up the others, before they go on without it and it"
            f" fetches the rest by TCP at its own pace; default {ServerConfig.patience_s:g}.",
            partial(values.duration_s, least_s=0.1),
        ),
        option(
            "spool",
            "Keep a copy of an image that comes by a pipe in this folder while the server runs,"
            " for clients that are late or slow.",
        ),
        option(
            "spool-size",
            "The most bytes of the copy in --spool, as in 500M or 20G; default 32G.",
            partial(values.size_bytes, least_bytes=1, most_bytes=1 << 62),
        ),
        option(
            "rate",
            "Bits a second to multicast at most, as in 500M or 1G; auto (the default) finds it.",
            partial(values.rate_bps, least_bps=10_000, most_bps=10**12),
        ),
        option(
            "min-rate",
            "Bits a second that a client must take to be sent to with the others, as in 50M; by"
            " default a tenth of what the others take.",
            partial(values.rate_bps, least_bps=10_000, most_bps=10**12),
        ),
        option(
            "digest",
            f"What proves the image: {ServerConfig.digest} (the default), which sha256sum shows"
            " too, or blake3, or tree: several times as fast.",
            partial(values.one_of, choices=KNOWN_DIGESTS),
        ),
        option(
            "expect-size",
            "Bytes of the image, as in 3000000000 or 20G: nobody keeps an image of another size.",
            partial(values.size_bytes, least_bytes=1, most_bytes=1 << 62),
        ),
        option(
            "status-port",
            "Serve a status page, /status.json and /metrics at this port of 127.0.0.1, or with"
            " ADDRESS:PORT at another address of this host's, to whoever reaches it.",
            values.listen_address_and_port,
        ),
        option(
            "status-linger",
            "Time for which the status page stays after the end, as in 90, 30s or 5m.",
            partial(values.duration_s, least_s=0),
            default=ServerConfig.status_linger_s,
        ),
        *SHARED_PARAMETERS,
    ]

    config: ServerConfig

    optFlags: ClassVar[list[list[Any]]] = [
        [
            "encrypt",
            None,
            "Encrypt what is multicast, too, so that nobody else can read or make any of it; needs"
            " --tls-dir or --token-file.",
        ],
        [
            "unicast",
            None,
            "Send to each client by TCP alone, without multicast: for a few clients.",
        ],
        [
            "allow-empty",
            None,
            "Send an image of 0 bytes, too; by default it counts as a mistake, and nobody gets it.",
        ],
        [
            "metrics-per-host",
            None,
            "Have each host in /metrics: several series for every one of them.",
        ],
    ]

    def opt_allow(self, text: str) -> None:
        """
        Let only this address or network join, or several with commas; more by another --allow.
        """
        self["allow"] = (*self.get("allow", ()), *values.networks("--allow", text))

    def parseArgs(self, *arguments: str) -> None:
        self["local_ip"], clients, self["port"] = self._take_arguments(arguments)
        self["clients"] = values.integer("number_of_clients", clients, 1, _MOST_CLIENTS)

    def _check(self) -> None:
        is_jasmine = self["dialect"] == "jasmine"
        if is_jasmine:
            self._check_jasmine()
        group = self["group"] or DIALECTS[self["dialect"]].default_group
        local_host.prove_local(self["local_ip"])
        if self["listen"] not in (None, values.ALL_ADDRESSES):
            local_host.prove_local(self["listen"], "--listen")
        self._settle_mtu(group)
        self._check_encrypt()
        digest = self["digest"] or ServerConfig.digest
        self._check_input()
        self._check_spool()
        self._check_clients()
        self._check_status()
        self._check_file_to_write("report")
        self._check_apart("input", 0)
        self.config = ServerConfig(
            **self._shared(),
            clients=self["clients"],
            listen_ip=self["listen"],
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
            expected_names=self._expected_names(),
            allowed=self.get("allow"),
            patience_s=self["patience"] or ServerConfig.patience_s,
            encrypt=bool(self["encrypt"]),
            unicast=bool(self["unicast"]),
            rate_bps=self["rate"],
            min_rate_bps=self["min-rate"],
            digest=digest,
            input_path=self["input"],
            spool_path=self["spool"],
            spool_bytes=self["spool-size"] or _SPOOL_BYTES,
            status_at=self["status-port"],
            status_linger_s=self["status-linger"],
            metrics_per_host=bool(self["metrics-per-host"]),
        )

    def _expectation(self) -> Expectation:
        return replace(
            super()._expectation(),
            size=self["expect-size"],
            allow_empty=bool(self["allow-empty"]),
        )

    def _expected_names(self) -> frozenset[str] | None:
        path = self["expect-hosts"]
        if path is None:
            return None
        with values.refusing(f"--expect-hosts {path}: cannot be read"), open(path, "rb") as file:
            text = file.read(_MOST_HOSTS_BYTES)
        try:
            names = values.host_names(f"--expect-hosts {path}", text.decode())
        except UnicodeDecodeError:
            raise UsageError(f"--expect-hosts {path}: is no text") from None
        if len(names) != self["clients"]:
            raise UsageError(
                f"--expect-hosts {path}: names {len(names)} hosts, and number_of_clients is"
                f" {self['clients']}"
            )
        return names

    def _check_clients(self) -> None:
        least = self["min-clients"]
        if least is not None and not self["accept-timeout"]:
            raise UsageError(
                f"--min-clients {least}: needs --accept-timeout, to know when to start"
            )
        if least is not None and least > self["clients"]:
            raise UsageError(f"--min-clients {least}: there are {self['clients']} clients in all")

    def _check_status(self) -> None:
        if self["status-port"] is None:
            for name in ("status-linger", "metrics-per-host"):
                if self[name]:
                    raise UsageError(f"--{name}: is of the status page, and needs --status-port")
            return
        address, port = self["status-port"]
        if address not in (values.ALL_ADDRESSES, values.LOOPBACK):
            local_host.prove_local(address, "--status-port")
        if port == self["port"]:
            raise UsageError(f"--status-port {port}: is the port of the clients")

    def _check_spool(self) -> None:
        if self["unicast"] and self["spool"] is None and not is_read_twice(self["input"]):
            raise UsageError("--unicast: the image comes by a pipe, so this needs --spool")
        if self["spool"] is None:
            if self["spool-size"] is not None:
                raise UsageError("--spool-size: is of the copy in --spool, and that is not given")
            return
        with values.refusing(f"--spool {self['spool']}: cannot hold the copy"):
            prove_spool(self["spool"])
        self["spool"] = os.path.abspath(self["spool"])

    def _check_jasmine(self) -> None:
        """The limits of the C client, which has no way to say what it can take."""
        for name, why in _NOT_JASMINE.items():
            if self[name]:
                raise UsageError(f"--{name}: {why}")
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

    def _check_encrypt(self) -> None:
        if not self["encrypt"]:
            return
        if self["token-file"] is None and self["tls-dir"] is None:
            raise UsageError(
                "--encrypt: hosts are told the key by TCP, where nobody else may read it: give"
                " --tls-dir or --token-file, too"
            )
        least = MIN_MTU + SEAL_SIZE
        if self["mtu"] < least:
            raise UsageError(f"--encrypt: needs an MTU of {least} bytes, and this is {self['mtu']}")

    def _check_input(self) -> None:
        path = self["input"]
        if path is None and self.is_daemon:
            raise UsageError("a daemon has no standard input: give --input, or run twistd -n")
        if path is None and 0 in self.closed_streams:
            raise UsageError("standard input is closed: redirect the image to it, or give --input")
        if path is None:
            remedy = ": redirect the image to it, or give --input"
            with values.refusing("standard input: cannot be read", remedy):
                prove_readable(None)
            return
        with values.refusing(f"--input {path}: cannot be read"):
            prove_readable(path)
        self["input"] = os.path.abspath(path)
