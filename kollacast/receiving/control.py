"""The control stream as it comes in: by multicast, and by TCP where that is missed.

Notices are numbered, and packets repeat them; each is heard once and in order.  What multicast
says is believed as far as it is signed and fits, and TCP is asked for the rest.

To look at a signature costs more than all else, so a packet that tells nothing new is only looked
at where it may be the first sign of life for a while.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kollacast.events.guard import Guard
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.signatures import Signatures
from kollacast.wire.dialect import Dialect
from kollacast.wire.messages import Ask, Control, Notice
from kollacast.wire.recipes import CONTROL_BASE, PIECES_BASE
from kollacast.wire.structures import WireError

#: Seconds without a control packet, of which at least two are due in that time.
_SILENCE_S = 0.6
#: Of that, so much may pass without a packet that is known to be the server's.
_FRESH_SHARE = 0.4
#: Bytes of a notice at the least.
_LEAST_NOTICE = 9


class ControlReader:
    """Has each notice heard by ``hear``, which may raise WireError."""

    def __init__(
        self,
        clock: IReactorTime,
        connection: ServerConnection,
        dialect: Dialect,
        signatures: Signatures,
        hear: Callable[[Notice], None],
        guard: Guard,
    ) -> None:
        self._clock = clock
        self._connection = connection
        self._dialect = dialect
        self._signatures = signatures
        self._hear = hear
        self._guard = guard
        # The number of the last notice heard; None until TCP has said where the stream begins.
        self._known: int | None = None
        self._heard_at = 0.0
        # The seq of the last packet that was the server's: older ones may be sent by anybody.
        self._last_seq: int | None = None
        # Since when an answer by TCP is due.
        self._asked_at: float | None = None
        self._timer: IDelayedCall | None = None
        self._is_stopped = False

    def by_tcp(self, control: Control) -> None:
        """A part that the server has sent here.  Raises WireError where it makes no sense."""
        if self._is_stopped:
            return
        if self._known is None:
            self._known = control.first - 1
            self._heard_at = self._clock.seconds()
            self._watch()
        # What is older concerned buffers that all have, and this host, too.
        self._known = max(self._known, control.oldest - 1)
        if control.first > self._known + 1:
            raise WireError("a gap in the control stream")
        self._take(control, self._known)
        asked_at, self._asked_at = self._asked_at, None
        if asked_at is not None and self._heard_at < asked_at:
            # Multicast is still silent: be told of the next one by TCP as well.
            self._ask()

    def by_multicast(self, seq: int, data: bytes) -> None:
        """The seq and the data of a control packet."""
        known = self._known
        if known is None or self._is_stopped:
            return
        body = self._signatures.body(data)
        if self._signatures.are_due:
            if self._is_old(body, known) or not self._signatures.may_read():
                return
        control = self._of_data(body)
        if self._signatures.are_due:
            if control is None or not self._is_worth_a_look(control, seq, known):
                return
            if not self._signatures.are_right(seq, data):
                return
            self._last_seq = seq
        if control is None:
            # The others go on without this host, or it is not the server's.
            self._ask()
            return
        self._heard_at = self._clock.seconds()
        if control.first > known + 1:
            self._ask()
            return
        try:
            self._take(control, known)
        except WireError:
            self._ask()

    def _of_data(self, data: bytes) -> Control | None:
        try:
            return Control.of_data(self._dialect, data)
        except WireError:
            return None

    @property
    def _needs_a_sign(self) -> bool:
        """Whether it is a while since a packet was the server's."""
        return self._clock.seconds() - self._heard_at > _FRESH_SHARE * _SILENCE_S

    def _is_old(self, data: bytes, known: int) -> bool:
        """Whether a packet tells nothing new, and does not have to, by its first bytes alone."""
        first = int.from_bytes(data[4:8], "big")
        most = (len(data) - Control.HEAD_SIZE) // _LEAST_NOTICE
        return first + most <= known + 1 and not self._needs_a_sign

    def _is_worth_a_look(self, control: Control, seq: int, known: int) -> bool:
        """Whether a packet would tell something, if it is the server's."""
        if control.first > known + 1 or control.first + len(control.notices) > known + 1:
            return True
        return self._needs_a_sign and self._is_later(seq)

    def _is_later(self, seq: int) -> bool:
        if self._last_seq is None:
            return True
        span = PIECES_BASE - CONTROL_BASE
        return 0 < (seq - self._last_seq) % span < span // 2

    def stop(self) -> None:
        """Nothing more is heard."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self, control: Control, known: int) -> None:
        for notice in control.notices[known + 1 - control.first :]:
            if self._is_stopped:
                return
            self._hear(notice)
            known += 1
            self._known = known

    def _ask(self) -> None:
        if self._asked_at is None and self._known is not None and not self._is_stopped:
            self._asked_at = self._clock.seconds()
            self._connection.send(Ask(self._known).encode(self._dialect))

    def _watch(self) -> None:
        self._timer = None
        left_s = self._heard_at + _SILENCE_S - self._clock.seconds()
        if left_s <= 0:
            self._ask()
            left_s = _SILENCE_S
        if not self._is_stopped:
            self._timer = self._guard.call_later(self._clock, left_s, self._watch)
