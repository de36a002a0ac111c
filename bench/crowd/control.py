"""The control stream as simulated hosts hear it: each packet is read once, for all of them.

A host's place is what a client's `kollacast.receiving.control.ControlReader` knows. A packet costs
something only at the hosts that it tells something new, and at those that lose it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from bench.crowd.losses import Losses
from bench.crowd.passage import Passage
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import Control, Notice
from kollacast.wire.packets import PacketCodec
from kollacast.wire.recipes import CONTROL_BASE, PIECES_BASE
from kollacast.wire.structures import PACKET_HEADER_SIZE, SIGNATURE_SIZE, WireError

#: Seconds without a control packet after which a real client asks.
SILENCE_S = 0.6
_FIRST_BYTE, _BEHIND = CONTROL_BASE >> 24, PIECES_BASE >> 24


@dataclass(slots=True, eq=False)
class _Ear:
    """One host's place in the stream."""

    host: int
    losses: Losses
    known: int  #: the number of the last notice heard
    asked_at: float | None = None  #: since when an answer by TCP is due
    looks_at: float = 0.0  #: when it looks again whether it hears anything
    is_gone: bool = False
    #: Packets that wait, and when they came, while the host does nothing.
    waiting: list[tuple[Control, float]] | None = None


class Ears:
    """The hosts, by their numbers, that listen to one stream.

    `hear` is given what a host hears next, and when that came; `ask` that it asks for what follows
    a number.
    """

    def __init__(
        self,
        codec: PacketCodec,
        passage: Passage,
        hear: Callable[[int, tuple[Notice, ...], float], None],
        ask: Callable[[int, int], None],
        *,
        is_signed: bool = False,
    ) -> None:
        self.packets = 0  #: that have come
        self.bytes = 0  #: of their payload
        self._codec = codec
        self._passage = passage
        self._hear = hear
        self._tell_ask = ask
        # What signatures say is what a client's processor takes: nobody forges anything here.
        self._trailer = SIGNATURE_SIZE if is_signed else 0
        self._ears: dict[int, _Ear] = {}
        # The number of the last notice that has come by multicast, and who does not know it.
        self._last = 0
        self._behind: set[_Ear] = set()
        # When the last packet came; and who has not heard that one, and when it heard one.
        self._heard_at = 0.0
        self._deaf: dict[_Ear, float] = {}
        # By the number of the packet which each host loses next.
        self._losing: list[tuple[int, int, _Ear]] = []

    @staticmethod
    def is_control(datagram: bytes) -> bool:
        """Whether this is a control packet, by its seq."""
        return len(datagram) > PACKET_HEADER_SIZE and _FIRST_BYTE <= datagram[0] < _BEHIND

    def by_multicast(self, datagram: bytes, now: float) -> None:
        """A control packet has come. Raises WireError where it makes no sense."""
        payload = memoryview(datagram)[PACKET_HEADER_SIZE:]
        if not self._codec.open(datagram, 0, [payload], (len(payload),)).intact[0]:
            return
        control = Control.of_data(KOLLACAST, bytes(payload[: len(payload) - self._trailer]))
        self.packets += 1
        self.bytes += len(payload)
        self._passage.note(control, now)
        lost = self._losers()
        for ear in lost:
            self._deaf.setdefault(ear, self._heard_at)
        last = control.first + len(control.notices) - 1
        if last > self._last:
            self._last = last
            self._behind = set(self._ears.values())
        offered = self._behind.union(self._deaf).difference(lost)
        for ear in sorted(offered, key=_host):
            if ear.waiting is not None:
                ear.waiting.append((control, now))
            elif not ear.is_gone:
                self._offer(ear, control, now)
        self._heard_at = now

    def by_tcp(self, host: int, control: Control, losses: Losses, now: float) -> None:
        """A part that the server has sent to one host; with the first one it listens."""
        ear = self._ears.get(host)
        if ear is None:
            ear = self._ears[host] = _Ear(host, losses, control.first - 1)
            self._behind.add(ear)
            self._deaf[ear] = now
            heappush(self._losing, (self.packets + losses.until_lost(), host, ear))
        ear.known = max(ear.known, control.oldest - 1)
        if control.first > ear.known + 1:
            raise WireError("a gap in the control stream")
        asked_at, ear.asked_at = ear.asked_at, None
        self._take(ear, control, now)
        if asked_at is not None and self._deaf.get(ear, self._heard_at) < asked_at:
            # Multicast is still silent there.
            self._ask(ear, now)

    def look(self, now: float) -> None:
        """All that has come is heard: who has heard nothing for long asks."""
        some = self._deaf if now - self._heard_at < SILENCE_S else self._ears.values()
        for ear in list(some):
            due = max(self._deaf.get(ear, self._heard_at) + SILENCE_S, ear.looks_at)
            if now >= due and ear.waiting is None:
                ear.looks_at = due + SILENCE_S
                self._ask(ear, now)

    def leave(self, host: int) -> None:
        """This host hears nothing more."""
        ear = self._ears.pop(host, None)
        if ear is not None:
            ear.is_gone = True
            self._behind.discard(ear)
            self._deaf.pop(ear, None)

    def pause(self, host: int) -> None:
        """From now on this host does nothing, and packets wait in its socket."""
        if host in self._ears:
            ear = self._ears[host]
            ear.waiting = []
            self._behind.add(ear)
            self._deaf.setdefault(ear, self._heard_at)

    def resume(self, host: int) -> None:
        """It goes on, with what waits."""
        ear = self._ears.get(host)
        if ear is not None and ear.waiting is not None:
            waiting, ear.waiting = ear.waiting, None
            for control, came_at in waiting:
                if not ear.is_gone:
                    self._offer(ear, control, came_at)

    def _losers(self) -> set[_Ear]:
        """Who loses the packet that has just come."""
        found: set[_Ear] = set()
        while self._losing and self._losing[0][0] < self.packets:
            _, host, ear = heappop(self._losing)
            if not ear.is_gone:
                found.add(ear)
                heappush(self._losing, (self.packets + ear.losses.until_lost(), host, ear))
        return found

    def _offer(self, ear: _Ear, control: Control, came_at: float) -> None:
        self._deaf.pop(ear, None)
        if control.first > ear.known + 1:
            self._ask(ear, came_at)
        else:
            self._take(ear, control, came_at)

    def _take(self, ear: _Ear, control: Control, came_at: float) -> None:
        notices = control.notices[ear.known + 1 - control.first :]
        ear.known += len(notices)
        if ear.known >= self._last and ear.waiting is None:
            self._behind.discard(ear)
        if notices:
            self._hear(ear.host, notices, came_at)

    def _ask(self, ear: _Ear, now: float) -> None:
        if ear.asked_at is None and not ear.is_gone:
            ear.asked_at = now
            self._tell_ask(ear.host, ear.known)


def _host(ear: _Ear) -> int:
    return ear.host
