"""What a client answers, in either dialect: one word for each, or credit ahead."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.packets.losses import NOTHING_LOST, Lost
from kollacast.receiving.answers import Answers, Credits, Turns, answers_of
from kollacast.receiving.shape import Shape
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import BufferCtl, Credit, Done, Message, Ready
from kollacast.wire.parser import ClientStream
from kollacast.wire.structures import SEQ_LIMIT
from tests.vectors import PROPERTY


def _shape(dialect: Dialect, window: int) -> Shape:
    return Shape(
        dialect,
        7,
        ("239.1.1.1", 18383),
        None,
        None,
        1500,
        1460,
        8192,
        window,
        1 << 20,
        True,
        False,
        None,
    )


def _ctl(number: int, packets: int = 4) -> BufferCtl:
    return BufferCtl(number, packets * 100, 4 * (number - 1), packets)


class _Connection:
    """Keeps what is said, as a server reads it."""

    def __init__(self, dialect: Dialect) -> None:
        self._stream = ClientStream(dialect, 0)
        if dialect.introduces:
            list(self._stream.feed(Hello("host1", 1).encode()))
        self.said: list[Message] = []

    def send(self, message: bytes) -> None:
        self.said += self._stream.feed(message)
        assert not self._stream.buffered


class _AnswersTest(SynchronousTestCase):
    def open(self, dialect: Dialect, window: int) -> Answers:
        self.connection = _Connection(dialect)
        connection: Any = self.connection
        return answers_of(connection, _shape(dialect, window))

    def assert_says(self, *messages: Message) -> None:
        """These, since the last look."""
        said, self.connection.said = self.connection.said, []
        self.assertEqual(said, list(messages))


class ChoiceTests(_AnswersTest):
    """Which answers a dialect has."""

    def test_each_dialect(self) -> None:
        turns, credits = self.open(JASMINE, 1), self.open(KOLLACAST, 4)
        self.assertIsInstance(turns, Turns)
        self.assertIsInstance(credits, Credits)
        # Credit may have been used before a buffer is ready.
        self.assertEqual((turns.is_ahead, credits.is_ahead), (False, True))
        self.assert_says()


class TurnsTests(_AnswersTest):
    """Where each word is answered."""

    def test_one_answer_for_each_word(self) -> None:
        answers = self.open(JASMINE, 1)
        for number in (1, 2):
            answers.announced(_ctl(number))
            answers.settle()
            self.assert_says()
            answers.ready()
            self.assert_says(Ready())
            answers.done(_ctl(number), NOTHING_LOST)
            self.assert_says(Done())
            answers.settle()
            self.assert_says()

    def test_the_last_answer_is_not_given_here(self) -> None:
        answers = self.open(JASMINE, 1)
        answers.announced(_ctl(1, packets=0))
        answers.ready()
        self.assert_says(Ready())
        answers.done(_ctl(1, packets=0), NOTHING_LOST)
        answers.settle()
        self.assert_says()

    def test_less_memory_says_nothing(self) -> None:
        answers = self.open(JASMINE, 1)
        answers.fewer(1)
        answers.settle()
        self.assert_says()


class CreditsTests(_AnswersTest):
    """Where credit is given ahead."""

    def test_nothing_before_a_buffer_is_done(self) -> None:
        """The hello has granted a window."""
        answers = self.open(KOLLACAST, 4)
        answers.settle()
        for number in (1, 2, 3, 4):
            answers.announced(_ctl(number))
            answers.ready()
            answers.settle()
        self.assert_says()

    def test_one_that_joins_late_says_from_where_on(self) -> None:
        answers = self.open(KOLLACAST, 4)
        answers.announced(_ctl(9))
        answers.done(_ctl(9), NOTHING_LOST)
        answers.settle()
        self.assert_says(Credit(9, 13))

    def test_again_with_each_buffer_that_is_done(self) -> None:
        answers = self.open(KOLLACAST, 2)
        answers.announced(_ctl(1))
        self.connection.said.clear()
        for number in (1, 2, 3):
            answers.done(_ctl(number), NOTHING_LOST)
            self.assert_says()
            answers.settle()
            self.assert_says(Credit(number, number + 2))
            answers.settle()
            self.assert_says()

    def test_once_for_several(self) -> None:
        answers = self.open(KOLLACAST, 4)
        answers.announced(_ctl(1))
        self.connection.said.clear()
        for number in (1, 2, 3):
            answers.done(_ctl(number), NOTHING_LOST)
        answers.settle()
        self.assert_says(Credit(3, 7))

    def test_what_was_lost_is_said_once(self) -> None:
        answers = self.open(KOLLACAST, 4)
        answers.announced(_ctl(1))
        self.connection.said.clear()
        answers.done(_ctl(1), Lost(3, 2))
        answers.settle()
        self.assert_says(Credit(1, 5, 3, 2))
        for number, lost in ((2, Lost(1, 1)), (3, NOTHING_LOST), (4, Lost(4, 1))):
            answers.done(_ctl(number), lost)
        answers.settle()
        self.assert_says(Credit(4, 8, 5, 2))

    def test_the_end_is_answered_as_all_others(self) -> None:
        answers = self.open(KOLLACAST, 2)
        answers.announced(_ctl(1, packets=0))
        self.connection.said.clear()
        answers.done(_ctl(1, packets=0), NOTHING_LOST)
        answers.settle()
        self.assert_says(Credit(1, 3))

    def test_less_memory_grants_less_and_takes_nothing_back(self) -> None:
        answers = self.open(KOLLACAST, 4)
        answers.announced(_ctl(1))
        answers.fewer(2)
        answers.settle()
        self.assert_says()
        for number, room in ((1, 4), (2, 4), (3, 5), (4, 6)):
            answers.done(_ctl(number), NOTHING_LOST)
            answers.settle()
            self.assert_says(Credit(number, room))

    def test_less_memory_before_the_first_announcement(self) -> None:
        answers = self.open(KOLLACAST, 4)
        answers.fewer(1)
        answers.settle()
        self.assert_says()
        answers.announced(_ctl(1))
        self.assert_says()
        for number, room in ((1, 4), (2, 4), (3, 4), (4, 5)):
            answers.done(_ctl(number), NOTHING_LOST)
            answers.settle()
            self.assert_says(Credit(number, room))

    def test_the_largest_numbers_that_a_buffer_can_have(self) -> None:
        """Whatever a server announces, the answer is a message."""
        answers = self.open(KOLLACAST, 64)
        last = BufferCtl(SEQ_LIMIT + 1, 0, 0, 0)
        last.check(1460, 8192)
        answers.announced(last)
        answers.done(last, NOTHING_LOST)
        answers.settle()
        self.assert_says(Credit(SEQ_LIMIT + 1, SEQ_LIMIT + 65))

    @PROPERTY
    @given(
        st.integers(1, 64),
        st.integers(1, 1000),
        st.lists(st.sampled_from(("announced", "ready", "done", "fewer", "settle")), max_size=40),
        st.data(),
    )
    def test_credit_never_goes_back_and_is_said_once(
        self, window: int, first: int, steps: list[str], data: st.DataObject
    ) -> None:
        answers = self.open(KOLLACAST, window)
        announced = done = first - 1
        least = window
        for step in steps:
            if step == "announced":
                announced += 1
                answers.announced(_ctl(announced))
            elif step == "done" and done < announced:
                done += 1
                answers.done(_ctl(done), NOTHING_LOST)
            elif step == "fewer":
                least = data.draw(st.integers(1, least))
                answers.fewer(least)
            elif step == "ready":
                answers.ready()
            else:
                answers.settle()
        answers.settle()
        said = [credit for credit in self.connection.said if isinstance(credit, Credit)]
        self.assertEqual(len(said), len(self.connection.said))
        for before, after in pairwise(said):
            self.assertNotEqual(before, after)
            self.assertGreaterEqual(after.done, before.done)
            self.assertGreaterEqual(after.room, before.room)
        for credit in said:
            self.assertLessEqual(credit.room, credit.done + window)
        self.assertEqual(bool(said), done >= first)
        if said:
            self.assertEqual(said[-1].done, done)
            self.assertGreaterEqual(said[-1].room, done + least)
