"""The independent jasmine peers against each other, and against peers that break the dialect.

What the interop tests prove is worth what these two scripts are worth: here they bring images
of every awkward size over loopback, say the recorded session byte for byte, and refuse each
thing that the C programs refuse.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from twisted.trial import unittest

from tests.peers import jasmine_client, jasmine_server
from tests.peers.jasmine_client import GENERATIONS, ClientTally, Generation
from tests.peers.jasmine_server import Mischief, ServerTally

_LOOPBACK = "127.0.0.1"
_GROUP = "224.238.0.31"
_PATIENCE_S = 60.0
_SCRIPTS = Path(__file__).parent / "peers"
_READY, _REQ, _DONE, _SENT = b"\x01", b"\x02", b"\x04", b"\x08"


@dataclass
class _ClientRun:
    """What one client of a session made of it."""

    image: bytes
    tally: ClientTally
    trace: list[tuple[str, str]]


@dataclass
class _Outcome:
    port: int
    server: ServerTally
    server_trace: list[tuple[str, str]]
    clients: list[_ClientRun] = field(default_factory=list)


def _image(size: int) -> bytes:
    """`size` bytes in which no packet resembles another."""
    return random.Random(size).randbytes(size)


def _lines(trace: io.StringIO) -> list[tuple[str, str]]:
    records = map(json.loads, trace.getvalue().splitlines())
    return [(record["direction"], record["bytes"]) for record in records]


def _first(port: queue.Queue[int], server: Future[ServerTally]) -> int:
    """The port the server listens on, or the error that kept it from listening."""
    server.add_done_callback(lambda _: port.put(0))
    listening_on = port.get(timeout=_PATIENCE_S)
    if listening_on == 0:
        server.result()
    return listening_on


def _session(
    image: bytes,
    clients: int = 1,
    *,
    mischief: Mischief | None = None,
    buffer_packets: int = 1024,
    drop_every: int = 0,
    ask_again: bool = False,
) -> _Outcome:
    """One server and its clients, each in a thread, over loopback multicast."""
    port: queue.Queue[int] = queue.Queue()
    server_trace = io.StringIO()

    def run_client(server_port: int) -> _ClientRun:
        output, trace = io.BytesIO(), io.StringIO()
        tally = jasmine_client.receive(
            _LOOPBACK,
            _LOOPBACK,
            server_port,
            output,
            drop_every=drop_every,
            ask_again=ask_again,
            patience_s=_PATIENCE_S,
            trace=jasmine_client.Trace(trace),
        )
        return _ClientRun(output.getvalue(), tally, _lines(trace))

    with ThreadPoolExecutor(clients + 1) as threads:
        server = threads.submit(
            jasmine_server.serve,
            _LOOPBACK,
            clients,
            0,
            io.BytesIO(image),
            buffer_packets=buffer_packets,
            mischief=mischief,
            patience_s=_PATIENCE_S,
            trace=jasmine_server.Trace(server_trace),
            on_listening=port.put,
        )
        server_port = _first(port, server)
        runs = [threads.submit(run_client, server_port) for _ in range(clients)]
        outcomes = [run.result() for run in runs]
        return _Outcome(server_port, server.result(), _lines(server_trace), outcomes)


class RecordedSession(unittest.TestCase):
    """That of docs/protocol.md: 2926 bytes, and a client that asks again, as no C client does."""

    def test_byte_for_byte_at_both_ends(self) -> None:
        image = bytes((7 * i + 3) % 256 for i in range(2926))
        outcome = _session(image, ask_again=True)
        last = "02000000d2e1eaf006000000dbe2e9f0f7fe"
        middle = "010000008b3d3732b4050000" + image[1460:2920].hex()
        first = "000000000fc2bbb4b4050000" + image[:1460].hex()
        self.assertTrue(middle[24:].startswith("eff6fd040b12"))
        self.assertTrue(first[24:].startswith("030a11181f26"))
        expected = [
            ("S>C", f"0200{outcome.port:04x}e0ee001f0000000000000000"),
            ("S>C", "010000006e0b00000000000003000000"),
            ("C>S", "01"),
            ("udp", last),
            ("udp", middle),
            ("udp", first),
            ("S>C", "08"),
            ("C>S", "020100000002000000"),
            ("S>C", last),
            ("C>S", "04"),
            ("S>C", "02000000000000000300000000000000"),
            ("C>S", "01"),
            ("S>C", "08"),
            ("C>S", "04"),
            ("S>C", ""),
        ]
        self.assertEqual(outcome.server_trace, expected)
        self.assertEqual(outcome.clients[0].trace, expected)
        self.assertEqual(outcome.clients[0].image, image)


class WordSum(unittest.TestCase):
    def test_both_peers_against_the_recording(self) -> None:
        recorded = [
            (bytes.fromhex("dbe2e9f0f7fe"), 0xF0EAE1D2),
            (bytes((7 * i + 3) % 256 for i in range(1460)), 0xB4BBC20F),
            (b"", 0),
        ]
        for data, checksum in recorded:
            self.assertEqual(jasmine_client.word_sum(data), checksum)
            self.assertEqual(jasmine_server.word_sum(data), checksum)


class Sizes(unittest.TestCase):
    """Images one byte around a packet and a buffer arrive whole, in as few packets as can be."""

    def _arrives(self, size: int, packets: int, buffers: int) -> None:
        image = _image(size)
        outcome = _session(image)
        self.assertEqual(outcome.clients[0].image, image)
        self.assertEqual(outcome.server.packets, packets)
        self.assertEqual(outcome.server.buffers, buffers)

    def test_nothing(self) -> None:
        self._arrives(0, packets=0, buffers=1)

    def test_one_byte(self) -> None:
        self._arrives(1, packets=1, buffers=2)

    def test_one_less_than_a_packet(self) -> None:
        self._arrives(1459, packets=1, buffers=2)

    def test_a_packet(self) -> None:
        self._arrives(1460, packets=1, buffers=2)

    def test_one_more_than_a_packet(self) -> None:
        self._arrives(1461, packets=2, buffers=2)

    def test_a_buffer(self) -> None:
        self._arrives(1024 * 1460, packets=1024, buffers=2)

    def test_one_more_than_a_buffer(self) -> None:
        self._arrives(1024 * 1460 + 1, packets=1025, buffers=3)

    def test_a_buffer_of_the_second_generation(self) -> None:
        image = _image(3000 * 1460)
        outcome = _session(image, buffer_packets=65536)
        self.assertEqual(outcome.clients[0].image, image)
        self.assertEqual((outcome.server.packets, outcome.server.buffers), (3000, 2))


class Repair(unittest.TestCase):
    """What multicast does not bring whole comes over TCP, to several clients at once."""

    def test_nothing_multicast(self) -> None:
        image = _image(20 * 1460 + 5)
        outcome = _session(image, 2, mischief=Mischief(lose_every=1), buffer_packets=8)
        self.assertEqual(outcome.server.multicast_packets, 0)
        for client in outcome.clients:
            self.assertEqual(client.image, image)
            self.assertEqual(client.tally.repaired_packets, 21)

    def test_loss_at_the_server(self) -> None:
        image = _image(100 * 1460)
        outcome = _session(image, 3, mischief=Mischief(lose_every=5), buffer_packets=32)
        self.assertEqual(outcome.server.multicast_packets, 80)
        for client in outcome.clients:
            self.assertEqual(client.image, image)
            self.assertGreaterEqual(client.tally.repaired_packets, 20)

    def test_loss_at_the_clients(self) -> None:
        image = _image(100 * 1460 + 1)
        outcome = _session(image, 2, drop_every=3, buffer_packets=32)
        for client in outcome.clients:
            self.assertEqual(client.image, image)
            self.assertGreaterEqual(client.tally.repaired_packets, 33)
            asked = [line for way, line in client.trace if way == "C>S" and line[:2] == "02"]
            self.assertEqual(len(asked), 4)  # once a buffer

    def test_damage_in_every_field(self) -> None:
        image = _image(100 * 1460 + 1)
        outcome = _session(image, 2, mischief=Mischief(corrupt_every=3), buffer_packets=32)
        self.assertEqual(outcome.server.corrupted_packets, 33)
        for client in outcome.clients:
            self.assertEqual(client.image, image)
            self.assertGreaterEqual(client.tally.repaired_packets, 33)

    def test_short_reads(self) -> None:
        image = _image(100 * 1460 + 1)
        mischief = Mischief(short_reads=True, lose_every=4)
        outcome = _session(image, 2, mischief=mischief, buffer_packets=32)
        sizes = [
            struct.unpack_from("<I", bytes.fromhex(line), 8)[0]
            for way, line in outcome.server_trace
            if way == "udp"
        ]
        self.assertTrue({1, 3, 700, 1459, 1460} <= set(sizes), sorted(set(sizes)))
        for client in outcome.clients:
            self.assertEqual(client.image, image)

    def test_everything_at_once(self) -> None:
        image = _image(200_000)
        outcome = _session(
            image,
            3,
            mischief=Mischief(short_reads=True, lose_every=7, corrupt_every=5),
            buffer_packets=16,
            drop_every=4,
            ask_again=True,
        )
        for client in outcome.clients:
            self.assertEqual(client.image, image)


class Programs(unittest.TestCase):
    """The two scripts as their users start them."""

    def test_three_clients_over_pipes(self) -> None:
        image = _image(300_001)
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            output, record = folder / "image", folder / "trace"
            server = stack.enter_context(_started("server", _LOOPBACK, "3", "0"))
            assert server.stderr is not None
            port = server.stderr.readline().decode().split()[-1]
            running = [server]
            for extra in (
                (),
                ("--drop", "5"),
                ("--output", str(output), "--record", str(record)),
            ):
                client = _started("client", _LOOPBACK, _LOOPBACK, port, *extra)
                running.append(stack.enter_context(client))
            # All pipes at once: a client whose output nobody reads holds up the others.
            threads = stack.enter_context(ThreadPoolExecutor(len(running)))
            ends = [
                threads.submit(one.communicate, image if one is server else None, _PATIENCE_S)
                for one in running
            ]
            (_, server_said), (plain_image, _), (lossy_image, lossy_said), _ = (
                end.result() for end in ends
            )
            self.assertEqual([one.returncode for one in running], [0, 0, 0, 0])
            self.assertEqual(output.read_bytes(), image)
            self.assertEqual(
                json.loads(record.read_text().splitlines()[-1]),
                {"direction": "S>C", "bytes": ""},
            )
        self.assertEqual(plain_image, image)
        self.assertEqual(lossy_image, image)
        self.assertIn(b"300001 bytes in 2 buffers", server_said)
        self.assertIn(b" repaired", lossy_said)

    def test_client_fails_in_one_line(self) -> None:
        with (
            socket.create_server((_LOOPBACK, 0)) as listener,
            _started("client", _LOOPBACK, _LOOPBACK, str(listener.getsockname()[1])) as client,
        ):
            listener.settimeout(_PATIENCE_S)
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")
                _, said = client.communicate(timeout=_PATIENCE_S)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(said, rb"\Ajasmine_client: group info has address family \d+, not 2\n\Z")

    def test_server_fails_in_one_line(self) -> None:
        with _started("server", _LOOPBACK, "2", "0") as server:
            assert server.stderr is not None
            port = int(server.stderr.readline().split()[-1])
            with socket.create_connection((_LOOPBACK, port)) as connection:
                connection.sendall(_READY)
                _, said = server.communicate(timeout=_PATIENCE_S)
        self.assertEqual(server.returncode, 1)
        self.assertRegex(
            said, rb"\Ajasmine_server: client 0 .*before a buffer was announced: 01\n\Z"
        )

    def test_nobody_to_connect_to(self) -> None:
        with socket.socket() as closed:
            closed.bind((_LOOPBACK, 0))
            with _started("client", _LOOPBACK, _LOOPBACK, str(closed.getsockname()[1])) as client:
                _, said = client.communicate(timeout=_PATIENCE_S)
        self.assertEqual(client.returncode, 1)
        self.assertEqual(said.count(b"\n"), 1)


@contextlib.contextmanager
def _started(which: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of the two scripts as a process that does not outlive the test."""
    with subprocess.Popen(
        [sys.executable, str(_SCRIPTS / f"jasmine_{which}.py"), *arguments],
        stdin=subprocess.PIPE if which == "server" else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _packet(seq: int, data: bytes) -> bytes:
    return struct.pack("<III", seq, jasmine_server.word_sum(data), len(data)) + data


def _read(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            raise AssertionError(f"closed after {got.hex()}")
        got += more
    return got


class ClientStrictness(unittest.TestCase):
    """The client against a server that this test plays by hand."""

    def _play(
        self,
        script: Callable[[socket.socket], None],
        generation: Generation = GENERATIONS[2],
        patience_s: float = _PATIENCE_S,
        watch_s: float = 0.0,
    ) -> tuple[bytes, ClientTally]:
        output = io.BytesIO()
        with socket.create_server((_LOOPBACK, 0)) as listener, ThreadPoolExecutor(1) as threads:
            listener.settimeout(_PATIENCE_S)
            client = threads.submit(
                jasmine_client.receive,
                _LOOPBACK,
                _LOOPBACK,
                listener.getsockname()[1],
                output,
                generation=generation,
                patience_s=patience_s,
                watch_s=watch_s,
            )
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_PATIENCE_S)
                script(connection)
                with contextlib.suppress(OSError):  # the peer may have left already
                    connection.shutdown(socket.SHUT_WR)
                tally = client.result()
        return output.getvalue(), tally

    def _refuses(
        self,
        reason: str,
        *turns: bytes | int,
        generation: Generation = GENERATIONS[2],
        patience_s: float = _PATIENCE_S,
        watch_s: float = 0.0,
    ) -> None:
        """Say each turn of bytes, read each turn that is a number; then the client gives up."""

        def script(connection: socket.socket) -> None:
            for turn in turns:
                if isinstance(turn, int):
                    _read(connection, turn)
                else:
                    connection.sendall(turn)
            # Open until the client leaves: it must not need our close to find the fault.
            with contextlib.suppress(ConnectionResetError):
                connection.recv(4096)

        error = self.assertRaises(
            jasmine_client.PeerError,
            self._play,
            script,
            generation=generation,
            patience_s=patience_s,
            watch_s=watch_s,
        )
        self.assertIn(reason, str(error))

    def setUp(self) -> None:
        # Shares its port with the clients, so that no other program is given it.
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(holder.close)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("", 0))
        self._port: int = holder.getsockname()[1]
        self._info = struct.pack("<H", 2) + struct.pack(">H", self._port)
        self._info += socket.inet_aton(_GROUP) + bytes(8)

    _ONE = struct.pack("<IIII", 1, 4, 0, 1)
    _NOTHING = struct.pack("<IIII", 1, 0, 0, 0)

    def test_group_info(self) -> None:
        self._refuses("family", b"KCST" + self._info)
        self._refuses("not a multicast", self._info[:4] + bytes([10, 0, 0, 1]) + bytes(8))

    def test_too_many_packets(self) -> None:
        for number, generation in GENERATIONS.items():
            most = {1: 1024, 2: 65536}[number]
            ctl = struct.pack("<IIII", 1, most + 1, 0, most + 1)
            self._refuses(f"more than {most}", self._info, ctl, generation=generation)

    def test_network_byte_order(self) -> None:
        self._refuses("packets", self._info, struct.pack(">IIII", 1, 4, 0, 1))

    def test_numbers_used_twice(self) -> None:
        whole = _SENT, 9, _packet(0, b"abcd"), 1
        again = struct.pack("<IIII", 1, 4, 1, 1)
        self._refuses("comes twice", self._info, self._ONE, 1, *whole, again)
        again = struct.pack("<IIII", 2, 4, 0, 1)
        self._refuses("used already", self._info, self._ONE, 1, *whole, again)

    def test_sizes_that_cannot_be(self) -> None:
        self._refuses("do not fit", self._info, struct.pack("<IIII", 1, 1461, 0, 1))
        self._refuses("do not fit", self._info, struct.pack("<IIII", 1, 4, 0, 0))

    def test_announced_size_differs(self) -> None:
        wrong = struct.pack("<IIII", 1, 5, 0, 1)
        turns = self._info, wrong, 1, _SENT, 9, _packet(0, b"abcd")
        self._refuses("4 bytes where 5", *turns)

    def test_speaking_out_of_turn(self) -> None:
        self._refuses("out of turn: 08", self._info, self._ONE + _SENT)
        self._refuses("out of turn: 02", self._info, self._NOTHING, 1, _SENT + b"\x02")

    def test_speaking_out_of_turn_a_moment_later_is_watched_for(self) -> None:
        self._refuses("out of turn: 08", self._info, self._ONE, _SENT, watch_s=_PATIENCE_S)

    def test_wrong_signal_for_sent(self) -> None:
        self._refuses("10 where SENT", self._info, self._ONE, 1, b"\x10")

    def test_silence(self) -> None:
        """Between READY and SENT, for each generation as long as it takes; nowhere else."""
        self.assertEqual([GENERATIONS[n].silence_s for n in (1, 2)], [5.0, 20.0])
        hasty = Generation(1024, 0.1)
        data = "0.1 seconds of silence while waiting for data"
        self._refuses(data, self._info, self._ONE, 1, generation=hasty)
        for turns in (
            (),
            (self._info, self._NOTHING, 1),
            (self._info, self._ONE, 1, _SENT, 9, _packet(0, b"abcd")[:13]),
        ):
            self._refuses("1 seconds of silence", *turns, generation=hasty, patience_s=1.0)

    def test_wrong_retransmission(self) -> None:
        asked = self._info, self._ONE, 1, _SENT, 9
        wrong_sum = struct.pack("<III", 0, 1, 4) + b"abcd"
        self._refuses("wrong sum", *asked, wrong_sum)
        self._refuses("packet 1 where 0", *asked, _packet(1, b"abcd"))
        self._refuses("does not hold", *asked, _packet(0, b""))
        self._refuses("packet 0 has 1464 bytes", *asked, _packet(0, bytes(1464)))
        self._refuses("out of turn: aa", *asked, _packet(0, b"abcd") + b"\xaa")

    def test_after_the_end(self) -> None:
        ended = self._info, self._NOTHING, 1, _SENT, 1
        self._refuses("after the end of the stream: 01", *ended, b"\x01")

    def test_close_in_mid_stream(self) -> None:
        def script(connection: socket.socket) -> None:
            connection.sendall(self._info + self._ONE)
            _read(connection, 1)

        error = self.assertRaises(jasmine_client.PeerError, self._play, script)
        self.assertIn("closed where SENT belongs", str(error))

    def test_bad_datagrams_are_dropped_and_asked_for_once(self) -> None:
        packets = [_packet(seq, bytes([65 + seq]) * 5) for seq in range(5)]
        bad = [
            packets[0] + b"\0",
            packets[0][:-1],
            packets[1][:12],
            struct.pack("<III", 1, 0, 0),
            struct.pack("<III", 2, 7, 5) + packets[2][12:],
            _packet(5, b"outside"),
            _packet(1, bytes(1464)),
            b"",
        ]

        def script(connection: socket.socket) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                connection.sendall(self._info)
                connection.sendall(struct.pack("<IIII", 1, 25, 0, 5))
                self.assertEqual(_read(connection, 1), _READY)
                interface = socket.inet_aton(_LOOPBACK)
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
                for datagram in [packets[3], *bad, packets[4], packets[4]]:
                    sender.sendto(datagram, (_GROUP, self._port))
                connection.sendall(_SENT)
                request = _REQ + struct.pack("<IIII", 3, 0, 1, 2)
                self.assertEqual(_read(connection, len(request)), request)
                connection.sendall(b"".join(packets[:3]))
                self.assertEqual(_read(connection, 1), _DONE)
                connection.sendall(struct.pack("<IIII", 2, 0, 5, 0))
                self.assertEqual(_read(connection, 1), _READY)
                connection.sendall(_SENT)
                self.assertEqual(_read(connection, 1), _DONE)

        image, tally = self._play(script)
        self.assertEqual(image, b"AAAAABBBBBCCCCCDDDDDEEEEE")
        self.assertEqual((tally.multicast_packets, tally.repaired_packets), (2, 3))
        self.assertEqual(tally.refused_datagrams, len(bad))


