"""TLS around a connection: who is let in by certificates, by a secret, and what is said if not."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from OpenSSL import SSL
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.logger import capturedLogs, formatEvent

from kollacast.files.digest import ExpectedDigest
from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Status
from kollacast.transport import tls
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Challenge, Greeting, Response
from kollacast.wire.parser import ClientStream
from kollacast.wire.proof import Agreement
from tests.identities import Authority
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import PORT, SERVER_IP
from tests.simulation.testcase import MemoryTestCase

_AUTHORITY, _OTHER_AUTHORITY = Authority(), Authority()
_SERVER = _AUTHORITY.certificates("installer", SERVER_IP)
_IMAGE = bytes(range(256)) * 20
_SECRET = b"a secret of this room"


class _TlsTestCase(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def serve(self, **options: Any) -> ServerRun:
        source = MemorySource(_IMAGE, size=len(_IMAGE), identity="file")
        return self.network.serve(source, **options)

    def assert_all_well(self, server: ServerRun, *clients: ClientRun) -> None:
        for client in clients:
            self.assertEqual(client.finish().status, Status.OK, client.outcome)
            self.assertEqual(client.sink.data, _IMAGE)
        self.assertEqual(server.finish().status, Status.OK, server.outcome)
        self.assert_all_gone(self.network)

    def assert_fails(self, client: ClientRun, line: str, limit_s: float = 11.0) -> None:
        outcome = client.finish(limit_s=limit_s)
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(outcome.line, line)
        self.assertFalse(client.sink.is_committed)


class CertificateTests(_TlsTestCase):
    """Both ends prove who they are by an authority."""

    def test_the_image_arrives(self) -> None:
        self.network.trace = []
        server = self.serve(certificates=_SERVER, clients=2)
        clients = [
            self.network.join(certificates=_AUTHORITY.certificates(f"compute-{number}"))
            for number in range(2)
        ]
        self.assert_all_well(server, *clients)
        assert server.outcome is not None
        names = [entry["name"] for entry in server.outcome.report["clients"]]
        self.assertEqual(sorted(names), ["compute-0", "compute-1"])
        said = b"".join(data for way, data in self.network.trace if way != "udp")
        for word in (b"KCST", b"session", b"packets_multicast"):
            self.assertNotIn(word, said)

    def test_where_memory_cannot_be_executed(self) -> None:
        """In services that are hardened OpenSSL cannot call back into Python."""
        with mock.patch.object(SSL, "_ffi", _NoCallbacks(vars(SSL)["_ffi"])):
            server = self.serve(certificates=_SERVER)
            client = self.network.join(certificates=_AUTHORITY.certificates("compute"))
            self.assert_all_well(server, client)

    def test_by_tcp_alone(self) -> None:
        server = self.serve(certificates=_SERVER, unicast=True)
        client = self.network.join(certificates=_AUTHORITY.certificates("compute"))
        self.assert_all_well(server, client)

    def test_a_secret_as_well(self) -> None:
        server = self.serve(certificates=_SERVER, secret=_SECRET)
        mine = _AUTHORITY.certificates("compute")
        stranger = self.network.join(certificates=mine)
        self.assert_fails(stranger, "the server asks for a shared secret: give --token-file")
        self.assert_all_well(server, self.network.join(certificates=mine, secret=_SECRET))

    def test_a_secret_that_the_server_has_not(self) -> None:
        self.serve(certificates=_SERVER)
        mine = _AUTHORITY.certificates("compute")
        line = "the server does not ask for the shared secret, and so does not prove it"
        self.assert_fails(self.network.join(certificates=mine, secret=_SECRET), line)

    def test_servers_that_a_client_does_not_believe(self) -> None:
        for certificates, what in (
            (_OTHER_AUTHORITY.certificates("installer", SERVER_IP), "from the authority in"),
            (_AUTHORITY.certificates("installer", "10.0.0.99"), "for the address or name that"),
            (_AUTHORITY.certificates("installer", SERVER_IP, age_days=11), "has expired"),
            (_AUTHORITY.certificates("installer", SERVER_IP, age_days=-5), "is not valid yet"),
            # A host's certificate, which could be any host's, does not make it a server.
            (_AUTHORITY.certificates("installer"), "is not for this end of a connection"),
        ):
            self.network = Network()
            server = self.serve(certificates=certificates)
            with _lines() as lines:
                client = self.network.join(certificates=_AUTHORITY.certificates("compute"))
                outcome = client.finish(limit_s=5.0)
            self.assertEqual(outcome.status, Status.FAILED)
            self.assertIn("its certificate ", outcome.line)
            self.assertIn(what, outcome.line)
            self.assertEqual(server.server.progress().clients, 0)
            [line] = [line for line in lines if line.startswith("10.0.1.1 ")]
            said = "is no client: it says that the certificate here "
            if "address" in what:
                said = "calls another address than this end's certificate names"
            self.assertIn(said, line)

    def test_clients_that_a_server_does_not_believe(self) -> None:
        for certificates, what in (
            (_AUTHORITY.certificates("compute", by=_OTHER_AUTHORITY), "authority in its --tls-dir"),
            (_AUTHORITY.certificates("compute", age_days=11), "has expired"),
        ):
            self.network = Network()
            server = self.serve(certificates=_SERVER)
            with _lines() as lines:
                client = self.network.join(certificates=certificates)
                outcome = client.finish(limit_s=5.0)
            self.assertEqual(outcome.status, Status.FAILED)
            self.assertIn("it says that the certificate here ", outcome.line)
            self.assertIn(what, outcome.line)
            self.assertEqual(server.server.progress().clients, 0)
            [line] = [line for line in lines if line.startswith("10.0.1.1 ")]
            self.assertIn("is no client: its certificate ", line)

    def test_ends_of_which_one_has_no_certificate(self) -> None:
        self.serve(certificates=_SERVER)
        client = self.network.join(secret=_SECRET)
        line = f"{SERVER_IP} port {PORT}: it says that the certificate here is missing:"
        self.assert_fails(client, f"{line} give --tls-dir")
        self.network = Network()
        self.serve(secret=_SECRET)
        client = self.network.join(certificates=_AUTHORITY.certificates("compute"))
        line = f"{SERVER_IP} port {PORT}: its certificate is not from the authority in --tls-dir"
        self.assert_fails(client, line)


class NameTests(_TlsTestCase):
    """A host is who its certificate says, and nobody else is."""

    def test_a_claim_counts_for_nothing(self) -> None:
        server = self.serve(certificates=_SERVER)
        client = self.network.join(certificates=_AUTHORITY.certificates("compute-1"), name="other")
        self.assert_all_well(server, client)
        assert server.outcome is not None
        self.assertEqual(server.outcome.report["clients"][0]["name"], "compute-1")

    def test_a_name_is_one_host_s(self) -> None:
        server = self.serve(certificates=_SERVER, clients=2)
        mine = _AUTHORITY.certificates("compute-1")
        first, again = (self.network.join(certificates=mine) for _ in range(2))
        self.network.run_for(3.0)
        # It waits until the first one is known to be gone.
        self.assertEqual(server.server.progress().clients, 1)
        first.host.kill()
        self.network.run_for(3.0)
        self.assertEqual(server.server.progress().clients, 1)
        other = self.network.join(certificates=_AUTHORITY.certificates("compute-2"))
        self.assert_all_well(server, again, other)

    def test_hosts_that_are_expected(self) -> None:
        names = frozenset(("compute-1", "compute-2"))
        server = self.serve(certificates=_SERVER, clients=2, expected_names=names)
        first, stranger, second = (
            self.network.join(certificates=_AUTHORITY.certificates(name))
            for name in ("compute-1", "compute-3", "compute-2")
        )
        line = "the server refuses this client: this host is not among those that are expected"
        self.assert_fails(stranger, line)
        self.assert_all_well(server, first, second)

    def test_expected_hosts_without_certificates(self) -> None:
        names = frozenset(("one", "two", "three"))
        server = self.serve(clients=3, expected_names=names, accept_timeout_s=5.0, min_clients=1)
        client = self.network.join(name="one")
        self.assertEqual(client.finish().status, Status.OK)
        outcome = server.finish()
        self.assertIn("1 of 3 clients have the image, 2 never came (three, two)", outcome.line)
        self.assertEqual(outcome.report["clients_absent"], ["three", "two"])

    def test_one_host_does_not_count_twice(self) -> None:
        """It comes again, from elsewhere, when it has the image."""
        names = frozenset(("one", "two"))
        server = self.serve(clients=2, expected_names=names, accept_timeout_s=5.0, min_clients=1)
        self.assertEqual(self.network.join(name="one").finish().status, Status.OK)
        again = self.network.join(name="one")
        again.finish()
        outcome = server.finish()
        self.assertEqual(outcome.report["clients_verified"], 1)
        self.assertEqual(len(outcome.report["clients"]), 1)


class SecretTests(_TlsTestCase):
    """Both ends prove that they know a secret, on this very connection."""

    def test_a_relay_in_the_middle(self) -> None:
        server = self.serve(secret=_SECRET)
        relay = self.network.host("10.0.0.66")
        relay.listenTCP(PORT, tls.server_side(None, _Relay(relay), relay))
        with _lines() as lines:
            client = self.network.join(secret=_SECRET, server_ip="10.0.0.66")
            why = "it does not know the shared secret, or somebody relays what it says"
            self.assert_fails(client, f"the server refuses this client: {why}")
        self.assertEqual(server.server.progress().clients, 0)
        self.assertIn(f"10.0.0.66 is refused: {why}", lines)

    def test_a_server_without_the_secret(self) -> None:
        for proof in (b"", bytes(32)):
            self.network = Network()
            host = self.network.host(SERVER_IP)
            server = _Pretender(proof)
            host.listenTCP(PORT, tls.server_side(None, server, host))
            client = self.network.join(secret=_SECRET)
            why = "the server does not know the shared secret, or somebody relays what it says"
            self.assert_fails(client, why)
            # Nothing that it says is acted on.
            assert client.outcome is not None
            self.assertIsNone(client.outcome.report["failsafe"])
            self.assertIsNone(client.outcome.report["image"])
            self.assertEqual(self.network.ports, [])

    def test_a_server_that_never_proves_it(self) -> None:
        host = self.network.host(SERVER_IP)
        host.listenTCP(PORT, tls.server_side(None, _Pretender(None), host))
        client = self.network.join(secret=_SECRET)
        self.assert_fails(
            client,
            f"what answers at {SERVER_IP} port {PORT} is no kollacast server:"
            " it has not greeted within 10 s",
        )

    def test_a_relay_has_another_binding(self) -> None:
        one, other = (Agreement("aa", "bb", bytes([n]) * 32) for n in (1, 2))
        proof = one.proof(_SECRET, "client").hex()
        self.assertTrue(one.holds(_SECRET, "client", proof))
        for agreement, who in ((other, "client"), (one, "server")):
            self.assertFalse(agreement.holds(_SECRET, who, proof))


class PlainTests(_TlsTestCase):
    """One end speaks TLS, and the other one does not."""

    def test_a_client_without_it(self) -> None:
        server = self.serve(secret=_SECRET)
        with _lines() as lines:
            client = self.network.join()
            line = "it speaks TLS: give --token-file or --tls-dir, as to the server"
            self.assert_fails(client, f"the server refuses this client: {line}")
        [line] = [line for line in lines if line.startswith("10.0.1.1 ")]
        self.assertEqual(
            line,
            "10.0.1.1 is no client: no TLS within 5 s, as of a client without --token-file and"
            " --tls-dir",
        )
        self.assert_all_well(server, self.network.join(secret=_SECRET))

    def test_a_client_that_says_something_else(self) -> None:
        server = self.serve(secret=_SECRET)
        for data in (b"GET / HTTP/1.0\r\n\r\n", b"\x00", b"\x16\x03junk that is no TLS at all"):
            with _lines() as lines:
                raw, host = _Half(), self.network.new_host("10.0.9")
                host.connectTCP(SERVER_IP, PORT, _Once(raw))
                self.network.settle()
                raw.transport.write(data)  # type: ignore[union-attr]
                self.network.run_for(6.0)
            [line] = [line for line in lines if " is no client: " in line]
            self.assertNotEqual(line.partition(": ")[2], "the connection was lost")
            self.assertTrue(raw.is_lost)
        self.assert_all_well(server, self.network.join(secret=_SECRET))

    def test_a_server_without_it(self) -> None:
        server = self.serve()
        with _lines() as lines:
            client = self.network.join(secret=_SECRET)
            where = f"{SERVER_IP} port {PORT}"
            line = f"{where}: it speaks without TLS and so does not prove who it is"
            self.assert_fails(client, line)
        [line] = [line for line in lines if line.startswith("10.0.1.1 ")]
        self.assertIn("it speaks TLS, and this end does not", line)
        self.assert_all_well(server, self.network.join())

    def test_a_jasmine_server(self) -> None:
        options: dict[str, Any] = {"group": "224.238.0.31", "mtu": 1500, "buffer_packets": 4}
        self.serve(dialect_name="jasmine", **options)
        client = self.network.join(secret=_SECRET)
        why = "it speaks jasmine, which has no TLS, and so does not prove who it is"
        self.assert_fails(client, f"{SERVER_IP} port {PORT}: {why}")

    def test_a_client_whose_tls_comes_late(self) -> None:
        server = self.serve(secret=_SECRET)
        client = self.network.join(secret=_SECRET)
        while not client.host.connections():
            self.network.turn()
        client.host.cut_off()
        self.network.run_for(6.0)
        client.host.heal()
        self.assert_all_well(server, client)


class WarningTests(_TlsTestCase):
    """Who proves nothing is told what that means."""

    def warnings_of(self, **options: Any) -> list[str]:
        both = {key: value for key, value in options.items() if key == "secret"}
        with _lines() as lines:
            server = self.serve(**both)
            self.assert_all_well(server, self.network.join(**options))
        return [line for line in lines if line.startswith("nobody is proved")]

    def test_nothing(self) -> None:
        server, client = self.warnings_of()
        self.assertIn("whoever comes counts as a host", server)
        self.assertIn(f"whoever answers at {SERVER_IP} can give this host an image of", client)

    def test_an_image_that_is_expected(self) -> None:
        digest = ExpectedDigest("sha256", hashlib.sha256(_IMAGE).digest())
        _, client = self.warnings_of(expectation=Expectation(digests=(digest,)))
        self.assertIn("though not give it another than --expect says", client)

    def test_a_secret(self) -> None:
        self.assertEqual(self.warnings_of(secret=_SECRET), [])


class _NoCallbacks:
    """A library's way to C, where no C can call back."""

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ffi, name)

    def callback(self, *args: Any) -> Any:
        raise MemoryError("cannot allocate write+execute memory")


