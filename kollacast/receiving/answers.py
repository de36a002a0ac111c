"""What a client answers to the buffers that it is told of, in either dialect."""

from __future__ import annotations

from typing import Protocol

from kollacast.packets.losses import NOTHING_LOST, Lost
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.shape import Shape
from kollacast.wire.messages import BufferCtl, Credit, Done, Ready


class Answers(Protocol):
    """Told how far the buffers are, in their order."""

    #: Whether a buffer may be sent before it is ready.
    is_ahead: bool

    def announced(self, ctl: BufferCtl) -> None: ...  # here it comes
    def ready(self) -> None: ...  # the next of them has memory
    def fewer(self, buffers: int) -> None: ...  # there is memory for so many only
    def done(self, ctl: BufferCtl, lost: Lost) -> None: ...  # it is kept, and all before
    def settle(self) -> None: ...  # this was all for now


class Turns:
    """One answer for each thing that was said."""

    is_ahead = False

    def __init__(self, connection: ServerConnection, shape: Shape) -> None:
        self._connection = connection
        self._dialect = shape.dialect

    def announced(self, ctl: BufferCtl) -> None: ...

    def ready(self) -> None:
        self._connection.send(Ready().encode(self._dialect))

    def fewer(self, buffers: int) -> None: ...

    def done(self, ctl: BufferCtl, lost: Lost) -> None:
        if not ctl.is_end:
            # The last one is due once the image has its name.
            self._connection.send(Done().encode(self._dialect))

    def settle(self) -> None: ...


class Credits:
    """Credit with each buffer that is done, for as many as there is memory for.

    The hello has granted a window of it ahead.  Where memory has become less than was granted, what
    is sent too early is lost, and asked for.
    """

    is_ahead = True

    def __init__(self, connection: ServerConnection, shape: Shape) -> None:
        self._connection = connection
        self._dialect = shape.dialect
        self._buffers = self._granted = shape.window
        # Up to which buffers room was granted, and what was done then; with the first announcement
        # what the hello has granted.
        self._said = (0, 0)
        # Of the buffers that are kept, and not told of.
        self._lost = NOTHING_LOST
        # The last buffer that is kept; None before the first is announced.
        self._done: int | None = None

    def announced(self, ctl: BufferCtl) -> None:
        if self._done is None:
            self._done = ctl.buffer_id - 1
            self._said = (self._done + self._granted, self._done)

    def ready(self) -> None: ...

    def fewer(self, buffers: int) -> None:
        self._buffers = buffers

    def done(self, ctl: BufferCtl, lost: Lost) -> None:
        self._done = ctl.buffer_id
        self._lost = self._lost.plus(lost)

    def settle(self) -> None:
        if self._done is None:
            return
        room = max(self._done + self._buffers, self._said[0])
        says = (room, self._done)
        if says != self._said:
            lost, self._lost = self._lost, NOTHING_LOST
            self._said = says
            self._connection.send(Credit(self._done, room, *lost).encode(self._dialect))


def answers_of(connection: ServerConnection, shape: Shape) -> Answers:
    """How a client answers in this stream's dialect."""
    kind = Credits if shape.dialect.multicasts_control else Turns
    return kind(connection, shape)
