"""A connection's send queue, operation by operation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.transport.send_queue import SendQueue
from tests.vectors import PROPERTY


def _queue(*messages: bytes) -> SendQueue:
    queue = SendQueue()
    for message in messages:
        queue.append(message)
    return queue


class Operations(unittest.SynchronousTestCase):
    def test_an_empty_queue(self) -> None:
        queue = SendQueue()
        self.assertFalse(queue)
        self.assertEqual((len(queue), queue.size), (0, 0))
        self.assertEqual(queue.flatten(10), b"")

    def test_messages_leave_in_the_order_in_which_they_came(self) -> None:
        queue = _queue(b"one", b"three", b"")
        self.assertEqual((len(queue), queue.size), (3, 8))
        self.assertEqual([queue.flatten(3), queue.flatten(5)], [b"one", b"three"])
        self.assertEqual((len(queue), queue.size), (1, 0))
        self.assertEqual(queue.flatten(1), b"")
        self.assertEqual((len(queue), queue.size), (0, 0))

    def test_flatten_takes_whole_messages_and_the_beginning_of_one(self) -> None:
        queue = _queue(b"one", b"two", b"three")
        self.assertEqual(queue.flatten(8), b"onetwoth")
        self.assertEqual((len(queue), queue.size), (1, 3))
        self.assertEqual(queue.flatten(100), b"ree")
        self.assertFalse(queue)

    def test_flatten_up_to_a_message_s_end(self) -> None:
        queue = _queue(b"one", b"two")
        self.assertEqual(queue.flatten(3), b"one")
        self.assertEqual(queue.flatten(3), b"two")
        self.assertEqual(len(queue), 0)

    def test_flatten_nothing(self) -> None:
        queue = _queue(b"one")
        self.assertEqual(queue.flatten(0), b"")
        self.assertEqual((len(queue), queue.size), (1, 3))


class AnyOperations(unittest.SynchronousTestCase):
    @PROPERTY
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("append", "flatten")),
                st.binary(max_size=8),
                st.integers(0, 20),
            ),
            max_size=60,
        )
    )
    def test_the_bytes_are_those_of_a_string(self, steps: list[tuple[str, bytes, int]]) -> None:
        queue, model = SendQueue(), b""
        for operation, data, limit in steps:
            if operation == "append":
                queue.append(data)
                model += data
            else:
                self.assertEqual(queue.flatten(limit), model[:limit])
                model = model[limit:]
            self.assertEqual(queue.size, len(model))
        self.assertEqual(queue.flatten(len(model)), model)
