"""Serves one client that fetches: packets in order, at its own pace.

A piece is read when the connection takes more, and the next one after that:
however slow the client is, one piece is all that waits for it here.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from kollacast.events.guard import Guard
from kollacast.sending.history import History, NotHeld
from kollacast.sending.plan import Plan
from kollacast.wire.messages import BufferCtl, Fetch, encode_sealed
from kollacast.wire.structures import WireError

#: Payload bytes read at a time.
_PIECE = 64 * 1024
#: Fetches that may wait for their answer.
_MAX_WAITING = 16


class FetchingClient(Protocol):
    """The client that is served."""

    @property
    def member(self) -> object | None: ...  # where it hears of the image's end, with the others
    def send(self, message: bytes) -> None: ...
    def fetched(self, packets: int, end: int) -> None: ...  # so many were sent, up to a seq
    def told_end(self) -> None: ...  # it knows that the image ends here
    def drop(self, reason: str) -> None: ...  # it cannot be served any more


class Fetches:
    """The fetches of one client."""

    def __init__(self, plan: Plan, history: History, client: FetchingClient, guard: Guard) -> None:
        self._plan = plan
        self._history = history
        self._client = client
        self._guard = guard
        self._waiting: deque[Fetch] = deque()
        self._reading: Deferred[Any] | None = None
        self._stopped = False
        #: Whether the client knows where the image ends, and so asks for no more.
        self.has_told_end = False
        #: Up to which packet it was sent what it fetches.
        self.packets_done = 0

    @property
    def waits_for_image(self) -> bool:
        """Whether it is the client that waits, for what is not read yet."""
        return self._reading is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for."""
        return not self._waiting

    def fetch(self, fetch: Fetch) -> None:
        """The client asks for more; its end is told at the first fetch that reaches it."""
        if self._stopped or fetch.count == 0:
            return
        if len(self._waiting) >= _MAX_WAITING:
            raise WireError(f"more than {_MAX_WAITING} fetches at once")
        self._waiting.append(fetch)

    def refill(self) -> None:
        """Begin to read what is sent next, unless that is under way."""
        if self._reading is not None or self._stopped or not self._waiting:
            return
        fetch = self._waiting[0]
        capacity = self._plan.capacity
        count = min(fetch.count, max(_PIECE // capacity, 1))
        if count == fetch.count:
            self._waiting.popleft()
        else:
            self._waiting[0] = Fetch(fetch.first + count, fetch.count - count)
        self._reading = reading = self._history.read(fetch.first * capacity, count * capacity)
        answered = reading.addCallback(self._read, fetch.first, count)
        answered.addErrback(self._not_read).addErrback(self._guard.failed)

    def stop(self) -> None:
        """The client is gone, or has it all."""
        self._stopped = True
        self._waiting.clear()
        reading, self._reading = self._reading, None
        if reading is not None:
            # It may wait for what is not read before others have come.
            reading.cancel()

    def _read(self, data: bytes, first: int, count: int) -> None:
        self._reading = None
        if self._stopped:
            return
        capacity = self._plan.capacity
        ended = len(data) < count * capacity and self._client.member is None
        if ended:
            self.stop()
        view = memoryview(data)
        dialect = self._plan.dialect
        payloads = [view[at : at + capacity] for at in range(0, len(data), capacity)]
        if payloads:
            headers = self._plan.codec.sealed(first, payloads)
            message = encode_sealed(dialect, headers, range(len(payloads)), payloads)
            self.packets_done = first + len(payloads)
            self._client.send(message)
            self._client.fetched(len(payloads), self.packets_done)
        if ended:
            self.has_told_end = True
            packets = -(-self._history.bytes_read // capacity)
            self._client.send(BufferCtl(0, 0, packets, 0).encode(dialect))
            self._client.told_end()

    def _not_read(self, failure: Failure) -> Deferred[None] | None:
        failure.trap(NotHeld, CancelledError)
        self._reading = None
        if not self._stopped:
            self._client.drop(str(failure.value))
        return None
