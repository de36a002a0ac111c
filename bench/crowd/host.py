"""One simulated host, as a real client is to the server: what it answers to each message.

It does no I/O: `SimulatedHost.hear` and `told` return the bytes that are to be sent. Nothing of the
image is kept. What is multicast is taken to have arrived when SENT says so, but for what this host
loses, and what has passed before it was told of the buffer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.crowd.combinations import Combination, Combinations
from bench.crowd.losses import Losses
from bench.crowd.passage import Passage
from kollacast.packets.losses import NOTHING_LOST, Lost, lost_of
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting, Hello, Refusal
from kollacast.wire.messages import (
    BufferCtl,
    Credit,
    Detach,
    Digest,
    Fetch,
    Message,
    Notice,
    Packet,
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


def _request(seqs: set[int]) -> bytes:
    return Request(tuple(sorted(seqs))).encode(KOLLACAST)


class HostError(Exception):
    """This host cannot go on; the message says why in one line."""


@dataclass(slots=True)
class Tally:
    """What one host has counted, in packets."""

    lost: int = 0  #: of those that were multicast
    untold: int = 0  #: of the lost: had passed before this host was told of their buffer
    asked_after_sent: int = 0
    asked_after_repaired: int = 0
    decoded: int = 0
    retransmitted: int = 0
    fetched: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    ctl: BufferCtl
    told_at: float
    sent: bool = False
    missing: set[int] = field(default_factory=set)
    lost: Lost = NOTHING_LOST  #: what was missing when it was sent
    judged: set[Combination] = field(default_factory=set)  #: that have been drawn for already
    recipes: dict[int, bool] = field(default_factory=dict)  #: whether each has reached this host
    solved: Repaired | None = None  #: parity that it has made use of as it heard of the end
    #: What was asked for after parity: with these all others of the missing are solved for.
    needed: set[int] | None = None


class SimulatedHost:
    """One host called `name`.

    `heard` gives the coded repairs that have come up to now, `passage` when buffers have passed.
    """

    def __init__(
        self,
        name: str,
        run_id: str,
        losses: Losses,
        heard: Callable[[], Combinations],
        passage: Callable[[], Passage],
    ) -> None:
        self.tally = Tally()
        self.is_detached = False
        self.has_reported = False
        self._name = name
        self._run_id = run_id
        self._losses = losses
        self._heard = heard
        self._passage = passage
        self._window = 0
        self._said = (0, 0)  # up to which buffers it has all, and has room
        # Packets that it lost of buffers which it has, and has not said so; and in how many runs.
        self._lost = NOTHING_LOST
        self._done: int | None = None  # the last buffer that it has; None before the first is told
        self._began_at = 0.0  # when it heard of the first buffer
        self._flights: deque[_Flight] = deque()
        self._piece = 0
        self._next_seq = 0  # the first packet that is neither announced nor fetched
        self._asked = 0
        self._end: BufferCtl | None = None
        self._digest = b""
        self._packets = 0

    def hear(self, message: Message) -> bytes:
        """What this host answers. HostError where that is nothing but to give up."""
        match message:
            case BufferCtl() if self.is_detached:
                self._end = message
                return self._finish()
            case Packet(seq):
                return self._packet(seq)
            case Digest(value):
                self._digest = value
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

    def told(self, notices: Sequence[Notice], at: float) -> bytes:
        """The same for what comes next of the control stream, which came at this time."""
        said = b""
        # Who hears both at once asks once, and behind what has mended something.
        repaired = {notice.buffer_id: notice for notice in notices if isinstance(notice, Repaired)}
        for notice in notices:
            match notice:
                case BufferCtl():
                    self._announced(notice, at)
                case Sent():
                    said += self._sent(notice, repaired.get(notice.buffer_id))
                case Repaired():
                    said += self._repaired(notice)
        return said + self._finish()

    def _greeted(self, greeting: Greeting) -> bytes:
        if greeting.pull:
            raise HostError("the server has begun")
        capacity = payload_capacity(greeting.mtu)
        self._piece = max(_PIECE_BYTES // capacity, 1)
        can_fetch = greeting.fetch and bool(greeting.image)
        room = max(_ROOM // capacity, 1)
        self._window = min(greeting.window, room // min(greeting.buffer_packets, room))
        return Hello(
            self._name,
            room,
            coding=greeting.coding,
            fetch=can_fetch,
            room=self._window,
            run=self._run_id if can_fetch else "",
        ).encode()

    def _announced(self, ctl: BufferCtl, at: float) -> None:
        if self._done is None:
            self._done = ctl.buffer_id - 1
            self._said = self._done, self._done + self._window
            self._began_at = at
        # Before this host grants room for a buffer, nothing of it is sent; and what is sent before
        # it hears of the first one waits in a real client's socket until then.
        is_ahead = self._began_at < at and ctl.buffer_id <= self._said[1]
        self._flights.append(_Flight(ctl, at if is_ahead else 0.0))
        self._next_seq = ctl.packet_id_base + ctl.pkt_count

    def _sent(self, sent: Sent, repaired: Repaired | None) -> bytes:
        flight = next((flight for flight in self._flights if not flight.sent), None)
        if flight is None or sent.buffer_id < flight.ctl.buffer_id:
            return b""
        flight.sent = True
        first, count = flight.ctl.packet_id_base, flight.ctl.pkt_count
        # What has not left at all reaches nobody.
        untold = self._passage().missed(flight.ctl, flight.told_at) if sent.packets else count
        if repaired is not None and repaired.count and not untold:
            return self._solve_unasked(flight, repaired)
        flight.missing = self._losses.of(first + untold, count - untold)
        flight.missing.update(range(first, first + untold))
        self.tally.untold += untold
        self._lose(flight, lost_of(sorted(flight.missing)))
        if repaired is not None:
            return b""
        asked = self._ask(flight)
        self.tally.asked_after_sent += len(flight.missing)
        return asked

    def _solve_unasked(self, flight: _Flight, told: Repaired) -> bytes:
        """Which packets it has lost is not drawn where parity ahead mends them all."""
        first, count = flight.ctl.packet_id_base, flight.ctl.pkt_count
        losses = self._losses
        flight.solved = told
        lost = losses.how_many(first, count)
        lacking = self._unsolved(lost, told)
        if not lacking:
            self._lose(flight, Lost(lost, losses.in_runs(first, count, lost)))
            self.tally.decoded += lost
            return b""
        flight.missing = losses.which(first, count, lost)
        flight.needed = losses.some_of(flight.missing, lacking)
        self._lose(flight, lost_of(sorted(flight.missing)))
        self.tally.asked_after_repaired += lacking
        return _request(flight.needed)

    def _lose(self, flight: _Flight, lost: Lost) -> None:
        flight.lost = lost
        self.tally.lost += lost.packets
        self._packets += flight.ctl.pkt_count - lost.packets

    def _repaired(self, told: Repaired) -> bytes:
        for flight in self._flights:
            if flight.ctl.buffer_id != told.buffer_id or not flight.sent:
                continue
            if told == flight.solved:
                return b""
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
        # What is left of earlier rounds is not determined by their rows.
        unknown = flight.missing if flight.needed is None else flight.needed & flight.missing
        lacking = self._unsolved(len(unknown), told)
        flight.needed = self._losses.some_of(unknown, lacking)
        self._complete(flight)
        return _request(flight.needed) if flight.missing else b""

    def _unsolved(self, unknown: int, told: Repaired) -> int:
        """How many of so many packets have to come before this run tells all the others."""
        if not unknown:
            return 0
        rows = self._losses.left_of(self._heard().parity(told.parity))
        return self._losses.unsolved(unknown, rows, told.count, told.layers)

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
        return _request(flight.missing)

    def _decode(self, flight: _Flight) -> None:
        heard = self._heard()
        if heard.has_none:
            return
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
        self._flights.clear()
        # Who has all already, and has not been heard yet, is told of the end once more.
        self._end = None
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
        """Credit where something is complete, in order, and the report when all is."""
        flights = self._flights
        while flights and flights[0].sent and not flights[0].missing:
            flight = flights.popleft()
            ctl = flight.ctl
            self._done = ctl.buffer_id
            self._lost = self._lost.plus(flight.lost)
            if ctl.is_end:
                self._end = ctl
        said = b"" if self.is_detached else self._credit()
        if self._end is None or not self._digest or flights or self.has_reported:
            return said
        self.has_reported = True
        return said + self._report().encode(KOLLACAST)

    def _credit(self) -> bytes:
        """What this host has, and has room for, where that has become more."""
        if self._done is None:
            return b""
        says = self._done, self._done + self._window
        if says == self._said:
            return b""
        self._said = says
        lost, self._lost = self._lost, NOTHING_LOST
        return Credit(*says, *lost).encode(KOLLACAST)

    def _report(self) -> Report:
        tally = self.tally
        return Report(
            {
                "ok": True,
                # Of a server that was told to prove the image by nothing else.
                "tree": self._digest.hex(),
                "reason": None,
                "name": self._name,
                "packets_multicast": self._packets,
                "packets_repaired": tally.decoded + tally.retransmitted,
                "packets_fetched": tally.fetched,
                "packets_decoded": tally.decoded,
            }
        )
