"""Who is let in at the port, before anything is made for a connection: token buckets by address.

A connection costs as much as a hundred packets, and nobody has to say a word for one.  So each
address may have a number of connections that have not said hello yet, and of others; what comes
beyond that is closed at once.  All strangers together have such a bucket, too, which an address
from which a client has come does not need; and however many come, the port rests when it has
accepted enough for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kollacast.events.bucket import Bucket

#: Connections without a hello for each address, beside one for each client that is expected: at
#: once, and a second.
_STRANGERS = 64
_STRANGERS_A_SECOND = 10.0
#: Of all addresses that are not known, likewise; twice as many as clients beside.
_ALL_STRANGERS = 256
_ALL_STRANGERS_A_SECOND = 100.0
#: With a hello, for each address: so many for each client that is expected, for they come back.
_HELLOS = 4
_HELLOS_A_SECOND = 5.0
#: All connections that are accepted: a whole cluster at once, and a second.
_ACCEPTS = 4096
_ACCEPTS_A_SECOND = 2000.0
#: In one turn of the reactor; and seconds for which the port rests.
_A_TURN = 64
_REST_S = 0.05
#: Addresses that are told apart at the most.
_MOST_ADDRESSES = 4096


class AcceptingPort(Protocol):
    """A TCP port that can rest."""

    numberAccepts: int  #: in one turn of the reactor

    def pauseProducing(self) -> object: ...
    def resumeProducing(self) -> object: ...


class _Address:
    """What one address has left."""

    def __init__(self, clients: int) -> None:
        self.strangers = Bucket(clients + _STRANGERS, _STRANGERS_A_SECOND)
        self.hellos = Bucket(_HELLOS * clients + _STRANGERS, _HELLOS_A_SECOND)

    def is_full(self, now: float) -> bool:
        return self.strangers.is_full(now) and self.hellos.is_full(now)


class Door:
    """Lets in whom a session of so many ``clients`` can afford.

    ``is_known`` says of an address whether a client has come from there.
    """

    def __init__(self, clock: IReactorTime, clients: int, is_known: Callable[[str], bool]) -> None:
        self._clock = clock
        self._clients = clients
        self._is_known = is_known
        self._addresses: dict[str, _Address] = {}
        self._strangers = Bucket(2 * clients + _ALL_STRANGERS, _ALL_STRANGERS_A_SECOND)
        self._accepts = Bucket(_ACCEPTS + clients, _ACCEPTS_A_SECOND)
        self._port: AcceptingPort | None = None
        self._rest: IDelayedCall | None = None

    def watch(self, port: AcceptingPort) -> None:
        """Have ``port`` rest when it has accepted enough for a while."""
        self._port = port
        port.numberAccepts = _A_TURN

    def close(self) -> None:
        """Nobody comes any more."""
        self._port = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def lets_in(self, address: str) -> bool:
        """Whether a connection from there is worth a look; to be asked once for each."""
        now = self._clock.seconds()
        self._accepts.spend(now)
        self._consider_rest(now)
        own = self._of(address, now)
        if own is None or not (own.strangers.has(now) and own.hellos.has(now)):
            return False
        if not self._is_known(address) and not self._strangers.take(now):
            return False
        return own.strangers.take(now)

    def said_hello(self, address: str) -> None:
        """One that was let in from there has said who it is."""
        now = self._clock.seconds()
        own = self._of(address, now)
        if own is not None:
            own.strangers.give_back()
            own.hellos.spend(now)
        self._strangers.give_back()

    def _of(self, address: str, now: float) -> _Address | None:
        own = self._addresses.get(address)
        if own is None:
            if len(self._addresses) >= _MOST_ADDRESSES:
                here = self._addresses.items()
                self._addresses = {name: one for name, one in here if not one.is_full(now)}
                if len(self._addresses) >= _MOST_ADDRESSES and not self._is_known(address):
                    return None
            own = self._addresses[address] = _Address(self._clients)
        return own

    def _consider_rest(self, now: float) -> None:
        if self._port is None or self._rest is not None or self._accepts.has(now):
            return
        self._port.pauseProducing()
        self._rest = self._clock.callLater(_REST_S, self._go_on)

    def _go_on(self) -> None:
        self._rest = None
        if self._port is None:
            return
        if not self._accepts.has(self._clock.seconds()):
            self._rest = self._clock.callLater(_REST_S, self._go_on)
            return
        # It takes more in each turn where many come.
        self._port.numberAccepts = _A_TURN
        self._port.resumeProducing()
