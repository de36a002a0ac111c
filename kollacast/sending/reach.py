"""Whom multicast reaches, by what clients lack of the buffers that were sent.

Random loss takes no whole buffer.  A client that lacks all of several in a row is out of the
multicast's reach: it is said once, and where nobody is within reach any more, buffers are not
multicast in vain.  One in a few still is, to find out when that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable

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


class Reach:
    """What is known of each client; ``window()`` is how many buffers may be under way at once.

    ``can_leave(client)`` says of a client that it goes on by itself when it hears nothing, and
    then it says so; ``name(client)`` is for people.
    """

    def __init__(
        self,
        window: Callable[[], int],
        can_leave: Callable[[Hashable], bool],
        name: Callable[[Hashable], str],
    ) -> None:
        self._window = window
        self._can_leave = can_leave
        self._name = name
        self._unheard: dict[Hashable, int] = {}
        self._reached: set[Hashable] = set()
        self._lost: set[Hashable] = set()
        self._is_none_said = False

    def answered(self, client: Hashable, lost: int, ctl: BufferCtl) -> None:
        """Of a buffer that has been multicast, ``client`` lacks ``lost`` packets."""
        if lost < ctl.pkt_count:
            self._reached.add(client)
            self._unheard.pop(client, None)
            if client in self._lost:
                self._lost.discard(client)
                self._is_none_said = False
                _log.info("multicast reaches client {name} again", name=self._name(client))
            return
        if ctl.pkt_count < _MANY_PACKETS:
            return
        count = self._unheard[client] = self._unheard.get(client, 0) + 1
        if count == self._window() + _UNHEARD:
            self._lost.add(client)
            if not self._can_leave(client):
                _log.warn(
                    "{what} client {name}, since {count} buffers: it gets all by TCP, and the"
                    " others wait for it",
                    what=self.what(client),
                    name=self._name(client),
                    count=count,
                )

    def is_deaf(self, client: Hashable) -> bool:
        """Whether ``client`` has heard nothing of several buffers in a row."""
        return self._unheard.get(client, 0) >= _UNHEARD

    def what(self, client: Hashable) -> str:
        """What has happened to a client that hears nothing, without a word for the client."""
        has = client in self._reached
        return "multicast has stopped reaching" if has else "no multicast reaches"

    def left(self, client: Hashable) -> None:
        """``client`` is not waited for any more."""
        self._unheard.pop(client, None)
        self._reached.discard(client)
        self._lost.discard(client)

    def is_in_vain(self, clients: Collection[Hashable], buffer_id: int) -> bool:
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
            count=count,
        )
