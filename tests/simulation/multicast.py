"""The ports and sockets that the program's multicast sender and receiver have here.

A socket does what they ask of the kernel's: it cuts a send into segments, keeps runs of datagrams
together, and is read by a foreign call.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar
from unittest import mock
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kollacast.packets.buffer import PacketBuffer
from kollacast.transport import frames
from kollacast.transport.multicast import SOL_UDP, UDP_GRO, UDP_SEGMENT
from kollacast.wire.structures import PACKET_HEADER_SIZE
from tests.simulation.links import Node
from tests.simulation.scheduler import Task
from tests.simulation.system_error import system_error

#: Takes the address of a group, and a datagram for it.
Multicast = Callable[[tuple[str, int], bytes], None]


class MemorySendPort:
    """What the server's multicast protocol sends from; datagrams leave by ``multicast``."""

    def __init__(self, host: Node, protocol: Any, multicast: Multicast) -> None:
        self.host = host
        self.socket = SendSocket(host, multicast)
        self._protocol = protocol
        self._writing = False
        self._writes = Task(host.network, self._writable)
        self.socket.unblocked = self._writes.wake
        protocol.makeConnection(self)

    def startWriting(self) -> None:
        self._writing = True
        self._writes.wake()

    def stopWriting(self) -> None:
        self._writing = False

    def renew(self) -> None:
        """There is one interface here."""

    def explain(self, error: OSError, group: tuple[str, int]) -> str:
        return str(error.strerror)

    def _writable(self) -> None:
        if self._writing and not self.socket.blocked and not self.host.is_gone:
            self._protocol.writable()
            self._writes.wake()

    def stopListening(self) -> Deferred[None]:
        self._writing = False
        return deferLater(self.host, 0, self._stopped)

    def _stopped(self) -> None:
        self._writing = False
        self._protocol.doStop()


class SendSocket:
    """The socket of a sender; a test may block it, or make it fail."""

    def __init__(self, host: Node, multicast: Multicast) -> None:
        self._host = host
        self._multicast = multicast
        self._blocked = False
        self.unblocked: Callable[[], None] = lambda: None
        #: Datagrams after which the socket blocks.
        self.blocks_after: int | None = None
        #: What the next send raises.
        self.error: OSError | None = None

    @property
    def blocked(self) -> bool:
        return self._blocked

    @blocked.setter
    def blocked(self, value: bool) -> None:
        self._blocked = value
        self.blocks_after = None
        self.unblocked()

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (SOL_UDP, UDP_SEGMENT) and not self._host.segments:
            raise system_error(errno.ENOPROTOOPT)

    def sendmsg(
        self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        network = self._host.network
        if self.error is not None:
            raise self.error
        if self._blocked or network.happens(network.weather.no_room):
            raise system_error(errno.EAGAIN)
        data = b"".join(buffers)
        segment = len(data)
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_UDP, UDP_SEGMENT):
                (segment,) = struct.unpack("=H", value)
        if len(data) > 65507 or segment == 0:
            raise system_error(errno.EMSGSIZE)
        for start in range(0, len(data), segment):
            if not self._host.is_cut_off:
                self._multicast(address, data[start : start + segment])
        if self.blocks_after is not None and len(network.datagrams) >= self.blocks_after:
            self.blocks_after = None
            self._blocked = True
        return len(data)


