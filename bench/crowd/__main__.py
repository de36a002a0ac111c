"""The program: ``python -m bench.crowd LOCAL_IP SERVER_IP HOSTS``; see ``--help``.

All hosts have the address LOCAL_IP and connections of their own; one socket takes the coded
repairs for all of them. Where LOCAL_IP's network drops all other multicast, only the server works.
Ends with 0 when the server has taken every host's report, else with 1 and a line on standard error.

The report, as JSON: "hosts", "verified", "detached"; "began_s" and "ended_s", monotonic seconds of
the first BUFFER at any host and of the last report; "tcp_bytes" that the server has sent to all,
"coded_packets" that came by multicast, and "image_packets", which should not have come; "buffers",
the empty one left out; and what `bench.crowd.host.Tally` counts, in packets of all hosts.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bench.crowd.combinations import Combinations
from bench.crowd.host import HostError, SimulatedHost, Tally
from bench.crowd.lines import Known, Line
from bench.crowd.losses import Losses
from kollacast.transport.multicast import SO_RCVBUFFORCE
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting
from kollacast.wire.messages import BufferCtl
from kollacast.wire.structures import WireError

_RETRY_S = 0.1
_READ_BYTES = 256 * 1024
#: Coded repairs that wait while the hosts' messages are dealt with.
_MULTICAST_BYTES = 64 * 1024 * 1024
_MOST_EVENTS = 1024
_SPARE_FILES = 64


class CrowdError(Exception):
    """The crowd cannot go on; the message says why in one line."""


class _Connection:
    """One host's connection, and what has not left yet."""

    def __init__(self, host: SimulatedHost, sock: socket.socket, known: Known) -> None:
        self.host = host
        self.sock = sock
        self.line = Line(known)
        self.unsent = b""


