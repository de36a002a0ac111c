"""One end of a TCP connection, with what Twisted's transports and the kernels below them do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IDelayedCall, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.links import Node, flip_bit
from tests.simulation.scheduler import Task

#: Seconds for which a kernel sends again what is not acknowledged: tcp_retries2 in tcp(7).
_RETRANSMITTING_S = 924.0
#: Unsent bytes at which Twisted's transports pause their producer.
_HIGH_WATER = 65536


@implementer(ITCPTransport)
class MemoryTransport:
    """One end of a connection, with the back-pressure of Twisted's own.

    What is written waits in ``unsent`` until the kernels between the ends
    have room for it, and there in ``wire`` until the peer reads.
    """

    peer: MemoryTransport

    def __init__(self, host: Node, own: IPv4Address, other: IPv4Address, arrow: str) -> None:
        self.host = host
        self._network = host.network
        self._own = own
        self._other = other
        self._arrow = arrow
        self.protocol: Any = None
        self.unsent = bytearray()
        #: The most bytes that have ever been unsent.
        self.peak_unsent = 0
        self.wire = bytearray()
        self.connected = True
        self.disconnecting = False
        #: What ends the stream for the peer, behind all that is on the wire.
        self.ending: type[Exception] | None = None
        self._reading = False
        self._aborting = False
        #: The other end is gone, and no word of it came through.
        self._is_unaware = False
        self._keep_alive = False
        self._kernel_timer: IDelayedCall | None = None
        #: Options of TCP that the program has set.
        self.options: dict[int, int] = {}
        self._producer: Any = None
        self._producer_paused = False
        self._sends = Task(self._network, self._send)
        self._reads = Task(self._network, self._read)

    def __repr__(self) -> str:
        return f"<{self._own.host} to {self._other.host}>"

    def begin(self, protocol: Any) -> None:
        """The connection is accepted on this side."""
        self.protocol = protocol
        self._reading = True
        if self.connected:
            protocol.makeConnection(self)
            self._reads.wake()

    # What a protocol does with it.

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes), "Twisted takes bytes alone"
        if not self.connected or not data:
            return
        self._network.note(self._arrow, data)
        self.unsent += data
        self.peak_unsent = max(self.peak_unsent, len(self.unsent))
        if self._producer is not None and len(self.unsent) > _HIGH_WATER:
            self._producer_paused = True
            self._producer.pauseProducing()
        self._sends.wake()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._reading = False
            self._sends.wake()

    def loseWriteConnection(self) -> None:
        raise NotImplementedError

    def abortConnection(self) -> None:
        if self.connected and not self._aborting:
            self._aborting = True
            self._reading = False
            self.host.callLater(0, self._aborted)

    def _aborted(self) -> None:
        self._cut_wire(error.ConnectionLost)
        self._close(error.ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer
        assert streaming, "pull producers are not for here"

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.connected and self.disconnecting:
            self._sends.wake()

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self._reading = True
            self._reads.wake()

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._keep_alive = enabled

    def getTcpKeepAlive(self) -> bool:
        return self._keep_alive

    def getHandle(self) -> MemoryTransport:
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert level == socket.IPPROTO_TCP
        self.options[option] = value

    def getPeer(self) -> IPv4Address:
        return self._other

    def getHost(self) -> IPv4Address:
        return self._own

    # What befalls it.

    def probe(self) -> None:
        """The peer's host is gone: the kernel finds that out, if it has been told to look."""
        if self._keep_alive and self.options:
            options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
            idle, interval, count = (self.options[option] for option in options)
            self._look_after(idle + interval * count, self._unanswered)

    def _unanswered(self) -> None:
        """Nothing has come back for as long as the kernel waits."""
        if self.host.reaches(self.peer.host):
            return
        if self.unsent and socket.TCP_USER_TIMEOUT not in self.options:
            # The kernel does not probe while it sends again and again, for much longer.
            self._look_after(_RETRANSMITTING_S, self._close, error.ConnectionLost())
        else:
            self._close(error.ConnectionLost())

    def _look_after(self, seconds: float, look: Callable[..., None], *args: Any) -> None:
        if self._kernel_timer is not None and self._kernel_timer.active():
            self._kernel_timer.cancel()
        self._kernel_timer = self._network.clock.callLater(seconds, look, *args)

    def go_on(self) -> None:
        """What waited for the network need wait no longer."""
        self._sends.wake()
        self._reads.wake()

    def die(self) -> None:
        """The process is gone: what the kernel has still arrives, unless it resets."""
        self.protocol = self._producer = None
        if self._network.happens(0.5):
            self.reset()
        else:
            self.unsent.clear()
            self.ending = self.ending or error.ConnectionDone
            self._close(error.ConnectionDone())

    def damage(self, bit: int) -> bool:
        """Turn over a bit of what is under way, where there is anything; TCP has not noticed."""
        stream = self.wire or self.unsent
        if stream:
            flip_bit(stream, bit)
        return bool(stream)

    def reset(self, *, peer_notices: bool = True) -> None:
        """The connection breaks, on both sides; nothing on the way arrives."""
        self.peer._is_unaware = not peer_notices
        self._cut_wire(error.ConnectionLost)
        if peer_notices:
            self.peer._cut_wire(error.ConnectionLost)
        self._close(error.ConnectionLost())

    def _cut_wire(self, reason: type[Exception]) -> None:
        self.wire.clear()
        self.unsent.clear()
        self.ending = self.ending or reason
        self.peer._reads.wake()

    # What the kernels do.

    def _send(self) -> None:
        """The kernel takes what it has room for."""
        if not self.connected or self._aborting or self.host.is_gone:
            return
        if not self.peer.connected:
            self.unsent.clear()
        room = self._network.wire_bytes - len(self.wire)
        if self.unsent and room > 0 and self.host.reaches(self.peer.host):
            count = self._network.chunk(min(len(self.unsent), room))
            self.wire += self.unsent[:count]
            del self.unsent[:count]
            self.peer._reads.wake()
            if self.unsent:
                self._sends.wake()
        if self.unsent:
            return
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()
        elif self.disconnecting:
            self.ending = self.ending or error.ConnectionDone
            self.peer._reads.wake()
            self._close(error.ConnectionDone())

    def _read(self) -> None:
        """What has come from the peer arrives."""
        peer = self.peer
        if not self.connected or self.protocol is None or self.host.is_gone:
            return
        if self.host.is_cut_off or peer.host.is_cut_off:
            return
        if peer.wire and self._reading:
            count = self._network.chunk(len(peer.wire))
            data = bytes(peer.wire[:count])
            del peer.wire[:count]
            if peer.unsent:
                peer._sends.wake()
            self._reads.wake()
            self.protocol.dataReceived(data)
        elif peer.ending is not None and not peer.wire and not self._is_unaware:
            # A broken connection is seen even by who does not read.
            if self._reading or peer.ending is error.ConnectionLost or self.disconnecting:
                self._close(peer.ending())

    def _close(self, reason: Exception) -> None:
        if not self.connected:
            return
        self.connected = False
        self._reading = False
        if self._kernel_timer is not None and self._kernel_timer.active():
            self._kernel_timer.cancel()
        self.ending = self.ending or error.ConnectionDone
        self.unsent.clear()
        # What the peer sends from now on has nowhere to go.
        self.peer.wire.clear()
        self.peer._reads.wake()
        if self.peer.disconnecting:
            # It need not wait for room, either.
            self.peer._sends.wake()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(reason))
