"""An error of the server's program ends its run in one line, wherever it is raised.

Each case raises in one callback: of a connection, of a timer, of a thread's answer, of a barrier.
Without somebody who hears of it, the reactor would log it, and the session would stand still.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any
from unittest import mock

from twisted.internet.task import LoopingCall

from kollacast.files.digest import Digester
from kollacast.operator.outcome import Status
from kollacast.sending.buffer_sizing import BufferSizing
from kollacast.sending.control import ControlStream
from kollacast.sending.history import History
from kollacast.sending.member import Member
from kollacast.sending.reach import Reach
from kollacast.sending.read_ahead import ReadAhead
from kollacast.sending.repairs import Repairs
from kollacast.server.connection import ClientProtocol
from kollacast.server.gathering import Gathering
from kollacast.server.lobby import Lobby
from kollacast.server.participant import Participant
from kollacast.server.roster import Roster
from kollacast.server.watch import Watch
from kollacast.transport.pacing import Pacer
from kollacast.transport.send_queue import SendQueue
from kollacast.transport.sender import MulticastProtocol
from kollacast.wire.messages import BufferCtl, Sent
from kollacast.wire.parser import ClientStream
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.runs import ServerRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY
from tests.simulation.testcase import MemoryTestCase

_IMAGE = bytes(i * 7 % 251 for i in range(6 * BUFFER_PACKETS * CAPACITY + 40))


class _Bug(Exception):
    """What no program expects."""


class ServerErrorTests(MemoryTestCase):
    """One call that a session needs raises, once."""

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def assert_ends(self, server: ServerRun, limit_s: float = 20.0) -> None:
        outcome = server.finish(limit_s)
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertIn("an error of the program: _Bug()", outcome.line)
        self.assertGreaterEqual(len(self.flushLoggedErrors(_Bug)), 1)
        self.network.run_for(600.0)
        self.assertEqual(self.flushLoggedErrors(), [])

    def raising(self, owner: Any, name: str) -> Any:
        return mock.patch.object(owner, name, side_effect=_Bug)

    def run_with(self, owner: Any, name: str, *, clients: int = 2, **options: Any) -> None:
        """``name`` of ``owner`` raises while these clients do what they should."""
        self.network = Network()
        with self.raising(owner, name) as method:
            source = MemorySource(_IMAGE, identity="file")
            server = self.network.serve(source, clients=clients, **options)
            for _ in range(clients):
                self.network.join()
            self.network.run_until(lambda: method.called or server.outcome is not None)
            self.assertTrue(method.called, f"{owner.__name__}.{name} is not needed")
            self.assert_ends(server)

    def test_connections(self) -> None:
        for owner, name in (
            (Lobby, "enter"),
            (ClientStream, "feed"),
            (Roster, "has_room"),
            (Roster, "join"),
            (ClientProtocol, "__init__"),
        ):
            self.run_with(owner, name)

    def test_answers(self) -> None:
        for name in ("credit", "ready", "done"):
            self.run_with(Member, name)

    def test_the_control_stream(self) -> None:
        """Each of its methods, in a session in which one client hears no multicast."""
        later = {"stop"}  # what is raised in an end is tested below
        names = {
            name
            for name, value in vars(ControlStream).items()
            if isinstance(value, FunctionType | property)
        }
        for name in sorted(names - later):
            what = vars(ControlStream)[name]
            kind = mock.PropertyMock if isinstance(what, property) else mock.Mock
            method = kind(side_effect=_Bug)
            self.network = Network()
            with mock.patch.object(ControlStream, name, method):
                server = self.network.serve(_IMAGE, clients=2)
                raw = self.network.raw_client()
                raw.answer(BufferCtl, Sent)
                raw.hello()
                self.network.join()
                if name == "forget":
                    self.network.run_until(lambda raw=raw: raw.count(Sent))  # type: ignore[misc]
                    raw.close()
                self.network.run_until(lambda m=method: m.called)  # type: ignore[misc]
                self.assert_ends(server)

    def test_a_client_that_asks_for_the_control_stream(self) -> None:
        for name in ("ask", "tell"):
            self.network = Network()
            server = self.network.serve(_IMAGE)
            raw = self.network.raw_client()
            with self.raising(Member, name) as method:
                raw.hello()
                self.network.run_until(lambda m=method: m.called)  # type: ignore[misc]
                self.assert_ends(server)

    def test_the_last_answer(self) -> None:
        """What comes after the last copy has cost nobody anything, but ends the run, too."""
        with self.raising(Member, "reported"):
            server = self.network.serve(_IMAGE)
            self.network.join()
            self.assertEqual(server.finish(20.0).status, Status.OK)
        self.assertEqual(len(self.flushLoggedErrors(_Bug)), 1)

    def test_phases(self) -> None:
        for name in ("begin", "takes"):
            self.run_with(Member, name)

    def test_work_of_the_cycle(self) -> None:
        for owner, name in (
            (Gathering, "begin"),
            (Roster, "begin"),
            (BufferSizing, "next"),
            (ReadAhead, "next"),
            (ReadAhead, "start"),
            (ReadAhead, "release"),
            (ReadAhead, "digests"),
            (Repairs, "begin"),
            (Repairs, "end"),
        ):
            self.run_with(owner, name)

    def test_threads(self) -> None:
        for owner, name in (
            (Digester, "take"),
            (Digester, "values"),
            (History, "keep"),
            (History, "passed"),
        ):
            self.run_with(owner, name)

    def test_multicast(self) -> None:
        for owner, name in ((Pacer, "delay_s"), (MulticastProtocol, "multicast")):
            self.run_with(owner, name)

    def test_requests(self) -> None:
        for owner, name in (
            (Repairs, "requested"),
            (Member, "request"),
            (Member, "repair"),
            (Member, "refill"),
            (Reach, "answered"),
            (SendQueue, "flatten"),
        ):
            self.network = Network()
            server = self.network.serve(_IMAGE)
            raw = self.network.raw_client()
            raw.answer(BufferCtl)
            raw.hello()
            self.network.run_until(lambda raw=raw: raw.count(Sent))  # type: ignore[misc]
            with self.raising(owner, name) as method:
                raw.request(0, 1)
                self.assertTrue(method.called, name)
                self.assert_ends(server)

    def test_leaving(self) -> None:
        for owner, name in (
            (Roster, "leave"),
            (Member, "leave"),
            (Repairs, "left"),
        ):
            self.network = Network()
            server = self.network.serve(_IMAGE, clients=2)
            raw = self.network.raw_client()
            raw.hello()
            self.network.join()
            self.network.settle()
            with self.raising(owner, name):
                raw.close()
                self.assert_ends(server)

    def test_fetching(self) -> None:
        for owner, name in ((History, "read"), (Participant, "told_end")):
            self.run_with(owner, name, unicast=True)

    def test_timers(self) -> None:
        """Each looks after something that has not happened by then."""
        for owner, name, seconds in (
            (Watch, "_look", 2.0),
            (Member, "owed_s", 2.0),
            (Repairs, "_decide", 1.0),
        ):
            with self.raising(owner, name):
                self.network = Network()
                server = self.network.serve(_IMAGE, clients=2)
                raws = [self.network.raw_client() for _ in range(2)]
                for raw in raws:
                    raw.answer(BufferCtl)
                    raw.hello()
                self.network.run_for(seconds)
                self.assert_ends(server, 1.0)

    def test_timers_of_gathering(self) -> None:
        for owner, name in (
            (Gathering, "_remind"),
            (Gathering, "_time_is_over"),
            (Roster, "names"),
        ):
            with self.raising(owner, name):
                self.network = Network()
                server = self.network.serve(_IMAGE, clients=2, accept_timeout_s=40.0)
                self.network.join()
                self.network.run_for(41.0)
                self.assert_ends(server, 1.0)

    def test_the_timer_of_those_who_may_return(self) -> None:
        with self.raising(Roster, "await_no_more"):
            server = self.network.serve(MemorySource(_IMAGE, identity="file"), clients=1)
            client = self.network.join()
            self.network.run_until(lambda: server.phase == "sending")
            client.host.kill()
            self.assert_ends(server)

    def test_an_end_that_raises_is_an_end(self) -> None:
        for owner, name in (
            (Repairs, "stop"),
            (ControlStream, "stop"),
            (History, "close"),
            (LoopingCall, "stop"),
        ):
            self.network = Network()
            server = self.network.serve(_IMAGE)
            self.network.join()
            with self.raising(owner, name):
                self.assertEqual(server.finish(60.0).status, Status.OK)
            self.assertGreaterEqual(len(self.flushLoggedErrors(_Bug)), 1)
