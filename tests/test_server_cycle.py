"""The server's cycle: its machine, and what becomes of a session whatever a client does.

Most clients here are driven by hand, message by message; where a test says "the others", those
are real clients, which have to end with the whole image.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from kollacast.files.digest import KNOWN_DIGESTS, ExpectedDigest
from kollacast.files.source import ChangedImage
from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Outcome, Status
from kollacast.packets.buffer import PacketBuffer
from kollacast.sending import read_ahead
from kollacast.sending.read_ahead import ReadAhead
from kollacast.server.connection import HELLO_TIMEOUT_S
from kollacast.server.cycle import Stage, cycle, stage_of
from kollacast.server.snapshot import Snapshot
from kollacast.wire.dialect import JASMINE, KOLLACAST
from kollacast.wire.greeting import Greeting, Hello, Refusal, encode_json
from kollacast.wire.messages import Ask, BufferCtl, Credit, Digest, Packet, Report, Sent
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawClient
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY, PORT, SERVER_IP
from tests.simulation.testcase import MemoryTestCase

_BUFFER = BUFFER_PACKETS * CAPACITY
#: Three buffers and a bit.
_IMAGE = bytes(i * 7 % 251 for i in range(3 * _BUFFER + CAPACITY + 12))
_ALL = (BufferCtl, Sent, Digest)
_LATE = (
    "the session has begun without this client, and its input is a pipe, which is not read twice"
    " without --spool"
)


class _Work:
    """Does nothing but note what the machine has done, and wait for the test."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.under_way: Deferred[Any] = Deferred()
        self.error: BaseException | None = None

    def _begin(self, name: str) -> Deferred[Any]:
        self.called.append(name)
        self.under_way = Deferred()
        return self.under_way

    @property
    def stream(self) -> Any:
        return self

    def accept(self) -> Deferred[None]:
        return self._begin("accept")

    def begin(self) -> Deferred[None]:
        return self._begin("begin")

    def prepare(self) -> Deferred[None]:
        return self._begin("prepare")

    def synchronize(self) -> Deferred[None]:
        return self._begin("synchronize")

    def send(self) -> Deferred[bool]:
        return self._begin("send")

    def prove(self) -> Deferred[None]:
        return self._begin("prove")

    def consider_end(self) -> None:
        self.called.append("consider_end")

    def end(self, reason: str | None, later: bool) -> None:
        self.called.append("end")

    def fail(self, failure: Failure) -> None:
        self.error = failure.value


#: The way into each state that waits for work: what ends the work of those before it.
_WAYS: dict[str, list[Any]] = {
    "accept": [],
    "begin": [None],
    "synchronize": [None, None],
    "send": [None, None, None],
    "prepare": [None, None, None, True],
    "prove": [None, None, None, False],
}
_STAGES = {
    "accept": Stage.GATHERING,
    "begin": Stage.SENDING,
    "synchronize": Stage.SENDING,
    "send": Stage.SENDING,
    "prepare": Stage.SENDING,
    "prove": Stage.PROVING,
}


class MachineTests(TestCase):
    """S_INIT to S_EXIT, with the work left out."""

    def _in(self, state: str) -> tuple[Any, _Work]:
        work = _Work()
        machine = cycle(work)
        machine.start()
        for result in _WAYS[state]:
            work.under_way.callback(result)
        self.assertEqual(work.called[-1], state)
        return machine, work

    def test_nothing_begins_before_the_start(self) -> None:
        work = _Work()
        cycle(work)
        self.assertEqual(work.called, [])

    def test_the_states_follow_each_other_until_the_empty_buffer(self) -> None:
        _, work = self._in("send")
        work.under_way.callback(True)
        self.assertEqual(work.called[-1], "prepare")
        for result in (None, None, False):
            work.under_way.callback(result)
        self.assertEqual(
            work.called,
            ["accept", "begin", "synchronize", "send", "prepare", "synchronize", "send", "prove"],
        )
        work.under_way.callback(None)
        self.assertEqual(work.called[-1], "consider_end")
        self.assertIsNone(work.error)

    def test_it_says_how_far_it_is(self) -> None:
        work = _Work()
        machine = cycle(work)
        self.assertIs(stage_of(machine), Stage.STARTING)
        for state, stage in _STAGES.items():
            machine, work = self._in(state)
            self.assertIs(stage_of(machine), stage)
        work.under_way.callback(None)
        self.assertIs(stage_of(machine), Stage.PROVED)
        machine.stop("enough", False)
        self.assertIs(stage_of(machine), Stage.ENDED)

    def test_where_nobody_came_but_who_is_no_client_it_gathers_anew(self) -> None:
        for state in ("begin", "synchronize"):
            machine, work = self._in(state)
            given_up = work.under_way
            machine.deserted()
            self.assertEqual(work.called[-1], "accept")
            self.assertIs(stage_of(machine), Stage.GATHERING)
            given_up.callback(None)
            self.assertEqual(work.called[-1], "accept")
            work.under_way.callback(None)
            self.assertEqual(work.called[-1], "begin")
            self.assertIsNone(work.error)

    def test_a_stop_ends_every_state_and_late_results_change_nothing(self) -> None:
        for state in _WAYS:
            for late in (None, True, False):
                machine, work = self._in(state)
                before = list(work.called)
                machine.stop("enough", False)
                work.under_way.callback(late)
                told = (work.called, work.error)
                self.assertEqual(told, ([*before, "end"], None), (state, late))

    def test_a_stop_before_the_start_and_a_second_one(self) -> None:
        work = _Work()
        machine = cycle(work)
        machine.stop("enough", False)
        machine.stop("enough", False)
        self.assertEqual(work.called, ["end"])

    def test_work_that_fails_is_told(self) -> None:
        for state in _WAYS:
            machine, work = self._in(state)
            error = OSError(errno.ENETUNREACH, "unreachable")
            work.under_way.errback(error)
            self.assertIs(work.error, error)
            self.assertEqual(work.called[-1], state)
            machine.stop("enough", False)


