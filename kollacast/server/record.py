"""What is kept of one client over all of its connections, from its hello to the report."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from kollacast.operator.findings import HostFacts
from kollacast.wire.messages import Report

#: Why a client fetches that was not there at the start.
CAME_LATE = "it came after the start"


@dataclass(slots=True)
class ClientRecord:
    """One client.  Its fields, in this order, are those of a client in the server's report.

    ``fetching`` says why it is that, and not in step with the others; None where it is in step.
    What the client alone can count is None until it has reported, and where it does not say.
    """

    name: str
    address: str
    verified: bool = False
    reason: str | None = None
    fetching: str | None = None
    connections: int = 1
    packets_sent: int = 0  #: multicast to it, of the buffers that it has answered for
    packets_lost: int = 0  #: of these, that had not reached it when they were sent
    packets_multicast: int | None = None
    packets_repaired: int = 0
    packets_fetched: int = 0
    packets_done: int = 0  #: up to which packet of the image it has all, as far as is known
    #: Datagrams for which its kernel had no room; what that has put together counts as one.
    packets_dropped: int | None = None
    packets_damaged: int | None = None  #: datagrams that were not this session's, or damaged
    packets_forged: int | None = None  #: that claim to be the server's, by a wrong signature
    pieces_wrong: int | None = None  #: of the image, that were not the server's, and were repaired
    receive_buffer_bytes: int | None = None  #: that its kernel holds of what is not read yet
    receive_buffer_wanted_bytes: int | None = None
    seconds_answering: float = 0.0  #: in step, from the end of a buffer to all of it kept, summed
    seconds_writing: float | None = None  #: for which its disk was busy
    seconds: float | None = None

    def copy(self) -> ClientRecord:
        """The same at this moment; made for each of a thousand hosts, again and again."""
        return ClientRecord(*_values(self))

    @property
    def loss(self) -> float | None:
        """The share of packets multicast to it that did not reach it; None where none were."""
        return self.packets_lost / self.packets_sent if self.packets_sent else None

    def fields(self) -> dict[str, Any]:
        """By name, in their order."""
        return dict(zip(_NAMES, _values(self), strict=True))

    def facts(self) -> HostFacts:
        """What is to be judged by."""
        return HostFacts(
            name=self.name,
            address=self.address,
            fetching=self.fetching,
            is_late=self.fetching == CAME_LATE,
            sent=self.packets_sent,
            lost=self.packets_lost,
            received=self.packets_multicast,
            dropped=self.packets_dropped or 0,
            damaged=self.packets_damaged or 0,
            forged=(self.packets_forged or 0) + (self.pieces_wrong or 0),
            buffer_bytes=self.receive_buffer_bytes,
            buffer_wanted_bytes=self.receive_buffer_wanted_bytes,
            answering_s=self.seconds_answering,
            writing_s=self.seconds_writing or 0.0,
        )

    def take(self, report: Report) -> None:
        """What the client has counted itself."""
        self.packets_multicast = report.count("packets_multicast")
        # The client alone knows how many losses coded repairs have mended.
        self.packets_repaired = report.count("packets_repaired") or self.packets_repaired
        self.packets_dropped = report.count("packets_dropped")
        self.packets_damaged = report.count("packets_damaged")
        self.packets_forged = report.count("packets_forged")
        self.pieces_wrong = report.count("pieces_wrong")
        self.receive_buffer_bytes = report.count("receive_buffer_bytes")
        self.receive_buffer_wanted_bytes = report.count("receive_buffer_wanted_bytes")
        self.seconds_writing = report.measure("seconds_writing")


_NAMES = tuple(ClientRecord.__dataclass_fields__)
_values = attrgetter(*_NAMES)
