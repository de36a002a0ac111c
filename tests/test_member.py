"""What a client of the barrier may have asked for: all that is held, and no more at once.

Told to ask anew, it may ask for what it is owed already, but for that once each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.packets.losses import Lost
from kollacast.sending.barrier import Phase
from kollacast.sending.member import Member
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import BufferCtl, Credit
from kollacast.wire.structures import WireError

_ALL = tuple(range(100))


class _Group:
    def answered(self, member: object, phase: Phase) -> None: ...


class _Control:
    def ask(self, member: object, known: int) -> None: ...


class _Repairs:
    """Keeps what is asked for, and serves it as a test says; all is held."""

    def __init__(self) -> None:
        self.plan = SimpleNamespace(max_owed=len(_ALL), window=1)
        self.window = SimpleNamespace(holds_all=lambda seqs: True)
        self.rounds_told = 0
        self.asked: list[Sequence[int]] = []

    def requested(self, member: Member, seqs: Sequence[int]) -> None:
        self.asked.append(seqs)


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.repairs = _Repairs()
        connection: Any = SimpleNamespace(pump=lambda: None, send=lambda message: None)
        group: Any = _Group()
        repairs: Any = self.repairs
        control: Any = _Control()
        client: Any = object()
        self.member = Member(Clock(), KOLLACAST, connection, client, decodes=True)
        self.member.enter(group, repairs, control, 0)
        ctl = BufferCtl(1, 100, 0, len(_ALL))
        self.member.begin(Phase.ANNOUNCE, ctl)
        self.member.credit(Credit(0, 1))
        self.member.begin(Phase.SENT, ctl)

    def ask(self, *seqs: int) -> list[int]:
        """What of a request the repairs are told."""
        self.member.request(seqs)
        return list(self.repairs.asked[-1])

    def assert_out(self, *seqs: int) -> None:
        with self.assertRaisesRegex(WireError, "requests for more than 100 packets at once"):
            self.member.request(seqs)

    def test_all_that_is_held(self) -> None:
        self.assertEqual(self.ask(*_ALL), [*_ALL])
        self.assertEqual(self.member.packets_owed, 100)
        self.assert_out(0)

    def test_it_was_told_before_it_asked(self) -> None:
        """Its first request has met the word of others' repairs on the way."""
        self.repairs.rounds_told += 1
        self.member.repair(self.ask(*_ALL))
        self.assertEqual(self.ask(*_ALL), [])
        self.assertEqual(self.member.packets_owed, 100)
        self.assert_out(0)

    def test_it_asks_for_something_else_between(self) -> None:
        self.member.repair(self.ask(*range(60)))
        self.repairs.rounds_told += 1
        self.member.repair(self.ask(*range(60, 80)))
        self.assertEqual(self.ask(*range(50, 90)), [*range(80, 90)])
        self.assertEqual(self.member.packets_owed, 90)

    def test_what_is_being_coded(self) -> None:
        """It is owed as well: it has been asked for as the word of other repairs came."""
        self.repairs.rounds_told += 1
        self.assertEqual(self.ask(*_ALL), [*_ALL])
        self.assertEqual(self.ask(*_ALL), [])
        self.member.repaired()
        self.repairs.rounds_told += 1
        self.assertEqual(self.member.packets_owed, 0)
        self.assertEqual(self.ask(*_ALL), [*_ALL])

    def test_told_of_several(self) -> None:
        self.member.repair(self.ask(*_ALL))
        self.repairs.rounds_told += 2
        self.assertEqual(self.ask(*range(50)), [])
        self.assertEqual(self.ask(*range(50, 100)), [])
        self.assert_out(0)


class CreditTests(SynchronousTestCase):
    """What was lost of buffers that are closed at once."""

    def setUp(self) -> None:
        self.closed: list[tuple[int, Lost]] = []
        repairs: Any = SimpleNamespace(
            plan=SimpleNamespace(window=4),
            rounds_told=0,
            done=lambda member, buffer_id, lost: self.closed.append((buffer_id, lost)),
        )
        group: Any = _Group()
        control: Any = _Control()
        connection: Any = SimpleNamespace(pump=lambda: None)
        client: Any = SimpleNamespace(kept_all=lambda: None, sent_all=lambda: None)
        self.member = Member(Clock(), KOLLACAST, connection, client, decodes=True)
        self.member.enter(group, repairs, control, 0)
        for number, packets in ((1, 100), (2, 300), (3, 0)):
            ctl = BufferCtl(number, packets * 10, 0, packets)
            self.member.begin(Phase.ANNOUNCE, ctl)
            self.member.begin(Phase.SENT, ctl)
        self.member.credit(Credit(0, 4))

    def test_of_one(self) -> None:
        self.member.credit(Credit(1, 5, 100, 7))
        self.assertEqual(self.closed, [(1, Lost(100, 7))])

    def test_of_several_each_has_its_part(self) -> None:
        self.member.credit(Credit(3, 7, 80, 8))
        self.assertEqual(self.closed, [(1, Lost(20, 2)), (2, Lost(60, 6)), (3, Lost(0, 0))])

    def test_more_than_there_were(self) -> None:
        for credit in (Credit(0, 5, 1, 1), Credit(1, 5, 101, 1), Credit(3, 7, 401, 1)):
            with self.assertRaisesRegex(WireError, f"{credit.lost} packets lost of"):
                self.member.credit(credit)
        self.assertEqual(self.closed, [])

    def test_more_buffers_than_were_sent(self) -> None:
        with self.assertRaisesRegex(WireError, "DONE for a buffer that was not sent"):
            self.member.credit(Credit(0xFFFFFFFF, 0xFFFFFFFF, 1, 1))


class QuestionTests(SynchronousTestCase):
    """About the control stream."""

    def test_before_a_buffer_is_announced_to_it(self) -> None:
        """Who joins late may first hear of the end of a buffer that others were told of."""
        asked: list[int] = []
        control: Any = SimpleNamespace(
            check=lambda known: None, ask=lambda member, known: asked.append(known)
        )
        connection: Any = SimpleNamespace(pump=lambda: None, queue=[])
        group: Any = _Group()
        repairs: Any = _Repairs()
        client: Any = object()
        member = Member(Clock(), KOLLACAST, connection, client, decodes=True)
        with self.assertRaisesRegex(WireError, "a stream that has not begun"):
            member.ask(7)
        member.enter(group, repairs, control, 7)
        member.ask(8)
        self.assertEqual(asked, [7, 8])