class _ServerTestCase(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def raw(self, *answers: type, name: str = "raw") -> RawClient:
        """A client driven by hand that is in, and answers messages of these kinds."""
        client = self.network.raw_client()
        client.answer(*answers)
        client.hello(name)
        return client

    def others(self, count: int) -> list[ClientRun]:
        clients = [self.network.join() for _ in range(count)]
        self.network.settle()
        return clients

    def assert_have_it(self, clients: list[ClientRun], image: bytes = _IMAGE) -> None:
        for client in clients:
            outcome = client.finish()
            self.assertEqual(outcome.status, Status.OK, outcome.line)
            self.assertEqual(client.sink.data, image)
            self.assertTrue(client.sink.is_committed)

    def of_image(self) -> list[bytes]:
        """The datagrams with packets of the image."""
        return [data for data in self.network.datagrams if data[0] < 0x80]

    def entry(self, outcome: Outcome, name: str = "raw") -> dict[str, Any]:
        """What the report says of one client."""
        (entry,) = (entry for entry in outcome.report["clients"] if entry["name"] == name)
        return entry


def _closes(raw: RawClient) -> None:
    raw.transport.loseConnection()


def _breaks(raw: RawClient) -> None:
    raw.transport.reset()


def _vanishes(raw: RawClient) -> None:
    raw.host.vanish()


class LeavingTests(_ServerTestCase):
    """A client that goes away in one phase or another: the others finish, and at once."""

    def _leave(
        self, reach: Callable[[ServerRun, RawClient], None], answers: tuple[type, ...], owed: str
    ) -> None:
        """In every way, with every window and in every shape of the chain.

        ``reach`` lets the session come to where the client leaves, and
        ``owed`` is what the server will wait for if it vanishes there.  A
        report may take long, and so keepalive is what tells of that client.
        """
        for window in (1, 3):
            for group_size in (1, 2, 64):
                for leaves in (_closes, _breaks, _vanishes):
                    self.network = Network()
                    # One by one, so that the socket can block in the middle of a buffer.
                    self.network.host(SERVER_IP).segments = False
                    server = self.network.serve(
                        _IMAGE,
                        clients=3,
                        window=window,
                        group_size=group_size,
                        client_timeout_s=20.0,
                    )
                    first = self.others(1)
                    raw = self.raw(*answers)
                    assert server.port is not None
                    server.socket.blocks_after = 1
                    others = first + self.others(1)
                    reach(server, raw)
                    self.assertIsNone(server.outcome)
                    leaves(raw)
                    self.network.settle()
                    server.socket.blocked = False
                    case = f"{leaves.__name__}, window {window}, groups of {group_size}"
                    patience = 45.0 if leaves is _vanishes else 0.5
                    outcome = server.finish(limit_s=patience)
                    self.assertEqual(outcome.status, Status.PARTIAL, case)
                    entry = self.entry(outcome)
                    self.assertFalse(entry["verified"], case)
                    reason = "the connection was lost"
                    if leaves is _vanishes and owed != "REPORT":
                        reason = f"no {owed} for 20 s"
                    self.assertEqual(entry["reason"], reason, case)
                    self.assertEqual(
                        outcome.line,
                        f"2 of 3 clients have the image; without: raw (10.0.9.2): {reason}",
                    )
                    self.assertEqual(outcome.report["clients_verified"], 2)
                    self.assert_have_it(others)
                    self.assert_all_gone(self.network)

    def test_before_ready(self) -> None:
        def reach(server: ServerRun, raw: RawClient) -> None:
            self.assertEqual(raw.count(BufferCtl), server.snapshot.plan.window + 1)
            self.assertEqual(self.of_image(), [])

        self._leave(reach, (), "READY")

    def test_while_its_first_buffer_is_multicast(self) -> None:
        def reach(server: ServerRun, raw: RawClient) -> None:
            self.assertTrue(server.socket.blocked)
            self.assertEqual(raw.count(Sent), 0)

        self._leave(reach, (BufferCtl,), "DONE")

    def test_after_sent(self) -> None:
        def reach(server: ServerRun, raw: RawClient) -> None:
            server.socket.blocked = False
            self.network.run_until(lambda: raw.count(Sent))

        self._leave(reach, (BufferCtl,), "DONE")

    def test_in_the_middle_of_a_repair(self) -> None:
        def reach(server: ServerRun, raw: RawClient) -> None:
            self.network.wire_bytes = 20
            server.socket.blocked = False
            self.network.run_until(lambda: raw.count(Sent))
            raw.transport.pauseProducing()
            raw.request(*range(BUFFER_PACKETS))
            self.assertEqual(raw.count(Packet), 0)
            self.network.wire_bytes = 65536

        self._leave(reach, (BufferCtl,), "DONE")

    def test_after_done(self) -> None:
        def reach(server: ServerRun, raw: RawClient) -> None:
            raw.ready()
            server.socket.blocked = False
            self.network.run_until(lambda: raw.count(Sent))
            raw.done()
            self.assertEqual(raw.count(BufferCtl), server.snapshot.plan.window + 2)

        self._leave(reach, (), "READY")

    def test_before_its_report(self) -> None:
        def reach(server: ServerRun, raw: RawClient) -> None:
            server.socket.blocked = False
            self.network.run_until(lambda: raw.count(Digest))
            self.network.settle()

        self._leave(reach, (BufferCtl, Sent), "REPORT")

    def test_after_its_report(self) -> None:
        """The server has read it, and says so by closing, whoever else has not reported."""
        server = self.network.serve(_IMAGE, clients=2, client_timeout_s=20.0)
        raw = self.raw(*_ALL)
        late = self.raw(BufferCtl, Sent, name="late")
        assert raw.lost is not None
        raw.lost.trap(ConnectionDone)
        self.assertEqual(late.count(Digest), 1)
        self.network.run_for(20.0)
        self.assertIsNone(server.outcome)
        late.answer(Digest)
        outcome = server.finish(limit_s=5.0)
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(self.entry(outcome)["reason"], None)
        self.assert_all_gone(self.network)

    def test_while_the_others_are_not_ready(self) -> None:
        server = self.network.serve(_IMAGE, clients=2)
        raw = self.raw(BufferCtl)
        late = self.raw(Sent, Digest, name="late")
        raw.close()
        self.assertEqual(self.of_image(), [])
        late.answer(BufferCtl)
        outcome = server.finish(limit_s=0.5)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(self.entry(outcome)["reason"], "the connection was lost")
        self.assertTrue(self.entry(outcome, "late")["verified"])

    def test_before_all_have_come_makes_room_for_another(self) -> None:
        server = self.network.serve(_IMAGE, clients=3)
        others = self.others(1)
        raw = self.raw(*_ALL)
        self.assertEqual(server.server.progress().clients, 2)
        raw.close()
        self.assertEqual(server.server.progress().clients, 1)
        self.assertEqual(server.phase, "waiting for clients")
        others += self.others(2)
        outcome = server.finish(limit_s=1.0)
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(
            [entry["name"] for entry in outcome.report["clients"]], ["host1", "host3", "host4"]
        )
        self.assert_have_it(others)

    def test_without_a_word_before_all_have_come(self) -> None:
        """A host that loses its power while the others are awaited does not count for long."""
        server = self.network.serve(_IMAGE, clients=2)
        raw = self.raw(*_ALL)
        _vanishes(raw)
        self.network.run_for(31.0)
        self.assertEqual(server.server.progress().clients, 0)
        others = self.others(2)
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)
        self.assert_have_it(others)

    def test_as_the_last_one_comes_in(self) -> None:
        """A client that leaves in the very moment in which all are here is missed in time."""
        server = self.network.serve(_IMAGE, clients=2)
        others = self.others(1)
        raw = self.network.raw_client()
        raw.transport.write(Hello("raw", 100).encode())
        self.network.run_until(lambda: server.server.progress().clients == 2)
        raw.transport.peer.reset()
        self.network.settle()
        self.assertEqual(server.phase, "waiting for clients")
        others += self.others(1)
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_have_it(others)

    def test_before_its_hello_is_no_loss(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        raw = self.network.raw_client()
        raw.close()
        self.assertEqual(server.server.progress().clients, 0)
        others = self.others(1)
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_have_it(others)

    def test_everyone(self) -> None:
        for leaves in (_closes, _breaks, _vanishes):
            self.network = Network()
            server = self.network.serve(_IMAGE, clients=2, client_timeout_s=20.0)
            clients = [self.raw(BufferCtl), self.raw(BufferCtl, name="late")]
            for raw in clients:
                leaves(raw)
            outcome = server.finish(limit_s=26.0)
            self.assertEqual(outcome.status, Status.FAILED)
            reason = "no DONE for 20 s" if leaves is _vanishes else "the connection was lost"
            self.assertEqual(
                outcome.line,
                f"no client is left; without: raw (10.0.9.1): {reason}; late (10.0.9.2): {reason}",
            )
            self.assertTrue(server.source.closed)
            self.assert_all_gone(self.network)


class AcceptTests(_ServerTestCase):
    """Who is let in."""

    def test_a_timeout_names_who_has_come(self) -> None:
        server = self.network.serve(_IMAGE, clients=3, accept_timeout_s=20.0)
        self.raw(name="alpha")
        client = self.network.join(name="beta")
        self.network.raw_client()
        self.network.run_for(19.0)
        self.assertIsNone(server.outcome)
        outcome = server.finish(limit_s=5.0)
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(
            outcome.line,
            "2 of 3 clients came within 20 s: alpha (10.0.9.1), beta (10.0.1.2)",
        )
        told = client.finish(limit_s=5.0)
        self.assertEqual(told.status, Status.FAILED)
        self.assertIn("2 of 3 clients came within 20 s", told.line)
        self.assert_all_gone(self.network)

    def test_a_timeout_when_nobody_has_come(self) -> None:
        server = self.network.serve(_IMAGE, clients=2, accept_timeout_s=20.0)
        outcome = server.finish(limit_s=20.5)
        self.assertEqual(outcome.line, "0 of 2 clients came within 20 s")
        self.assert_all_gone(self.network)

    def test_no_timeout_is_to_wait_for_ever(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        self.network.run_for(1e6)
        self.assertIsNone(server.outcome)
        self.assert_have_it(self.others(1))

    def test_the_timeout_is_over_once_all_are_here(self) -> None:
        server = self.network.serve(_IMAGE, clients=1, accept_timeout_s=20.0)
        raw = self.raw()
        self.network.run_for(30.0)
        self.assertIsNone(server.outcome)
        raw.answer(*_ALL)
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)

    def test_a_connection_that_says_nothing_is_not_counted_and_closed(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        visitor = self.network.raw_client()
        self.network.run_for(HELLO_TIMEOUT_S - 0.3)
        self.assertIsNone(visitor.lost)
        self.assertEqual(server.server.progress().clients, 0)
        self.network.run_for(0.4)
        self.assertIsNotNone(visitor.lost)
        self.assertEqual(server.phase, "waiting for clients")
        self.assert_have_it(self.others(1))
        self.assertEqual(len(server.finish().report["clients"]), 1)

    def test_a_connection_that_never_ends_its_hello(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        visitor = self.network.raw_client()
        for _ in range(20):
            if visitor.lost is None:
                visitor.send(b"\0")
            self.network.run_for(0.5)
        self.assertIsNotNone(visitor.lost)
        self.assertEqual(server.server.progress().clients, 0)

    def test_connections_that_say_something_else(self) -> None:
        hello = b'{"version":2,"name":"x","packets":'
        for nonsense in (
            b"GET / HTTP/1.1\r\nHost: installer\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            os.urandom(64).replace(b"\0", b"\xff"),
            b"\0\0\0\x05hello",
            b"\0\0\0\x02[]",
            encode_json({"version": 1, "name": "x", "packets": 100}),
            encode_json({"name": "x", "packets": 100}),
            encode_json({"version": 2, "name": "x"}),
            encode_json({"version": 2, "name": "x", "packets": 0}),
            encode_json({"version": 2, "name": ["x"], "packets": 100}),
            b"\0\0\0\x24" + hello + b"1e",
            b"\x01\x04\x01\x04",
        ):
            self.network = Network()
            server = self.network.serve(_IMAGE, clients=1)
            visitor = self.network.raw_client()
            visitor.send(nonsense)
            self.network.run_for(HELLO_TIMEOUT_S)
            self.assertIsNotNone(visitor.lost, nonsense)
            self.assertEqual(server.server.progress().clients, 0, nonsense)
            self.assert_have_it(self.others(1))
            self.assertEqual(server.finish().status, Status.OK)
            self.assert_all_gone(self.network)

    def test_a_connection_that_does_not_read_is_closed_too(self) -> None:
        self.network.wire_bytes = 10
        server = self.network.serve(_IMAGE, clients=1)
        visitor = self.network.raw_client()
        visitor.transport.pauseProducing()
        self.network.run_for(HELLO_TIMEOUT_S + 5.0)
        self.assertFalse(visitor.transport.peer.connected)
        self.assertIsNone(server.outcome)

    def test_connections_at_the_end_do_not_keep_the_server(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        visitor = self.network.raw_client()
        self.assert_have_it(self.others(1))
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)
        self.assertIsNotNone(visitor.lost)

    def test_one_client_too_many_is_told_so(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        raw = self.raw()
        late = self.network.join()
        outcome = late.finish(limit_s=5.0)
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(
            outcome.line,
            f"the server refuses this client: {_LATE}",
        )
        self.assertTrue(late.sink.is_abandoned)
        self.assertIsNone(server.outcome)
        raw.answer(*_ALL)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(len(outcome.report["clients"]), 1)
        self.assert_all_gone(self.network)

    def test_one_too_many_that_has_been_greeted_is_told_so(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        late = self.network.raw_client()
        self.raw(*_ALL)
        server.finish()
        self.network = Network()
        server = self.network.serve(_IMAGE, clients=1)
        late = self.network.raw_client()
        self.raw()
        self.assertEqual(late.count(Greeting), 1)
        late.hello("late")
        self.assertEqual(
            late.last(Report).fields,
            {
                "ok": False,
                "reason": "the session has begun without this client, and it cannot fetch",
                "refused": True,
            },
        )
        self.assertIsNotNone(late.lost)
        self.assertEqual(server.server.progress().clients, 1)

    def test_a_client_that_comes_with_the_last_expected_one(self) -> None:
        """All hellos are read in one turn of the reactor, before anything else happens."""
        server = self.network.serve(_IMAGE, clients=2)
        clients = [self.network.raw_client() for _ in range(3)]
        for number, client in enumerate(clients):
            client.transport.peer.protocol.dataReceived(Hello(f"c{number}", 100).encode())
        self.network.settle()
        self.assertEqual(server.server.progress().clients, 2)
        self.assertEqual(
            clients[2].last(Report).fields,
            {"ok": False, "reason": "all 2 clients are here already", "refused": True},
        )

    def test_a_refusal_before_anyone_is_heard(self) -> None:
        self.network.serve(_IMAGE, clients=1)
        self.raw()
        late = self.network.raw_client()
        self.assertEqual(late.heard, [Refusal(_LATE)])
        self.assertIsNotNone(late.lost)

    def test_a_jasmine_client_too_many_is_closed(self) -> None:
        server = self.network.serve(_IMAGE, clients=1, dialect_name="jasmine")
        self.network.raw_client(JASMINE)
        late = self.network.raw_client(JASMINE)
        self.assertEqual(late.data, b"")
        self.assertIsNotNone(late.lost)
        self.assertEqual(server.server.progress().clients, 1)


_BROKE = "broke the protocol: "


def _ask_for(raw: RawClient, seqs: tuple[int, ...]) -> None:
    raw.request(*seqs)


class OffenceTests(_ServerTestCase):
    """A client that breaks the protocol is cut off with a reason, and the session goes on."""

    def _offend(
        self,
        answers: tuple[type, ...],
        offence: Callable[[RawClient], None],
        reason: str,
        heard: type | None = None,
        window: int = 1,
    ) -> None:
        """``heard`` is the message after which the client misbehaves."""
        self.network = Network()
        server = self.network.serve(_IMAGE, clients=2, window=window)
        raw = self.raw(*answers)
        others = self.others(1)
        if heard is not None:
            self.network.run_until(lambda: raw.count(heard), limit_s=1.0)
        self.assertIsNone(raw.lost)
        offence(raw)
        self.assertIsNotNone(raw.lost)
        self.assertEqual(raw.last(Report).fields, {"ok": False, "reason": reason})
        outcome = server.finish(limit_s=1.0)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(self.entry(outcome)["reason"], reason)
        self.assert_have_it(others)
        self.assert_all_gone(self.network)

    def _miscredit(self, reason: str, *credits: Credit, heard: type | None = None) -> None:
        said = b"".join(credit.encode(KOLLACAST) for credit in credits)
        answers = (BufferCtl,) if heard is Sent else ()
        self._offend(answers, lambda raw: raw.send(said), _BROKE + reason, heard)

    def test_credit_that_goes_back(self) -> None:
        self._miscredit("credit that goes back", Credit(0, 2), Credit(0, 1))
        self._miscredit("credit that goes back", Credit(1, 9), Credit(0, 9), heard=Sent)

    def test_credit_for_less_than_is_done(self) -> None:
        self._miscredit("credit up to buffer 0 behind buffer 1", Credit(1, 0), heard=Sent)

    def test_credit_for_what_was_not_sent(self) -> None:
        line = "DONE for a buffer that was not sent"
        self._miscredit(line, Credit(1, 1))
        self._miscredit(line, Credit(2, 3), heard=Sent)
        self._miscredit(line, Credit(0xFFFFFFFF, 0xFFFFFFFF), heard=Sent)

    def test_credit_that_has_lost_more_than_was_sent(self) -> None:
        for lost in (BUFFER_PACKETS + 1, 0xFFFFFFFF):
            line = f"{lost} packets lost of {BUFFER_PACKETS}"
            self._miscredit(line, Credit(1, 3, lost, 1), heard=Sent)
        self._miscredit("1 packets lost of 0", Credit(0, 2, 1, 1))

    def test_room_that_is_granted_with_the_hello(self) -> None:
        """Nobody has to say anything before the first buffers leave, and no more than these do."""
        for room, sent in ((0, 0), (1, 1), (2, 2), (64, 2)):
            self.network = Network()
            self.network.serve(_IMAGE, clients=1, window=2)
            raw = self.network.raw_client()
            raw.hello(room=room)
            raw.answer()
            self.network.run_for(1.0)
            self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (3, sent), room)
            raw.send(Credit(0, 1).encode(KOLLACAST))
            self.assertEqual(raw.lost is None, room < 2)

    def test_room_without_end(self) -> None:
        """No more than a window is in flight, whatever a client offers."""
        server = self.network.serve(_IMAGE, clients=1, window=2)
        raw = self.raw()
        raw.send(Credit(0, 0xFFFFFFFF).encode(KOLLACAST))
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (3, 2))
        self.assertEqual(server.snapshot.buffers_in_flight, 2)
        raw.send(Credit(2, 0xFFFFFFFF).encode(KOLLACAST))
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (5, 4))

    def test_questions_about_the_control_stream(self) -> None:
        for known in (3, 0xFFFFFFFF):
            ask = Ask(known).encode(KOLLACAST)
            line = f"number {known} of the control stream is not told yet"
            self._offend((), partial(RawClient.send, data=ask), _BROKE + line)

    def test_a_question_of_one_that_does_not_read(self) -> None:
        """It is judged as it comes, for its answer may wait for long."""

        def offence(raw: RawClient) -> None:
            raw.transport.pauseProducing()
            raw.send(10_000 * Ask(0).encode(KOLLACAST) + Ask(1000).encode(KOLLACAST))
            raw.transport.resumeProducing()
            self.network.settle()

        self._offend((), offence, _BROKE + "number 1000 of the control stream is not told yet")

    def test_questions_without_end(self) -> None:
        """Whoever asks and does not read is answered once."""
        server = self.network.serve(_IMAGE, clients=2)
        raw = self.raw()
        others = self.others(1)
        raw.transport.pauseProducing()
        raw.send(10_000 * Ask(0).encode(KOLLACAST))
        here = raw.transport.peer
        waiting = len(here.unsent) + here.protocol.outgoing.queue.size
        self.assertLess(waiting, 256 * 1024)
        raw.close()
        self.assertEqual(server.finish(limit_s=1.0).status, Status.PARTIAL)
        self.assert_have_it(others)

    def test_a_request_before_sent(self) -> None:
        self._offend((), lambda raw: raw.request(0), _BROKE + "a request before SENT")

    def test_a_request_for_a_packet_of_another_buffer(self) -> None:
        for seq in (BUFFER_PACKETS, 1 << 30, 0xFFFFFFFF):
            self._offend(
                (BufferCtl,),
                partial(_ask_for, seqs=(0, seq)),
                _BROKE + "a request for a packet that is not held",
                Sent,
            )

    def test_a_request_for_a_packet_that_is_held_no_more(self) -> None:
        def offence(raw: RawClient) -> None:
            raw.done()
            self.assertEqual(raw.count(Sent), 2)
            raw.request(0)

        self._offend(
            (BufferCtl,), offence, _BROKE + "a request for a packet that is not held", Sent
        )

    def test_a_request_for_a_packet_that_is_announced_and_not_sent(self) -> None:
        self.network = Network()
        server = self.network.serve(_IMAGE, clients=2, window=3)
        raw = self.raw(BufferCtl)
        late = self.raw(name="late")
        late.ready()
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (4, 1))
        raw.request(BUFFER_PACKETS)
        self.assertIsNotNone(raw.lost)
        late.answer(*_ALL)
        outcome = server.finish(limit_s=1.0)
        self.assertEqual(
            self.entry(outcome)["reason"], _BROKE + "a request for a packet that is not held"
        )

    def test_a_request_for_more_packets_than_there_are(self) -> None:
        self._offend(
            (BufferCtl,),
            lambda raw: raw.request(*[0] * 5),
            _BROKE + "a request for 5 packets, 4 is the limit",
            Sent,
        )

    def test_requests_for_the_same_packets_again_and_again(self) -> None:
        def offence(raw: RawClient) -> None:
            raw.transport.pauseProducing()
            raw.send(10_000 * bytes.fromhex("02 00000001 00000000"))
            raw.transport.resumeProducing()
            self.network.settle()
            # All that was under way before has come, and the end is clean.
            assert raw.lost is not None
            raw.lost.trap(ConnectionDone)

        self._offend(
            (BufferCtl,), offence, _BROKE + "requests for more than 8 packets at once", Sent
        )

    def test_a_report_before_the_digest(self) -> None:
        self._offend((), RawClient.report, _BROKE + "a report that is not due")

    def test_a_report_before_the_last_done(self) -> None:
        self._offend(
            (BufferCtl,), RawClient.report, _BROKE + "a report that is not due", Digest, window=8
        )

    def test_a_message_that_is_none(self) -> None:
        self._offend(
            (),
            lambda raw: raw.send(b"\xee"),
            _BROKE + "no message of a client begins with the byte 0xee",
        )

    def test_a_report_that_is_no_json(self) -> None:
        self._offend(
            (), lambda raw: raw.send(b"\x80\0\0\0\x01{"), _BROKE + "the peer's JSON cannot be read"
        )

    def test_a_report_without_end(self) -> None:
        self._offend(
            (),
            lambda raw: raw.send(b"\x80\xff\xff\xff\xff"),
            _BROKE + "4294967295 bytes of JSON are announced, 65536 is the limit",
        )

    def test_a_client_that_gives_up_says_why(self) -> None:
        self._offend(
            (BufferCtl,),
            lambda raw: raw.report(ok=False, reason="no space left on device"),
            "no space left on device",
        )

    def test_what_a_client_says_is_one_clean_line(self) -> None:
        self._offend(
            (),
            lambda raw: raw.report(ok=False, reason="a\nb\x1b[2J" + 500 * "x"),
            ("a?b?[2J" + 500 * "x")[:200],
        )

    def test_a_client_that_gives_up_without_a_reason(self) -> None:
        for fields in ({"ok": False}, {"ok": False, "reason": 7}, {"reason": None}, {"ok": 1}):
            self._offend((), partial(RawClient.report, **fields), "it gave no reason")


class SilenceTests(_ServerTestCase):
    """Clients that are there and do not answer."""

    def _silent(self, answers: tuple[type, ...], owed: str, limit_s: float = 30.0) -> None:
        self.network = Network()
        server = self.network.serve(_IMAGE, clients=2, client_timeout_s=30.0)
        raw = self.raw(*answers)
        others = self.others(1)
        self.network.run_for(limit_s - 1.0)
        self.assertIsNone(raw.lost)
        outcome = server.finish(limit_s=4.0)
        reason = f"no {owed} for {limit_s:g} s"
        self.assertEqual(raw.last(Report).fields, {"ok": False, "reason": reason})
        self.assertEqual(self.entry(outcome)["reason"], reason)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assert_have_it(others)
        self.assert_all_gone(self.network)

    def test_no_ready(self) -> None:
        self._silent((), "READY")

    def test_no_done(self) -> None:
        self._silent((BufferCtl,), "DONE")

    def test_no_report(self) -> None:
        """Syncing several GB to a disk may take ten times as long as an answer."""
        self._silent((BufferCtl, Sent), "REPORT", limit_s=300.0)

    def test_one_that_works_on_its_repairs_is_not_silent(self) -> None:
        server = self.network.serve(_IMAGE, clients=1, client_timeout_s=30.0)
        raw = self.raw(BufferCtl)
        for _ in range(10):
            self.network.run_for(25.0)
            raw.request(0)
        self.assertIsNone(server.outcome)
        raw.answer(Sent, Digest)
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)

    def test_nobody_is_silent_while_the_server_has_nothing_to_say(self) -> None:
        """A slow link, and later clients, keep a client waiting for as long as they like."""
        server = self.network.serve(_IMAGE, clients=2, client_timeout_s=30.0, window=1)
        raw = self.raw(*_ALL)
        self.network.run_for(1000.0)
        assert server.port is not None
        server.socket.blocks_after = 1
        others = self.others(1)
        self.assertTrue(server.socket.blocked)
        self.network.run_for(1000.0)
        self.assertIsNone(raw.lost)
        server.socket.blocked = False
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)
        self.assert_have_it(others)

    def test_one_that_asks_for_all_and_does_not_read(self) -> None:
        """It costs the server a bounded amount of memory, and in the end its place."""
        image = bytes(8 * 1024 * 1024)
        server = self.network.serve(
            image, clients=2, client_timeout_s=30.0, mtu=9000, buffer_packets=1024, window=1
        )
        raw = self.raw(BufferCtl)
        others = self.others(1)
        self.network.run_until(lambda: raw.count(Sent))
        raw.transport.pauseProducing()
        raw.request(*range(-(-len(image) // 8960)))
        here = raw.transport.peer
        self.network.run_for(20.0)
        self.assertIsNone(raw.lost)
        waiting = len(here.unsent) + here.protocol.outgoing.queue.size
        self.assertGreater(waiting, 0)
        self.assertLess(here.peak_unsent + here.protocol.outgoing.queue.size, 512 * 1024)
        outcome = server.finish(limit_s=60.0)
        self.assertEqual(self.entry(outcome)["reason"], "no DONE for 30 s")
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assert_have_it(others, image)

    def test_one_that_reads_slowly_gets_all(self) -> None:
        image = os.urandom(512 * 1024)
        server = self.network.serve(
            image, clients=1, client_timeout_s=30.0, mtu=9000, buffer_packets=64
        )
        raw = self.raw(BufferCtl)
        raw.transport.pauseProducing()
        self.network.run_until(lambda: server.snapshot.bytes_done)
        raw.request(*range(58))
        self.network.chunk_bytes = 8192
        for _ in range(2000):
            raw.transport.resumeProducing()
            self.network.turn()
            raw.transport.pauseProducing()
            self.network.run_for(1.0)
            if raw.count(Packet) == 58:
                break
        packets = [message for message in raw.heard if isinstance(message, Packet)]
        self.assertEqual(b"".join(packet.payload for packet in packets), image[: 58 * 8960])
        raw.transport.resumeProducing()
        self.network.chunk_bytes = None
        raw.answer(Sent, Digest)
        self.assertEqual(server.finish(limit_s=5.0).status, Status.OK)


class RepairTests(_ServerTestCase):
    """What is asked for comes again, in the order asked."""

    def test_in_the_order_asked_and_as_often(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        raw = self.raw(BufferCtl)
        self.network.run_until(lambda: raw.count(Sent))
        raw.request(3, 0, 3)
        packets = [message for message in raw.heard if isinstance(message, Packet)]
        self.assertEqual([packet.seq for packet in packets], [3, 0, 3])
        for packet in packets:
            start = packet.seq * CAPACITY
            self.assertEqual(packet.payload, _IMAGE[start : start + CAPACITY])
        raw.request()
        raw.answer(Sent, Digest)
        outcome = server.finish()
        self.assertEqual(self.entry(outcome)["packets_repaired"], 3)
        self.assertEqual(outcome.report["packets_repaired"], 3)

    def test_of_several_buffers_in_flight_at_once(self) -> None:
        server = self.network.serve(_IMAGE, clients=1, window=3)
        raw = self.raw(BufferCtl)
        self.network.run_until(lambda: raw.count(Sent) == 3)
        raw.request(9, 1, 5, 0)
        packets = [message for message in raw.heard if isinstance(message, Packet)]
        self.assertEqual([packet.seq for packet in packets], [9, 1, 5, 0])
        raw.answer(Sent, Digest)
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_jasmine_request_for_what_is_not_held_gets_an_empty_packet(self) -> None:
        server = self.network.serve(_IMAGE, clients=1, dialect_name="jasmine")
        raw = self.network.raw_client(JASMINE)
        raw.answer(BufferCtl)
        self.network.run_until(lambda: raw.count(Sent))
        raw.request(2, 77, 1)
        packets = [message for message in raw.heard if isinstance(message, Packet)]
        self.assertEqual(
            [(p.seq, len(p.payload)) for p in packets], [(2, CAPACITY), (77, 0), (1, CAPACITY)]
        )
        raw.answer(Sent)
        self.assertEqual(server.finish().status, Status.OK)


class WindowTests(_ServerTestCase):
    """How far announcing runs ahead."""

    def test_window_1_is_stop_and_wait(self) -> None:
        self.network.serve(_IMAGE, clients=1, window=1)
        raw = self.raw()
        for number in range(1, 6):
            told = min(number + 1, 5)
            self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (told, number - 1))
            self.assertEqual(raw.count(Digest), 0)
            raw.ready()
            self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (told, number))
            if number < 5:
                raw.done()
        self.assertEqual(raw.last(BufferCtl).pkt_count, 0)
        # The digest is said before it is asked for.
        self.assertEqual([type(message) for message in raw.heard[-2:]], [Sent, Digest])
        raw.done()
        self.assertEqual(raw.count(Digest), 1)

    def test_a_window_of_buffers_is_announced_ahead(self) -> None:
        self.network.serve(_IMAGE, clients=1, window=3)
        raw = self.raw()
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (4, 0))
        raw.ready()
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (4, 1))
        raw.ready()
        raw.ready()
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (4, 3))
        raw.ready()
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (4, 3))
        raw.done()
        self.assertEqual((raw.count(BufferCtl), raw.count(Sent)), (5, 4))

    def test_a_buffer_is_multicast_once_the_last_client_is_ready(self) -> None:
        for group_size in (1, 2, 64):
            self.network = Network()
            self.network.serve(_IMAGE, clients=5, window=2, group_size=group_size)
            clients = [self.raw(name=str(number)) for number in range(5)]
            for client in (clients[3], clients[1], clients[4], clients[0]):
                client.ready()
                client.ready()
            self.assertEqual(self.of_image(), [])
            clients[2].ready()
            self.assertEqual(len(self.of_image()), BUFFER_PACKETS)
            self.assertEqual([client.count(Sent) for client in clients], 5 * [1])
            clients[2].ready()
            self.assertEqual(len(self.of_image()), 2 * BUFFER_PACKETS)

    def test_the_client_that_holds_least_sets_the_size(self) -> None:
        server = self.network.serve(_IMAGE, clients=2, window=4)
        small = self.network.raw_client()
        small.answer(*_ALL)
        small.hello("small", packets=3)
        others = self.others(1)
        self.assertEqual(small.heard[1], BufferCtl(1, 3 * CAPACITY, 0, 3))
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_have_it(others)

    def test_seqs_and_buffer_ids_count_on(self) -> None:
        self.network.serve(_IMAGE, clients=1)
        raw = self.raw(*_ALL)
        self.assertEqual(
            [message for message in raw.heard if isinstance(message, BufferCtl)],
            [
                BufferCtl(1, _BUFFER, 0, 4),
                BufferCtl(2, _BUFFER, 4, 4),
                BufferCtl(3, _BUFFER, 8, 4),
                BufferCtl(4, CAPACITY + 12, 12, 2),
                BufferCtl(5, 0, 14, 0),
            ],
        )

    def test_no_memory_for_a_whole_window(self) -> None:
        """What there is goes round."""
        for buffers in (1, 2, 3):
            self.network = Network()
            self._allow(buffers)
            with capturedLogs() as events:
                server = self.network.serve(_IMAGE, clients=2)
                self.assert_have_it(self.others(2))
                self.assertEqual(server.finish().status, Status.OK)
            said = [formatEvent(event) for event in events]
            why = f"no memory for a buffer of {_BUFFER} bytes: Cannot allocate memory. --buffer-"
            self.assertTrue(any(line.startswith(why) for line in said), said)

    def test_what_cannot_be_digested(self) -> None:
        """At the first buffer, or at the last one when all is read: it ends, with that reason."""
        for failing in (1, 4):
            self.network = Network()
            with self.subTest(failing):
                server = self.network.serve(_IMAGE, clients=1, threads=True)
                worker = server.threads["digest"]
                run, calls = worker.run, itertools.count(1)

                def refuse(
                    function: Callable[..., Any],
                    *words: Any,
                    run: Callable[..., Any] = run,
                    calls: Iterator[int] = calls,
                    failing: int = failing,
                ) -> Deferred[Any]:
                    if next(calls) == failing:
                        return fail(OSError(errno.EAGAIN, "can't start new thread"))
                    result: Deferred[Any] = run(function, *words)
                    return result

                worker.run = refuse  # type: ignore[method-assign]
                client = self.network.join()
                outcome = server.finish()
                line = "cannot read the image: can't start new thread"
                self.assertEqual((outcome.status, outcome.line), (Status.FAILED, line))
                self.assertEqual(client.finish().line, f"the server gave up: {line}")

    def test_no_memory_for_a_single_buffer(self) -> None:
        self._allow(0)
        server = self.network.serve(_IMAGE, clients=1)
        client = self.network.join()
        why = (
            f"no memory for a buffer of {_BUFFER} bytes: Cannot allocate memory."
            " --buffer-packets and --window take less of it"
        )
        outcome = server.finish()
        self.assertEqual((outcome.status, outcome.line), (Status.FAILED, why))
        self.assertEqual(client.finish().line, f"the server gave up: {why}")

    def _allow(self, buffers: int) -> None:
        """Of the server's buffers there is memory for so many."""
        left = buffers

        def make(capacity: int, packets: int) -> PacketBuffer:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            return PacketBuffer(capacity, packets)

        self.patch(read_ahead, "PacketBuffer", make)

    def test_a_pipe_that_reads_short_makes_no_short_packets(self) -> None:
        server = self.network.serve(MemorySource(_IMAGE, read_bytes=5), clients=1)
        others = self.others(1)
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_have_it(others)
        self.assertEqual({len(datagram) for datagram in self.of_image()[:-1]}, {12 + CAPACITY})


