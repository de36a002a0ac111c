"""What the connections of one run have brought, added up: of none that is over more is kept."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from kollacast.receiving.route import Route


@dataclass(frozen=True)
class Arrived:
    """Packets, by how they came or what became of them."""

    multicast: int = 0
    repaired: int = 0
    fetched: int = 0
    decoded: int = 0
    repeated: int = 0
    damaged: int = 0

    def __add__(self, other: Arrived) -> Arrived:
        return Arrived(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Arrivals:
    """Counts over all routes of a run, which follow one another.

    A route has buffers, and a client on a bad network may have many routes: one that is over is
    let go of.
    """

    def __init__(self) -> None:
        self._before = Arrived()
        self._route: Route | None = None
        self._was_unreached = False
        #: Whether the image has not begun to come on any route.
        self.is_first = True

    def begin(self, route: Route) -> None:
        """``route`` is the one on which the image comes from now on."""
        self.end()
        self.is_first = False
        self._route = route

    def end(self) -> None:
        """Nothing more comes on the route that has begun; no-op without one."""
        self._was_unreached = self.is_unreached
        self._before = self.total
        self._route = None

    @property
    def is_unreached(self) -> bool:
        """Whether multicast has passed this host by from the beginning, on any of them."""
        return self._was_unreached or (self._route is not None and self._route.is_unreached)

    @property
    def total(self) -> Arrived:
        """What has come so far."""
        return self._before if self._route is None else self._before + _of(self._route)


def _of(route: Route) -> Arrived:
    receptions = route.receptions
    counts = [reception.intake.counts for reception in receptions]
    return Arrived(
        multicast=sum(count.placed for count in counts),
        repaired=sum(reception.packets_repaired for reception in receptions),
        fetched=sum(fetching.packets for fetching in route.fetchings),
        decoded=sum(count.decoded for count in counts),
        repeated=sum(count.repeated for count in counts),
        damaged=sum(count.damaged for count in counts),
    )
