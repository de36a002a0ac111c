"""All simulated hosts in one process: their connections, and the one socket for their multicast.

The report, for JSON: "hosts", "verified", "detached", "killed"; "began_s" and "ended_s", monotonic
seconds of the first announcement and of the end of the last host that was not disturbed, and
"all_ended_s" of the last one of all; "tcp_bytes" that the server has sent to all; by multicast
"control_packets" with their "control_bytes", "coded_packets", and "image_packets", which should not
have come; "asks", how often a host has asked where the control stream is; "buffers", the empty one
left out; and what `bench.crowd.host.Tally` counts, in packets of all hosts.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.crowd.combinations import Combinations
from bench.crowd.control import Ears
from bench.crowd.disturbance import Disturbance
from bench.crowd.host import HostError, SimulatedHost, Tally
from bench.crowd.lines import Known, Line
from bench.crowd.losses import Losses
from bench.crowd.passage import Passage
from kollacast.transport.multicast import SO_RCVBUFFORCE
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting
from kollacast.wire.messages import Ask, BufferCtl, Control, Message, Notice
from kollacast.wire.structures import WireError, payload_capacity

_RETRY_S = 0.1
_READ_BYTES = 256 * 1024
#: Coded repairs and control packets that wait while the hosts' messages are dealt with.
_MULTICAST_BYTES = 64 * 1024 * 1024
_MOST_EVENTS = 1024
#: How often is looked for hosts that hear nothing, or have stalled for long enough.
_TICK_S = 0.05


class CrowdError(Exception):
    """The crowd cannot go on; the message says why in one line."""


@dataclass(frozen=True)
class Setting:
    """How many hosts there are, where, and what they lose."""

    local: str
    server: str
    port: int
    hosts: int
    loss: float
    seed: str
    timeout_s: float  #: for a server to be there
    disturbance: Disturbance


class _Connection:
    """One host's connection, and what has not left yet."""

    def __init__(
        self, number: int, host: SimulatedHost, losses: Losses, sock: socket.socket, known: Known
    ) -> None:
        self.number = number
        self.host = host
        self.losses = losses
        self.sock = sock
        self.line = Line(known)
        self.unsent = b""
        self.is_stalled = False


class _Stream:
    """What is multicast to all, once the greeting tells where."""

    def __init__(self, sock: socket.socket, ears: Ears, combinations: Combinations) -> None:
        self.sock = sock
        self.ears = ears
        self.combinations = combinations


