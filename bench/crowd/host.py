"""One simulated host, as a real client is to the server: what it answers to each message.

It does no I/O: `SimulatedHost.hear` returns the bytes that are to be sent. Nothing of the image is
kept. What is multicast is taken to have arrived when SENT says so, but for what this host loses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.crowd.combinations import Combination, Combinations
from bench.crowd.losses import Losses
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting, Hello, Refusal
from kollacast.wire.messages import (
    BufferCtl,
    Detach,
    Digest,
    Done,
    Fetch,
    Message,
    Packet,
    Ready,
    Repaired,
    Report,
    Request,
    Sent,
)
from kollacast.wire.structures import payload_capacity

#: What a real client offers to hold, in bytes, and how it fetches: so much a piece, so many ahead.
_ROOM = 64 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_PIECES = 4

_READY, _DONE = Ready().encode(KOLLACAST), Done().encode(KOLLACAST)


class HostError(Exception):
    """This host cannot go on; the message says why in one line."""


@dataclass(slots=True)
class Tally:
    """What one host has counted, in packets."""

    lost: int = 0  #: of those that were multicast
    asked_after_sent: int = 0
    asked_after_repaired: int = 0
    decoded: int = 0
    retransmitted: int = 0
    fetched: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    ctl: BufferCtl
    sent: bool = False
    missing: set[int] = field(default_factory=set)
    judged: set[Combination] = field(default_factory=set)  #: that have been drawn for already
    recipes: dict[int, bool] = field(default_factory=dict)  #: whether each has reached this host
    #: What was asked for after parity: with these all others of the missing are solved for.
    needed: set[int] | None = None


class SimulatedHost:
    """One host called `name`.

    `heard` gives the coded repairs that have come up to now; `holds` is told of each buffer that
    this host needs from now on, and of each that it needs no more.
    """

    def __init__(
        self,
        name: str,
        run_id: str,
        losses: Losses,
        heard: Callable[[], Combinations],
        holds: Callable[[BufferCtl, bool], None],
    ) -> None:
        self.tally = Tally()
        self.is_detached = False
        self.has_reported = False
        self._name = name
        self._run_id = run_id
        self._losses = losses
        self._heard = heard
        self._holds = holds
        self._flights: deque[_Flight] = deque()
        self._piece = 0
        self._next_seq = 0  # the first packet that is neither announced nor fetched
        self._asked = 0
        self._end: BufferCtl | None = None
        self._is_digest_here = False
        self._packets = 0

    def hear(self, message: Message) -> bytes:
        """What this host answers. HostError where that is nothing but to give up."""
        match message:
            case BufferCtl():
                return self._announced(message)
            case Sent():
                return self._sent() + self._finish()
            case Repaired():
                return self._repaired(message) + self._finish()
            case Packet(seq):
                return self._packet(seq)
            case Digest():
                self._is_digest_here = True
                return self._finish()
            case Greeting():
                return self._greeted(message)
            case Detach():
                return self._detached()
            case Refusal(reason):
                raise HostError(f"refused: {reason}")
            case Report():
                raise HostError(f"the server gave up: {message.reason}")
            case _:
                raise HostError(f"the server says {type(message).__name__}")

    def _greeted(self, greeting: Greeting) -> bytes:
        if greeting.pull or greeting.auth is not None:
            raise HostError("the server has begun, or asks for a secret")
        capacity = payload_capacity(greeting.mtu)
        self._piece = max(_PIECE_BYTES // capacity, 1)
        can_fetch = greeting.fetch and bool(greeting.image)
        return Hello(
            self._name,
            _ROOM // capacity,
            coding=greeting.coding,
            fetch=can_fetch,
            run=self._run_id if can_fetch else "",
        ).encode()

    def _announced(self, ctl: BufferCtl) -> bytes:
        if self.is_detached:
            self._end = ctl
            return self._finish()
        self._flights.append(_Flight(ctl))
        self._holds(ctl, True)
        self._next_seq = ctl.packet_id_base + ctl.pkt_count
        return _READY

    def _sent(self) -> bytes:
        flight = next((flight for flight in self._flights if not flight.sent), None)
        if self.is_detached or flight is None:
            return b""
        flight.sent = True
        flight.missing = self._losses.of(flight.ctl.packet_id_base, flight.ctl.pkt_count)
        self.tally.lost += len(flight.missing)
        self._packets += flight.ctl.pkt_count - len(flight.missing)
        asked = self._ask(flight)
        self.tally.asked_after_sent += len(flight.missing)
        return asked

    def _repaired(self, told: Repaired) -> bytes:
        for flight in self._flights:
            if flight.ctl.buffer_id == told.buffer_id and flight.sent:
                asked = self._solve(flight, told) if told.count else self._ask(flight)
                self.tally.asked_after_repaired += len(
                    flight.missing if flight.needed is None else flight.needed
                )
                return asked
        return b""

    def _solve(self, flight: _Flight, told: Repaired) -> bytes:
        """Solve with the parity that has come, and ask for the fewest packets that complete it."""
        if not flight.missing:
            return b""
        lost = self._losses
        come = self._heard().parity(told.parity)
        rows = sum(not lost.has_lost(number) for number in come)
        # What is left of earlier rounds is not determined by their rows.
        unknown = flight.missing if flight.needed is None else flight.needed & flight.missing
        lacking = lost.unsolved(len(unknown), rows, flight.ctl.pkt_count, told.degree)
        flight.needed = lost.some_of(unknown, lacking)
        self._complete(flight)
        if not flight.missing:
            return b""
        return Request(tuple(sorted(flight.needed))).encode(KOLLACAST)

    def _complete(self, flight: _Flight) -> None:
        """Once all is here that was asked for after parity, all the rest is solved for."""
        if flight.needed is not None and not flight.needed & flight.missing:
            self.tally.decoded += len(flight.missing)
            flight.missing.clear()

    def _ask(self, flight: _Flight) -> bytes:
        """Decode what can be decoded, and ask for the rest."""
        if not flight.missing:
            return b""
        self._decode(flight)
        if not flight.missing:
            return b""
        return Request(tuple(sorted(flight.missing))).encode(KOLLACAST)

    def _decode(self, flight: _Flight) -> None:
        heard = self._heard()
        # What the host lacked when the recipes came, which were there before all combinations.
        lacked = frozenset(flight.missing)
        for seq in sorted(lacked):
            for number, combination in heard.with_term(seq):
                if combination in flight.judged:
                    continue
                flight.judged.add(combination)
                if len(lacked.intersection(combination.terms)) != 1:
                    continue
                # Each of the recipe's datagrams may have come, and then the combination's.
                told = any(self._has_recipe(flight, recipe) for recipe in combination.recipes)
                if told and not self._losses.has_lost(number) and seq in flight.missing:
                    flight.missing.discard(seq)
                    self.tally.decoded += 1

    def _has_recipe(self, flight: _Flight, number: int) -> bool:
        """Whether one recipe has reached this host: one draw for all that it describes."""
        if number not in flight.recipes:
            flight.recipes[number] = not self._losses.has_lost(number)
        return flight.recipes[number]

    def _packet(self, seq: int) -> bytes:
        if self.is_detached:
            if seq != self._next_seq:
                return b""  # what was asked for before
            self._next_seq += 1
            self.tally.fetched += 1
            return self._fetch()
        for flight in self._flights:
            if seq in flight.missing:
                flight.missing.discard(seq)
                self.tally.retransmitted += 1
                self._complete(flight)
                return b"" if flight.missing else self._finish()
        return b""

    def _detached(self) -> bytes:
        self.is_detached = True
        lacking = self._next_seq
        for flight in self._flights:
            if not flight.sent or flight.missing:
                # Of a buffer that is not sent the first packet counts as lacking.
                lacking = min(flight.missing, default=flight.ctl.packet_id_base)
                break
        for flight in self._flights:
            self._holds(flight.ctl, False)
        self._flights.clear()
        self._next_seq = self._asked = lacking
        return self._fetch()

    def _fetch(self) -> bytes:
        asked = b""
        while self._end is None and self._asked + self._piece - self._next_seq <= (
            _PIECES * self._piece
        ):
            asked += Fetch(self._asked, self._piece).encode(KOLLACAST)
            self._asked += self._piece
        return asked

    def _finish(self) -> bytes:
        """DONE for what is complete, in order, and the report when all is."""
        said = b""
        flights = self._flights
        while flights and flights[0].sent and not flights[0].missing:
            ctl = flights.popleft().ctl
            self._holds(ctl, False)
            if ctl.is_end:
                self._end = ctl
            said += _DONE
        if self._end is None or not self._is_digest_here or flights or self.has_reported:
            return said
        self.has_reported = True
        return said + self._report().encode(KOLLACAST)

    def _report(self) -> Report:
        tally = self.tally
        return Report(
            {
                "ok": True,
                "reason": None,
                "name": self._name,
                "packets_multicast": self._packets,
                "packets_repaired": tally.decoded + tally.retransmitted,
                "packets_fetched": tally.fetched,
                "packets_decoded": tally.decoded,
            }
        )
