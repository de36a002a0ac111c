"""A reader of the control stream, and what a network and a server may do to it.

The input is records of a kind, a length and so many bytes. Some are parts of one stream as its
server tells it, in which each notice says its own number; others are made of any bytes. Each notice
has to be heard once and in order, with one question at a time by TCP.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import cast

from twisted.internet.task import Clock
from twisted.python.failure import Failure

from fuzz import checks
from kollacast.events.guard import Guard
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.control import ControlReader
from kollacast.receiving.signatures import Signatures
from kollacast.receiving.tally import Tally
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import BufferCtl, Control, Notice, Repaired
from kollacast.wire.recipes import CONTROL_BASE
from kollacast.wire.structures import Tag, WireError

#: What is heard of no server.
_NONSENSE = BufferCtl(1, 2, 3, 4)
#: Where a stream may begin: at its first number, and where there are few left.
_BASES = (0, (1 << 32) - 200)


def control_reader(data: bytes) -> None:
    """Parts by multicast and by TCP, noise, and time that passes."""
    run = _Run()
    for kind, body in _records(data):
        if kind == 0:
            run.passes(body)
        elif kind == 1:
            run.by_multicast(_part(body))
        elif kind == 2:
            run.by_multicast(body)
        elif kind in (3, 4) and not run.by_tcp(_part(body) if kind == 3 else body):
            break
    run.end()


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 2:
        kind, length = data[0] % 5, data[1]
        yield kind, data[2 : 2 + length]
        data = data[2 + length :]


def _part(body: bytes) -> bytes:
    """The stream from one number on: how many notices, how many before it are gone, from where."""
    first, count, gone, base, nonsense = body[:5].ljust(5, b"\0")
    number = (_BASES[base % 2] + first) % (1 << 32)
    numbers = range(number, number + count % 16)
    notices: list[Notice] = [Repaired(n % (1 << 32)) for n in numbers]
    if nonsense and notices:
        notices[nonsense % len(notices)] = _NONSENSE
    return Control(max(number - gone, 0), number, tuple(notices)).data(KOLLACAST)


class _Run:
    """One reader, its connection, and what must hold of both."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._reader = ControlReader(
            self._clock,
            cast(ServerConnection, self),
            KOLLACAST,
            Signatures(self._clock, None, Tally()),
            self._hear,
            Guard(_failed),
        )
        # The number that was heard last; None until TCP says where the stream begins.
        self._last: int | None = None
        self._oldest = 0
        self._is_forged = False
        self._is_asked = False

    def passes(self, body: bytes) -> None:
        """Up to one and a half seconds."""
        self._clock.pump([0.05] * (sum(body) % 32))

    def by_multicast(self, data: bytes) -> None:
        self._look(data)
        self._reader.by_multicast(CONTROL_BASE, data)

    def by_tcp(self, data: bytes) -> bool:
        """Whether the server is heard on."""
        try:
            control = Control.of_data(KOLLACAST, data)
            self._look(data)
            self._oldest = max(self._oldest, control.oldest)
            if self._last is None:
                self._last = control.first - 1
            self._is_asked = False
            self._reader.by_tcp(control)
        except WireError as error:
            checks.line(str(error))
            return False
        return True

    def end(self) -> None:
        self._reader.stop()
        if self._clock.getDelayedCalls():
            raise AssertionError("a timer is left")

    # The connection.

    def send(self, message: bytes) -> None:
        tag, _known = struct.unpack("!BI", message)
        if tag != Tag.ASK or self._is_asked:
            raise AssertionError(f"{message.hex()} is said, and an answer is due")
        self._is_asked = True

    # What is heard.

    def _look(self, data: bytes) -> None:
        """Does each notice in this part say its own number?"""
        try:
            control = Control.of_data(KOLLACAST, data)
        except WireError as error:
            checks.line(str(error))
            return
        for number, notice in enumerate(control.notices, control.first):
            if notice not in (Repaired(number), _NONSENSE):
                self._is_forged = True

    def _hear(self, notice: Notice) -> None:
        if notice == _NONSENSE:
            raise WireError("nonsense")
        number = notice.buffer_id
        if self._last is None:
            raise AssertionError(f"{number} is heard before the stream has begun")
        # TCP may say that what is older concerns nobody.
        if number != max(self._last + 1, self._oldest) and not self._is_forged:
            raise AssertionError(f"{number} is heard behind {self._last}")
        self._last = number


def _failed(failure: Failure) -> None:
    failure.raiseException()
