"""Clients in groups: the barrier of every phase, over all groups, whoever leaves and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial import unittest

from kollacast.events.guard import Guard
from kollacast.sending.barrier import ClientGroup, GroupChain, Phase
from kollacast.wire.messages import BufferCtl
from tests.vectors import PROPERTY


def _buffer(number: int) -> BufferCtl:
    return BufferCtl(number, 0, 0, 0)


def _fail(failure: Failure) -> None:
    failure.raiseException()


def _chain(group_size: int) -> GroupChain[_Client]:
    return GroupChain(group_size, Guard(_fail))


class _Client:
    """Notes what it is told, and answers when the test says so or at once."""

    def __init__(self, chain: GroupChain[_Client], *, prompt: bool = False) -> None:
        self.told: list[tuple[Phase, BufferCtl | None]] = []
        self.prompt = prompt
        self.group: ClientGroup[_Client] = chain.join(self)

    def begin(self, phase: Phase, value: BufferCtl | None) -> None:
        self.told.append((phase, value))
        if self.prompt:
            self.answer(phase)

    def answer(self, phase: Phase) -> None:
        self.group.answered(self, phase)

    def leave(self) -> None:
        self.group.leave(self)


class Groups(unittest.SynchronousTestCase):
    """Five clients in groups of two."""

    def setUp(self) -> None:
        self.chain = _chain(2)
        self.clients = [_Client(self.chain) for _ in range(5)]

    def test_a_group_holds_no_more_than_its_size(self) -> None:
        self.assertEqual([len(group.members) for group in self.chain.groups], [2, 2, 1])
        self.assertEqual([group.has_room for group in self.chain.groups], [False, False, True])
        self.assertIs(self.clients[2].group, self.chain.groups[1])

    def test_who_comes_after_somebody_has_left_takes_that_place(self) -> None:
        self.clients[0].leave()
        late = _Client(self.chain)
        self.assertIs(late.group, self.chain.groups[0])
        self.assertEqual([len(group.members) for group in self.chain.groups], [2, 2, 1])

    def test_everyone_is_told_once(self) -> None:
        self.chain.begin(Phase.ANNOUNCE, _buffer(0))
        for client in self.clients:
            self.assertEqual(client.told, [(Phase.ANNOUNCE, _buffer(0))])

    def test_a_phase_ends_with_its_last_answer_whoever_gives_it(self) -> None:
        for last in range(5):
            barrier = self.chain.begin(Phase.ANNOUNCE, _buffer(last))
            for number, client in enumerate(self.clients):
                if number != last:
                    client.answer(Phase.ANNOUNCE)
            self.assertNoResult(barrier)
            self.clients[last].answer(Phase.ANNOUNCE)
            self.assertIsNone(self.successResultOf(barrier))

    def test_nobody_answers_for_another(self) -> None:
        barrier = self.chain.begin(Phase.SENT, _buffer(0))
        for _ in range(5):
            self.clients[0].answer(Phase.SENT)
        self.assertNoResult(barrier)

    def test_several_phases_of_one_kind_are_under_way(self) -> None:
        """A client that is ahead in one counts for the next, and not for this one again."""
        first = self.chain.begin(Phase.ANNOUNCE, _buffer(1))
        second = self.chain.begin(Phase.ANNOUNCE, _buffer(2))
        for client in self.clients[1:]:
            client.answer(Phase.ANNOUNCE)
            client.answer(Phase.ANNOUNCE)
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.clients[0].answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(first))
        self.assertNoResult(second)
        self.clients[0].answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(second))

    def test_kinds_of_phases_do_not_wait_for_each_other(self) -> None:
        sent = self.chain.begin(Phase.SENT, _buffer(1))
        announced = self.chain.begin(Phase.ANNOUNCE, _buffer(2))
        for client in self.clients:
            client.answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(announced))
        self.assertNoResult(sent)
        for client in self.clients:
            client.answer(Phase.SENT)
        self.assertIsNone(self.successResultOf(sent))

    def test_answers_have_names(self) -> None:
        self.assertEqual([phase.value for phase in Phase], ["READY", "DONE", "REPORT"])

    def test_prompt_clients_hold_up_nobody(self) -> None:
        for client in self.clients:
            client.prompt = True
        for value in range(3):
            self.assertIsNone(self.successResultOf(self.chain.begin(Phase.SENT, _buffer(value))))


class Leaving(unittest.SynchronousTestCase):
    """A client that goes is waited for no more, in any phase."""

    def setUp(self) -> None:
        self.chain = _chain(2)
        self.clients = [_Client(self.chain) for _ in range(5)]

    def answer(self, clients: list[_Client], phase: Phase) -> None:
        for client in clients:
            client.answer(phase)

    def test_in_mid_phase_as_the_last_one(self) -> None:
        for phase in Phase:
            for index in range(3):
                chain = _chain(2)
                clients = [_Client(chain) for _ in range(3)]
                barrier = chain.begin(phase, None)
                self.answer(clients[:index] + clients[index + 1 :], phase)
                self.assertNoResult(barrier)
                clients[index].leave()
                self.assertIsNone(self.successResultOf(barrier))

    def test_with_several_phases_under_way(self) -> None:
        barriers = [self.chain.begin(Phase.ANNOUNCE, _buffer(value)) for value in range(3)]
        for _ in range(3):
            self.answer(self.clients[1:], Phase.ANNOUNCE)
        self.clients[0].leave()
        for barrier in barriers:
            self.assertIsNone(self.successResultOf(barrier))

    def test_after_it_has_answered(self) -> None:
        barrier = self.chain.begin(Phase.ANNOUNCE, None)
        self.clients[0].answer(Phase.ANNOUNCE)
        self.clients[0].leave()
        self.assertNoResult(barrier)
        self.answer(self.clients[1:], Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(barrier))

    def test_a_whole_group(self) -> None:
        """The chain still hangs together where a group in its midst is empty."""
        barrier = self.chain.begin(Phase.ANNOUNCE, _buffer(1))
        self.clients[2].leave()
        self.clients[3].leave()
        rest = self.clients[:2] + self.clients[4:]
        self.answer(rest, Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(barrier))
        barrier = self.chain.begin(Phase.SENT, _buffer(2))
        self.assertEqual(self.clients[4].told[-1], (Phase.SENT, _buffer(2)))
        self.assertEqual(len(self.clients[2].told), 1)
        self.answer(rest, Phase.SENT)
        self.assertIsNone(self.successResultOf(barrier))

    def test_everybody(self) -> None:
        barrier = self.chain.begin(Phase.ANNOUNCE, _buffer(1))
        for client in self.clients:
            client.leave()
        self.assertIsNone(self.successResultOf(barrier))
        self.assertIsNone(self.successResultOf(self.chain.begin(Phase.SENT, _buffer(1))))

    def test_while_it_is_told(self) -> None:
        """A connection may prove lost at the very moment at which it is written to."""

        class Breaking(_Client):
            def begin(self, phase: Phase, value: BufferCtl | None) -> None:
                self.leave()

        chain = _chain(3)
        clients = [_Client(chain), Breaking(chain), _Client(chain)]
        barrier = chain.begin(Phase.ANNOUNCE, _buffer(1))
        self.assertNoResult(barrier)
        clients[0].answer(Phase.ANNOUNCE)
        clients[2].answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(barrier))


class Joining(unittest.SynchronousTestCase):
    def test_nobody_is_there(self) -> None:
        self.assertIsNone(self.successResultOf(_chain(2).begin(Phase.ANNOUNCE, _buffer(1))))

    def test_in_mid_phase_into_a_group_with_room(self) -> None:
        chain = _chain(2)
        early = _Client(chain)
        first = chain.begin(Phase.ANNOUNCE, _buffer(1))
        late = _Client(chain)
        self.assertEqual(late.told, [])
        early.answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(first))
        second = chain.begin(Phase.ANNOUNCE, _buffer(2))
        early.answer(Phase.ANNOUNCE)
        self.assertNoResult(second)
        late.answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(second))

    def test_in_mid_phase_into_a_new_group(self) -> None:
        """What is under way does not wait for a group that was never told of it."""
        chain = _chain(1)
        early = _Client(chain)
        first = chain.begin(Phase.ANNOUNCE, _buffer(1))
        late = _Client(chain)
        early.answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(first))
        second = chain.begin(Phase.ANNOUNCE, _buffer(2))
        self.assertEqual(late.told, [(Phase.ANNOUNCE, _buffer(2))])
        early.answer(Phase.ANNOUNCE)
        self.assertNoResult(second)
        late.answer(Phase.ANNOUNCE)
        self.assertIsNone(self.successResultOf(second))


class AnyOrder(unittest.SynchronousTestCase):
    @PROPERTY
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(Phase),
                st.sampled_from(("begin", "answer", "answer", "answer", "leave")),
                st.integers(0, 6),
            ),
            max_size=40,
        ),
        st.integers(1, 4),
        st.integers(1, 7),
    )
    def test_a_barrier_fires_exactly_when_nobody_owes_its_answer(
        self, steps: list[tuple[Phase, str, int]], size: int, count: int
    ) -> None:
        chain = _chain(size)
        here = [_Client(chain) for _ in range(count)]
        barriers: dict[Phase, list[tuple[Deferred[None], set[_Client]]]] = {p: [] for p in Phase}
        for phase, action, number in steps:
            if action == "begin":
                barriers[phase].append((chain.begin(phase, None), set(here)))
            elif not here:
                continue
            elif action == "answer":
                client = here[number % len(here)]
                owed = [debtors for _, debtors in barriers[phase] if client in debtors]
                if owed:
                    owed[0].discard(client)
                    client.answer(phase)
            else:
                client = here.pop(number % len(here))
                for under_way in barriers.values():
                    for _, debtors in under_way:
                        debtors.discard(client)
                client.leave()
            for under_way in barriers.values():
                waiting = False
                for barrier, debtors in under_way:
                    waiting = waiting or bool(debtors)
                    self.assertEqual(barrier.called, not waiting)
