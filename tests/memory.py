"""A network in one process: hosts, TCP and multicast on one clock, for the tests of both cycles.

Everything that can happen next (bytes that arrive, a datagram that lands, a socket that takes
more, a thread that ends a call) is a :class:`_Task`, and one turn of :class:`Network` runs one of
them.  An orderly network runs them in the order in which they came up, so that a test can name
every step; one with a seed picks any of them, cuts streams anywhere and does to datagrams what
its :class:`Weather` says, so that a seed names one interleaving and gives it again.

The code under test is the whole program from its reactor up: Twisted's endpoints, the protocols,
and the multicast sender and receiver, which find a socket of this network where they look for one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar, TypeVar
from unittest import mock
from weakref import WeakValueDictionary

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConnector,
    IDelayedCall,
    IHostResolution,
    IListeningPort,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from kollacast.client import Client
from kollacast.config import ClientConfig, ServerConfig
from kollacast.core.buffer import PacketBuffer
from kollacast.fdio import called_off
from kollacast.outcome import Outcome
from kollacast.server import Server
from kollacast.spool import Spool
from kollacast.transport import frames
from kollacast.transport.multicast import SOL_UDP, UDP_GRO, UDP_SEGMENT
from kollacast.transport.worker import InlineWorker
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST, Dialect
from kollacast.wire.greeting import Greeting, Hello, encode_json
from kollacast.wire.packets import PacketCodec
from kollacast.wire.parser import ClientStream, Digest, Message, Sent, ServerStream
from kollacast.wire.structures import PACKET_HEADER_SIZE, BufferCtl, Tag

_T = TypeVar("_T")

SERVER_IP = "10.0.0.1"
PORT = 18383
GROUP = "239.238.0.31"
#: An MTU that leaves 28 bytes of payload: images of a few hundred bytes then fill buffers.
MTU = 68
CAPACITY = 28
BUFFER_PACKETS = 4

#: Turns after which a network that does not come to rest is taken to be stuck.
_TURNS = 2_000_000
#: Seconds for which a kernel sends again what is not acknowledged: tcp_retries2 in tcp(7).
_RETRANSMITTING_S = 924.0
#: Unsent bytes at which Twisted's transports pause their producer.
_HIGH_WATER = 65536


@dataclass(frozen=True)
class Weather:
    """What happens to a network's traffic; each share is a probability from 0 to 1."""

    loss: float = 0.0  #: share of datagrams lost, for each receiver on its own
    duplicate: float = 0.0  #: share of them that come twice
    damage: float = 0.0  #: share of them with a bit turned over
    overtaking: int = 1  #: how many of those in the air one may land before the others
    no_room: float = 0.0  #: share of sends that the kernel puts off
    socket_packets: int = 1_000_000  #: what a receive socket holds; it drops the rest
    tick_s: float = 0.001  #: the longest that a turn takes


def _os_error(number: int) -> OSError:
    """What a system call fails with: of the class that Python has for this number."""
    return OSError(number, os.strerror(number))


class _Task:
    """Something that can happen, once it has been woken."""

    __slots__ = ("_network", "happen", "woken")

    def __init__(self, network: Network, happen: Callable[[], None]) -> None:
        self._network = network
        self.happen = happen
        self.woken = False

    def wake(self) -> None:
        if not self.woken:
            self.woken = True
            self._network.ready.append(self)


