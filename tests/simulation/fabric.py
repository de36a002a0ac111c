"""Hosts, each with a reactor of its own, and what connects them."""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConnector,
    IHostResolution,
    IListeningPort,
)
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from kollacast.events.reactor import IReactor
from kollacast.transport.receiver import MulticastReceiver
from kollacast.transport.sender import MulticastProtocol
from tests.simulation.links import Links, Node, Weather, flip_bit
from tests.simulation.multicast import MemoryReceivePort, MemorySendPort
from tests.simulation.scheduler import Task
from tests.simulation.system_error import system_error
from tests.simulation.tcp import MemoryTransport


@implementer(IReactor)
class Host(Node):
    """One host's reactor: the network's clock, and connections with an address of its own."""

    network: Fabric

    def __init__(self, network: Fabric, address: str) -> None:
        super().__init__(network, address)
        self.listeners: dict[int, MemoryListener] = {}
        self.nameResolver = self
        #: Names that resolve to nothing.
        self.unknown_names: set[str] = set()
        #: What opening a multicast port here fails with.
        self.port_error: Exception | None = None
        self._numbers = itertools.count(40000)

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
            raise error.CannotListenError(interface, port, system_error(errno.EADDRINUSE))
        listener = self.listeners[port] = MemoryListener(self, port, factory)
        factory.doStart()
        return listener

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> MemoryConnector:
        return MemoryConnector(self, IPv4Address("TCP", host, port), factory, timeout)

    def callFromThread(self, callable: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

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

    def connections(self) -> list[MemoryTransport]:
        """The ends here of those that are open, the latest one last."""
        return [t for t in self.network.transports if t.host is self and t.connected]

    def _stop(self) -> None:
        super()._stop()
        self.listeners.clear()
        # Each port has this very list, too.
        self.network.ports[:] = [port for port in self.network.ports if port.host is not self]


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        pass


@implementer(IListeningPort)
class MemoryListener:
    """A port that accepts; connections wait in ``_waiting`` until it is its turn."""

    def __init__(self, host: Host, number: int, factory: Any) -> None:
        self.host = host
        self._number = number
        self._factory = factory
        self._waiting: deque[MemoryTransport] = deque()
        self.numberAccepts = 1
        self._rests = False
        self._accept = Task(host.network, self._accept_one)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.host.address, self._number)

    def startListening(self) -> None:
        raise NotImplementedError

    def pauseProducing(self) -> None:
        self._rests = True

    def resumeProducing(self) -> None:
        self._rests = False
        self._accept.wake()

    def knock(self, transport: MemoryTransport) -> None:
        self._waiting.append(transport)
        self._accept.wake()

    def _accept_one(self) -> None:
        if not self._waiting or (self._rests and not self.host.is_gone):
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
        self._connects = Task(host.network, self._connect)
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
        network.transports += here, other
        listener.knock(other)
        protocol = self._factory.buildProtocol(self._address)
        if protocol is None:
            here.reset()
        else:
            here.begin(protocol)


class Fabric(Links):
    """All hosts of a network, and what is under way between them."""

    def __init__(self, seed: int | None = None, weather: Weather | None = None) -> None:
        super().__init__(seed, weather)
        self.hosts: dict[str, Host] = {}
        self.ports: list[MemoryReceivePort] = []
        self.transports: list[MemoryTransport] = []
        #: Attempts to connect that do not get through to where they go.
        self.stalled: list[Task] = []
        #: Which datagrams reach a port, and as what; None leaves it to the weather.
        self.fate: Callable[[MemoryReceivePort, bytes], Sequence[bytes]] | None = None
        #: What comes to a port, of a datagram and what has become of it; None where nobody meddles.
        self.stranger: Callable[[bytes, Sequence[bytes]], Sequence[bytes]] | None = None

    def host(self, address: str) -> Host:
        if address not in self.hosts:
            self.hosts[address] = Host(self, address)
        return self.hosts[address]

    def multicast(self, address: tuple[str, int], data: bytes) -> None:
        """A datagram leaves for a group."""
        self.datagrams.append(data)
        self.note("udp", data)
        for port in self.ports:
            if port.group == address and port.host.hears_multicast and not port.host.is_cut_off:
                copies = self._fates(port, data)
                if self.stranger is not None:
                    copies = self.stranger(data, copies)
                for copy in copies:
                    port.fly(copy)

    def _fates(self, port: MemoryReceivePort, data: bytes) -> Sequence[bytes]:
        if self.fate is not None:
            return self.fate(port, data)
        weather = self.weather
        if self.happens(weather.loss):
            return ()
        if self.happens(weather.damage):
            damaged = bytearray(data)
            flip_bit(damaged, self.random.randrange(8 * len(data)))
            data = bytes(damaged)
        return (data, data) if self.happens(weather.duplicate) else (data,)

    def leftovers(self) -> list[object]:
        """What the runs have left behind: calls to come, ports, connections."""
        here = [host for host in self.hosts.values() if not host.is_gone]
        left: list[object] = list(self.clock.getDelayedCalls())
        left += [listener for host in here for listener in host.listeners.values()]
        left += [port for port in self.ports if port.host in here]
        left += [end for end in self.transports if end.connected and end.host in here]
        return left


def open_sender(
    reactor: IReactor, protocol: MulticastProtocol, local_ip: str, ttl: int
) -> MemorySendPort:
    """Stands for ``kollacast.transport.sender.open_sender``."""
    host = reactor
    assert isinstance(host, Host)
    if host.port_error is not None:
        raise host.port_error
    return MemorySendPort(host, protocol, host.network.multicast)


def open_receiver(
    reactor: IReactor,
    protocol: MulticastReceiver,
    group: tuple[str, int],
    local_ip: str,
    window: int,
    source: str | None,
) -> MemoryReceivePort:
    """Stands for ``kollacast.transport.receiver.open_receiver``."""
    host = reactor
    assert isinstance(host, Host)
    if host.port_error is not None:
        raise host.port_error
    struct.pack("i", window)  # as setsockopt does
    return MemoryReceivePort(host, protocol, group, source, host.network.ports)
