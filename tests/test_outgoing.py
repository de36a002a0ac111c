"""A send queue under Twisted's own back-pressure: a peer that does not read costs little."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from twisted.trial import unittest

from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue


class _Reactor:
    """Keeps the descriptors that want to write, and the calls that wait for their turn."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()
        self.calls: list[tuple[Any, ...]] = []

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def removeReader(self, reader: Any) -> None:
        pass

    def callLater(self, delay: float, function: Any, *args: Any) -> None:
        self.calls.append((function, *args))


class _Connection(FileDescriptor):
    """Twisted's buffering and back-pressure, with a kernel that takes what the test lets it."""

    def __init__(self) -> None:
        self.loop = _Reactor()
        super().__init__(reactor=self.loop)  # type: ignore[arg-type]
        self.connected = 1
        self.received = b""
        self.window = 0
        self.closed: Failure | None = None

    def writeSomeData(self, data: bytes) -> int:
        count = min(len(data), self.window)
        self.received += data[:count]
        self.window -= count
        return count

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        self.closed = reason

    def fileno(self) -> int:
        return -1

    def read(self, count: int) -> None:
        """The peer reads ``count`` bytes: the reactor runs until no more can leave."""
        self.window += count
        while self in self.loop.writers and (self.window or not self.buffered):
            reason = self.doWrite()
            if reason:
                self.connectionLost(Failure(reason))
        for function, *args in self.loop.calls:
            function(*args)
        self.loop.calls.clear()

    @property
    def buffered(self) -> int:
        """Bytes that Twisted holds for the peer."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen


class _Answers:
    """Large answers made piece by piece: ``left`` pieces of 50 kB."""

    piece = 50_000

    def __init__(self, left: int) -> None:
        self.left = left
        self.made = 0

    def refill(self, queue: SendQueue) -> None:
        if self.left:
            self.left -= 1
            queue.append(bytes([self.made % 256]) * self.piece)
            self.made += 1


#: What Twisted holds before it pauses a producer, and what is handed on at a time.
_BOUND = 2**16 + 2 * 128 * 1024


class BackPressure(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = _Connection()
        self.answers = _Answers(0)
        self.outgoing = Outgoing(self.connection, self.answers.refill)

    def held(self) -> int:
        return self.connection.buffered + self.outgoing.queue.size

    def test_messages_leave_in_order(self) -> None:
        for message in (b"one,", b"two,", b"three"):
            self.outgoing.send(message)
        self.connection.read(7)
        self.assertEqual(self.connection.received, b"one,two")
        self.connection.read(100)
        self.assertEqual(self.connection.received, b"one,two,three")

    def test_a_peer_that_does_not_read_costs_a_bounded_amount(self) -> None:
        self.answers.left = 10_000
        self.outgoing.pump()
        self.assertLess(self.held(), _BOUND)
        made = self.answers.made
        for _ in range(50):
            self.outgoing.pump()
        self.assertEqual(self.answers.made, made)
        self.assertLess(self.held(), _BOUND)

    def test_it_goes_on_as_the_peer_reads_and_stays_bounded(self) -> None:
        self.answers.left = 100
        self.outgoing.pump()
        for count in (1, 10, 60_000, 7, 1_000_000, 3_000_000, 10_000_000):
            self.connection.read(count)
            self.assertLess(self.held(), _BOUND)
        expected = b"".join(bytes([n]) * self.answers.piece for n in range(100))
        self.assertEqual(self.connection.received, expected)
        self.assertEqual(self.held(), 0)

    def test_a_message_goes_behind_what_waits_and_before_what_is_not_made_yet(self) -> None:
        self.answers.left = 100
        self.outgoing.pump()
        made = self.answers.made
        self.outgoing.send(b"SENT")
        self.connection.read(100_000_000)
        self.assertEqual(self.connection.received.index(b"SENT"), made * self.answers.piece)
        self.assertEqual(len(self.connection.received), 4 + 100 * self.answers.piece)

    def test_what_is_sent_while_it_is_paused_waits_in_the_queue(self) -> None:
        """There it can be counted; the transport is not asked to hold more than its share."""
        self.outgoing.send(bytes(200_000))
        buffered = self.connection.buffered
        for _ in range(100):
            self.outgoing.send(bytes(1000))
        self.assertEqual(self.connection.buffered, buffered)
        self.assertEqual(self.held(), 300_000)
        self.connection.read(1_000_000)
        self.assertEqual(len(self.connection.received), 300_000)

    def test_nothing_is_made_when_nothing_is_asked_for(self) -> None:
        self.outgoing.pump()
        self.connection.read(100)
        self.assertEqual((self.connection.received, self.answers.made), (b"", 0))


class Closing(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = _Connection()
        self.answers = _Answers(0)
        self.outgoing = Outgoing(self.connection, self.answers.refill)

    def test_what_waits_leaves_before_the_connection_closes(self) -> None:
        self.outgoing.send(bytes(300_000))
        self.outgoing.send(b"farewell")
        self.outgoing.close()
        self.connection.read(200_000)
        self.assertIsNone(self.connection.closed)
        self.connection.read(200_000)
        self.assertTrue(self.connection.received.endswith(b"farewell"))
        self.assertEqual(len(self.connection.received), 300_008)
        assert self.connection.closed is not None
        self.connection.closed.trap(ConnectionDone)

    def test_what_is_not_made_yet_is_not_made_any_more(self) -> None:
        self.answers.left = 100
        self.outgoing.pump()
        made = self.answers.made
        self.outgoing.close()
        self.connection.read(100_000_000)
        self.assertEqual(self.answers.made, made)
        self.assertIsNotNone(self.connection.closed)

    def test_closing_twice_and_sending_afterwards(self) -> None:
        self.outgoing.close()
        self.outgoing.close()
        self.outgoing.send(b"too late")
        self.outgoing.pump()
        self.connection.read(100)
        self.assertEqual(self.connection.received, b"")
        assert self.connection.closed is not None
        self.connection.closed.trap(ConnectionDone)
        self.assertEqual(self.outgoing.queue.size, 0)

    def test_a_connection_that_is_lost_takes_nothing(self) -> None:
        self.answers.left = 10
        self.connection.connectionLost(Failure(ConnectionLost()))
        made = self.answers.made
        self.outgoing.send(bytes(1000))
        self.outgoing.pump()
        self.assertEqual(self.answers.made, made)
        self.outgoing.close()

    def test_a_connection_lost_before_it_was_ours(self) -> None:
        connection = _Connection()
        connection.connectionLost(Failure(CONNECTION_LOST))
        outgoing = Outgoing(connection, _Answers(10).refill)
        outgoing.send(b"x")
        self.assertEqual(connection.received, b"")
        self.assertEqual(outgoing.queue.size, 0)
