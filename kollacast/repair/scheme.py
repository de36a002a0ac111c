"""What a way to mend losses by multicast has to offer, at the server and at a client.

Coded packets have reserved seqs, from :data:`~kollacast.wire.structures.SEQ_LIMIT` up, which
each way divides as it likes.  Neither side does I/O or keeps a payload longer than a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Mending(Protocol):
    """What is sent for one buffer; made slice by slice, for making it takes time."""

    def add(self, wanted: Sequence[Sequence[int]], most: float) -> bool:
        """Mend these seqs as well, those that each client lacks; they are of no other slice.

        False, and nothing is added, where that takes more than ``most`` packets.
        """

    def runs(self) -> list[tuple[int, list[bytes]]]:
        """What is multicast, in this order: runs of full packets, each from a first seq on."""


class Encoder(Protocol):
    """The server's side, for a session."""

    def begin(self, payload_of: Callable[[int], memoryview | None]) -> Mending:
        """Begin to mend a buffer, whose packets ``payload_of`` tells by their seqs."""


class Held(Protocol):
    """What a client has of the buffers that it receives."""

    def lacks(self, seq: int) -> bool:
        """Whether this packet is awaited and has not come."""

    def received(self, seq: int) -> memoryview | None:
        """The payload of a packet that has come, None without one."""


class Decoder(Protocol):
    """A client's side, for a connection."""

    def take(self, seq: int, payload: memoryview) -> tuple[int, bytes] | None:
        """A coded packet has come, intact: the seq that it mends, and a full payload, or None.

        A packet that is shorter has the first bytes of it.
        """

    def forget(self, seqs: range) -> None:
        """These packets are not awaited any more."""


class Scheme(NamedTuple):
    """One way: whether it works with payloads of so many bytes, and both its sides."""

    works_with: Callable[[int], bool]
    encoder: Callable[[int], Encoder]
    decoder: Callable[[int, Held], Decoder]
