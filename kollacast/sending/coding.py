"""Coded packets on their way out: made in slices, between which the reactor has its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kollacast.packets.buffer import PacketBuffer
from kollacast.repair.scheme import Made, Slices
from kollacast.transport.sender import MulticastProtocol

_T = TypeVar("_T")


class Over(Exception):
    """What was to be made is not needed any more."""


class Coding:
    """Makes and multicasts coded packets of ``capacity`` bytes."""

    def __init__(self, clock: IReactorTime, sender: MulticastProtocol, capacity: int) -> None:
        self.packets = 0  #: that were multicast, recipes among them
        self._clock = clock
        self._sender = sender
        self._capacity = capacity

    async def make(self, work: Slices[_T], is_needed: Callable[[], bool]) -> _T:
        """What comes of it.  Raises Over where it is not needed by then."""
        while True:
            try:
                next(work)
            except StopIteration as stop:
                found: _T = stop.value
                return found
            await deferLater(self._clock, 0)
            if not is_needed():
                work.close()
                raise Over

    async def send(self, made: Made, *, urgent: bool) -> None:
        """Returns once all have left; ``urgent`` ones go before any buffer that waits."""
        leaving: list[Deferred[float]] = []
        for seq, payloads in made.runs:
            self.packets += len(payloads)
            # Full packets, which count up from the first one.
            coded = PacketBuffer(self._capacity, len(payloads))
            coded.payload[:] = b"".join(payloads)
            coded.announce(0, seq, len(coded.payload))
            leaving.append(self._sender.multicast(coded, urgent=urgent))
        for left in leaving:
            await left
