"""An error of the client's program ends its run in one line, wherever it is raised.

Every method of what takes part in a run raises once, in the first of some transfers that
calls it.  Without somebody who hears of it, the reactor would log it, and the client stand still.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from random import Random
from types import FunctionType
from typing import Any
from unittest import mock

from kollacast.client.account import Account
from kollacast.client.attempt import Attempt
from kollacast.client.client import Client
from kollacast.client.local_copy import LocalCopy
from kollacast.client.retry import Retry
from kollacast.client.terms import Terms
from kollacast.operator.outcome import Status
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.packets.intervals import Intervals
from kollacast.receiving import reception
from kollacast.receiving.answers import Credits, Turns
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.control import ControlReader
from kollacast.receiving.fetching import Fetcher
from kollacast.receiving.hearing import Hearing
from kollacast.receiving.output import Output
from kollacast.receiving.pieces import ExpectedPieces
from kollacast.receiving.reception import Reception
from kollacast.receiving.route import Route
from kollacast.receiving.signatures import Signatures
from kollacast.receiving.tally import Tally
from kollacast.transport.receiver import MulticastReceiver
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import Detach
from kollacast.wire.parser import ServerStream
from kollacast.wire.recipes import PIECES_BASE, is_parity
from kollacast.wire.sealing import SEAL_SIZE
from tests.simulation.forger import Forger
from tests.simulation.image import MemorySink, MemorySource
from tests.simulation.multicast import MemoryReceivePort
from tests.simulation.network import Network
from tests.simulation.runs import ClientRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY, MTU
from tests.simulation.testcase import MemoryTestCase

_IMAGE = Random(3).randbytes(30 * BUFFER_PACKETS * CAPACITY + 7)
#: What takes part in a client's run, and in no server's.
_OWNERS: tuple[type, ...] = (
    Account,
    Attempt,
    Client,
    ControlReader,
    Credits,
    ExpectedPieces,
    Fetcher,
    Hearing,
    Intake,
    Intervals,
    LocalCopy,
    MulticastReceiver,
    Output,
    Reception,
    Retry,
    Route,
    Signatures,
    ServerConnection,
    ServerStream,
    Tally,
    Terms,
    Turns,
)
#: What the service calls, which hears itself of what that raises.
_HEARD = {
    *(f"Client.{name}" for name in ("__init__", "_end", "interrupt", "progress", "run", "session")),
    "Account.progress",
    "LocalCopy.__init__",
}
#: What has no more to do than to handle what is raised in it, or begins with that.
_HANDLERS = {
    "MulticastReceiver.readable",
    "MulticastReceiver.stopProtocol",
    "ServerConnection.connectionLost",
    "ServerConnection.connectionMade",
    "ServerConnection.dataReceived",
    "ServerConnection.handshakeCompleted",
    "ServerConnection.spoke_plainly",
    "ServerConnection._guarded",
    "Attempt.end",
    "Client._fail",
    "Client._failed_by",
    "Output._not_kept",
}
#: What only the kernel's own calls lead to, connections that nobody needs any more, and a window
#: of more than one buffer where there is none.
_ELSEWHERE = {
    "MulticastReceiver._read_segments",
    "MulticastReceiver.holds_less",
    "Intake.is_expected",
    "Intake.landed",
    "ServerConnection.abort",
    "Turns.fewer",
}
_EXEMPT = {
    *_HEARD,
    *_HANDLERS,
    *_ELSEWHERE,
    "LocalCopy.__init__",
    "Account.progress",
}


class _Bug(Exception):
    """What no program expects."""


def _serve(network: Network, image: bytes = _IMAGE, **options: Any) -> None:
    network.serve(MemorySource(image, identity=image[:1].hex()), **options)


def _lose(network: Network, every: int) -> None:
    """Each host loses one packet of so many, and not the same one."""
    counts: dict[MemoryReceivePort, int] = {}

    def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
        counts[port] = counts.get(port, int(port.host.address[-1]) % every) + 1
        return () if counts[port] % every == 0 else (data,)

    network.fate = fate


def _lossy(network: Network) -> None:
    """Repairs, by TCP and by multicast."""
    _lose(network, 5)
    _serve(network, clients=5, buffer_packets=60, min_clients=1, accept_timeout_s=5.0)
    for reads in ("coalesced", "frames", "plain", "plain", "plain"):
        network.join(reads=reads)


def _parity(network: Network) -> None:
    """Repairs of so many that combinations take more packets than sums, most of which are lost."""
    _lose(network, 3)
    some = network.fate
    assert some is not None

    def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
        seq = int.from_bytes(data[:4], "big")
        return () if is_parity(seq) and seq % 4 else tuple(some(port, data))

    network.fate = fate
    _serve(network, clients=8, buffer_packets=60)
    for _ in range(8):
        network.join()


def _sealed(network: Network) -> None:
    """Packets that only those who take part can open."""
    secret = b"sixteen bytes or more"
    mtu = MTU + SEAL_SIZE
    _serve(network, clients=1, buffer_packets=60, encrypt=True, mtu=mtu, secret=secret)
    network.join(secret=secret)


def _combined(network: Network) -> None:
    """Repairs of few, of which each mends a loss of both."""
    _lose(network, 4)
    _serve(network, clients=2, buffer_packets=60)
    for _ in range(2):
        network.join()


def _secret(network: Network) -> None:
    _serve(network, secret=b"0123456789abcdef")
    network.join(secret=b"0123456789abcdef")


def _forged(network: Network) -> None:
    """Packets that are not the server's, and digests of pieces that are lost."""
    server = network.serve(MemorySource(_IMAGE, identity="a"))
    forger = Forger(server.snapshot.plan.salt, Random(4))

    def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
        seq = int.from_bytes(data[:4], "big")
        if seq >= PIECES_BASE and seq % 3 == 0:
            return ()
        return (forger.payload(data), data) if seq % 9 == 0 else (data,)

    network.fate = fate
    network.join()


