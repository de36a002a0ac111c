"""What a way to mend losses by multicast has to offer, at the server and at a client.

Coded packets have reserved seqs, from :data:`~kollacast.wire.structures.SEQ_LIMIT` up, and each
way its own.  Neither side does I/O.  What may take long is a generator: it yields whenever others
should get their turn.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from kollacast.wire.parity import NO_PARITY, ParityRun

_T = TypeVar("_T")
#: Yields when others should get their turn, and returns what has come of it.
Slices = Generator[None, None, _T]

#: Coded packets must be at most this part of what TCP would carry.
WORTH = 0.8


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for in one round, of one buffer."""

    first: int  #: the seq of the buffer's first packet
    payload: memoryview  #: of all packets of the buffer, each filled up with zeros
    capacity: int  #: bytes of each of them
    wanted: Sequence[Sequence[int]]  #: the seqs that each client asked for
    #: The share of coded packets that the clients lost before; None in a buffer's first round.
    loss: float | None = None

    @property
    def packets(self) -> int:
        """How many packets the buffer has."""
        return len(self.payload) // self.capacity

    def packet(self, seq: int) -> memoryview:
        """The payload of one of them."""
        at = (seq - self.first) * self.capacity
        return self.payload[at : at + self.capacity]

    @property
    def requested(self) -> int:
        """How many packets TCP would carry."""
        return sum(map(len, self.wanted))


class Made(NamedTuple):
    """What is multicast, in this order: runs of full packets, each from a first seq on."""

    runs: list[tuple[int, list[bytes]]]
    parity: ParityRun = NO_PARITY


class Offer(Protocol):
    """How one way would meet a demand."""

    @property
    def cost(self) -> float: ...  # packets that leave for it in the end, those by TCP included
    @property
    def coded(self) -> float: ...  # those of them that are multicast
    @property
    def loss(self) -> float: ...  # the share of coded packets that a client may lose
    @property
    def direct(
        self,
    ) -> Sequence[Sequence[int]]: ...  # of each client: what TCP has to bring at once
    def make(self) -> Slices[Made]: ...  # what is multicast; to be called once


class Encoder(Protocol):
    """The server's side, for a session."""

    def plan(self, demand: Demand) -> Slices[Offer | None]:
        """How this way would meet a demand; None where it would not."""


class Held(Protocol):
    """What a client has of the buffers that it receives."""

    def lacks(self, seq: int) -> bool:
        """Whether this packet is awaited and has not come."""

    def lacking(self, seqs: Sequence[int]) -> list[int]:
        """Those of some packets that are awaited; none where they are not all of one buffer."""

    def received(self, seq: int) -> memoryview | None:
        """The payload of a packet that has come, None without one."""


#: The seq of a packet that is mended, and a full payload: one that is shorter has its first bytes.
Mended = tuple[int, bytes]
