"""When buffers have passed by on the wire, as the control stream tells.

The image's packets do not reach a crowd. Who is told late of a buffer, because it has lost the
word of it, has no memory for the packets that pass before: how many these were is found here.
"""

from __future__ import annotations

from collections.abc import Callable

from kollacast.wire.messages import BufferCtl, Control, Sent


class Passage:
    """Noted from each control packet; `retired` is told each buffer that nobody lacks any more."""

    def __init__(self, retired: Callable[[BufferCtl], None]) -> None:
        self.began_s: float | None = None  #: when the first buffer was announced
        self.buffers = 0  #: announced, but for the empty one
        self.announced = 0  #: packets of all of these
        self._retired = retired
        self._last = 0  # the number of the last notice
        self._open: dict[int, BufferCtl] = {}  # by the number of its announcement
        self._told_at: dict[int, float] = {}
        self._sent_at: dict[int, float] = {}

    def note(self, control: Control, now: float) -> None:
        """A control packet has come."""
        for number, notice in enumerate(control.notices, control.first):
            if number <= self._last:
                continue
            self._last = number
            if isinstance(notice, BufferCtl):
                self._announced(number, notice, now)
            elif isinstance(notice, Sent):
                self._sent_at[notice.buffer_id] = now
        while self._open and (number := next(iter(self._open))) < control.oldest:
            ctl = self._open.pop(number)
            self._told_at.pop(ctl.buffer_id, None)
            self._sent_at.pop(ctl.buffer_id - 1, None)
            self._retired(ctl)

    def missed(self, ctl: BufferCtl, told_at: float) -> int:
        """How many packets of a buffer that is sent had passed before a host was told of it.

        They leave evenly, from its announcement or the end of the buffer before.
        """
        ended = self._sent_at.get(ctl.buffer_id)
        if ended is None or ctl.buffer_id not in self._told_at:
            return 0
        began = max(self._told_at[ctl.buffer_id], self._sent_at.get(ctl.buffer_id - 1, 0.0))
        if told_at <= began:
            return 0
        if told_at >= ended:
            return ctl.pkt_count
        return int(ctl.pkt_count * (told_at - began) / (ended - began))

    def _announced(self, number: int, ctl: BufferCtl, now: float) -> None:
        if self.began_s is None:
            self.began_s = now
        self._open[number] = ctl
        self._told_at[ctl.buffer_id] = now
        self.announced += ctl.pkt_count
        self.buffers += not ctl.is_end
