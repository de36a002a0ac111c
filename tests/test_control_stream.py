"""The control stream on its way out: what is multicast and when, and what TCP is told.

On a clock that the test turns; the sender and the clients only keep what they are given.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.sending.control import ControlStream
from kollacast.sending.signed_packets import SignedPackets
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import BufferCtl, Control, Notice, Repaired, Sent
from kollacast.wire.recipes import CONTROL_BASE
from kollacast.wire.structures import MIN_MTU, SIGNATURE_SIZE, WireError, payload_capacity
from tests.vectors import PROPERTY

#: Room for one notice and no more: the least that a packet has, with a signature, is not less.
_LEAST = 28
assert payload_capacity(MIN_MTU) - SIGNATURE_SIZE >= _LEAST
_CAPACITY = 1460
#: One of each kind, of buffers 1 and 2.
_BUFFER_1, _BUFFER_2 = BufferCtl(1, 400, 0, 4), BufferCtl(2, 300, 4, 3)
_SENT_1, _REPAIRED_1, _SENT_2 = Sent(1, 4), Repaired(1, 0xA0000000, 3, 2), Sent(2, 3)


class _Sender:
    """Keeps the packets that are multicast: when, their seqs, and what they say."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.told: list[Control] = []
        self.seqs: list[int] = []
        self.sizes: list[int] = []
        self.times: list[float] = []
        self.result: Deferred[float] = Deferred()

    def multicast(
        self, buffer: PacketBuffer, *, urgent: bool = False, counts: bool = True
    ) -> Deferred[float]:
        assert urgent, "what is told is waited for"
        assert not counts, "it is no part of the image"
        [payload] = buffer.slots(0, 1)
        self.times.append(round(self._clock.seconds(), 6))
        self.seqs.append(buffer.ctl.packet_id_base)
        self.sizes.append(len(payload))
        self.told.append(Control.of_data(KOLLACAST, bytes(payload)))
        return self.result


class _Client:
    """Keeps what it is told by TCP."""

    def __init__(self) -> None:
        self.told: list[Control] = []

    def tell(self, message: bytes) -> None:
        control = Control.of_data(KOLLACAST, message[5:])
        assert control.encode(KOLLACAST) == message
        self.told.append(control)