class MemoryReceivePort:
    """What a client's multicast protocol reads from; in ``ports`` as long as it is open."""

    def __init__(
        self,
        host: Node,
        protocol: Any,
        group: tuple[str, int],
        source: str | None,
        ports: list[MemoryReceivePort],
    ) -> None:
        self.host = host
        self.group = group
        self.source = source
        self.socket = _ReceiveSocket(host)
        self._protocol = protocol
        self._air: list[bytes] = []
        self._lands = Task(host.network, self._land)
        self._reads = Task(host.network, self._readable)
        self._reading = True
        self._dropped = 0
        self.held_bytes = 1 << 24
        self._ports = ports
        with mock.patch.object(frames, "available", return_value=host.reads == "frames"):
            protocol.makeConnection(self)
        ports.append(self)

    def dropped(self) -> int:
        return self._dropped

    def rejoin(self) -> None:
        self.host.rejoined += 1

    def why_unreached(self, source: str, mtu: int) -> str | None:
        return None

    def fly(self, data: bytes) -> None:
        """A datagram is on its way here."""
        if self.host.network.orderly:
            self._deliver(data)
        else:
            self._air.append(data)
            self._lands.wake()

    def _land(self) -> None:
        if self._air:
            network = self.host.network
            reach = min(len(self._air), network.weather.overtaking)
            self._deliver(self._air.pop(network.random.randrange(reach)))
            self._lands.wake()

    def _deliver(self, data: bytes) -> None:
        if len(self.socket.queue) < self.host.network.weather.socket_packets:
            self.socket.queue.append(data)
            self._reads.wake()
        else:
            self._dropped += 1

    def startReading(self) -> None:
        self._reading = True
        self._reads.wake()

    def stopReading(self) -> None:
        self._reading = False

    def _readable(self) -> None:
        if self.socket.queue and self._reading and not self.host.is_gone:
            self._protocol.readable()
            self._reads.wake()

    def stopListening(self) -> Deferred[None]:
        if self in self._ports:
            self._ports.remove(self)
        self._reading = False
        return deferLater(self.host, 0, self._stopped)

    def _stopped(self) -> None:
        self._reading = False
        self._protocol.doStop()
        self.socket.close()


class _ReceiveSocket:
    """The socket of a receiver: whole datagrams, one or several a call."""

    # A host that is killed closes none.
    by_number: ClassVar[WeakValueDictionary[int, _ReceiveSocket]] = WeakValueDictionary()
    _numbers = itertools.count(1 << 20)

    def __init__(self, host: Node) -> None:
        self._host = host
        self._number = next(self._numbers)
        self.by_number[self._number] = self
        self.queue: deque[bytes] = deque()

    def close(self) -> None:
        self.by_number.pop(self._number, None)

    def fileno(self) -> int:
        return self._number

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (SOL_UDP, UDP_GRO) and self._host.reads != "coalesced":
            raise system_error(errno.ENOPROTOOPT)

    def recv(self, size: int) -> bytes:
        if not self.queue:
            raise system_error(errno.EAGAIN)
        return self.queue.popleft()[:size]

    def recvmsg_into(
        self, buffers: Sequence[memoryview], ancillary_size: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """One datagram, or a run that the kernel has kept together: all of one size but the last.

        No run is longer than the buffers, as the kernel's are no longer than a datagram may be.
        """
        data = self.recv(65536)
        segment = len(data)
        room = sum(map(len, buffers))
        network = self._host.network
        ancillary = []
        while (
            self.queue
            and segment
            and len(data) % segment == 0
            and 0 < len(self.queue[0]) <= segment
            and len(data) + len(self.queue[0]) <= min(room, 65507)
            and not network.happens(0.2 if not network.orderly else 0.0)
        ):
            data += self.queue.popleft()
            ancillary = [(SOL_UDP, UDP_GRO, struct.pack("=i", segment))]
        _scatter(data[:room], buffers)
        return min(len(data), room), ancillary, 0 if len(data) <= room else socket.MSG_TRUNC, None


def _scatter(data: bytes, buffers: Sequence[memoryview]) -> None:
    start = 0
    for view in buffers:
        piece = data[start : start + len(view)]
        view[: len(piece)] = piece
        start += len(piece)
        if start == len(data):
            return


def _receive_frames(fileno: int, buffer: PacketBuffer, slot: int, count: int) -> list[int]:
    """``frames.receive`` on a socket of this network."""
    queue = _ReceiveSocket.by_number[fileno].queue
    if not queue:
        raise system_error(errno.EAGAIN)
    lengths: list[int] = []
    while queue and len(lengths) < count:
        data = queue.popleft()[: PACKET_HEADER_SIZE + buffer.capacity]
        at = slot + len(lengths)
        _scatter(data, buffer.vector(at, 1))
        lengths.append(len(data))
    return lengths


@contextlib.contextmanager
def memory_sockets() -> Iterator[None]:
    """Let the receivers' foreign calls find the sockets of this network; a test case has it."""
    with mock.patch.object(frames, "receive", _receive_frames):
        yield
