"""What is told to all clients alike: numbered, multicast, and sent by TCP to who misses it.

A client that hears the control packets costs nothing here.  Each of them repeats all that may
still concern somebody, and the last one is repeated for as long as anything does; so NORM
(RFC 5740) and PGM (RFC 3208) tell receivers where a sender is.  A client that hears nothing asks
by TCP, and is answered once there is something that it does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from itertools import islice
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kollacast.events.guard import Guard
from kollacast.sending.piece_digests import PieceDigests
from kollacast.sending.signed_packets import SignedPackets
from kollacast.wire.dialect import Dialect
from kollacast.wire.messages import Control, Notice
from kollacast.wire.recipes import control_seq
from kollacast.wire.structures import WireError

#: Seconds after which control packets are sent again where one was lost; and then the last of them,
#: for ever.
_REPEATS_S = (0.01, 0.03, 0.1, 0.25)


class Hearer(Hashable, Protocol):
    """A client that can be told by TCP."""

    def tell(self, message: bytes) -> None: ...


class ControlStream:
    """The notices of one stream in their order."""

    def __init__(
        self, clock: IReactorTime, dialect: Dialect, packets: SignedPackets, guard: Guard
    ) -> None:
        #: What proves the pieces of the image.
        self.pieces = PieceDigests(dialect, packets)
        self._clock = clock
        self._dialect = dialect
        self._signed_packets = packets
        self._guard = guard
        # Each notice that may still concern somebody, and its buffer's id.
        self._notices: deque[tuple[Notice, int]] = deque()
        self._oldest = 1
        self._packets = 0
        # Who is told by TCP of what comes next, and up to which number it knows.
        self._asking: dict[Hearer, int] = {}
        self._repeats = 0
        self._timer: IDelayedCall | None = None
        self._is_stopped = False

    @property
    def last(self) -> int:
        """The number of the last notice."""
        return self._oldest + len(self._notices) - 1

    def post(self, notice: Notice, buffer_id: int, *more: Notice) -> None:
        """Tell all clients of a buffer, all of it at once."""
        if self._is_stopped:
            return
        self._notices.extend((each, buffer_id) for each in (notice, *more))
        self._repeats = 0
        for hearer in list(self._asking):
            known = self._asking.pop(hearer, None)
            if known is not None:  # it has not gone in the meantime
                self._answer(hearer, known)
        self._tell()

    def retire(self, buffer_id: int) -> None:
        """Every client has the buffers up to this one."""
        while self._notices and self._notices[0][1] <= buffer_id:
            self._notices.popleft()
            self._oldest += 1
        self.pieces.retire(buffer_id)

    def check(self, known: int) -> None:
        """Raises WireError where nothing has this number yet, of which somebody asks."""
        if known > self.last and not self._is_stopped:
            raise WireError(f"number {known} of the control stream is not told yet")

    def ask(self, hearer: Hearer, known: int) -> None:
        """``hearer`` knows of what has this number, and is to be told by TCP of what follows.

        As :meth:`check`, raises WireError where nothing has that number yet.
        """
        if self._is_stopped:
            return
        self.check(known)
        if known < self.last:
            self._answer(hearer, known)
        else:
            self._asking[hearer] = known

    def forget(self, hearer: Hearer) -> None:
        """``hearer`` is not to be told any more."""
        self._asking.pop(hearer, None)

    def stop(self) -> None:
        """Nothing more is told."""
        self._is_stopped = True
        self._cancel()

    # Parts of it.

    def _tell(self) -> None:
        self._cancel()
        told, self._repeats = self._repeats, min(self._repeats + 1, len(_REPEATS_S))
        delay_s = _REPEATS_S[min(told, len(_REPEATS_S) - 1)]
        self._timer = self._guard.call_later(self._clock, delay_s, self._tell)
        parts = self._parts()
        # Where several come too fast for a host, it hears the first ones, time and again, and does
        # not know that there are more.
        for first, part in parts if told < len(_REPEATS_S) else parts[-1:]:
            self._send(first, part)

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _answer(self, hearer: Hearer, known: int) -> None:
        first = max(known + 1, self._oldest)
        notices = [notice for notice, _ in islice(self._notices, first - self._oldest, None)]
        hearer.tell(Control(self._oldest, first, tuple(notices)).encode(self._dialect))

    def _parts(self) -> list[tuple[int, list[Notice]]]:
        """What each packet tells, and the number with which that begins."""
        first, size, part = self._oldest, Control.HEAD_SIZE, list[Notice]()
        parts = [(first, part)]
        for notice, _ in self._notices:
            length = len(notice.encode(self._dialect))
            if part and size + length > self._signed_packets.room:
                first, size, part = first + len(part), Control.HEAD_SIZE, []
                parts.append((first, part))
            part.append(notice)
            size += length
        # The only one is empty where nothing is left to say: whoever hears it has missed nothing.
        return parts

    def _send(self, first: int, notices: list[Notice]) -> None:
        data = Control(self._oldest, first, tuple(notices)).data(self._dialect)
        self._signed_packets.send(control_seq(self._packets), data)
        self._packets += 1