def _plain(network: Network) -> None:
    """A server that speaks no TLS."""
    _serve(network)
    network.join(secret=b"0123456789abcdef")


def _late(network: Network) -> None:
    """One that receives, and fetches what was before."""
    _serve(network, clients=2, min_clients=1, accept_timeout_s=1.0)
    slow = network.join(threads=True)
    network.settle()
    slow.threads["disk"].held = True
    network.run_for(1.5)
    network.join()
    network.run_for(0.5)
    slow.threads["disk"].release()


def _fetching(network: Network) -> None:
    _serve(network, unicast=True)
    network.join()


def _cut(network: Network) -> None:
    """A connection breaks, and the client comes back."""
    _serve(network)
    client = network.join(threads=True)
    network.run_until(lambda: client.phase == "receiving")
    client.transport.reset()


def _unreached(network: Network) -> None:
    _serve(network, image=_IMAGE * 8, buffer_packets=70)
    network.host("10.0.1.1").hears_multicast = False
    network.join()


def _reached_again(network: Network) -> None:
    """Multicast stops, and comes back; the server cannot read the past for anybody."""
    image = Random(2).randbytes(4000 * CAPACITY)
    network.serve(image, clients=2, buffer_packets=64, min_clients=1, accept_timeout_s=5.0)
    heard = itertools.count()
    network.fate = lambda port, data: () if 1000 < next(heard) <= 2000 else (data,)
    for _ in range(2):
        network.join()


def _jasmine(network: Network) -> None:
    _serve(network, dialect_name="jasmine")
    network.join()


def _silent(network: Network) -> None:
    network.raw_server()
    network.join()


def _nobody(network: Network) -> None:
    network.join(connect_timeout_s=0.5)


def _another_image(network: Network) -> None:
    """The server goes, and another one comes with something else."""
    server = network.serve(MemorySource(_IMAGE, identity="a"))
    client = network.join(threads=True)
    network.run_until(lambda: client.sink.data)
    server.host.kill()
    _serve(network)


def _breach(network: Network) -> None:
    """A server speaks, and then breaks the protocol."""
    server = network.raw_server()
    network.join()
    network.settle()
    server.greet()
    server.send(b"\xff")


def _out_of_turn(network: Network) -> None:
    server = network.raw_server()
    network.join()
    network.settle()
    server.greet()
    server.digest(bytes(32))


def _full_disk(network: Network) -> None:
    _serve(network)
    network.join(sink=MemorySink(room=100))


def _full_disk_of_one_that_fetches(network: Network) -> None:
    _serve(network, unicast=True)
    network.join(sink=MemorySink(room=100))


def _little_memory(network: Network) -> None:
    """For one buffer, and no more."""
    made: list[PacketBuffer] = []

    def make(capacity: int, packets: int) -> PacketBuffer:
        if made:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        made.append(PacketBuffer(capacity, packets))
        return made[0]

    _serve(network)
    with mock.patch.object(reception, "PacketBuffer", make):
        network.join().finish(120.0)


def _no_group(network: Network) -> None:
    _serve(network)
    network.host("10.0.1.1").port_error = OSError(errno.ENODEV, "No such device")
    network.join()


