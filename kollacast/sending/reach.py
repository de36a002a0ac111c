"""Whom multicast reaches, by what clients lack of the buffers that were sent.

Random loss takes no whole buffer.  A client that lacks all of several in a row is out of the
multicast's reach: it is said once, and where nobody is within reach any more, buffers are not
multicast in vain.  One in a few still is, to find out when that changes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Protocol

from twisted.logger import Logger

from kollacast.wire.messages import BufferCtl

_log = Logger()

#: A buffer of fewer packets may be lost by chance.
_MANY_PACKETS = 64
#: Buffers in a row beyond those that may be under way at once: a link that was down for a moment
#: costs all of these.
_UNHEARD = 2
#: Of so many buffers that nobody would receive, one is multicast.
_PROBE = 8


class Listener(Hashable, Protocol):
    """A client that should hear the multicast."""

    @property
    def name(self) -> str: ...  # what people call it
    @property
    def can_leave(self) -> bool: ...  # the barrier and fetch, and then says so
    def lacked(self, packets: int, of: int) -> None: ...  # so many did not reach it at first


class Reach:
    """What is known of each client; up to ``window`` buffers may be under way at once."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._unheard: dict[Listener, int] = {}
        self._reached: set[Listener] = set()
        self._lost: set[Listener] = set()
        self._is_none_said = False

    def answered(self, client: Listener, lost: int, ctl: BufferCtl) -> None:
        """Of a buffer that has been multicast, ``client`` lacks ``lost`` packets."""
        if lost < ctl.pkt_count:
            self._reached.add(client)
            self._unheard.pop(client, None)
            if client in self._lost:
                self._lost.discard(client)
                self._is_none_said = False
                _log.info(
                    "multicast reaches client {name} again",
                    event="client-reached-again",
                    name=client.name,
                    buffer=ctl.buffer_id,
                )
            return
        if ctl.pkt_count < _MANY_PACKETS:
            return
        count = self._unheard[client] = self._unheard.get(client, 0) + 1
        if count == self._window + _UNHEARD:
            self._lost.add(client)
            if not client.can_leave:
                _log.warn(
                    "{what} client {name}, since {count} buffers: it gets all by TCP, and the"
                    " others wait for it",
                    event="client-unreached",
                    what=self.what(client),
                    name=client.name,
                    count=count,
                    buffer=ctl.buffer_id,
                )

    def is_deaf(self, client: Listener) -> bool:
        """Whether ``client`` has heard nothing of several buffers in a row."""
        return self._unheard.get(client, 0) >= _UNHEARD

    def what(self, client: Listener) -> str:
        """What has happened to a client that hears nothing, without a word for the client."""
        has = client in self._reached
        return "multicast has stopped reaching" if has else "no multicast reaches"

    def left(self, client: Listener) -> None:
        """``client`` is not waited for any more."""
        self._unheard.pop(client, None)
        self._reached.discard(client)
        self._lost.discard(client)

    def is_in_vain(self, clients: Collection[Listener], buffer_id: int) -> bool:
        """Whether to leave a buffer out, which none of ``clients`` would receive."""
        if not clients or not self._lost.issuperset(clients):
            return False
        self.say_none(len(clients))
        return buffer_id % _PROBE != 0

    def say_none(self, count: int) -> None:
        """Multicast reaches none of so many clients that were in step: say it, once."""
        if self._is_none_said:
            return
        self._is_none_said = True
        _log.warn(
            "multicast reaches none of {count} clients any more; all goes by TCP. Check that a"
            " switch which snoops on IGMP has a querier, and that no firewall or router drops UDP"
            " to the group",
            event="multicast-unheard",
            count=count,
        )
