"""What the connections of one run have brought, added up: of none that is over more is kept."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from kollacast.receiving.route import Route


@dataclass(frozen=True)
class Tally:
    """Packets, by how they came or what became of them."""

    multicast: int = 0
    repaired: int = 0
    fetched: int = 0
    decoded: int = 0
    repeated: int = 0
    damaged: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Arrivals:
    """Counts over all routes of a run, which follow one another.

    A route has buffers, and a client on a bad network may have many routes: one that is over is
    let go of.
    """

    def __init__(self) -> None:
        #: Whether there has been a route.
        self.have_begun = False
        self._before = Tally()
        self._route: Route | None = None
        self._was_unreached = False

    def begin(self, route: Route) -> None:
        """``route`` is the one on which the image comes from now on."""
        self.end()
        self.have_begun = True
        self._route = route

    def end(self) -> None:
        """Nothing more comes on the route that has begun; no-op without one."""
        self._was_unreached = self.is_unreached
        self._before = self.tally
        self._route = None

    @property
    def is_unreached(self) -> bool:
        """Whether multicast has passed this host by from the beginning, on any of them."""
        return self._was_unreached or (self._route is not None and self._route.is_unreached)

    @property
    def tally(self) -> Tally:
        """What has come so far."""
        return self._before if self._route is None else self._before + _tally(self._route)


def _tally(route: Route) -> Tally:
    receptions = route.receptions
    counts = [reception.intake.counts for reception in receptions]
    return Tally(
        multicast=sum(count.placed for count in counts),
        repaired=sum(reception.packets_repaired for reception in receptions),
        fetched=sum(fetching.packets for fetching in route.fetchings),
        decoded=sum(count.decoded for count in counts),
        repeated=sum(count.repeated for count in counts),
        damaged=sum(count.damaged for count in counts),
    )