def _resumed(network: Network, read_back: Exception | None = None) -> None:
    """A client is killed, and begins again with what it has kept."""
    _serve(network)
    client = network.join()
    network.run_until(lambda: len(client.sink.data) > len(_IMAGE) // 2)
    client.host.kill()
    sink = client.sink.reopen()
    if read_back is not None:
        sink.read_back = mock.Mock(side_effect=read_back)  # type: ignore[method-assign]
    network.join(sink=sink, hosts="10.0.2")


def _resumed_on_a_bad_disk(network: Network) -> None:
    _resumed(network, OSError(errno.EIO, "Input/output error"))


def _left_late(network: Network) -> None:
    """One that comes late is told to fetch all of the rest, while it fetches what was before."""
    server = network.raw_server()
    network.join()
    network.settle()
    server.greet(fetch=True, image="ab", pull=True, late_join=True)
    server.announce(1, 4 * CAPACITY, 8, 4)
    server.send(Detach().encode(KOLLACAST))
    server.report("interrupted")


def _server_that_stays(network: Network) -> None:
    """It has heard that the image is there, and does not close the connection."""
    server = network.raw_server()
    network.join()
    network.settle()
    server.greet()
    server.client.closes = False
    server.announce(1, 0, 0, 0)
    server.sent()
    server.digest(hashlib.sha256().digest())


_TRANSFERS: tuple[Callable[[Network], None], ...] = (
    _lossy,
    _parity,
    _sealed,
    _combined,
    _secret,
    _forged,
    _plain,
    _late,
    _fetching,
    _cut,
    _unreached,
    _reached_again,
    _jasmine,
    _silent,
    _nobody,
    _another_image,
    _breach,
    _out_of_turn,
    _full_disk,
    _full_disk_of_one_that_fetches,
    _little_memory,
    _no_group,
    _resumed,
    _resumed_on_a_bad_disk,
    _left_late,
    _server_that_stays,
)


def _methods() -> Iterator[tuple[type, str]]:
    for owner in _OWNERS:
        for name, value in vars(owner).items():
            is_ours = isinstance(value, FunctionType | property | classmethod)
            if is_ours and (name == "__init__" or not name.startswith("__")):
                if not (name == "__init__" and hasattr(owner, "__dataclass_fields__")):
                    yield owner, name


def _wrapped(value: Any, before: Callable[[], None]) -> Any:
    """A function, a property or a class method before which something else is called."""
    if isinstance(value, property):
        return property(_wrapped(value.fget, before))
    if isinstance(value, classmethod):
        return classmethod(_wrapped(value.__func__, before))

    @functools.wraps(value)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        before()
        return await value(*args, **kwargs)

    @functools.wraps(value)
    def function(*args: Any, **kwargs: Any) -> Any:
        before()
        return value(*args, **kwargs)

    return coroutine if inspect.iscoroutinefunction(value) else function


class ClientErrorTests(MemoryTestCase):
    def play(self, transfer: Callable[[Network], None]) -> list[ClientRun]:
        """Every client of the transfer, when all of them have ended."""
        clients: list[ClientRun] = []
        network = Network()
        join = network.join

        def joined(**options: Any) -> ClientRun:
            clients.append(join(**options))
            return clients[-1]

        with mock.patch.object(network, "join", joined):
            try:
                transfer(network)
            except AssertionError:
                pass  # what the transfer waits for does not come any more
        for client in clients:
            for thread in client.threads.values():
                thread.release()
            if not client.host.is_gone:
                client.finish(120.0)
        return clients

    def called_in(self, transfer: Callable[[Network], None]) -> set[tuple[type, str]]:
        called: set[tuple[type, str]] = set()
        patches = [
            mock.patch.object(
                owner,
                name,
                _wrapped(vars(owner)[name], functools.partial(called.add, (owner, name))),
            )
            for owner, name in _methods()
        ]
        for patch in patches:
            patch.start()
        try:
            self.play(transfer)
        finally:
            for patch in patches:
                patch.stop()
        return called

    def test_every_method(self) -> None:
        left = {
            (owner, name) for owner, name in _methods() if f"{owner.__name__}.{name}" not in _EXEMPT
        }
        for transfer in _TRANSFERS:
            for owner, name in sorted(
                self.called_in(transfer) & left, key=lambda method: method[0].__name__ + method[1]
            ):
                left.discard((owner, name))
                self.assert_ends(transfer, owner, name)
        self.assertEqual({f"{owner.__name__}.{name}" for owner, name in left}, set())

    def assert_ends(self, transfer: Callable[[Network], None], owner: type, name: str) -> None:
        """The run of the client that calls the method first ends, and says why."""
        raised: list[None] = []

        def fail() -> None:
            if not raised:
                raised.append(None)
                raise _Bug

        what = f"{owner.__name__}.{name} in {transfer.__name__}"
        with mock.patch.object(owner, name, _wrapped(vars(owner)[name], fail)):
            clients = self.play(transfer)
        self.assertTrue(raised, what)
        outcomes = [client.outcome for client in clients if client.outcome is not None]
        told = [outcome for outcome in outcomes if "of the program: _Bug()" in outcome.line]
        if told:
            self.assertEqual([outcome.status for outcome in told], [Status.FAILED], what)
        else:
            # What is raised behind the last byte has cost nobody anything.
            self.assertEqual({outcome.status for outcome in outcomes}, {Status.OK}, what)
        self.assertGreaterEqual(len(self.flushLoggedErrors(_Bug)), 1, what)
        self.flushLoggedErrors()  # and what has come of it