class _Half(Protocol):
    """One half of a relay."""

    other: _Half | None = None

    def __init__(self) -> None:
        self.is_lost = False
        self._waiting = b""

    def handshakeCompleted(self) -> None:
        """Both halves have handshakes of their own."""

    def join(self, other: _Half) -> None:
        self.other = other
        if other._waiting:
            self.transport.write(other._waiting)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            self._waiting += data
        else:
            self.other.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        self.is_lost = True
        if self.other is not None:
            self.other.transport.loseConnection()  # type: ignore[union-attr]


class _Once(ClientFactory):
    """A factory of one protocol, already made."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class _Relay(Factory):
    """Takes clients and has a connection to the server for each: it reads all that both say."""

    noisy = False

    def __init__(self, host: Any) -> None:
        self._host = host

    def buildProtocol(self, addr: Any) -> Protocol:
        mine, its = _Half(), _Half()
        secured = tls.client_side(None, SERVER_IP, self._host)(_Once(its))
        self._host.connectTCP(SERVER_IP, PORT, secured)
        mine.join(its)
        its.join(mine)
        return mine


class _PretenderConnection(Protocol):
    def __init__(self, proof: bytes | None) -> None:
        self._proof = proof
        self._stream = ClientStream(KOLLACAST, 1, is_challenged=True)

    def connectionMade(self) -> None:
        self.transport.write(Challenge("hmac-sha256", "00").encode())  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        for message in self._stream.feed(data):
            if isinstance(message, Response) and self._proof is not None:
                greeting = Greeting(
                    "s", 1, "239.1.1.1", 4000, 1500, 4, 2, "sha256", fetch=True, image="ab",
                    name="forged", failsafe="evil.example:4000", proof=self._proof.hex(),
                )  # fmt: skip
                self.transport.write(greeting.encode())  # type: ignore[union-attr]


class _Pretender(Factory):
    """A server that asks for a secret which it does not know."""

    noisy = False

    def __init__(self, proof: bytes | None) -> None:
        self._proof = proof

    def buildProtocol(self, addr: Any) -> Protocol:
        return _PretenderConnection(self._proof)


@contextlib.contextmanager
def _lines() -> Iterator[list[str]]:
    """What the programs log meanwhile."""
    lines: list[str] = []
    with capturedLogs() as events:
        yield lines
    lines += [formatEvent(event) for event in events]
