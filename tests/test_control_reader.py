"""The control stream as it comes in: each notice heard once and in order, whatever is lost.

On a clock that the test turns; the connection only keeps what is asked by TCP.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.receiving.control import ControlReader
from kollacast.receiving.signatures import Signatures
from kollacast.receiving.tally import Tally
from kollacast.sending.control import ControlStream
from kollacast.sending.signed_packets import SignedPackets
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import Ask, BufferCtl, Control, Notice, Repaired, Sent
from kollacast.wire.recipes import CONTROL_BASE
from kollacast.wire.signature import Signer, Verifier
from kollacast.wire.structures import MIN_MTU, WireError, payload_capacity
from tests.vectors import PROPERTY

#: The first notices of a stream.
_NOTICES: tuple[Notice, ...] = (
    BufferCtl(1, 400, 0, 4),
    BufferCtl(2, 300, 4, 3),
    Sent(1, 4),
    Repaired(1),
    Sent(2, 3),
    BufferCtl(3, 0, 7, 0),
)
#: Something that no server says.
_NONSENSE = Repaired(666)


def _part(first: int, last: int, oldest: int = 1) -> Control:
    """The notices of these numbers."""
    return Control(oldest, first, _NOTICES[first - 1 : last])


class _Connection:
    """Keeps what is asked, and when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.asked: list[int] = []
        self.times: list[float] = []

    def send(self, message: bytes) -> None:
        [known] = [n for n in range(len(_NOTICES) + 3) if Ask(n).encode(KOLLACAST) == message]
        self.asked.append(known)
        self.times.append(round(self._clock.seconds(), 6))