class Crowd:
    """Runs `hosts` hosts, each with losses of its own drawn by `seed`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._known: Known = {}
        self._held: dict[int, int] = {}  # by how many hosts each buffer is
        self._buffers = 0
        self._combinations: Combinations | None = None
        self._multicast: socket.socket | None = None
        self._connections: dict[int, _Connection] = {}
        self._poll = select.epoll()
        self._hosts: list[SimulatedHost] = []
        self._verified = 0
        self._tcp_bytes = 0
        self._began_s: float | None = None
        self._ended_s: float | None = None
        self.failures: list[str] = []

    def run(self) -> dict[str, Any]:
        """Until the last host has ended; the report. CrowdError where none can begin."""
        first = self._connect_patiently()
        for number in range(self._options.hosts):
            self._add(number, first if number == 0 else self._connect())
            # A server does not wait long for a hello, and the others may take their time.
            self._look(0)
        while self._connections:
            self._look(-1)
        return self._report()

    def _look(self, timeout_s: float) -> None:
        """Deal with what has come, or comes within so many seconds; -1 waits for something."""
        for fd, event in self._poll.poll(timeout_s, _MOST_EVENTS):
            if self._multicast is not None and fd == self._multicast.fileno():
                self._drain()
            elif fd in self._connections:
                self._serve(self._connections[fd], event)

    def _connect_patiently(self) -> socket.socket:
        """The first connection: until there is a server."""
        deadline = time.monotonic() + self._options.timeout
        while True:
            try:
                return self._connect()
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise CrowdError("no server is there") from None
                time.sleep(_RETRY_S)

    def _connect(self) -> socket.socket:
        server = (self._options.server, self._options.port)
        return socket.create_connection(server, source_address=(self._options.local, 0))

    def _add(self, number: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        losses = Losses(self._options.loss, f"{self._options.seed}/{number}")
        host = SimulatedHost(
            f"host-{number}", f"{number:016x}", losses, self._heard, self._count_holders
        )
        self._hosts.append(host)
        self._connections[sock.fileno()] = _Connection(host, sock, self._known)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _serve(self, connection: _Connection, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                self._send(connection, b"")
            if event & ~select.EPOLLOUT:
                data = connection.sock.recv(_READ_BYTES)
                if not data:
                    self._close(connection, "the server closed the connection")
                    return
                self._tcp_bytes += len(data)
                said = b""
                for message in connection.line.feed(data):
                    if isinstance(message, Greeting) and self._multicast is None:
                        self._join(message)
                    said += connection.host.hear(message)
                if said:
                    self._send(connection, said)
        except BlockingIOError:
            pass
        except (OSError, HostError, WireError) as error:
            self._close(connection, str(error))

    def _send(self, connection: _Connection, data: bytes) -> None:
        had_unsent = bool(connection.unsent)
        data = connection.unsent + data
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        connection.unsent = data[sent:]
        if bool(connection.unsent) != had_unsent:
            more = select.EPOLLOUT if connection.unsent else 0
            self._poll.modify(connection.sock.fileno(), select.EPOLLIN | more)

    def _close(self, connection: _Connection, reason: str) -> None:
        if connection.host.has_reported:
            self._verified += 1
            self._ended_s = time.monotonic()
        else:
            self.failures.append(reason)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    def _join(self, greeting: Greeting) -> None:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _MULTICAST_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MULTICAST_BYTES)
        sock.bind((greeting.group, greeting.port))
        membership = socket.inet_aton(greeting.group) + socket.inet_aton(self._options.local)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock.setblocking(False)
        self._combinations = Combinations(KOLLACAST.codec(greeting.salt, best_crc32c()[0]))
        self._multicast = sock
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _heard(self) -> Combinations:
        """The coded repairs, those included that wait in the socket."""
        self._drain()
        assert self._combinations is not None
        return self._combinations

    def _drain(self) -> None:
        assert self._multicast is not None
        assert self._combinations is not None
        try:
            while True:
                self._combinations.take(self._multicast.recv(65536))
        except BlockingIOError:
            pass

    def _count_holders(self, ctl: BufferCtl, holds: bool) -> None:
        """No host is done with a buffer before all have been told of it."""
        if self._began_s is None:
            self._began_s = time.monotonic()
        holders = self._held.get(ctl.buffer_id, 0) + (1 if holds else -1)
        self._held[ctl.buffer_id] = holders
        if not holders:
            del self._held[ctl.buffer_id]
            self._known.clear()
            if not ctl.is_end:
                self._buffers += 1
            if self._combinations is not None:
                first = ctl.packet_id_base
                self._combinations.forget(range(first, first + ctl.pkt_count))

    def _report(self) -> dict[str, Any]:
        tallies = [asdict(host.tally) for host in self._hosts]
        heard = self._combinations
        return {
            "hosts": len(self._hosts),
            "verified": self._verified,
            "detached": sum(host.is_detached for host in self._hosts),
            "began_s": self._began_s,
            "ended_s": self._ended_s,
            "tcp_bytes": self._tcp_bytes,
            "coded_packets": heard.packets if heard is not None else 0,
            "image_packets": heard.of_image if heard is not None else 0,
            "buffers": self._buffers,
            **{field.name: sum(t[field.name] for t in tallies) for field in fields(Tally)},
        }


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every host has the image, 1 when not."""
    options = _parse(argv)
    _make_room(options.hosts)
    crowd = Crowd(options)
    try:
        report = crowd.run()
        if options.report:
            options.report.write_text(json.dumps(report) + "\n")
    except (CrowdError, OSError) as error:
        return _complain(str(error))
    if crowd.failures:
        return _complain(
            f"{len(crowd.failures)} of {options.hosts} hosts have no image: {crowd.failures[0]}"
        )
    return 0


def _make_room(hosts: int) -> None:
    """A descriptor for each host, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hosts + _SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _complain(line: str) -> int:
    print(f"crowd: {line}", file=sys.stderr)
    return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("local", help="this network's address of all hosts")
    parser.add_argument("server", help="the server's address")
    parser.add_argument("hosts", type=int, help="how many they are")
    parser.add_argument("--port", type=int, default=18383, help="the server's (default 18383)")
    parser.add_argument("--loss", type=_share, default=0.0, help="share of packets, 0 to 0.9")
    parser.add_argument("--seed", default="", help="of the losses")
    parser.add_argument("--timeout", type=float, default=60.0, help="for a server to be there, s")
    parser.add_argument("--report", type=Path, help="file for what is counted")
    return parser.parse_args(argv)


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 0.9:
        raise argparse.ArgumentTypeError(f"not a share from 0 to 0.9: {text}")
    return share


if __name__ == "__main__":
    sys.exit(main())