class Crowd:
    """Runs the hosts of a setting, each with losses of its own."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._disturbance = setting.disturbance
        self._known: Known = {}
        self._passage = Passage(self._retired)
        self._stream: _Stream | None = None
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._by_number: dict[int, _Connection] = {}
        self._poll = select.epoll()
        self._hosts: list[SimulatedHost] = []
        # How many packets are announced in the middle of the image; None before that is known.
        self._half: float | None = None
        self._stalled_until: float | None = None
        self._looked_at = 0.0
        self._verified = 0
        self._killed = 0
        self._asks = 0
        self._tcp_bytes = 0
        self._ended_s: float | None = None
        self._all_ended_s: float | None = None
        self.failures: list[str] = []

    def run(self) -> dict[str, Any]:
        """Until the last host has ended; the report. CrowdError where none can begin."""
        first = self._connect_patiently()
        for number in range(self._setting.hosts):
            self._add(number, first if number == 0 else self._connect())
            # A server does not wait long for a hello, and the others may take their time.
            self._look(0)
        while self._connections:
            self._look(_TICK_S)
        return self._report()

    def _look(self, timeout_s: float) -> None:
        """Deal with what has come, or comes within so many seconds."""
        for fd, event in self._poll.poll(timeout_s, _MOST_EVENTS):
            if self._stream is not None and fd == self._stream.sock.fileno():
                self._drain()
            elif fd in self._connections:
                self._serve(self._connections[fd], event)
        if self._stream is not None and time.monotonic() >= self._looked_at + _TICK_S:
            self._drain()
            now = self._looked_at = time.monotonic()
            self._stream.ears.look(now)
            if self._stalled_until is not None and now >= self._stalled_until:
                self._wake(self._stream)

    # Connections.

    def _connect_patiently(self) -> socket.socket:
        """The first connection: until there is a server."""
        deadline = time.monotonic() + self._setting.timeout_s
        while True:
            try:
                return self._connect()
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise CrowdError("no server is there") from None
                time.sleep(_RETRY_S)

    def _connect(self) -> socket.socket:
        server = (self._setting.server, self._setting.port)
        return socket.create_connection(server, source_address=(self._setting.local, 0))

    def _add(self, number: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_lossy = self._disturbance.is_lossy(number)
        share = self._disturbance.lossy_share if is_lossy else self._setting.loss
        losses = Losses(share, f"{self._setting.seed}/{number}")
        host = SimulatedHost(
            f"host-{number}", f"{number:016x}", losses, self._heard, lambda: self._passage
        )
        self._hosts.append(host)
        connection = _Connection(number, host, losses, sock, self._known)
        self._connections[sock.fileno()] = self._by_number[number] = connection
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
                for message in connection.line.feed(data):
                    if self._is_here(connection):
                        self._received(connection, message)
        except BlockingIOError:
            pass
        except (OSError, HostError, WireError) as error:
            self._close(connection, str(error))

    def _received(self, connection: _Connection, message: Message) -> None:
        if isinstance(message, Control):
            # It may have overtaken datagrams that wait in the socket.
            self._drain()
            if self._stream is not None and self._is_here(connection):
                ears, losses = self._stream.ears, connection.losses
                ears.by_tcp(connection.number, message, losses, time.monotonic())
            return
        if isinstance(message, Greeting) and self._stream is None:
            self._join(message)
        said = connection.host.hear(message)
        if connection.host.is_detached and self._stream is not None:
            self._stream.ears.leave(connection.number)
        if said:
            self._send(connection, said)

    def _send(self, connection: _Connection, data: bytes) -> None:
        had_unsent = bool(connection.unsent)
        data = connection.unsent + data
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        connection.unsent = data[sent:]
        if bool(connection.unsent) != had_unsent and not connection.is_stalled:
            more = select.EPOLLOUT if connection.unsent else 0
            self._poll.modify(connection.sock.fileno(), select.EPOLLIN | more)

    def _is_here(self, connection: _Connection) -> bool:
        """Whether it is open, which it need not be once datagrams were read."""
        return self._by_number.get(connection.number) is connection

    def _close(self, connection: _Connection, reason: str) -> None:
        if not self._is_here(connection):
            return
        if connection.host.has_reported:
            self._verified += 1
            self._all_ended_s = time.monotonic()
            if connection.number >= self._disturbance.hosts:
                self._ended_s = self._all_ended_s
        else:
            self.failures.append(reason)
        self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        del self._connections[connection.sock.fileno()], self._by_number[connection.number]
        if self._stream is not None:
            self._stream.ears.leave(connection.number)
        connection.sock.close()

    # Multicast.

    def _join(self, greeting: Greeting) -> None:
        if self._disturbance.has_middle:
            if greeting.size is None:
                raise CrowdError("an image of unknown size has no middle")
            self._half = greeting.size / payload_capacity(greeting.mtu) / 2
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _MULTICAST_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MULTICAST_BYTES)
        sock.bind((greeting.group, greeting.port))
        membership = socket.inet_aton(greeting.group) + socket.inet_aton(self._setting.local)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock.setblocking(False)
        codec = KOLLACAST.codec(greeting.salt, best_crc32c()[0])
        ears = Ears(
            codec,
            self._passage,
            self._tell,
            self._ask,
            is_signed=bool(greeting.control_key),
        )
        self._stream = _Stream(sock, ears, Combinations(codec))
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _heard(self) -> Combinations:
        """The coded repairs. All that came before what a host is told is read."""
        assert self._stream is not None
        return self._stream.combinations

    def _drain(self) -> None:
        """Read what waits, and let each host hear it in the order in which it came."""
        stream = self._stream
        try:
            while stream is not None:
                datagram = stream.sock.recv(65536)
                if stream.ears.is_control(datagram):
                    stream.ears.by_multicast(datagram, time.monotonic())
                    if self._half is not None and self._passage.announced >= self._half:
                        self._half = None
                        self._disturb(stream)
                else:
                    stream.combinations.take(datagram)
        except BlockingIOError:
            pass

    def _tell(self, number: int, notices: tuple[Notice, ...], at: float) -> None:
        connection = self._by_number.get(number)
        if connection is None:
            return
        try:
            said = connection.host.told(notices, at)
            if said:
                self._send(connection, said)
        except (OSError, HostError) as error:
            self._close(connection, str(error))

    def _ask(self, number: int, known: int) -> None:
        connection = self._by_number.get(number)
        if connection is None:
            return
        self._asks += 1
        try:
            self._send(connection, Ask(known).encode(KOLLACAST))
        except OSError as error:
            self._close(connection, str(error))

    def _retired(self, ctl: BufferCtl) -> None:
        """Every host has this buffer."""
        self._known.clear()
        if self._stream is not None:
            first = ctl.packet_id_base
            self._stream.combinations.forget(range(first, first + ctl.pkt_count))

    # What befalls some of them.

    def _disturb(self, stream: _Stream) -> None:
        for number in self._disturbance.to_stall:
            if number in self._by_number:
                connection = self._by_number[number]
                connection.is_stalled = True
                self._poll.unregister(connection.sock.fileno())
                stream.ears.pause(number)
                self._stalled_until = time.monotonic() + self._disturbance.stall_s
        for number in self._disturbance.to_kill:
            if number in self._by_number:
                self._killed += 1
                self._forget(self._by_number[number])

    def _wake(self, stream: _Stream) -> None:
        self._stalled_until = None
        for number in self._disturbance.to_stall:
            if number in self._by_number:
                connection = self._by_number[number]
                connection.is_stalled = False
                more = select.EPOLLOUT if connection.unsent else 0
                self._poll.register(connection.sock.fileno(), select.EPOLLIN | more)
                stream.ears.resume(number)

    def _report(self) -> dict[str, Any]:
        tallies = [asdict(host.tally) for host in self._hosts]
        ears = self._stream.ears if self._stream is not None else None
        coded = self._stream.combinations if self._stream is not None else None
        return {
            "hosts": len(self._hosts),
            "verified": self._verified,
            "detached": sum(host.is_detached for host in self._hosts),
            "killed": self._killed,
            "began_s": self._passage.began_s,
            "ended_s": self._ended_s,
            "all_ended_s": self._all_ended_s,
            "tcp_bytes": self._tcp_bytes,
            "control_packets": ears.packets if ears is not None else 0,
            "control_bytes": ears.bytes if ears is not None else 0,
            "coded_packets": coded.packets if coded is not None else 0,
            "image_packets": coded.of_image if coded is not None else 0,
            "asks": self._asks,
            "buffers": self._passage.buffers,
            **{field.name: sum(t[field.name] for t in tallies) for field in fields(Tally)},
        }