class _ControlReaderTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.failures: list[Failure] = []
        self.open()

    def open(self) -> None:
        self.heard: list[Notice] = []
        self.connection = _Connection(self.clock)
        self.reader = ControlReader(
            self.clock,
            self.connection,  # type: ignore[arg-type]
            KOLLACAST,
            Signatures(self.clock, None, Tally()),
            self.hear,
            Guard(self.failures.append),
        )

    def tearDown(self) -> None:
        self.reader.stop()
        self.assertEqual(self.failures, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def hear(self, notice: Notice) -> None:
        if notice == _NONSENSE:
            raise WireError("nonsense")
        self.heard.append(notice)

    def by_tcp(self, first: int, last: int, oldest: int = 1) -> None:
        self.reader.by_tcp(_part(first, last, oldest))

    def by_multicast(self, first: int, last: int, oldest: int = 1) -> None:
        self.reader.by_multicast(CONTROL_BASE, _part(first, last, oldest).data(KOLLACAST))

    def assert_heard(self, last: int, first: int = 1) -> None:
        """The notices from ``first`` to ``last``, each once."""
        self.assertEqual(self.heard, list(_NOTICES[first - 1 : last]))

    def run_for(self, seconds: float) -> None:
        """Each timer at its time."""
        end = self.clock.seconds() + seconds
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self.clock.advance(self.clock.calls[0].getTime() - self.clock.seconds())
        self.clock.advance(end - self.clock.seconds())


class OrderTests(_ControlReaderTest):
    """Each notice once, and in order."""

    def test_nothing_is_heard_before_tcp_says_where_it_begins(self) -> None:
        """A client that joins late is not told of the first buffers."""
        self.by_multicast(1, 3)
        self.run_for(60.0)
        self.assertEqual((self.heard, self.connection.asked), ([], []))
        self.by_tcp(4, 4)
        self.by_multicast(1, 5)
        self.assert_heard(5, first=4)
        self.assertEqual(self.connection.asked, [])

    def test_packets_that_repeat_what_is_known(self) -> None:
        self.by_tcp(1, 1)
        for last in (1, 2, 2, 4, 4, 6, 6):
            self.by_multicast(1, last)
            self.assert_heard(last)
        self.assertEqual(self.connection.asked, [])

    def test_packets_that_overtake_each_other(self) -> None:
        self.by_tcp(1, 1)
        for last in (4, 2, 3, 6, 1, 5):
            self.by_multicast(1, last)
        self.assert_heard(6)
        self.assertEqual(self.connection.asked, [])

    def test_missing_packets_cost_nothing_where_a_later_one_has_all(self) -> None:
        self.by_tcp(1, 1)
        self.by_multicast(1, 6)
        self.assert_heard(6)
        self.assertEqual(self.connection.asked, [])

    def test_parts_of_one_telling(self) -> None:
        self.by_tcp(1, 1)
        self.by_multicast(1, 2)
        self.by_multicast(3, 4)
        self.by_multicast(5, 6)
        self.assert_heard(6)

    def test_what_concerns_nobody_any_more_may_be_left_out(self) -> None:
        self.by_tcp(1, 2)
        self.by_multicast(2, 4, oldest=2)
        self.by_multicast(5, 6, oldest=5)
        self.assert_heard(6)
        self.assertEqual(self.connection.asked, [])

    def test_a_part_that_says_nothing(self) -> None:
        self.by_tcp(1, 6)
        self.by_multicast(7, 6, oldest=7)
        self.by_tcp(7, 6, oldest=7)
        self.assert_heard(6)
        self.assertEqual(self.connection.asked, [])

    def test_tcp_and_multicast_at_once(self) -> None:
        self.by_tcp(1, 2)
        self.by_multicast(2, 4)
        self.by_tcp(3, 5)
        self.by_multicast(1, 3)
        self.by_tcp(1, 5)
        self.assert_heard(5)


class GapTests(_ControlReaderTest):
    """What is missed is asked for by TCP."""

    def test_a_gap_asks_at_once_and_once(self) -> None:
        self.by_tcp(1, 1)
        self.run_for(0.1)
        self.by_multicast(3, 4)
        self.assert_heard(1)
        self.assertEqual(self.connection.asked, [1])
        self.run_for(0.1)
        self.by_multicast(3, 5)
        self.by_multicast(5, 6)
        self.assertEqual(self.connection.asked, [1])
        self.by_tcp(2, 4)
        self.assert_heard(4)
        self.by_multicast(5, 6)
        self.assert_heard(6)
        # Multicast was heard all the time: TCP need not tell of the next one as well.
        self.assertEqual(self.connection.asked, [1])

    def test_what_is_left_out_may_have_concerned_this_host(self) -> None:
        """Multicast is not believed that, and TCP is."""
        self.by_tcp(1, 1)
        self.by_multicast(4, 5, oldest=4)
        self.assert_heard(1)
        self.assertEqual(self.connection.asked, [1])
        self.by_tcp(4, 5, oldest=4)
        self.assertEqual(self.heard, [_NOTICES[0], *_NOTICES[3:5]])

    def test_a_gap_to_a_part_that_says_nothing(self) -> None:
        self.by_tcp(1, 1)
        self.by_multicast(4, 3, oldest=4)
        self.assertEqual(self.connection.asked, [1])
        self.by_tcp(4, 3, oldest=4)
        self.by_multicast(4, 6, oldest=4)
        self.assertEqual(self.heard, [_NOTICES[0], *_NOTICES[3:]])
        self.assertEqual(self.connection.asked, [1])

    def test_a_gap_that_an_answer_does_not_fill_asks_again(self) -> None:
        self.by_tcp(1, 1)
        self.by_multicast(5, 6)
        self.by_tcp(2, 3)
        self.by_multicast(5, 6)
        self.assertEqual(self.connection.asked, [1, 3])
        self.by_tcp(4, 4)
        self.by_multicast(5, 6)
        self.assert_heard(6)

    def test_a_gap_by_tcp_ends_the_run(self) -> None:
        self.by_tcp(1, 1)
        with self.assertRaisesRegex(WireError, "a gap in the control stream"):
            self.by_tcp(3, 4)
        self.assert_heard(1)


class SilenceTests(_ControlReaderTest):
    """No control packet comes."""

    def test_silence_asks_once(self) -> None:
        self.by_tcp(1, 1)
        self.run_for(60.0)
        self.assertEqual((self.connection.asked, self.connection.times), ([1], [0.6]))

    def test_whatever_is_heard_breaks_it(self) -> None:
        """Also what says nothing new, and what cannot be used yet."""
        self.by_tcp(1, 2)
        for _ in range(9):
            self.run_for(0.55)
            self.by_multicast(1, 2)
        self.assertEqual(self.connection.asked, [])
        self.run_for(0.59)
        self.assertEqual(self.connection.asked, [])
        self.run_for(0.02)
        self.assertEqual(self.connection.asked, [2])
        self.assertEqual(self.connection.times, [9 * 0.55 + 0.6])

    def test_an_answer_by_tcp_breaks_none(self) -> None:
        """As long as multicast is silent, TCP is asked for the next one behind each answer."""
        self.by_tcp(1, 1)
        self.run_for(1.0)
        for number in range(2, 6):
            self.by_tcp(number, number)
            self.assertEqual(self.connection.asked, list(range(1, number + 1)))
            self.run_for(3.0)
            self.assertEqual(self.connection.asked, list(range(1, number + 1)))
        self.assert_heard(5)

    def test_multicast_that_comes_back_takes_over(self) -> None:
        self.by_tcp(1, 1)
        self.run_for(1.0)
        self.by_multicast(1, 2)
        self.by_tcp(2, 2)
        self.assert_heard(2)
        self.assertEqual(self.connection.asked, [1])
        self.run_for(0.59)
        self.assertEqual(self.connection.asked, [1])
        self.run_for(0.61)
        self.assertEqual(self.connection.asked, [1, 2])

    def test_one_question_is_answered_before_the_next(self) -> None:
        """A gap while an answer is due, and silence behind a gap."""
        self.by_tcp(1, 1)
        self.run_for(1.0)
        self.by_multicast(4, 5)
        self.run_for(60.0)
        self.assertEqual(self.connection.asked, [1])

    def test_it_begins_with_the_first_part(self) -> None:
        self.run_for(60.0)
        self.by_tcp(1, 1)
        self.run_for(0.59)
        self.assertEqual(self.connection.asked, [])
        self.run_for(0.02)
        self.assertEqual(self.connection.asked, [1])


class NonsenseTests(_ControlReaderTest):
    """What makes no sense: not the server's by multicast, a fault of it by TCP."""

    def test_by_multicast_it_asks_and_never_ends_the_run(self) -> None:
        good = _part(1, 2).data(KOLLACAST)
        for data in (
            b"",
            b"\0",
            bytes(8),
            bytes(28),
            good[:-1],
            good + b"\0",
            Control(2, 1, _NOTICES[:2]).data(KOLLACAST),
            Control(1, 2, (_NONSENSE,)).data(KOLLACAST),
            Control(1, 2, (_NONSENSE, _NOTICES[2])).data(KOLLACAST),
            Control(0xFFFFFFFF, 0xFFFFFFFF, _NOTICES[:2]).data(KOLLACAST),
        ):
            self.open()
            self.by_tcp(1, 1)
            self.reader.by_multicast(CONTROL_BASE, data)
            self.assert_heard(1)
            self.assertEqual(self.connection.asked, [1], data)
            self.reader.by_multicast(CONTROL_BASE, data)
            self.assertEqual(self.connection.asked, [1], data)
            self.by_tcp(2, 3)
            self.by_multicast(1, 6)
            self.assert_heard(6)
            self.reader.stop()

    def test_what_stands_before_it_counts(self) -> None:
        self.by_tcp(1, 1)
        data = Control(1, 1, (*_NOTICES[:3], _NONSENSE)).data(KOLLACAST)
        self.reader.by_multicast(CONTROL_BASE, data)
        self.reader.by_multicast(CONTROL_BASE, data)
        self.assert_heard(3)
        self.assertEqual(self.connection.asked, [3])
        self.by_tcp(4, 6)
        self.assert_heard(6)

    def test_what_cannot_be_read_is_no_sound(self) -> None:
        self.by_tcp(1, 1)
        for _ in range(5):
            self.run_for(0.2)
            self.reader.by_multicast(CONTROL_BASE, b"noise")
        self.assertEqual((self.connection.asked, self.connection.times), ([1], [0.2]))
        self.by_tcp(2, 2)
        self.assertEqual(self.connection.asked, [1, 2])

    def test_by_tcp_it_is_the_server_s_fault(self) -> None:
        self.by_tcp(1, 1)
        with self.assertRaisesRegex(WireError, "nonsense"):
            self.reader.by_tcp(Control(1, 2, (_NOTICES[1], _NONSENSE, _NOTICES[2])))
        self.assert_heard(2)

    def test_in_the_first_part(self) -> None:
        with self.assertRaisesRegex(WireError, "nonsense"):
            self.reader.by_tcp(Control(1, 1, (_NONSENSE,)))
        self.assertEqual(self.heard, [])

    def test_an_error_of_the_program_is_no_nonsense(self) -> None:
        """Whoever reads datagrams tells of it."""

        def hear(notice: Notice) -> None:
            raise ZeroDivisionError

        self.by_tcp(1, 1)
        self.patch(self.reader, "_hear", hear)
        for way in (self.by_multicast, self.by_tcp):
            with self.assertRaises(ZeroDivisionError):
                way(1, 2)

    def test_forged_numbers(self) -> None:
        """Far ahead of what is known, and at the end of all numbers: only TCP is believed."""
        for oldest, first in ((1, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (1, 3), (3, 3)):
            self.open()
            self.by_tcp(1, 1)
            self.reader.by_multicast(
                CONTROL_BASE, Control(oldest, first, (_NONSENSE,)).data(KOLLACAST)
            )
            self.reader.by_multicast(CONTROL_BASE, Control(oldest, first, ()).data(KOLLACAST))
            self.assertEqual(self.connection.asked, [1])
            self.by_tcp(2, 2)
            self.by_multicast(1, 6)
            self.assert_heard(6)
            self.reader.stop()

    def test_the_last_number_there_is_can_be_asked_about(self) -> None:
        """Whatever a server says, the question behind it is a message."""
        asked: list[bytes] = []
        self.patch(self.connection, "send", asked.append)
        self.reader.by_tcp(Control(0xFFFFFFFF, 0xFFFFFFFF, (Sent(1, 2),)))
        self.run_for(1.0)
        self.assertEqual(asked, [Ask(0xFFFFFFFF).encode(KOLLACAST)])


class StopTests(_ControlReaderTest):
    """Nothing more is heard, asked, or left behind."""

    def test_once_stopped(self) -> None:
        self.by_tcp(1, 1)
        self.by_multicast(3, 4)
        self.reader.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.by_tcp(2, 3)
        self.by_tcp(5, 6)
        self.by_multicast(1, 6)
        self.by_multicast(5, 6)
        self.reader.by_multicast(CONTROL_BASE, b"noise")
        self.run_for(60.0)
        self.assert_heard(1)
        self.assertEqual(self.connection.asked, [1])
        self.reader.stop()

    def test_before_it_began(self) -> None:
        self.reader.stop()
        self.by_tcp(1, 1)
        self.assertEqual(self.heard, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_by_what_is_heard(self) -> None:
        """The rest of the same part is not heard any more, and nothing is asked."""

        def stops(notice: Notice) -> None:
            self.hear(notice)
            self.reader.stop()

        for way in (self.by_tcp, self.by_multicast):
            self.open()
            self.by_tcp(1, 1)
            self.run_for(1.0)
            self.patch(self.reader, "_hear", stops)
            way(2, 4)
            self.assert_heard(2)
            self.assertEqual(self.connection.asked, [1])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_by_a_question_that_cannot_be_asked(self) -> None:
        """The connection is over."""
        self.by_tcp(1, 1)
        self.patch(self.connection, "send", lambda message: self.reader.stop())
        self.run_for(1.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_by_the_first_part(self) -> None:
        self.patch(self.reader, "_hear", lambda notice: self.reader.stop())
        self.by_tcp(1, 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class _Network:
    """Between a stream and its reader: loses, holds back and repeats what is multicast."""

    def __init__(self, clock: Clock, fate: Callable[[], str]) -> None:
        self._fate = fate
        self._held: list[tuple[int, bytes]] = []
        self.stream: ControlStream
        self.reader: ControlReader
        self.is_cut = False
        self.answers: list[bytes] = []

    def multicast(self, buffer: PacketBuffer, *, urgent: bool, counts: bool) -> Deferred[float]:
        [payload] = buffer.slots(0, 1)
        seq, data = buffer.ctl.packet_id_base, bytes(payload)
        fate = "lost" if self.is_cut else self._fate()
        if fate == "held":
            self._held.append((seq, data))
        elif fate == "damaged":
            self.reader.by_multicast(seq, data[:-1])
        elif fate != "lost":
            self.reader.by_multicast(seq, data)
            if fate == "overtakes":
                for held in reversed(self._held):
                    self.reader.by_multicast(*held)
                self._held.clear()
        return Deferred()

    # The connection, from both ends: what the server answers comes when the test says.

    def send(self, message: bytes) -> None:
        self.stream.ask(self, int.from_bytes(message[1:], "big"))

    def tell(self, message: bytes) -> None:
        self.answers.append(message)

    def deliver(self) -> None:
        """What TCP has brought."""
        answers, self.answers = self.answers, []
        for message in answers:
            self.reader.by_tcp(Control.of_data(KOLLACAST, message[5:]))


class TogetherTests(SynchronousTestCase):
    """A stream and its reader with any network between them."""

    @PROPERTY
    @given(st.data())
    def test_a_prefix_in_order_each_once_and_all_in_the_end(self, data: st.DataObject) -> None:
        clock, failures, heard = Clock(), list[Failure](), list[Notice]()
        fates = data.draw(
            st.lists(
                st.sampled_from(("comes", "lost", "lost", "held", "overtakes", "damaged")),
                min_size=1,
                max_size=60,
            )
        )
        left = cycle(fates)
        network = _Network(clock, lambda: next(left))
        guard = Guard(failures.append)
        capacity = data.draw(st.sampled_from((payload_capacity(MIN_MTU), 200, 1460)))
        signer = data.draw(st.sampled_from((None, Signer())))
        verifier = Verifier(signer.public) if signer is not None else None
        packets = SignedPackets(capacity, signer, network, guard)  # type: ignore[arg-type]
        stream = network.stream = ControlStream(clock, KOLLACAST, packets, guard)
        signatures = Signatures(clock, verifier, Tally())
        network.reader = ControlReader(
            clock,
            network,  # type: ignore[arg-type]
            KOLLACAST,
            signatures,
            heard.append,
            guard,
        )
        notices: list[Notice] = []
        before = data.draw(st.integers(0, 3))
        for number in range(1, before + 1):
            notices.append(Repaired(number))
            stream.post(notices[-1], number)
        # The server speaks first; whoever is not heard out is told of nothing.
        stream.ask(network, before)
        for number in range(before + 1, before + data.draw(st.integers(1, 12)) + 1):
            notices.append(Repaired(number))
            stream.post(notices[-1], number)
            step = data.draw(st.sampled_from(("answer", "wait", "retire", "nothing")))
            if step == "answer":
                network.deliver()
            elif step == "wait":
                clock.pump([0.05] * data.draw(st.integers(1, 30)))
            elif step == "retire":
                # All that this host has heard, all others have, too.
                stream.retire(before + len(heard))
            self.assertEqual(heard, notices[before : before + len(heard)])
        # From here on only TCP answers.
        network.is_cut = True
        for _ in range(40):
            network.deliver()
            clock.advance(0.1)
        self.assertEqual(heard, notices[before:])
        self.assertEqual(failures, [])
        network.reader.stop()
        stream.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
