"""The status page's server: what it answers, to whom, and what hostile and slow viewers get."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, readBody

from kollacast.operator.outcome import Outcome, Status
from kollacast.server.cycle import Stage
from kollacast.server.snapshot import ClientEntry, Snapshot
from kollacast.status import site as site_module
from kollacast.status.http import MOST_CONNECTIONS
from kollacast.status.site import StatusSite
from kollacast.status.viewers import MOST_VIEWERS
from tests.status_values import host, run

_DONE = Outcome(Status.OK, "2 of 2 clients have the image")
_PATHS = ("/", "/status.json", "/metrics", "/events")


class _Transport(StringTransport):
    """Keeps what is written; the test says when nothing more fits."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "10.0.0.9", 1234))

    @property
    def is_closed(self) -> bool:
        return bool(self.disconnecting or self.aborting)

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = True


class _Connection:
    """A viewer's connection, in memory."""

    def __init__(self, factory: Any) -> None:
        self.transport = _Transport()
        self.protocol = factory.buildProtocol(self.transport.getPeer())
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def ask(self, path: str, method: str = "GET") -> None:
        self.send(f"{method} {path} HTTP/1.1\r\nHost: installer\r\n\r\n".encode())

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionLost()))

    def pause(self) -> None:
        """Nobody reads: the transport is full."""
        self.producer.pauseProducing()

    def resume(self) -> None:
        self.producer.resumeProducing()

    @property
    def producer(self) -> Any:
        return self.transport.producer

    @property
    def data(self) -> bytes:
        return bytes(self.transport.value())

    @property
    def head(self) -> list[str]:
        return self.data.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Those that have come since the last look."""
        text = self.data.decode()
        self.transport.clear()
        lines = text.splitlines()
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        return list(zip(names, data, strict=True))


class _SiteCase(SynchronousTestCase):
    hosts: tuple[ClientEntry, ...] = (host(1), host(2))
    linger_s = 0.0

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.looks = 0
        self.site = self.make()
        self.site.start()
        self.factory: Any
        [(_, self.factory, _, self.interface)] = self.reactor.tcpServers

    def make(self) -> StatusSite:
        return StatusSite(
            self.reactor,  # type: ignore[arg-type]
            "127.0.0.1",
            8080,
            self.look,
            linger_s=self.linger_s,
            per_host=False,
        )

    def look(self) -> Snapshot:
        self.looks += 1
        return run(*self.hosts, seconds=float(self.looks))

    def connect(self) -> _Connection:
        return _Connection(self.factory)

    def watch(self) -> _Connection:
        """A viewer that has seen all there is."""
        viewer = self.connect()
        viewer.ask("/events")
        viewer.transport.clear()
        return viewer

    def tick(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.reactor.advance(1.0)


class AnswerTests(_SiteCase):
    """Requests as they should be."""

    def get(self, path: str, method: str = "GET") -> _Connection:
        connection = self.connect()
        connection.ask(path, method)
        return connection

    def test_it_listens_where_it_is_told(self) -> None:
        self.assertEqual(self.interface, "127.0.0.1")

    def test_the_page(self) -> None:
        """One file, which loads nothing, and runs nothing that is not its own."""
        connection = self.get("/")
        self.assertEqual(connection.head[0], "http/1.1 200 ok")
        self.assertIn("content-type: text/html; charset=utf-8", connection.head)
        [policy] = [line for line in connection.head if line.startswith("content-security-policy")]
        for part in ("default-src 'none'", "script-src 'sha256-", "style-src 'sha256-"):
            self.assertIn(part, policy)
        self.assertNotIn("unsafe", policy)
        body = connection.data.partition(b"\r\n\r\n")[2].decode()
        for foreign in ("http://", "https://", "src=", "@import", "url("):
            self.assertNotIn(foreign, body.replace("http://www.w3.org/2000/svg", ""), foreign)
        self.assertNotIn("innerHTML", body)

    def test_json(self) -> None:
        connection = self.get("/status.json")
        self.assertIn("content-type: application/json", connection.head)
        data = json.loads(connection.data.partition(b"\r\n\r\n")[2])
        self.assertEqual([client["name"] for client in data["clients"]], ["host-1", "host-2"])

    def test_metrics(self) -> None:
        connection = self.get("/metrics")
        self.assertIn(b'kollacast_hosts{state="receiving"} 2.0', connection.data)
        [kind] = [line for line in connection.head if line.startswith("content-type")]
        self.assertIn("text/plain; version=", kind)
        asked = self.connect()
        asked.send(
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n"
            b"Accept: application/openmetrics-text;version=1.0.0\r\n\r\n"
        )
        self.assertTrue(asked.data.endswith(b"# EOF\n"))

    def test_head(self) -> None:
        for path in _PATHS:
            connection = self.get(path, "HEAD")
            self.assertEqual(connection.head[0], "http/1.1 200 ok", path)
            self.assertEqual(connection.data.partition(b"\r\n\r\n")[2], b"", path)
            self.assertTrue(connection.transport.disconnecting, path)

    def test_nothing_but_get(self) -> None:
        for path in _PATHS:
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "nonsense"):
                connection = self.get(path, method)
                self.assertTrue(connection.head[0].startswith("http/1.1 405"), (path, method))
                self.assertTrue(connection.transport.disconnecting)

    def test_names_that_strangers_give(self) -> None:
        """A page of another site cannot read it by a name that leads to this host (rebinding)."""
        for at, name, is_let_in in (
            ("127.0.0.1", "localhost:9090", True),
            ("127.0.0.1", "127.0.0.1:9090", True),
            ("127.0.0.1", "evil.example", False),
            ("127.0.0.1", "127.0.0.1.evil.example:9090", False),
            ("10.0.0.1", "installer:9090", True),
        ):
            connection = self.connect()
            connection.transport.hostAddr = IPv4Address("TCP", at, 9090)
            connection.send(f"GET /status.json HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            code = "200" if is_let_in else "403"
            self.assertIn(code, connection.head[0], (at, name))

    def test_nothing_else_is_there(self) -> None:
        for path in ("/x", "/status.json/x", "/events/", "/../etc/passwd", "/%00", "//"):
            self.assertIn("404", self.get(path).head[0], path)

    def test_every_answer_is_guarded(self) -> None:
        for path in (*_PATHS, "/x"):
            head = self.get(path).head
            for line in ("x-content-type-options: nosniff", "cache-control: no-store"):
                self.assertIn(line, head, path)
            self.assertIn("server: kollacast", head)
            self.assertNotIn("access-control", " ".join(head))

    def test_nothing_secret(self) -> None:
        secret = b"0123456789abcdef-the-secret"
        config = run().config.__class__("10.0.0.1", 1, 1, "239.0.0.1", 1, 1500, secret=secret)
        self.hosts = ()
        self.patch(self, "look", lambda: run(config=config))
        for path in _PATHS:
            self.assertNotIn(secret, self.get(path).data)

    def test_a_port_that_is_taken(self) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise CannotListenError("127.0.0.1", 8080, OSError(98, "Address already in use"))

        self.reactor.listenTCP = refuse  # type: ignore[method-assign]
        error = self.assertRaises(OSError, self.make().start)
        self.assertEqual(
            str(error),
            "cannot serve the status page at 127.0.0.1 port 8080: Address already in use",
        )


class ViewerTests(_SiteCase):
    """Those who watch."""

    def test_all_and_then_what_changes(self) -> None:
        viewer = self.connect()
        viewer.ask("/events")
        self.assertIn("content-type: text/event-stream", viewer.head)
        [(name, whole)] = viewer.events()
        self.assertEqual((name, whole["run"]["seconds"]), ("whole", 1.0))
        self.hosts = (host(1), host(2, verified=True))
        self.tick()
        [(name, change)] = viewer.events()
        self.assertEqual((name, change["run"]["seconds"]), ("change", 2.0))
        self.assertFalse(viewer.transport.is_closed)

    def test_one_look_a_second_for_all(self) -> None:
        viewers = [self.watch() for _ in range(5)]
        before = self.looks
        self.tick(3)
        self.assertEqual(self.looks, before + 3)
        told = [viewer.data for viewer in viewers]
        self.assertEqual(len(set(told)), 1)
        self.assertEqual(told[0].count(b"event: change"), 3)

    def test_a_slow_one_skips_and_begins_anew(self) -> None:
        slow, quick = self.watch(), self.watch()
        slow.pause()
        self.tick(20)
        self.assertEqual(slow.data, b"")
        self.assertEqual(len(quick.events()), 20)
        slow.resume()
        self.tick(2)
        self.assertEqual([name for name, _ in slow.events()], ["whole", "change"])

    def test_one_that_reads_nothing_is_given_up(self) -> None:
        slow = self.watch()
        slow.pause()
        self.tick(29)
        self.assertFalse(slow.transport.is_closed)
        self.tick(3)
        self.assertTrue(slow.transport.aborting)

    def test_there_are_not_too_many(self) -> None:
        viewers = [self.watch() for _ in range(MOST_VIEWERS)]
        more = self.connect()
        more.ask("/events")
        self.assertIn("503", more.head[0])
        self.assertTrue(more.transport.disconnecting)
        viewers[3].lose()
        again = self.connect()
        again.ask("/events")
        self.assertIn("200", again.head[0])
        self.tick()

    def test_one_that_goes_is_forgotten(self) -> None:
        self.watch().lose()
        other = self.watch()
        self.tick(2)
        self.assertEqual(len(other.events()), 2)

    def test_what_fails_takes_nobody_with_it(self) -> None:
        viewer = self.watch()
        works, self.site._board._look = self.site._board._look, lambda: 1 / 0  # type: ignore
        self.tick()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.site._board._look = works
        self.tick()
        self.assertEqual(len(viewer.events()), 1)


class HostileTests(_SiteCase):
    """Requests as nobody should make them."""

    def test_one_that_never_asks(self) -> None:
        idle, trickling = self.connect(), self.connect()
        trickling.send(b"GET / HTTP/1.1\r\n")
        for _ in range(9):
            self.tick()
            trickling.send(b"X: y\r\n")
        self.assertFalse(idle.transport.is_closed)
        self.tick(2)
        self.assertTrue(idle.transport.aborting)
        self.assertTrue(trickling.transport.aborting)

    def test_one_that_does_not_read_its_answer(self) -> None:
        connection = self.connect()
        connection.ask("/status.json")
        self.tick(11)
        self.assertTrue(connection.transport.aborting)

    def test_one_that_watches_may_stay(self) -> None:
        viewer = self.watch()
        self.tick(300)
        self.assertFalse(viewer.transport.is_closed)

    def test_too_many_connections(self) -> None:
        connections = [self.connect() for _ in range(MOST_CONNECTIONS)]
        self.assertIsNone(self.connect().protocol)
        connections[0].lose()
        self.assertIsNotNone(self.connect().protocol)

    def test_too_much_of_a_request(self) -> None:
        for data in (
            b"GET /" + b"x" * 20_000,
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000,
            b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000,
        ):
            connection = self.connect()
            connection.send(data)
            self.assertTrue(connection.transport.is_closed, data[:20])
            self.assertLess(len(connection.data), 200)

    def test_a_body_is_not_kept(self) -> None:
        connection = self.connect()
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        for _ in range(20):
            if not connection.transport.is_closed:
                connection.send(b"x" * 10_000)
        self.assertTrue(connection.transport.aborting)
        chunked = self.connect()
        chunked.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            if not chunked.transport.is_closed:
                chunked.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        self.assertTrue(chunked.transport.aborting)

    def test_one_request_a_connection(self) -> None:
        connection = self.connect()
        connection.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        self.assertEqual(connection.data.count(b"HTTP/1.1 404"), 1)
        self.assertTrue(connection.transport.disconnecting)

    def test_a_form(self) -> None:
        connection = self.connect()
        body = b"a=1"
        connection.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(body)
            + body
        )
        self.assertIn("405", connection.head[0])

    def test_nonsense(self) -> None:
        for data in (
            b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n",
            b"\r\n\r\n\r\n",
            b"GET\r\n\r\n",
        ):
            connection = self.connect()
            connection.send(data)
            self.tick(11)
            self.assertTrue(connection.transport.is_closed, data)
            connection.lose()
        self.assertEqual(len(self.factory.connections), 0)


class EndTests(_SiteCase):
    """How it went is shown for as long as it was asked for."""

    linger_s = 60.0

    def end(self, *, at_once: bool = False) -> Deferred[None]:
        self.patch(self, "look", lambda: run(*self.hosts, stage=Stage.ENDED))
        self.site._board._look = self.look
        return self.site.end(_DONE, at_once=at_once)

    def test_who_watches_sees_it(self) -> None:
        viewer = self.watch()
        over = self.end()
        [(_, change)] = viewer.events()
        self.assertEqual((change["run"]["status"], change["run"]["message"]), (0, _DONE.line))
        self.assertTrue(viewer.transport.disconnecting)
        viewer.lose()
        self.tick(59)
        self.assertNoResult(over)
        late = self.connect()
        late.ask("/events")
        [(name, whole)] = late.events()
        self.assertEqual((name, whole["run"]["status"]), ("whole", 0))
        late.lose()
        self.tick(2)
        self.successResultOf(over)
        # Nobody looks at a run that is over.
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_at_once(self) -> None:
        viewer = self.watch()
        over = self.end(at_once=True)
        self.assertEqual(viewer.events()[0][1]["run"]["status"], 0)
        self.assertNoResult(over)
        viewer.lose()
        self.successResultOf(over)

    def test_nobody_keeps_it(self) -> None:
        viewer, idle = self.watch(), self.connect()
        viewer.pause()
        over = self.end(at_once=True)
        self.reactor.advance(0.6)
        for connection in (viewer, idle):
            self.assertTrue(connection.transport.aborting)
            connection.lose()
        self.successResultOf(over)

    def test_what_fails_then(self) -> None:
        self.site._board._look = lambda: 1 / 0  # type: ignore[assignment, return-value]
        over = self.site.end(_DONE, at_once=True)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.successResultOf(over)

    def test_it_never_began(self) -> None:
        self.successResultOf(self.make().end(_DONE, at_once=False))


class LoopbackTests(TestCase):
    """Over a real connection."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.patch(site_module, "_LOOK_S", 0.05)

    async def test_a_viewer_and_a_reader(self) -> None:
        site = StatusSite(
            self.reactor, "127.0.0.1", 0, lambda: run(host(1)), linger_s=0.0, per_host=True
        )
        site.start()
        assert site._port is not None
        where: Any = site._port.getHost()
        port = where.port
        agent = Agent(self.reactor)
        answer = await agent.request(b"GET", b"http://127.0.0.1:%d/metrics" % port)
        body = await readBody(answer)
        self.assertIn(b'kollacast_host_done_ratio{address="10.0.0.2",host="host-1"}', body)
        stream = await agent.request(b"GET", b"http://127.0.0.1:%d/events" % port)
        read = readBody(stream)
        await site.end(_DONE, at_once=True)
        told = await read
        self.assertIn(b'"status":0', told.splitlines()[-2])
        self.assertTrue(told.startswith(b"event: whole\n"))