class Network:
    """Hosts and all that is under way between them.

    Without a ``seed`` it is orderly, and its weather is fair unless said
    otherwise.  ``datagrams`` is every datagram that a host has sent.
    """

    def __init__(self, seed: int | None = None, weather: Weather | None = None) -> None:
        self.clock = Clock()
        self.random = Random(seed)
        self.orderly = seed is None
        self.weather = weather or Weather()
        self.ready: deque[_Task] = deque()
        self.hosts: dict[str, Host] = {}
        self.ports: list[MemoryReceivePort] = []
        self.transports: list[MemoryTransport] = []
        #: Attempts to connect that do not get through to where they go.
        self.stalled: list[_Task] = []
        self.datagrams: list[bytes] = []
        #: Every write to a TCP transport and every datagram, once a test has put a list here:
        #: "S>C", "C>S" or "udp", and the bytes.
        self.trace: list[tuple[str, bytes]] | None = None
        #: The most bytes of a stream that are delivered at once; None leaves it to the network.
        self.chunk_bytes: int | None = None
        #: Bytes that a connection's kernels hold in one direction.
        self.wire_bytes = 65536
        #: Which datagrams reach a port, and as what; None leaves it to the weather.
        self.fate: Callable[[MemoryReceivePort, bytes], Sequence[bytes]] | None = None
        self.clients = 0

    def host(self, address: str) -> Host:
        if address not in self.hosts:
            self.hosts[address] = Host(self, address)
        return self.hosts[address]

    # Time.

    def run(self) -> None:
        """Let happen what needs no waiting."""
        for _ in range(_TURNS):
            if not self.turn():
                return
        raise AssertionError("the network does not come to rest")

    def settle(self) -> None:
        """Let happen what needs next to no waiting: a timer of some milliseconds."""
        self.run_for(0.15)

    def run_for(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.clock.seconds() + seconds
        self.run()
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self._skip_to(self.clock.calls[0].getTime())
            self.run()
        self._skip_to(end)

    def run_until(self, condition: Callable[[], Any], limit_s: float = 600.0) -> None:
        """Stop right after the turn that makes ``condition()`` true."""
        end = self.clock.seconds() + limit_s
        for _ in range(_TURNS):
            if condition():
                return
            if self.turn():
                continue
            calls = self.clock.calls
            if not calls or calls[0].getTime() > end:
                break
            self._skip_to(calls[0].getTime())
        raise AssertionError(f"not within {limit_s:g} s, or never")

    def _skip_to(self, time: float) -> None:
        self.clock.rightNow = max(time, self.clock.rightNow)
        self.clock.advance(0)

    def turn(self) -> bool:
        """Let one thing happen; False when nothing can without waiting."""
        clock = self.clock
        if clock.calls and clock.calls[0].getTime() <= clock.rightNow:
            clock.advance(0)
            return True
        if not self.ready:
            return False
        if not self.orderly:
            clock.advance(self.random.random() * self.weather.tick_s)
            self.ready.rotate(self.random.randrange(len(self.ready)))
        task = self.ready.popleft()
        task.woken = False
        task.happen()
        return True

    # Chance.

    def happens(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def chunk(self, size: int) -> int:
        """How many of ``size`` bytes come in one piece."""
        if self.chunk_bytes is not None:
            return min(size, self.chunk_bytes)
        if self.orderly or self.random.random() < 0.5:
            return size
        return self.random.randint(1, size)

    # Multicast.

    def multicast(self, address: tuple[str, int], data: bytes) -> None:
        """A datagram leaves for a group."""
        self.datagrams.append(data)
        if self.trace is not None:
            self.trace.append(("udp", data))
        for port in self.ports:
            if port.group == address and port.host.hears_multicast and not port.host.is_cut_off:
                for copy in self._fates(port, data):
                    port.fly(copy)

    def _fates(self, port: MemoryReceivePort, data: bytes) -> Sequence[bytes]:
        if self.fate is not None:
            return self.fate(port, data)
        weather = self.weather
        if self.happens(weather.loss):
            return ()
        if self.happens(weather.damage):
            bit = self.random.randrange(8 * len(data))
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            data = bytes(damaged)
        return (data, data) if self.happens(weather.duplicate) else (data,)

    # Looking at it.

    def leftovers(self) -> list[object]:
        """What the runs have left behind: calls to come, ports, connections."""
        here = [host for host in self.hosts.values() if not host.is_gone]
        left: list[object] = list(self.clock.getDelayedCalls())
        left += [listener for host in here for listener in host.listeners.values()]
        left += [port for port in self.ports if port.host in here]
        left += [end for end in self.transports if end.connected and end.host in here]
        return left

    # Programs on it.

    def new_host(self, hosts: str) -> Host:
        """A host that nobody has been on, in the network of which the address begins so."""
        self.clients += 1
        return self.host(f"{hosts}.{self.clients}")

    def serve(self, source: MemorySource | bytes, **options: Any) -> ServerRun:
        """Run a server; ``options`` are of its configuration, or ``threads=True``."""
        return ServerRun(self, _source(source), **options)

    def join(self, **options: Any) -> ClientRun:
        """Run a client on a host of its own; ``options`` likewise, and ``sink``."""
        self.clients += 1
        return ClientRun(self, self.clients, **options)

    def join_again(self, run: ClientRun, **options: Any) -> ClientRun:
        """Run a client on the host of ``run``, which is over, with what that one has kept."""
        return ClientRun(self, run.number, sink=run.sink.reopen(), **options)

    def raw_client(self, dialect: Dialect = KOLLACAST) -> RawClient:
        """A connection to the server, to be driven by hand."""
        client = RawClient(self.new_host("10.0.9"), dialect)
        self.settle()
        return client

    def raw_server(self, dialect: Dialect = KOLLACAST) -> RawServer:
        """What listens where the clients look for their server, to be driven by hand."""
        server = RawServer(self, dialect)
        self.host(SERVER_IP).listenTCP(PORT, server)
        return server


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class Host:
    """One host's reactor: the network's clock, and connections with an address of its own."""

    def __init__(self, network: Network, address: str) -> None:
        self.network = network
        self.address = address
        self.listeners: dict[int, MemoryListener] = {}
        #: Whether what ran here is no more: nothing happens here, or comes from here.
        self.is_gone = False
        #: Whether nothing gets from here to anywhere, nor back, for the time being.
        self.is_cut_off = False
        #: Whether multicast gets here.
        self.hears_multicast = True
        self.nameResolver = self
        #: Names that resolve to nothing.
        self.unknown_names: set[str] = set()
        #: What opening a multicast port here fails with.
        self.port_error: Exception | None = None
        #: How ports here read: "coalesced", "frames" or "plain".
        self.reads = "coalesced"
        #: Whether the kernel here cuts a send into segments.
        self.segments = True
        self._numbers = itertools.count(40000)
        self._calls: list[IDelayedCall] = []

    def seconds(self) -> float:
        return self.network.clock.seconds()

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> IDelayedCall:
        call = self.network.clock.callLater(delay, callable, *args, **kwargs)
        if len(self._calls) > 64:
            self._calls = [call for call in self._calls if call.active()]
        self._calls.append(call)
        return call

    def getDelayedCalls(self) -> Any:
        return self.network.clock.getDelayedCalls()

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError

    def resolveHostName(
        self, receiver: Any, hostName: str, portNumber: int = 0, *args: Any, **kw: Any
    ) -> Any:
        resolution = _Resolution(hostName)
        receiver.resolutionBegan(resolution)
        if hostName not in self.unknown_names:
            receiver.addressResolved(IPv4Address("TCP", hostName, portNumber))
        receiver.resolutionComplete()
        return resolution

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> MemoryListener:
        if port in self.listeners:
            raise error.CannotListenError(interface, port, _os_error(errno.EADDRINUSE))
        listener = self.listeners[port] = MemoryListener(self, port, factory)
        factory.doStart()
        return listener

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> MemoryConnector:
        return MemoryConnector(self, IPv4Address("TCP", host, port), factory, timeout)

    def new_address(self) -> IPv4Address:
        return IPv4Address("TCP", self.address, next(self._numbers))

    def vanish(self) -> None:
        """The power is cut: nothing comes from here any more, nor a word of that."""
        self._stop()
        for transport in self.connections():
            transport.protocol = None
            transport.peer.probe()

    def boot(self) -> None:
        """The power is back, and nobody here knows of what was before."""
        del self.network.hosts[self.address]
        for transport in self.connections():
            transport.reset()

    def kill(self) -> None:
        """SIGKILL: what ran here is gone in this moment, and the kernel closes what it had."""
        self._stop()
        del self.network.hosts[self.address]
        for transport in self.connections():
            transport.die()

    def cut_off(self) -> None:
        """Nothing gets from here to anywhere, nor back, until :meth:`heal`."""
        self.is_cut_off = True
        for transport in self.connections():
            transport.probe()
            transport.peer.probe()

    def heal(self) -> None:
        self.is_cut_off = False
        for transport in self.network.transports:
            # Also one that is closed here has still to tell its peer so.
            if self in (transport.host, transport.peer.host):
                transport.go_on()
        stalled, self.network.stalled = self.network.stalled, []
        for task in stalled:
            task.wake()

    def reaches(self, other: Host) -> bool:
        """Whether what is sent from here arrives there."""
        return not (self.is_cut_off or other.is_cut_off or self.is_gone or other.is_gone)

    def connections(self) -> list[MemoryTransport]:
        """The ends here of those that are open, the latest one last."""
        return [t for t in self.network.transports if t.host is self and t.connected]

    def _stop(self) -> None:
        self.is_gone = True
        for call in self._calls:
            if call.active():
                call.cancel()
        self.listeners.clear()
        self.network.ports = [port for port in self.network.ports if port.host is not self]


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        pass


# TCP.


@implementer(IListeningPort)
class MemoryListener:
    """A port that accepts; connections wait in ``_waiting`` until it is its turn."""

    def __init__(self, host: Host, number: int, factory: Any) -> None:
        self.host = host
        self._number = number
        self._factory = factory
        self._waiting: deque[MemoryTransport] = deque()
        self._accept = _Task(host.network, self._accept_one)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.host.address, self._number)

    def startListening(self) -> None:
        raise NotImplementedError

    def knock(self, transport: MemoryTransport) -> None:
        self._waiting.append(transport)
        self._accept.wake()

    def _accept_one(self) -> None:
        if not self._waiting:
            return
        if self.host.is_gone:
            self._refuse()
            return
        transport = self._waiting.popleft()
        if self._waiting:
            self._accept.wake()
        if not transport.connected:
            return
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.reset()
        else:
            transport.begin(protocol)

    def stopListening(self) -> Deferred[None]:
        self.host.listeners.pop(self._number, None)
        return deferLater(self.host, 0, self._stopped)

    def _stopped(self) -> None:
        self._refuse()
        self._factory.doStop()

    def _refuse(self) -> None:
        while self._waiting:
            self._waiting.popleft().reset()


@implementer(IConnector)
class MemoryConnector:
    """One attempt to connect."""

    def __init__(self, host: Host, address: IPv4Address, factory: Any, timeout: float) -> None:
        self._host = host
        self._address = address
        self._factory = factory
        self._over = False
        factory.doStart()
        factory.startedConnecting(self)
        self._timer = host.callLater(timeout, self._fail, error.TimeoutError())
        self._connects = _Task(host.network, self._connect)
        self._connects.wake()

    def getDestination(self) -> IPv4Address:
        return self._address

    def connect(self) -> None:
        raise NotImplementedError

    def stopConnecting(self) -> None:
        if self._over:
            raise error.NotConnectingError("we're not trying to connect")
        self._fail(error.UserError())

    def disconnect(self) -> None:
        raise NotImplementedError

    def _fail(self, reason: Exception) -> None:
        self._over = True
        if self._timer.active():
            self._timer.cancel()
        self._factory.clientConnectionFailed(self, Failure(reason))
        self._factory.doStop()

    def _connect(self) -> None:
        if self._over:
            return
        network = self._host.network
        there = network.host(self._address.host)
        if not self._host.reaches(there):
            network.stalled.append(self._connects)
            return
        listener = there.listeners.get(self._address.port)
        if listener is None:
            refused = errno.ECONNREFUSED
            self._fail(error.getConnectError((refused, os.strerror(refused))))
            return
        self._over = True
        self._timer.cancel()
        own = self._host.new_address()
        here = MemoryTransport(self._host, own, self._address, "C>S")
        other = MemoryTransport(there, self._address, own, "S>C")
        here.peer, other.peer = other, here
        listener.knock(other)
        here.begin(self._factory.buildProtocol(self._address))


@implementer(ITCPTransport)
class MemoryTransport:
    """One end of a connection, with the back-pressure of Twisted's own.

    What is written waits in ``unsent`` until the kernels between the ends
    have room for it, and there in ``wire`` until the peer reads.
    """

    peer: MemoryTransport

    def __init__(self, host: Host, own: IPv4Address, other: IPv4Address, arrow: str) -> None:
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
        self._keep_alive = False
        self._kernel_timer: IDelayedCall | None = None
        #: Options of TCP that the program has set.
        self.options: dict[int, int] = {}
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        self._sends = _Task(self._network, self._send)
        self._reads = _Task(self._network, self._read)
        self._network.transports.append(self)

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
        if self._network.trace is not None:
            self._network.trace.append((self._arrow, data))
        self.unsent += data
        self.peak_unsent = max(self.peak_unsent, len(self.unsent))
        if self._producer is not None and self._streaming and len(self.unsent) > _HIGH_WATER:
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
        self._streaming = streaming
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
            bit %= 8 * len(stream)
            stream[bit // 8] ^= 1 << bit % 8
        return bool(stream)

    def getPeer(self) -> IPv4Address:
        return self._other

    def getHost(self) -> IPv4Address:
        return self._own

    # What happens to it.

    def reset(self) -> None:
        """The connection breaks, on both sides; nothing on the way arrives."""
        self._cut_wire(error.ConnectionLost)
        self.peer._cut_wire(error.ConnectionLost)
        self._close(error.ConnectionLost())

    def _cut_wire(self, reason: type[Exception]) -> None:
        self.wire.clear()
        self.unsent.clear()
        self.ending = self.ending or reason
        self.peer._reads.wake()

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
        elif peer.ending is not None and not peer.wire:
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
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(reason))


# Multicast.


class MemorySendPort:
    """What the server's multicast protocol sends from."""

    def __init__(self, host: Host, protocol: Any) -> None:
        self.host = host
        self.socket = _SendSocket(host)
        self._protocol = protocol
        self._writing = False
        self._writes = _Task(host.network, self._writable)
        self.socket.unblocked = self._writes.wake
        protocol.makeConnection(self)

    def startWriting(self) -> None:
        self._writing = True
        self._writes.wake()

    def stopWriting(self) -> None:
        self._writing = False

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


class _SendSocket:
    """The socket of a sender; a test may block it, or make it fail."""

    def __init__(self, host: Host) -> None:
        self._host = host
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
            raise _os_error(errno.ENOPROTOOPT)

    def sendmsg(
        self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        network = self._host.network
        if self.error is not None:
            raise self.error
        if self._blocked or network.happens(network.weather.no_room):
            raise _os_error(errno.EAGAIN)
        data = b"".join(buffers)
        segment = len(data)
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_UDP, UDP_SEGMENT):
                (segment,) = struct.unpack("=H", value)
        if len(data) > 65507 or segment == 0:
            raise _os_error(errno.EMSGSIZE)
        for start in range(0, len(data), segment):
            if not self._host.is_cut_off:
                network.multicast(address, data[start : start + segment])
        if self.blocks_after is not None and len(network.datagrams) >= self.blocks_after:
            self.blocks_after = None
            self._blocked = True
        return len(data)


class MemoryReceivePort:
    """What a client's multicast protocol reads from."""

    def __init__(self, host: Host, protocol: Any, group: tuple[str, int]) -> None:
        self.host = host
        self.group = group
        self.socket = _ReceiveSocket(host)
        self._protocol = protocol
        self._air: list[bytes] = []
        self._lands = _Task(host.network, self._land)
        self._reads = _Task(host.network, self._readable)
        self._reading = True
        host.network.ports.append(self)
        with mock.patch.object(frames, "available", return_value=host.reads == "frames"):
            protocol.makeConnection(self)

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
        if self in self.host.network.ports:
            self.host.network.ports.remove(self)
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

    def __init__(self, host: Host) -> None:
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
            raise _os_error(errno.ENOPROTOOPT)

    def recv(self, size: int) -> bytes:
        if not self.queue:
            raise _os_error(errno.EAGAIN)
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
            and len(data) % segment == 0
            and len(self.queue[0]) <= segment
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
        raise _os_error(errno.EAGAIN)
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


def open_sender(host: Host, protocol: Any, local_ip: str, ttl: int) -> MemorySendPort:
    """Stands for ``kollacast.transport.sender.open_sender``."""
    if host.port_error is not None:
        raise host.port_error
    return MemorySendPort(host, protocol)


def open_receiver(
    host: Host, protocol: Any, group: tuple[str, int], local_ip: str, window: int
) -> MemoryReceivePort:
    """Stands for ``kollacast.transport.receiver.open_receiver``."""
    if host.port_error is not None:
        raise host.port_error
    struct.pack("i", window)  # as setsockopt does
    return MemoryReceivePort(host, protocol, group)


# Threads, images and disks.


class MemoryThread:
    """A worker whose calls, and then their results, come when it is their turn."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._jobs: deque[Callable[[], Callable[[], None]]] = deque()
        self._results: deque[Callable[[], None]] = deque()
        self._works = _Task(host.network, self._work)
        self._delivers = _Task(host.network, self._deliver)
        self._stopped = False
        #: A test may hold the thread up in its next call.
        self.held = False

    def run(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()

        def work() -> Callable[[], None]:
            try:
                result = function(*args)
            except Exception:
                failure = Failure()
                return lambda: done.errback(failure)
            return lambda: done.callback(result)

        if not self._stopped:
            self._jobs.append(work)
            self._works.wake()
        return done

    def stop(self) -> None:
        self._stopped = True

    def release(self) -> None:
        """It is held up no more."""
        self.held = False
        self._works.wake()

    def _work(self) -> None:
        if self._jobs and not self.held and not self._host.is_gone:
            self._results.append(self._jobs.popleft()())
            self._delivers.wake()
            self._works.wake()

    def _deliver(self) -> None:
        if self._results and not self._host.is_gone:
            self._results.popleft()()
            self._delivers.wake()


class MemorySource:
    """An image to be read; ``fails_at`` is the offset at which reading raises EIO."""

    def __init__(
        self,
        image: bytes,
        *,
        name: str | None = "image",
        size: int | None = None,
        fails_at: int | None = None,
        read_bytes: int | None = None,
        identity: str | None = None,
    ) -> None:
        #: What names the image where it can be read again.
        self.identity = identity
        self.name = name
        self.size = size
        self.closed = False
        self._image = image
        self.fails_at = fails_at
        self._read_bytes = read_bytes
        self._at = 0

    def readinto(self, view: memoryview) -> int:
        if self.closed:
            raise called_off()
        count = min(len(view), len(self._image) - self._at)
        if self._read_bytes is not None:
            count = min(count, self._read_bytes)
        if self.fails_at is not None:
            count = min(count, self.fails_at - self._at)
            if count == 0:
                raise _os_error(errno.EIO)
        view[:count] = self._image[self._at : self._at + count]
        self._at += count
        return count

    def read_at(self, offset: int, size: int) -> bytes:
        if self.closed or self.identity is None:
            raise called_off()
        return self._image[offset : offset + size]

    def close(self) -> None:
        self.closed = True


def _source(source: MemorySource | bytes) -> MemorySource:
    return source if isinstance(source, MemorySource) else MemorySource(source)


class MemorySink:
    """A file that has its name once it is committed, as the sinks of the program."""

    def __init__(
        self, *, room: int | None = None, commit_error: OSError | None = None, broken: bool = False
    ) -> None:
        self.data = b""
        self.is_committed = False
        self.is_abandoned = False
        self.is_kept = False
        #: Whether what is written stays written.
        self.is_stream = False
        #: How many of the first bytes count for the next run, all for None.
        self.marked: int | None = None
        self.identity: str | None = None
        # Whether what is there already is of this run's image.
        self._is_resumed = False
        self._room = room
        self._commit_error = commit_error
        self._broken = broken

    @property
    def can_skip(self) -> bool:
        return not self.is_stream

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        assert not self.is_committed, "a write after the commit"
        self._refuse_if_abandoned()
        self._begin()
        if self._broken:
            raise _os_error(errno.EPIPE)
        data = b"".join(views)
        if self._room is not None and offset + len(data) > self._room:
            raise _os_error(errno.ENOSPC)
        gap = offset - len(self.data)
        assert gap <= 0 or self.marked is not None, "a gap that is not marked"
        self.data = self.data.ljust(offset, b"?")
        self.data = self.data[:offset] + data + self.data[offset + len(data) :]

    def mark(self, size: int | None) -> None:
        assert self.can_skip, "a mark on a stream"
        self._refuse_if_abandoned()
        self.marked = size

    def commit(self, digest: str = "") -> None:
        assert not self.is_committed, "a second commit"
        assert self.marked is None, "a commit with a gap"
        self._refuse_if_abandoned()
        self._begin()
        if self._commit_error is not None:
            raise self._commit_error
        self.is_committed = True

    def resume(self, identity: str, unit: int) -> int:
        """Go on with what the last run on this sink has kept."""
        self._refuse_if_abandoned()
        if identity != self.identity:
            self.data = b""
        self._is_resumed = True
        self.identity = identity
        self.data = self.data[: len(self.data) // unit * unit]
        return len(self.data)

    def read_back(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def restart(self) -> None:
        self._refuse_if_abandoned()
        if self.is_stream and self.data:
            raise _os_error(errno.ESPIPE)
        self.data = b""
        self.marked = None

    def abandon(self, keep: bool = False) -> None:
        if not self.is_committed:
            self.is_abandoned = True
            self.is_kept = keep

    def reopen(self) -> MemorySink:
        """The sink of the next run, which finds what this one has kept, or was killed over."""
        sink = MemorySink()
        if self.is_kept or not (self.is_abandoned or self.is_committed):
            sink.data, sink.identity = self.data[: self.marked], self.identity
        return sink

    def _begin(self) -> None:
        if not self._is_resumed:
            self.data, self._is_resumed = b"", True

    def _refuse_if_abandoned(self) -> None:
        if self.is_abandoned:
            raise called_off()


# Both ends, as the program has them.


class MemoryTestCase(TestCase):
    """What the tests of both cycles share."""

    def setUp(self) -> None:
        sockets = contextlib.ExitStack()
        sockets.enter_context(memory_sockets())
        self.addCleanup(sockets.close)

    def assert_all_gone(self, network: Network) -> None:
        """Whatever the runs have opened is closed, a few seconds after their end."""
        network.run_for(10.0)
        self.assertEqual(network.leftovers(), [])


class _Run:
    """One run of either end."""

    def __init__(self, network: Network, host: Host) -> None:
        self.network = network
        self.host = host
        self.threads: dict[str, MemoryThread] = {}
        self._outcomes: list[Outcome] = []

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None as long as it has not."""
        assert len(self._outcomes) <= 1, "a run ends once"
        return self._outcomes[0] if self._outcomes else None

    def finish(self, limit_s: float = 600.0) -> Outcome:
        """Let time pass until the run is over."""
        self.network.run_until(lambda: self._outcomes, limit_s)
        self.network.settle()
        return self._outcomes[0]

    def _workers(self, threads: bool) -> Callable[[Any, str], Any]:
        def make(reactor: Any, name: str) -> Any:
            if not threads:
                return InlineWorker()
            self.threads[name] = MemoryThread(self.host)
            return self.threads[name]

        return make


class ServerRun(_Run):
    """A server and its image."""

    def __init__(
        self,
        network: Network,
        source: MemorySource,
        *,
        clients: int = 1,
        threads: bool = False,
        spool: Spool | None = None,
        max_connections: int = sys.maxsize,
        **options: Any,
    ) -> None:
        super().__init__(network, network.host(SERVER_IP))
        self.source = source
        config = ServerConfig(
            local_ip=SERVER_IP,
            clients=clients,
            port=PORT,
            group=GROUP,
            ttl=1,
            mtu=MTU,
            buffer_packets=BUFFER_PACKETS,
        )
        self.config = replace(config, **options)
        self.port: MemorySendPort | None = None
        self.server = Server(
            self.host,
            self.config,
            source,
            spool=spool,
            max_connections=max_connections,
            make_worker=self._workers(threads),
            open_port=self._open_port,
        )
        self.server.run().addCallback(self._outcomes.append)

    def _open_port(self, *args: Any) -> MemorySendPort:
        self.port = open_sender(*args)
        return self.port

    @property
    def socket(self) -> _SendSocket:
        assert self.port is not None
        return self.port.socket

    @property
    def phase(self) -> str:
        return self.server.progress().phase


class ClientRun(_Run):
    """A client and what it has received."""

    def __init__(
        self,
        network: Network,
        number: int,
        *,
        sink: MemorySink | None = None,
        threads: bool = False,
        reads: str = "coalesced",
        hosts: str = "10.0.1",
        **options: Any,
    ) -> None:
        super().__init__(network, network.host(f"{hosts}.{number}"))
        self.number = number
        self.host.reads = reads
        self.sink = sink or MemorySink()
        config = ClientConfig(
            local_ip=self.host.address,
            server_ip=SERVER_IP,
            port=PORT,
            connect_timeout_s=30.0,
            name=f"host{number}",
        )
        self.config = replace(config, **options)
        self.client = Client(
            self.host,
            self.config,
            self.sink,
            make_worker=self._workers(threads),
            open_port=open_receiver,
        )
        self.client.run().addCallback(self._outcomes.append)

    @property
    def transport(self) -> MemoryTransport:
        """The latest connection of this client."""
        return next(t for t in reversed(self.network.transports) if t.host is self.host)

    @property
    def phase(self) -> str:
        return self.client.progress().phase


# Both ends, driven by hand.


def _report(**fields: Any) -> bytes:
    return bytes((Tag.REPORT,)) + encode_json(fields)


class RawConnection(Protocol):
    """One end of a connection; ``heard`` is what the other end has said."""

    transport: MemoryTransport

    def __init__(self, network: Network, stream: ClientStream | ServerStream) -> None:
        self._network = network
        self._stream = stream
        self.heard: list[Message] = []
        self.data = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        for message in self._stream.feed(data):
            self.heard.append(message)
            self._consider(message)

    def _consider(self, message: Message) -> None:
        """A message has come, which the test may look for in ``heard``."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason

    def send(self, data: bytes) -> None:
        """Say ``data``, and let happen what comes of it."""
        self.transport.write(data)
        self._network.settle()


class _Once(ClientFactory):
    """A factory of one protocol, already made."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class RawClient(RawConnection):
    """A client on ``host`` whose every message a test says; it begins to connect at once."""

    _stream: ServerStream

    def __init__(self, host: Host, dialect: Dialect = KOLLACAST) -> None:
        stream = ServerStream()
        stream.capacity = 65535
        super().__init__(host.network, stream)
        self.host = host
        self._dialect = dialect
        self._answers: set[type] = set()
        self._unanswered: list[Message] = []
        host.connectTCP(SERVER_IP, PORT, _Once(self))

    def mumble(self, data: bytes) -> None:
        """Say ``data``, if there is somebody to hear it, and close."""
        if self.transport is not None:
            self.transport.write(data)
            self.transport.loseConnection()

    def hello(self, name: str = "raw", packets: int = 1 << 20) -> None:
        self.send(Hello(name, packets).encode())

    def ready(self) -> None:
        self._answered(BufferCtl)
        self.send(bytes((Tag.CLIENT_READY,)))

    def done(self) -> None:
        self._answered(Sent)
        self.send(bytes((Tag.CLIENT_DONE,)))

    def expect_packets(self, count: int) -> None:
        """So many packets will come without a tag."""
        if not self._dialect.tagged:
            self._stream.expect_packets(count)

    def request(self, *seqs: int) -> None:
        self.expect_packets(len(seqs))
        self.send(self._dialect.request(seqs))

    def report(self, **fields: Any) -> None:
        self.send(_report(**(fields or {"ok": True})))

    def close(self) -> None:
        self.transport.loseConnection()
        self._network.settle()

    def count(self, kind: type) -> int:
        """How many messages of this kind have been heard."""
        return sum(isinstance(message, kind) for message in self.heard)

    def last(self, kind: type[_T]) -> _T:
        return [message for message in self.heard if isinstance(message, kind)][-1]

    def answer(self, *kinds: type) -> None:
        """Answer messages of these kinds from now on, and those that still wait for it.

        READY, DONE and the report are the answers to a ``BufferCtl``, to
        ``Sent`` and to a ``Digest``; whether packets have come is not asked.
        """
        self._answers.update(kinds)
        unanswered, self._unanswered = self._unanswered, []
        for message in unanswered:
            self._consider(message)
        self._network.settle()

    def answer_no_more(self, kind: type) -> None:
        self._answers.discard(kind)

    def _answered(self, kind: type) -> None:
        for message in self._unanswered:
            if isinstance(message, kind):
                self._unanswered.remove(message)
                return

    def _consider(self, message: Message) -> None:
        if type(message) not in self._answers:
            self._unanswered.append(message)
        elif isinstance(message, BufferCtl):
            self.transport.write(bytes((Tag.CLIENT_READY,)))
        elif isinstance(message, Sent):
            self.transport.write(bytes((Tag.CLIENT_DONE,)))
        elif isinstance(message, Digest):
            self.transport.write(_report(ok=True))


class RawServer(Factory):
    """A server whose every message a test says, to the connection that came last."""

    noisy = False

    def __init__(self, network: Network, dialect: Dialect) -> None:
        self._network = network
        self._dialect = dialect
        self.connections: list[RawConnection] = []
        self.closes_at_once = False
        self.salt = 0x5EED
        self.group = (GROUP, PORT)

    def buildProtocol(self, addr: Any) -> RawConnection | None:
        if self.closes_at_once:
            return None
        stream = ClientStream(self._dialect, 1 << 20)
        self.connections.append(RawConnection(self._network, stream))
        return self.connections[-1]

    @property
    def client(self) -> RawConnection:
        return self.connections[-1]

    def send(self, data: bytes) -> None:
        """Say ``data`` to that connection, and let happen what comes of it."""
        self.client.send(data)

    def greet(self, **fields: Any) -> None:
        """Send a greeting, with these ``fields`` in place of the usual ones."""
        greeting = Greeting(
            session="5e55104",
            salt=self.salt,
            group=GROUP,
            port=PORT,
            mtu=MTU,
            buffer_packets=BUFFER_PACKETS,
            window=2,
            digest="sha256",
        )
        self.send(replace(greeting, **fields).encode())

    def announce(self, buffer_id: int, size: int, base: int, count: int) -> None:
        self.send(self._dialect.buffer(BufferCtl(buffer_id, size, base, count)))

    def sent(self) -> None:
        self.send(bytes((Tag.SERVER_SENT,)))

    def digest(self, value: bytes) -> None:
        self.send(bytes((Tag.DIGEST,)) + value)

    def report(self, reason: str) -> None:
        self.send(_report(ok=False, reason=reason))

    @property
    def codec(self) -> PacketCodec:
        return self._dialect.codec(self.salt, best_crc32c()[0])

    def packet(self, seq: int, payload: bytes) -> bytes:
        """A packet as it is multicast."""
        return self.codec.header(seq, memoryview(payload)) + payload

    def repair(self, seq: int, payload: bytes) -> None:
        """Send a packet again, over TCP."""
        self.send(
            (bytes((Tag.PACKET,)) if self._dialect.tagged else b"") + self.packet(seq, payload)
        )

    def multicast(self, *packets: bytes) -> None:
        for packet in packets:
            self._network.multicast(self.group, packet)
        self._network.settle()
