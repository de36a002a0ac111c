"""A connection's send queue: whole messages, under the transport's back-pressure.

Messages wait here and not in the transport, so that what has not been asked
of the kernel yet can still be counted, looked at and dropped.
"""

from __future__ import annotations

from collections import deque


class SendQueue:
    """Messages in order, with the operations of a queue of buffers."""

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

    def put_back(self, message: bytes) -> None:
        """Put a message, or the rest of one, back at the head."""
        self._messages.appendleft(message)
        self._size += len(message)

    def dequeue(self) -> bytes:
        """Remove and return the head; :class:`IndexError` when nothing waits."""
        message = self._messages.popleft()
        self._size -= len(message)
        return message

    def flatten(self, limit: int) -> bytes:
        """Remove and return up to ``limit`` bytes from the head, as one piece."""
        parts: list[bytes] = []
        room = limit
        while self._messages and room > 0:
            message = self.dequeue()
            if len(message) > room:
                self.put_back(message[room:])
                message = message[:room]
            parts.append(message)
            room -= len(message)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def peek(self, limit: int) -> bytes:
        """What :meth:`flatten` would return, left where it is."""
        parts: list[bytes] = []
        room = limit
        for message in self._messages:
            if room <= 0:
                break
            parts.append(message[:room])
            room -= len(parts[-1])
        return b"".join(parts)