class ServerStrictness(unittest.TestCase):
    """The server against a client that this test plays by hand."""

    def _play(
        self,
        script: Callable[[socket.socket], None],
        image: bytes = b"abcd",
        clients: int = 1,
        watch_s: float = 0.0,
    ) -> ServerTally:
        port: queue.Queue[int] = queue.Queue()
        with ThreadPoolExecutor(1) as threads:
            server = threads.submit(
                jasmine_server.serve,
                _LOOPBACK,
                clients,
                0,
                io.BytesIO(image),
                patience_s=_PATIENCE_S,
                watch_s=watch_s,
                on_listening=port.put,
            )
            with socket.create_connection((_LOOPBACK, _first(port, server))) as connection:
                connection.settimeout(_PATIENCE_S)
                self.assertEqual(_read(connection, 16)[:2], b"\x02\x00")
                script(connection)
                with contextlib.suppress(OSError):  # the peer may have left already
                    connection.shutdown(socket.SHUT_WR)
                return server.result()

    def _refuses(
        self, reason: str, *turns: bytes | int, clients: int = 1, watch_s: float = 0.0
    ) -> None:
        """Say each turn of bytes, read each turn that is a number; then the server gives up."""

        def script(connection: socket.socket) -> None:
            for turn in turns:
                if isinstance(turn, int):
                    _read(connection, turn)
                else:
                    connection.sendall(turn)

        error = self.assertRaises(
            jasmine_server.PeerError, self._play, script, clients=clients, watch_s=watch_s
        )
        self.assertIn(reason, str(error))

    def test_ready_before_buffer_ctl(self) -> None:
        self._refuses("before a buffer was announced: 01", _READY, clients=2)
        self._refuses("before a buffer was announced: 01", _READY, watch_s=_PATIENCE_S)

    def test_anything_but_ready(self) -> None:
        self._refuses("04 where READY", 16, _DONE)
        self._refuses("0101 where READY", 16, _READY + _READY)
        self._refuses("closed in the middle", 16)

    def test_anything_but_request_or_done(self) -> None:
        said = 16, _READY, 1
        self._refuses("01 where CLIENT_REQ or DONE", *said, _READY)
        self._refuses("01 after 04", *said, _DONE + _READY)
        self._refuses("closed in the middle", *said)

    def test_a_latecomer_waits_in_the_backlog_and_is_reset_at_the_end(self) -> None:
        def script(connection: socket.socket) -> None:
            with socket.create_connection(connection.getpeername()) as late:
                late.settimeout(_PATIENCE_S)
                for _ in range(2):
                    _read(connection, 16)
                    connection.sendall(_READY)
                    _read(connection, 1)
                    self.assertEqual(select.select([late], [], [], 0.0)[0], [])
                    connection.sendall(_DONE)
                self.assertRaises(ConnectionResetError, late.recv, 1)

        self._play(script)

    def test_requests(self) -> None:
        said = 16, _READY, 1
        request = _REQ + struct.pack("<II", 1, 0)
        self._refuses("04 after 02", *said, request + _DONE)
        self._refuses("asks for 16777216 packets", *said, _REQ + struct.pack(">I", 1))
        self._refuses("closed in the middle", *said, request[:7])

    def test_after_the_end(self) -> None:
        said = 16, _READY, 1, _DONE, 16, _READY, 1
        self._refuses("04 after 04", *said, _DONE + _DONE)

    def test_disconnect_between_buffers(self) -> None:
        self._refuses("closed in the middle", 16, _READY, 1, _DONE, 16)

    def test_answers_in_the_order_asked_and_empty_where_it_holds_nothing(self) -> None:
        image = _image(3 * 1460)

        def script(connection: socket.socket) -> None:
            self.assertEqual(_read(connection, 16), struct.pack("<IIII", 1, 4380, 0, 3))
            connection.sendall(_READY)
            self.assertEqual(_read(connection, 1), _SENT)
            request = _REQ + struct.pack("<IIIIII", 5, 2, 0, 99, 2, 3)
            connection.sendall(request[:6])
            connection.sendall(request[6:])
            packets = [_packet(i, image[i * 1460 : (i + 1) * 1460]) for i in range(3)]
            unheld = [struct.pack("<III", seq, 0, 0) for seq in (99, 3)]
            answer = packets[2] + packets[0] + unheld[0] + packets[2] + unheld[1]
            self.assertEqual(_read(connection, len(answer)), answer)
            connection.sendall(_DONE)
            self.assertEqual(_read(connection, 16), struct.pack("<IIII", 2, 0, 3, 0))
            connection.sendall(_READY)
            self.assertEqual(_read(connection, 1), _SENT)
            connection.sendall(_DONE)
            self.assertEqual(connection.recv(1), b"")

        self.assertEqual(self._play(script, image).requested_packets, 5)