class InterruptTests(_ServerTestCase):
    """An operator who has had enough, in every state."""

    def _interrupt(
        self,
        server: ServerRun,
        clients: Sequence[ClientRun | RawClient],
        *,
        has_sent: bool = True,
    ) -> None:
        closed: list[None] = []
        server.server.interrupt("interrupted").addCallback(closed.append)
        outcome = server.finish(limit_s=5.0)
        self.assertEqual((outcome.status, outcome.line), (Status.FAILED, "interrupted"))
        self.assertEqual(len(closed), 1)
        self.assertTrue(server.source.closed)
        for client in clients:
            if isinstance(client, RawClient):
                later = {} if has_sent else {"later": True}
                fields = {"ok": False, "reason": "interrupted", **later}
                self.assertEqual(client.last(Report).fields, fields)
            else:
                told = client.finish(limit_s=5.0 if has_sent else 31.0)
                line = "the server gave up: interrupted"
                if not has_sent:
                    line = f"no server at {SERVER_IP} port {PORT} within 30 s: Connection refused"
                    line = f"the connection was lost, and {line}"
                self.assertEqual(told.line, line)
                self.assertFalse(client.sink.is_committed)
                self.assertTrue(client.sink.is_abandoned)
        self.assert_all_gone(self.network)

    def test_while_it_waits_for_clients(self) -> None:
        server = self.network.serve(_IMAGE, clients=3, accept_timeout_s=100.0)
        clients: list[ClientRun | RawClient] = [*self.others(1), self.raw()]
        self._interrupt(server, clients, has_sent=False)

    def test_while_nobody_is_here(self) -> None:
        self._interrupt(self.network.serve(_IMAGE, clients=3), [])

    def test_while_it_reads(self) -> None:
        server = self.network.serve(_IMAGE, clients=2, threads=True)
        server.threads["read"].held = True
        others, raw = self.others(1), self.raw(*_ALL)
        self.assertEqual(server.phase, "sending")
        self.assertEqual(raw.count(BufferCtl), 0)
        self._interrupt(server, [*others, raw], has_sent=False)
        server.threads["read"].release()
        self.assert_all_gone(self.network)

    def test_while_clients_are_not_ready(self) -> None:
        server = self.network.serve(_IMAGE, clients=2)
        self._interrupt(server, [*self.others(1), self.raw()])

    def test_while_it_multicasts(self) -> None:
        server = self.network.serve(_IMAGE, clients=2)
        assert server.port is not None
        server.socket.blocks_after = 1
        clients: list[ClientRun | RawClient] = [*self.others(1), self.raw(*_ALL)]
        self.assertTrue(server.socket.blocked)
        self._interrupt(server, clients)

    def test_while_clients_are_not_done(self) -> None:
        server = self.network.serve(_IMAGE, clients=2)
        self._interrupt(server, [*self.others(1), self.raw(BufferCtl)])

    def test_while_it_verifies(self) -> None:
        self.patch(ReadAhead, "digests", lambda ahead: Deferred())
        server = self.network.serve(_IMAGE, clients=1)
        raw = self.raw(*_ALL)
        self.assertEqual(server.phase, "verifying")
        self._interrupt(server, [raw])
        self.assert_all_gone(self.network)

    def test_while_some_have_reported_and_some_have_not(self) -> None:
        server = self.network.serve(_IMAGE, clients=2)
        others = self.others(1)
        raw = self.raw(BufferCtl, Sent)
        self.network.run_until(lambda: raw.count(Digest))
        self.assert_have_it(others)
        server.server.interrupt("interrupted")
        outcome = server.finish(limit_s=5.0)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(outcome.line, "interrupted; 1 of 2 have the image")
        self.assertEqual(self.entry(outcome)["reason"], "interrupted")

    def test_once_all_have_the_image_it_is_too_late(self) -> None:
        self.patch(ReadAhead, "digests", lambda ahead: Deferred())
        server = self.network.serve(_IMAGE[:_BUFFER], clients=1, dialect_name="jasmine")
        raw = self.network.raw_client(JASMINE)
        raw.answer(BufferCtl, Sent)
        self.assertEqual(server.phase, "verifying")
        server.server.interrupt("interrupted")
        outcome = server.finish(limit_s=5.0)
        self.assertEqual(outcome.status, Status.OK)
        self.assertTrue(outcome.line.startswith(f"1 of 1 clients have the image: {_BUFFER} bytes"))
        self.assertIsNone(outcome.report["reason"])

    def test_after_the_end_it_changes_nothing(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        self.raw(*_ALL)
        line = server.finish().line
        closed: list[None] = []
        server.server.interrupt("interrupted").addCallback(closed.append)
        self.assertEqual(len(closed), 1)
        assert server.outcome is not None
        self.assertEqual(server.outcome.line, line)

    def test_twice_fires_both(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        self.raw(BufferCtl)
        closed: list[None] = []
        for _ in range(2):
            server.server.interrupt("interrupted").addCallback(closed.append)
        server.finish()
        self.assertEqual(len(closed), 2)

    def test_a_client_that_does_not_read_does_not_keep_the_server(self) -> None:
        self.network.wire_bytes = 16
        server = self.network.serve(_IMAGE, clients=1)
        raw = self.raw(BufferCtl)
        raw.transport.pauseProducing()
        server.server.interrupt("interrupted")
        self.assertEqual(server.finish(limit_s=5.0).status, Status.FAILED)
        self.assert_all_gone(self.network)


class InputTests(_ServerTestCase):
    """An image that cannot be read to its end."""

    def test_it_fails_in_the_middle(self) -> None:
        for fails_at in (0, 1, _BUFFER, 2 * _BUFFER + 30):
            for window in (1, 3):
                for threads in (False, True):
                    self.network = Network()
                    source = MemorySource(_IMAGE, fails_at=fails_at)
                    server = self.network.serve(source, clients=2, window=window, threads=threads)
                    clients = self.others(2)
                    outcome = server.finish(limit_s=5.0)
                    self.assertEqual(outcome.status, Status.FAILED)
                    self.assertEqual(outcome.line, "cannot read the image: Input/output error")
                    self.assertTrue(source.closed)
                    for client in clients:
                        told = client.finish(limit_s=5.0)
                        self.assertEqual(told.status, Status.FAILED)
                        self.assertEqual(
                            told.line,
                            "the server gave up: cannot read the image: Input/output error",
                        )
                        self.assertTrue(client.sink.is_abandoned)
                    self.assert_all_gone(self.network)

    def test_a_jasmine_session_ends_as_well(self) -> None:
        server = self.network.serve(
            MemorySource(_IMAGE, fails_at=200), clients=1, dialect_name="jasmine"
        )
        (client,) = self.others(1)
        self.assertEqual(server.finish(limit_s=5.0).status, Status.FAILED)
        self.assertEqual(client.finish(limit_s=5.0).status, Status.FAILED)
        self.assertFalse(client.sink.is_committed)


class _ChangedSource(MemorySource):
    """A file that somebody writes to while it is read: noticed at the end, as late as can be."""

    def readinto(self, view: memoryview) -> int:
        count = super().readinto(view)
        if count == 0:
            raise ChangedImage(errno.ESTALE, "its file has changed")
        return count


class UnexpectedImageTests(_ServerTestCase):
    """What is not meant to be sent, nobody keeps; and everybody is told why."""

    def _refused(self, line: str, source: MemorySource, **options: Any) -> None:
        """In both dialects, with late and early digests."""
        for dialect_name in ("kollacast", "jasmine"):
            for window in (1, 3) if dialect_name == "kollacast" else (1,):
                self.network = Network()
                source.__init__(**self.made)  # type: ignore[misc]
                server = self.network.serve(
                    source, clients=2, window=window, dialect_name=dialect_name, **options
                )
                clients = self.others(2)
                outcome = server.finish(limit_s=5.0)
                self.assertEqual((outcome.status, outcome.report["reason"]), (Status.FAILED, line))
                for client in clients:
                    told = client.finish(limit_s=60.0)
                    self.assertEqual(told.status, Status.FAILED)
                    if dialect_name == "kollacast":
                        self.assertEqual(told.line, f"the server gave up: {line}")
                    self.assertFalse(client.sink.is_committed)
                    self.assertTrue(client.sink.is_abandoned)
                self.assert_all_gone(self.network)

    def make(self, kind: type[MemorySource] = MemorySource, **made: Any) -> MemorySource:
        self.made = made
        return kind(**made)

    def test_a_file_that_changes_while_it_is_sent(self) -> None:
        source = self.make(_ChangedSource, image=_IMAGE, size=len(_IMAGE), identity="file")
        self._refused("cannot read the image: its file has changed", source)

    def test_a_pipe_without_a_byte(self) -> None:
        self._refused(
            "the image is empty: its input has ended before a single byte (an empty image that is"
            " meant takes --allow-empty)",
            self.make(image=b""),
        )

    def test_a_pipe_that_ends_early(self) -> None:
        size = len(_IMAGE)
        self._refused(
            f"the image has {size} bytes, and --expect-size says {size + 1}",
            self.make(image=_IMAGE),
            expectation=Expectation(size=size + 1),
        )

    def test_a_pipe_that_brings_more(self) -> None:
        self._refused(
            "the image has more than the 10 bytes that --expect-size says",
            self.make(image=_IMAGE),
            expectation=Expectation(size=10),
        )

    def test_another_image(self) -> None:
        expected = ExpectedDigest("sha256", bytes(32))
        self._refused(
            "the image is not the one that --expect names: its sha256 is"
            f" {hashlib.sha256(_IMAGE).hexdigest()}, not {bytes(32).hex()}",
            self.make(image=_IMAGE),
            expectation=Expectation(digests=(expected,)),
        )

    def test_what_is_known_of_a_file_is_said_before_anybody_waits(self) -> None:
        for size, expectation, line in (
            (0, Expectation(), "the image is empty"),
            (5, Expectation(size=6), "the image has 5 bytes, and --expect-size says 6"),
        ):
            self.network = Network()
            server = self.network.serve(
                MemorySource(bytes(size), size=size, identity="file"), expectation=expectation
            )
            outcome = server.outcome
            assert outcome is not None, "it waits for clients"
            self.assertEqual(outcome.status, Status.FAILED)
            self.assertTrue(outcome.line.startswith(line), outcome.line)
            self.assert_all_gone(self.network)

    def test_what_is_expected(self) -> None:
        digest = hashlib.sha256(_IMAGE).digest()
        for name in KNOWN_DIGESTS:
            self.network = Network()
            expectation = Expectation(len(_IMAGE), (ExpectedDigest("sha256", digest),))
            server = self.network.serve(
                MemorySource(_IMAGE), clients=2, digest=name, expectation=expectation
            )
            self.assert_have_it(self.others(2))
            self.assertEqual(server.finish().status, Status.OK)

    def test_another_image_where_the_digest_is_of_another_kind(self) -> None:
        server = self.network.serve(
            MemorySource(_IMAGE),
            clients=1,
            digest="blake3",
            expectation=Expectation(digests=(ExpectedDigest("sha256", bytes(32)),)),
        )
        (client,) = self.others(1)
        self.assertEqual(server.finish().status, Status.FAILED)
        self.assertIn("its sha256 is", client.finish().line)
        self.assertFalse(client.sink.is_committed)

    def test_an_empty_image_that_is_meant(self) -> None:
        for size in (0, None):
            self.network = Network()
            server = self.network.serve(
                MemorySource(b"", size=size), expectation=Expectation(allow_empty=True)
            )
            self.assert_have_it(self.others(1), b"")
            self.assertEqual(server.finish().status, Status.OK)

    def test_an_outcome_that_cannot_be_told(self) -> None:
        """The run fails with it: nobody waits for a run that is over and does not say so."""
        server = self.network.serve(_IMAGE)
        self.others(1)
        self.assertEqual(server.finish().status, Status.OK)
        again = self.network.serve(_IMAGE)
        self.patch(Snapshot, "outcome", mock.Mock(side_effect=ZeroDivisionError))
        ended: list[Any] = []
        again.ended.addErrback(ended.append)
        again.server.interrupt("interrupted").addErrback(lambda _: None)
        self.network.settle()
        self.assertEqual(len(ended), 1)


class PortTests(_ServerTestCase):
    """Ports that cannot be opened or used."""

    def test_the_port_is_in_use(self) -> None:
        self.network.raw_server()
        outcome = self.network.serve(_IMAGE).finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(
            outcome.line, f"cannot listen on {SERVER_IP} port {PORT}: Address already in use"
        )

    def test_the_interface_cannot_multicast(self) -> None:
        self.network.host(SERVER_IP).port_error = OSError(errno.EADDRNOTAVAIL, "no such address")
        server = self.network.serve(_IMAGE)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(outcome.line, f"cannot multicast from {SERVER_IP}: no such address")
        self.assertTrue(server.source.closed)
        self.assert_all_gone(self.network)

    def test_the_network_goes_away_in_the_middle(self) -> None:
        """For good: what is multicast no more comes by TCP, and nobody is told but the operator."""
        with capturedLogs() as events:
            server = self.network.serve(_IMAGE, clients=2)
            assert server.port is not None
            server.socket.blocks_after = 2
            clients = self.others(2)
            server.socket.error = OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
            server.socket.blocked = False
            self.assertEqual(server.finish(limit_s=10.0).status, Status.OK)
        self.assert_have_it(clients)
        said = [line for e in events if "the kernel refuses" in (line := formatEvent(e) or "")]
        self.assertEqual(len(said), 1)
        self.assert_all_gone(self.network)

    def test_the_network_is_away_for_a_moment(self) -> None:
        server = self.network.serve(_IMAGE, clients=2)
        assert server.port is not None
        server.socket.blocks_after = 2
        clients = self.others(2)
        server.socket.error = OSError(errno.EPERM, os.strerror(errno.EPERM))
        server.socket.blocked = False
        self.network.run_for(0.2)
        server.socket.error = None
        outcome = server.finish(limit_s=1.0)
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(outcome.report["packets_repaired"], 0)
        self.assert_have_it(clients)

    def test_a_kernel_without_segments_sends_one_by_one(self) -> None:
        self.network.host(SERVER_IP).segments = False
        server = self.network.serve(_IMAGE, clients=1)
        others = self.others(1)
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_have_it(others)


class OutcomeTests(_ServerTestCase):
    """What the operator and the report are told when it went well."""

    def test_the_report(self) -> None:
        server = self.network.serve(
            MemorySource(_IMAGE, name="kolla.tgz", size=len(_IMAGE)), clients=2
        )
        self.assertEqual(server.server.progress().bytes_total, len(_IMAGE))
        self.others(1)
        raw = self.raw(BufferCtl, Sent)
        self.network.run_for(2.0)
        raw.report(
            ok=True,
            packets_multicast=13,
            packets_dropped=7,
            packets_damaged=-1,
            packets_forged=2,
            receive_buffer_bytes="many",
            seconds_writing=1.5,
        )
        outcome = server.finish()
        report = outcome.report
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(report["bytes"], len(_IMAGE))
        self.assertEqual(report["name"], "kolla.tgz")
        self.assertEqual(report["packets_multicast"], 14)
        self.assertEqual(report["sha256"], raw.last(Digest).value.hex())
        self.assertEqual((report["clients_expected"], report["clients_verified"]), (2, 2))
        self.assertEqual(
            {key: value for key, value in self.entry(outcome).items() if key != "seconds"},
            {
                "name": "raw",
                "address": "10.0.9.2",
                "verified": True,
                "reason": None,
                "fetching": None,
                "connections": 1,
                "packets_sent": 14,
                "packets_lost": 0,
                "packets_multicast": 13,
                "packets_repaired": 0,
                "packets_fetched": 0,
                "packets_done": 14,
                "packets_dropped": 7,
                "packets_damaged": None,
                "packets_forged": 2,
                "pieces_wrong": None,
                "receive_buffer_bytes": None,
                "receive_buffer_wanted_bytes": None,
                "seconds_answering": 0.0,
                "seconds_writing": 1.5,
            },
        )
        self.assertGreaterEqual(self.entry(outcome)["seconds"], 2.0)
        self.assertGreater(report["throughput_bytes_per_s"], 0)
        self.assertIn(f"2 of 2 clients have the image: {len(_IMAGE)} bytes in 2.", outcome.line)
        self.assertIn(report["sha256"], outcome.line)

    def test_the_progress(self) -> None:
        server = self.network.serve(_IMAGE, clients=2, window=1)
        self.assertEqual(server.phase, "waiting for clients")
        raw = self.raw()
        progress = server.server.progress()
        self.assertEqual((progress.clients, progress.clients_expected), (1, 2))
        self.others(1)
        self.assertEqual(server.phase, "sending")
        raw.ready()
        raw.request(0, 1)
        progress = server.server.progress()
        self.assertEqual((progress.bytes_done, progress.packets_repaired), (_BUFFER, 2))
        raw.answer(BufferCtl, Sent)
        self.assertEqual(server.phase, "verifying")
        self.assertEqual(server.server.progress().bytes_done, len(_IMAGE))
