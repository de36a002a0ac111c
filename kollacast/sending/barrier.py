"""Clients in groups of bounded size, chained parent to child.

The multicast side is the chain's root, the first group its child, the next
group the grandchild.  A phase of the conversation runs down the chain, each
group tells its members, and it comes back up once every member of every group
has answered: that is the barrier.  The three kinds of phases run side by
side, each with a chain of its own, and so the READYs of one buffer never wait
for the DONEs of another.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredQueue

from kollacast.events.guard import Guard
from kollacast.sending.zipper import Zipper
from kollacast.wire.messages import BufferCtl


class Phase(enum.Enum):
    """What clients are told, and what they answer when they are through."""

    ANNOUNCE = "READY"
    SENT = "DONE"
    PROVE = "REPORT"

    # What is looked up for each answer of each client: an Enum's own is made of the name.
    __hash__ = object.__hash__


class GroupMember(Protocol):
    """A client as its group sees it."""

    # Tells the client, of a buffer but for the proof; it answers through `ClientGroup.answered`.
    def begin(self, phase: Phase, value: BufferCtl | None) -> None: ...


_M = TypeVar("_M", bound=GroupMember)


class ClientGroup(Generic[_M]):
    """Up to ``size`` members and their link in the chain of each phase."""

    def __init__(self, size: int, guard: Guard) -> None:
        self.members: list[_M] = []
        self.zippers: dict[Phase, Zipper[BufferCtl | None]] = {phase: Zipper() for phase in Phase}
        self._size = size
        # Who has not answered yet, for each phase under way, oldest first.
        self._open: dict[Phase, deque[set[_M]]] = {phase: deque() for phase in Phase}
        self._closed: dict[Phase, DeferredQueue[None]] = {phase: DeferredQueue() for phase in Phase}
        for phase in Phase:
            guard.run(self._pass_down(phase))
            guard.run(self._pass_up(phase))

    @property
    def has_room(self) -> bool:
        return len(self.members) < self._size

    def waiting(self, phase: Phase) -> Sequence[Collection[_M]]:
        """Who has not answered yet, for each phase of this kind that is under way, oldest first."""
        return self._open[phase]

    def join(self, member: _M) -> None:
        """Take part in every phase that begins from now on."""
        self.members.append(member)

    def leave(self, member: _M) -> None:
        """Nothing waits for ``member`` any more."""
        self.members.remove(member)
        for phase, waiting in self._open.items():
            for absent in waiting:
                absent.discard(member)
            self._close(phase)

    def answered(self, member: _M, phase: Phase) -> None:
        """``member`` is through with the oldest phase of this kind it owes."""
        for absent in self._open[phase]:
            if member in absent:
                absent.discard(member)
                break
        self._close(phase)

    def _close(self, phase: Phase) -> None:
        waiting = self._open[phase]
        while waiting and not waiting[0]:
            waiting.popleft()
            self._closed[phase].put(None)

    async def _pass_down(self, phase: Phase) -> None:
        zipper = self.zippers[phase]
        while True:
            value = await zipper.wait_parent()
            zipper.release_child(value)
            members = list(self.members)
            self._open[phase].append(set(members))
            for member in members:
                member.begin(phase, value)
            self._close(phase)

    async def _pass_up(self, phase: Phase) -> None:
        zipper = self.zippers[phase]
        while True:
            await self._closed[phase].get()
            await zipper.wait_child()
            zipper.release_parent()


class GroupChain(Generic[_M]):
    """All clients, group behind group, seen from the root."""

    def __init__(self, group_size: int, guard: Guard) -> None:
        self.groups: list[ClientGroup[_M]] = []
        self._group_size = group_size
        self._guard = guard
        self._root: dict[Phase, Zipper[BufferCtl | None]] = {phase: Zipper() for phase in Phase}

    @property
    def members(self) -> list[_M]:
        """All who take part."""
        return [member for group in self.groups for member in group.members]

    def __len__(self) -> int:
        """How many take part."""
        return sum([len(group.members) for group in self.groups])

    def absent(self, phase: Phase, most: int) -> list[_M] | None:
        """For whom the oldest phase of this kind waits; None where they are more than ``most``."""
        # A group that has ended it, or that came later, is ahead of those that have not.
        waiting = [group.waiting(phase) for group in self.groups]
        oldest = max([len(phases) for phases in waiting], default=0)
        if not oldest:
            return []
        absent = [phases[0] for phases in waiting if len(phases) == oldest]
        if sum(map(len, absent)) > most:
            return None
        return [member for members in absent for member in members]

    def join(self, member: _M) -> ClientGroup[_M]:
        """Put ``member`` into the first group with room, or into a new last one."""
        group = next((earlier for earlier in self.groups if earlier.has_room), None)
        if group is None:
            last = self.groups[-1].zippers if self.groups else self._root
            group = ClientGroup(self._group_size, self._guard)
            for phase in Phase:
                last[phase].attach(group.zippers[phase])
            self.groups.append(group)
        group.join(member)
        return group

    def begin(self, phase: Phase, value: BufferCtl | None) -> Deferred[None]:
        """Tell every client; fires once each has answered or left.

        Phases of one kind end in the order in which they began.
        """
        self._root[phase].release_child(value)
        return self._root[phase].wait_child()
