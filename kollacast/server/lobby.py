"""Connections that have not said yet who they are: how many there are, and who has to go.

Each of them costs a descriptor, and those run out first. Who has to go is the oldest of the
address that has the most, so a host that keeps thousands open loses its own.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class _Guest(Protocol):
    @property
    def address(self) -> str:
        """The host that the connection comes from."""


_G = TypeVar("_G", bound=_Guest)


class Lobby(Generic[_G]):
    """At most ``limit`` connections, 1 or more, by the addresses that they come from."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._count = 0
        # Sets in the order of arrival.
        self._by_address: dict[str, dict[_G, None]] = {}

    def enter(self, guest: _G) -> _G | None:
        """A connection has come; returns the one that has to go for it, if one has."""
        self._by_address.setdefault(guest.address, {})[guest] = None
        self._count += 1
        if self._count <= self.limit:
            return None
        most = max(self._by_address.values(), key=len)
        oldest = next(iter(most))
        self.leave(oldest)
        return oldest

    def leave(self, guest: _G) -> None:
        """A connection has said who it is, or is gone; for one that is not here a no-op."""
        guests = self._by_address.get(guest.address, {})
        if guest in guests:
            del guests[guest]
            self._count -= 1
            if not guests:
                del self._by_address[guest.address]