class _ControlStreamTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.failures: list[Failure] = []
        self.clock = Clock()
        self.open(_CAPACITY)

    def open(self, capacity: int) -> None:
        self.sender = _Sender(self.clock)
        guard = Guard(self.failures.append)
        self.stream = ControlStream(
            self.clock,
            KOLLACAST,
            SignedPackets(capacity, None, self.sender, guard),  # type: ignore[arg-type]
            guard,
        )

    def tearDown(self) -> None:
        self.assertEqual(self.failures, [])

    def run_for(self, seconds: float) -> None:
        """Each timer at its time."""
        end = self.clock.seconds() + seconds
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self.clock.advance(self.clock.calls[0].getTime() - self.clock.seconds())
        self.clock.advance(end - self.clock.seconds())

    def post_all(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        self.stream.post(_BUFFER_2, 2)
        self.stream.post(_SENT_1, 1)
        self.stream.post(_REPAIRED_1, 1)
        self.stream.post(_SENT_2, 2)

    def told_once(self) -> list[Control]:
        """The packets of one telling, and no more."""
        self.sender.told.clear()
        self.run_for(0.3)
        first, *_ = self.sender.told
        count = len(self.sender.told)
        same = [n for n, control in enumerate(self.sender.told) if control == first]
        return self.sender.told[: same[1] if len(same) > 1 else count]


class NumberTests(_ControlStreamTest):
    """Each notice has a number, for ever."""

    def test_they_count_from_1_on(self) -> None:
        self.assertEqual(self.stream.last, 0)
        notices: tuple[Notice, ...] = (_BUFFER_1, _SENT_1, _REPAIRED_1)
        for number, notice in enumerate(notices, 1):
            self.stream.post(notice, 1)
            self.assertEqual(self.stream.last, number)
        self.assertEqual(self.sender.told[-1], Control(1, 1, notices))

    def test_what_all_have_is_told_no_more_and_keeps_its_number(self) -> None:
        self.post_all()
        self.stream.retire(1)
        # The word that buffer 1 was sent stands behind buffer 2, which is under way.
        self.stream.post(_SENT_2, 2)
        self.assertEqual(
            self.sender.told[-1],
            Control(2, 2, (_BUFFER_2, _SENT_1, _REPAIRED_1, _SENT_2, _SENT_2)),
        )
        self.assertEqual(self.stream.last, 6)
        self.stream.retire(2)
        self.assertEqual(self.stream.last, 6)
        third = BufferCtl(3, 0, 7, 0)
        self.stream.post(third, 3)
        self.assertEqual(self.sender.told[-1], Control(7, 7, (third,)))

    def test_retiring_what_is_not_there_changes_nothing(self) -> None:
        self.stream.retire(9)
        self.post_all()
        self.stream.retire(0)
        self.run_for(0.02)
        self.assertEqual(self.sender.told[-1].oldest, 1)
        self.assertEqual(self.stream.last, 5)

    def test_where_nothing_is_left_to_say_its_end_is_told(self) -> None:
        """Whoever hears it has missed nothing, or knows that it has."""
        self.post_all()
        self.stream.retire(2)
        self.assertEqual(self.told_once(), [Control(6, 6, ())])


class MulticastTests(_ControlStreamTest):
    """What is multicast, and when."""

    def test_nothing_before_the_first_notice(self) -> None:
        self.run_for(5.0)
        self.assertEqual(self.sender.told, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_once_and_again_ever_more_slowly(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        self.run_for(1.2)
        self.assertEqual(self.sender.times, [0.0, 0.01, 0.04, 0.14, 0.39, 0.64, 0.89, 1.14])
        self.assertEqual(self.sender.told, [Control(1, 1, (_BUFFER_1,))] * 8)

    def test_a_new_notice_is_told_at_once_with_all_before_it(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        self.run_for(0.5)
        self.stream.post(_SENT_1, 1)
        self.run_for(0.2)
        self.assertEqual(self.sender.times, [0.0, 0.01, 0.04, 0.14, 0.39, 0.5, 0.51, 0.54, 0.64])
        self.assertEqual(self.sender.told[5:], [Control(1, 1, (_BUFFER_1, _SENT_1))] * 4)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_two_in_a_row_leave_in_their_order(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        self.stream.post(_BUFFER_2, 2)
        self.assertEqual(self.sender.times, [0.0, 0.0])
        self.assertEqual(
            self.sender.told,
            [Control(1, 1, (_BUFFER_1,)), Control(1, 1, (_BUFFER_1, _BUFFER_2))],
        )

    def test_each_packet_has_a_seq_of_its_own(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        self.run_for(0.05)
        self.stream.post(_BUFFER_2, 2)
        self.assertEqual(self.sender.seqs, [CONTROL_BASE + number for number in range(4)])

    def test_several_packets_where_one_does_not_hold_all(self) -> None:
        """Of 8 bytes and two notices of 17 each, and of one notice where no more fit."""
        shapes: tuple[tuple[int, list[list[Notice]]], ...] = (
            (44, [[_BUFFER_1, _BUFFER_2], [_SENT_1, _REPAIRED_1, _SENT_2]]),
            (40, [[_BUFFER_1], [_BUFFER_2, _SENT_1], [_REPAIRED_1, _SENT_2]]),
            (
                _LEAST,
                [[_BUFFER_1], [_BUFFER_2], [_SENT_1], [_REPAIRED_1], [_SENT_2]],
            ),
        )
        for capacity, parts in shapes:
            self.open(capacity)
            self.post_all()
            self.stream.retire(0)
            first, expected = 1, []
            for part in parts:
                expected.append(Control(1, first, tuple(part)))
                first += len(part)
            self.assertEqual(self.told_once(), expected)
            self.assertLessEqual(max(self.sender.sizes), capacity)
            self.stream.stop()

    def test_each_part_names_the_oldest(self) -> None:
        self.open(_LEAST)
        self.post_all()
        self.stream.retire(1)
        told = self.told_once()
        self.assertEqual([part.oldest for part in told], [2, 2, 2, 2])
        self.assertEqual([part.first for part in told], [2, 3, 4, 5])

    def test_in_the_end_the_last_part_alone(self) -> None:
        """Who always gets the first of several, and no more, finds that it lacks something."""
        self.open(_LEAST)
        self.post_all()
        self.sender.told.clear()
        self.run_for(0.15)
        self.assertEqual([part.first for part in self.sender.told], [1, 2, 3, 4, 5] * 3)
        self.sender.told.clear()
        self.run_for(0.75)
        self.assertEqual(self.sender.told, [Control(1, 5, (_SENT_2,))] * 3)
        # And all again where there is something new.
        self.sender.told.clear()
        self.stream.post(_SENT_2, 2)
        self.assertEqual([part.first for part in self.sender.told], [1, 2, 3, 4, 5])
        self.assertEqual(self.sender.told[-1].notices, (_SENT_2, _SENT_2))

    @PROPERTY
    @given(
        st.integers(_LEAST, 200),
        st.lists(st.sampled_from((_BUFFER_1, _SENT_1, _REPAIRED_1)), min_size=1, max_size=40),
    )
    def test_all_is_told_once_in_order_and_in_full_packets(
        self, capacity: int, notices: list[Notice]
    ) -> None:
        self.open(capacity)
        for notice in notices:
            self.stream.post(notice, 1)
        told = self.told_once()
        self.stream.stop()
        self.assertEqual([notice for part in told for notice in part.notices], notices)
        first = 1
        for part, size in zip(told, map(len, (part.data(KOLLACAST) for part in told)), strict=True):
            self.assertEqual((part.oldest, part.first), (1, first))
            self.assertLessEqual(size, capacity)
            first += len(part.notices)
        for part, following in pairwise(told):
            joined = len(part.data(KOLLACAST)) + len(following.notices[0].encode(KOLLACAST))
            self.assertGreater(joined, capacity)

    def test_what_the_sender_fails_with_is_told_to_the_guard(self) -> None:
        self.sender.result = fail(ZeroDivisionError())
        self.stream.post(_BUFFER_1, 1)
        [failure] = self.failures
        failure.trap(ZeroDivisionError)
        self.failures.clear()

    def test_a_timer_that_raises_is_told_to_the_guard(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        self.patch(self.sender, "multicast", lambda *args, **options: 1 / 0)
        self.run_for(0.01)
        [failure] = self.failures
        failure.trap(ZeroDivisionError)
        self.failures.clear()


class TcpTests(_ControlStreamTest):
    """What is asked for by TCP."""

    def setUp(self) -> None:
        super().setUp()
        self.client = _Client()

    def test_who_lacks_something_is_answered_at_once(self) -> None:
        self.post_all()
        everything = (_BUFFER_1, _BUFFER_2, _SENT_1, _REPAIRED_1, _SENT_2)
        for known in range(5):
            self.stream.ask(self.client, known)
            self.assertEqual(self.client.told[-1], Control(1, known + 1, everything[known:]))
        self.assertEqual(len(self.client.told), 5)

    def test_an_answer_is_whole_whatever_a_packet_holds(self) -> None:
        self.open(_LEAST)
        self.post_all()
        self.stream.ask(self.client, 0)
        self.assertEqual(len(self.client.told[0].notices), 5)

    def test_who_lacks_what_concerns_nobody_any_more(self) -> None:
        self.post_all()
        self.stream.retire(1)
        self.stream.ask(self.client, 0)
        self.assertEqual(
            self.client.told, [Control(2, 2, (_BUFFER_2, _SENT_1, _REPAIRED_1, _SENT_2))]
        )
        self.stream.retire(2)
        self.stream.ask(self.client, 3)
        self.assertEqual(self.client.told[1:], [Control(6, 6, ())])

    def test_who_knows_all_is_answered_when_there_is_more(self) -> None:
        self.stream.ask(self.client, 0)
        self.run_for(10.0)
        self.assertEqual(self.client.told, [])
        self.stream.post(_BUFFER_1, 1)
        self.assertEqual(self.client.told, [Control(1, 1, (_BUFFER_1,))])
        # Once for each question.
        self.stream.post(_SENT_1, 1)
        self.assertEqual(len(self.client.told), 1)
        self.stream.ask(self.client, 1)
        self.assertEqual(self.client.told[1:], [Control(1, 2, (_SENT_1,))])
        self.stream.ask(self.client, 2)
        self.stream.retire(1)
        self.run_for(1.0)
        self.assertEqual(len(self.client.told), 2)
        self.stream.post(_BUFFER_2, 2)
        self.assertEqual(self.client.told[2:], [Control(3, 3, (_BUFFER_2,))])

    def test_each_of_several_is_answered_what_it_lacks(self) -> None:
        self.stream.post(_BUFFER_1, 1)
        clients = [_Client() for _ in range(3)]
        for client in clients:
            self.stream.ask(client, 1)
        self.stream.forget(clients[1])
        self.stream.ask(self.client, 0)
        self.stream.post(_SENT_1, 1)
        self.assertEqual(self.client.told, [Control(1, 1, (_BUFFER_1,))])
        answer = [Control(1, 2, (_SENT_1,))]
        self.assertEqual([client.told for client in clients], [answer, [], answer])

    def test_asking_twice_is_answered_once(self) -> None:
        self.stream.ask(self.client, 0)
        self.stream.ask(self.client, 0)
        self.stream.post(_BUFFER_1, 1)
        self.assertEqual(len(self.client.told), 1)

    def test_one_that_asks_again_while_it_is_answered(self) -> None:
        """Its next question is of what comes after."""
        stream = self.stream

        class _Eager(_Client):
            def tell(self, message: bytes) -> None:
                super().tell(message)
                stream.ask(self, self.told[-1].first + len(self.told[-1].notices) - 1)

        eager = _Eager()
        self.stream.ask(eager, 0)
        for notice in (_BUFFER_1, _SENT_1, _REPAIRED_1):
            self.stream.post(notice, 1)
        self.assertEqual(
            eager.told,
            [
                Control(1, 1, (_BUFFER_1,)),
                Control(1, 2, (_SENT_1,)),
                Control(1, 3, (_REPAIRED_1,)),
            ],
        )

    def test_one_that_leaves_while_another_is_answered(self) -> None:
        stream, other = self.stream, self.client

        class _Last(_Client):
            def tell(self, message: bytes) -> None:
                super().tell(message)
                stream.forget(other)

        last = _Last()
        self.stream.ask(last, 0)
        self.stream.ask(other, 0)
        self.stream.post(_BUFFER_1, 1)
        self.assertEqual((len(last.told), len(other.told)), (1, 0))

    def test_what_is_not_told_yet_cannot_be_known(self) -> None:
        for _ in range(2):
            for known in (self.stream.last + 1, 0xFFFFFFFF):
                with self.assertRaisesRegex(WireError, f"number {known} of the control stream"):
                    self.stream.ask(self.client, known)
            self.post_all()
            self.stream.retire(1)
        self.assertEqual(self.client.told, [])

    def test_forgetting_one_that_has_not_asked(self) -> None:
        self.stream.forget(self.client)
        self.stream.post(_BUFFER_1, 1)
        self.assertEqual(self.client.told, [])


class StopTests(_ControlStreamTest):
    """The stream is over."""

    def test_nothing_is_left(self) -> None:
        client = _Client()
        self.post_all()
        self.stream.ask(client, 5)
        self.stream.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        told = len(self.sender.told)
        self.stream.post(_BUFFER_1, 3)
        self.stream.retire(3)
        self.run_for(1.0)
        self.assertEqual(len(self.sender.told), told)
        self.assertEqual(client.told, [])
        self.stream.stop()

    def test_before_anything_was_said(self) -> None:
        self.stream.stop()
        self.stream.post(_BUFFER_1, 1)
        self.assertEqual(self.sender.told, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_question_that_crosses_the_end_is_no_fault(self) -> None:
        """It was right when it was asked."""
        client = _Client()
        self.post_all()
        self.stream.stop()
        for known in (3, 5):
            self.stream.ask(client, known)
        self.assertEqual(client.told, [])

    def test_in_the_midst_of_telling(self) -> None:
        """The sender's failure ends the session, and with it the stream."""

        def ended(failure: Failure) -> None:
            failure.trap(ZeroDivisionError)
            self.stream.stop()

        guard = Guard(ended)
        self.stream = ControlStream(
            self.clock,
            KOLLACAST,
            SignedPackets(_LEAST, None, self.sender, guard),  # type: ignore[arg-type]
            guard,
        )
        self.stream.post(_BUFFER_1, 1)
        self.sender.result = fail(ZeroDivisionError())
        self.run_for(0.01)
        self.assertEqual(self.clock.getDelayedCalls(), [])
