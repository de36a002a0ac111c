"""What the traffic of a network goes by: its weather, the links, and each host as traffic sees it.

Connections, ports and threads know no more than this of the host that they are on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from tests.simulation.scheduler import Scheduler


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


class Links(Scheduler):
    """What carries the traffic of all hosts; its weather is fair unless said otherwise."""

    def __init__(self, seed: int | None = None, weather: Weather | None = None) -> None:
        self.weather = weather or Weather()
        super().__init__(seed, self.weather.tick_s)
        #: Every datagram that a host has sent.
        self.datagrams: list[bytes] = []
        #: Every write to a TCP transport and every datagram, once a test has put a list here:
        #: "S>C", "C>S" or "udp", and the bytes.
        self.trace: list[tuple[str, bytes]] | None = None
        #: The most bytes of a stream that are delivered at once; None leaves it to the network.
        self.chunk_bytes: int | None = None
        #: Bytes that a connection's kernels hold in one direction.
        self.wire_bytes = 65536

    def note(self, way: str, data: bytes) -> None:
        """These bytes leave, on this way."""
        if self.trace is not None:
            self.trace.append((way, data))

    def chunk(self, size: int) -> int:
        """How many of ``size`` bytes come in one piece."""
        if self.chunk_bytes is not None:
            return min(size, self.chunk_bytes)
        if self.orderly or self.random.random() < 0.5:
            return size
        return self.random.randint(1, size)


def flip_bit(data: bytearray, bit: int) -> None:
    """Turn over one bit, counted from the first byte's lowest, and on from there at the end."""
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8


@implementer(IReactorTime)
class Node:
    """One host: its address, its share of the clock, and what may have befallen it."""

    def __init__(self, network: Links, address: str) -> None:
        self.network = network
        self.address = address
        #: Whether what ran here is no more: nothing happens here, or comes from here.
        self.is_gone = False
        #: Whether nothing gets from here to anywhere, nor back, for the time being.
        self.is_cut_off = False
        #: Whether multicast gets here.
        self.hears_multicast = True
        #: How often a port here has joined its group again.
        self.rejoined = 0
        #: How ports here read: "coalesced", "frames" or "plain".
        self.reads = "coalesced"
        #: Whether the kernel here cuts a send into segments.
        self.segments = True
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

    def reaches(self, other: Node) -> bool:
        """Whether what is sent from here arrives there."""
        return not (self.is_cut_off or other.is_cut_off or self.is_gone or other.is_gone)

    def _stop(self) -> None:
        """Nothing that runs here gets to do anything more."""
        self.is_gone = True
        for call in self._calls:
            if call.active():
                call.cancel()
