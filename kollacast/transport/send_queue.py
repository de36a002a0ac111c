"""A connection's send queue: whole messages, under the transport's back-pressure.

Messages wait here and not in the transport, so that what has not been asked
of the kernel yet can still be counted, looked at and dropped.
"""

from __future__ import annotations

from collections import deque


class SendQueue:
    """Messages in order, added one by one and taken in pieces of any size."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._size

    def append(self, message: bytes) -> None:
        """Add a message at the tail."""
        self._messages.append(message)
        self._size += len(message)

    def flatten(self, limit: int) -> bytes:
        """Remove and return up to ``limit`` bytes from the head, as one piece."""
        parts: list[bytes] = []
        room = limit
        while self._messages and room > 0:
            message = self._messages.popleft()
            if len(message) > room:
                self._messages.appendleft(message[room:])
                message = message[:room]
            parts.append(message)
            room -= len(message)
        self._size -= limit - room
        return parts[0] if len(parts) == 1 else b"".join(parts)
