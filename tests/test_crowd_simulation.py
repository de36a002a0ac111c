"""A simulated host is to the server as a real client is, so the crowd measures the truth."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from twisted.trial.unittest import TestCase

from bench.contenders.crowd import IMAGE_PACKETS
from bench.crowd.combinations import Combinations
from bench.crowd.host import HostError, SimulatedHost
from bench.crowd.lines import Known, Line
from bench.crowd.losses import Losses
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.repair import SCHEME
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting, Refusal
from kollacast.wire.messages import (
    BufferCtl,
    Detach,
    Digest,
    Message,
    Packet,
    Repaired,
    Report,
    Sent,
)
from kollacast.wire.packets import PacketCodec
from kollacast.wire.parser import ClientStream
from kollacast.wire.structures import payload_capacity
from lab import Lab
from tests.processes import Crew, ends, image_of, make_crew, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

_SALT = 7
_MTU = 240
_CAPACITY = payload_capacity(_MTU)
_GREETING = Greeting(
    "session", _SALT, "239.0.0.1", 1, _MTU, 4096, 4, "sha256", True, fetch=True, image="ab"
)
#: Standard deviations that chance is given.
_SIGMAS = 6


@functools.cache
def _codec() -> PacketCodec:
    return KOLLACAST.codec(_SALT, best_crc32c()[0])


def _datagram(seq: int, payload: bytes) -> bytes:
    return _codec().header(seq, memoryview(payload)) + payload


class _Fate(Losses):
    """Losses that are known before: seqs of the image, and numbers of coded datagrams."""

    def __init__(self, seqs: Collection[int] = (), coded: Collection[int] = ()) -> None:
        super().__init__(0.0, "")
        self.seqs, self.coded = set(seqs), set(coded)

    def of(self, first: int, count: int) -> set[int]:
        return self.seqs & set(range(first, first + count))

    def has_lost(self, number: int) -> bool:
        return number in self.coded


class _Server:
    """What a simulated host says, as a server reads it."""

    def __init__(self, fate: Losses, heard: Combinations | None = None) -> None:
        self.heard = heard or Combinations(_codec())  #: by multicast, up to now
        self.held: list[tuple[int, bool]] = []
        self.host = SimulatedHost("host", "0", fate, lambda: self.heard, self._hold)
        self._stream = ClientStream(KOLLACAST, 1 << 20)
        self.said = self.say(_GREETING)

    def _hold(self, ctl: BufferCtl, holds: bool) -> None:
        self.held.append((ctl.buffer_id, holds))

    def say(self, *messages: Message) -> list[str]:
        """Names of the answers, with the seqs that they ask for."""
        found = []
        for message in messages:
            for answer in self._stream.feed(self.host.hear(message)):
                seqs = getattr(answer, "seqs", None)
                found.append(type(answer).__name__ + (f" {list(seqs)}" if seqs else ""))
        return found


def _ctl(number: int, base: int, count: int) -> BufferCtl:
    return BufferCtl(number, count * _CAPACITY, base, count)


class ConversationTests(TestCase):
    """Each message is answered as a client does."""

    def test_a_session_without_loss(self) -> None:
        server = _Server(_Fate())
        self.assertEqual(server.said, ["Hello"])
        self.assertEqual(server.say(_ctl(1, 0, 10), _ctl(2, 10, 0)), ["Ready", "Ready"])
        self.assertEqual(server.say(Sent()), ["Done"])
        self.assertEqual(server.say(Sent()), ["Done"])
        self.assertEqual(server.say(Digest(bytes(32))), ["Report"])
        self.assertEqual(server.held, [(1, True), (2, True), (1, False), (2, False)])

    def test_done_keeps_the_order_of_the_buffers(self) -> None:
        server = _Server(_Fate({3, 5}))
        server.say(_ctl(1, 0, 10), _ctl(2, 10, 10), _ctl(3, 20, 0))
        self.assertEqual(server.say(Sent()), ["Request [3, 5]"])
        self.assertEqual(server.say(Sent(), Sent(), Digest(bytes(32))), [])
        self.assertEqual(server.say(Packet(5, 0, b"x")), [])
        self.assertEqual(server.say(Packet(3, 0, b"x")), ["Done", "Done", "Done", "Report"])

    def test_what_repairs_have_not_mended_is_asked_for_again(self) -> None:
        server = _Server(_Fate({3, 5}))
        server.say(_ctl(1, 0, 10), Sent())
        self.assertEqual(server.say(Repaired(1)), ["Request [3, 5]"])
        self.assertEqual(server.say(Repaired(9)), [])
        self.assertEqual(server.host.tally.asked_after_repaired, 2)

    def test_a_detached_host_fetches_from_the_first_packet_that_it_lacks(self) -> None:
        server = _Server(_Fate({13}))
        server.say(_ctl(1, 0, 10), _ctl(2, 10, 10), Sent(), Sent())
        self.assertEqual(server.say(Detach()), 4 * ["Fetch"])
        for seq in range(13, 25):
            self.assertEqual(server.say(Packet(seq, 0, b"x")), [])
        self.assertEqual(server.say(_ctl(0, 25, 0)), [])
        self.assertEqual(server.say(Digest(bytes(32))), ["Report"])
        self.assertEqual(server.host.tally.fetched, 12)

    def test_a_server_that_gives_up(self) -> None:
        self.assertRaises(HostError, _Server(_Fate()).say, Report({"ok": False, "reason": "no"}))
        self.assertRaises(HostError, _Server(_Fate()).say, Refusal("full"))


class LineTests(TestCase):
    """Pieces that were heard before are the same messages, wherever a stream is cut."""

    def test_however_the_stream_is_cut(self) -> None:
        said: list[Message] = [_ctl(1, 0, 9), Sent(), Packet(3, 5, b"0123"), Packet(4, 5, b"0")]
        said += [Sent(), Packet(5, 5, b"0"), Repaired(1), Packet(6, 5, b"0")]
        stream = b"".join(m.encode(KOLLACAST) for m in said)  # type: ignore[call-arg]
        known: Known = {}
        for piece in (1, 2, 3, 17, 17, 18, 40, len(stream), len(stream)):
            line = Line(known)
            heard = list(line.feed(_GREETING.encode()))
            for start in range(0, len(stream), piece):
                heard += line.feed(stream[start : start + piece])
            self.assertEqual(heard, [_GREETING, *said], piece)
        self.assertIn(_ctl(1, 0, 9).encode(KOLLACAST), known)


class LossesTests(TestCase):
    """Losses are independent, of the share that is asked for, and the same for the same seed."""

    def test_the_share_and_the_seed(self) -> None:
        losses, again = Losses(0.05, "seed"), Losses(0.05, "seed")
        counts = dict.fromkeys(range(20), 0)
        for _ in range(2000):
            lost = losses.of(100, 20)
            self.assertEqual(lost, again.of(100, 20))
            for seq in lost:
                counts[seq - 100] += 1
        for count in counts.values():
            self.assertLess(abs(count - 100), _SIGMAS * math.sqrt(2000 * 0.05 * 0.95))
        lost_coded = sum(losses.has_lost(number) for number in range(10_000))
        self.assertLess(abs(lost_coded - 500), _SIGMAS * math.sqrt(10_000 * 0.05 * 0.95))

    def test_none(self) -> None:
        self.assertEqual(Losses(0.0, "").of(0, 1000), set())
        self.assertFalse(Losses(0.0, "").has_lost(0))


class DecodingTests(TestCase):
    """With the same datagrams lost, a host lacks what a client's own decoder leaves missing."""

    def test_as_a_client_decodes(self) -> None:
        mended = left = 0
        for seed in range(12):
            chance = Random(seed)
            packets = [chance.randbytes(_CAPACITY) for _ in range(300)]
            losses = [{s for s in range(300) if chance.random() < 0.08} for _ in range(4)]
            coded = self._coded(packets, losses)
            heard = Combinations(_codec())
            for datagram in coded:
                heard.take(datagram)
            self.assertEqual(heard.packets, len(coded))
            for lost in losses:
                numbers = {n for n in range(len(coded)) if chance.random() < 0.3}
                server = _Server(_Fate(lost, numbers))
                server.say(_ctl(1, 0, 300))
                self.assertEqual(server.say(Sent()), [f"Request {sorted(lost)}"])
                server.heard = heard
                missing = self._missing(packets, lost, coded, numbers)
                self.assertEqual(
                    server.say(Repaired(1)),
                    [f"Request {missing}"] if missing else ["Done"],
                )
                self.assertEqual(server.host.tally.decoded, len(lost) - len(missing))
                mended, left = mended + len(lost) - len(missing), left + len(missing)
        self.assertGreater(mended, 100)
        self.assertGreater(left, 100)

    def _coded(self, packets: list[bytes], losses: list[set[int]]) -> list[bytes]:
        mending = SCHEME.encoder(_CAPACITY).begin(lambda seq: memoryview(packets[seq]))
        self.assertTrue(mending.add([sorted(lost) for lost in losses], math.inf))
        return [
            _datagram(first + number, payload)
            for first, payloads in mending.runs()
            for number, payload in enumerate(payloads)
        ]

    def _missing(
        self, packets: list[bytes], lost: set[int], coded: list[bytes], lost_coded: set[int]
    ) -> list[int]:
        intake, buffer = Intake(_codec(), _CAPACITY), PacketBuffer(_CAPACITY, 300)
        buffer.init(_ctl(1, 0, 300))
        intake.arm(buffer)
        for seq, payload in enumerate(packets):
            if seq not in lost:
                intake.datagram(_datagram(seq, payload))
        for number, datagram in enumerate(coded):
            if number not in lost_coded:
                intake.datagram(datagram)
        return buffer.missing()


@contextmanager
def _lab(clients: int, **traffic: Any) -> Iterator[Lab]:
    reason = Lab.available()
    if reason:
        pytest.skip(reason)
    with Lab(clients, prefix=f"kt-{os.getpid()}-", **traffic) as lab:
        yield lab


_LOSS = 0.05
_HOSTS = 4
_RATE_BPS = 1_000_000_000
#: What the server paces to, so that no host has so much to do that it is late.
_PACE = "100M"
#: On a busy machine hosts are late at times.
_TRIES = 10

_Run = Callable[[Crew, list[str]], Awaitable[dict[str, int]]]


async def _of_clients(crew: Crew, words: list[str]) -> dict[str, int]:
    """What so many real clients have lost, decoded and been sent by TCP."""
    with _lab(_HOSTS, loss=_LOSS, rate_bps=_RATE_BPS, own_frames=True) as lab:
        server = crew.server(*words, clients=_HOSTS, host=lab.server, local_ip=lab.server.address)
        clients = [
            crew.client(
                *("--output", f"copy-{number}", "--report", f"{number}.json"),
                host=host,
                local_ip=host.address,
                server_ip=lab.server.address,
            )
            for number, host in enumerate(lab.clients)
        ]
        assert await ends(server, *clients) == [0] * (1 + _HOSTS), server.errors
    reports = [json.loads((crew.folder / f"{n}.json").read_text()) for n in range(_HOSTS)]
    repaired = sum(report["packets_repaired"] for report in reports)
    decoded = sum(report["packets_decoded"] for report in reports)
    return {"lost": repaired, "decoded": decoded, "retransmitted": repaired - decoded}


async def _of_a_crowd(crew: Crew, words: list[str]) -> dict[str, int]:
    """The same of as many simulated ones."""
    with _lab(1, rate_bps=_RATE_BPS) as lab:
        (host,) = lab.clients
        lab.block_multicast(host, of=IMAGE_PACKETS)
        address = lab.server.address
        server = crew.server(*words, clients=_HOSTS, host=lab.server, local_ip=address)
        argv = [sys.executable, "-m", "bench.crowd", host.address, address, str(_HOSTS)]
        more = ["--port", str(crew.port), "--loss", str(_LOSS), "--seed", str(os.getpid())]
        crowd = crew.start([*argv, *more, "--report", "crowd.json"], "crowd", host=host)
        assert await ends(server, crowd) == [0, 0], server.errors + crowd.errors
    report: dict[str, int] = json.loads((crew.folder / "crowd.json").read_text())
    assert (report["hosts"], report["verified"], report["detached"]) == (_HOSTS, _HOSTS, 0)
    assert report["coded_packets"] == _read(crew.folder / "server.json")["packets_coded"]
    assert report["image_packets"] == 0
    assert report["decoded"] + report["retransmitted"] == report["lost"]
    return report


def _read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


async def _undisturbed(run: _Run, crew: Crew, words: list[str]) -> dict[str, int]:
    """A run in which no host was late: what is asked for late comes by TCP, whoever asks."""
    for _ in range(_TRIES):
        figures = await run(crew, words)
        figures["coded"] = _read(crew.folder / "server.json")["packets_coded"]
        if figures["retransmitted"] - _LOSS * figures["lost"] < _by_chance(figures["lost"], _LOSS):
            break
    return figures


def _by_chance(draws: float, share: float) -> float:
    """How far the number of hits may be from what is expected."""
    return _SIGMAS * math.sqrt(draws * share * (1 - share))


@on_the_reactor
async def test_four_simulated_hosts_cost_what_four_clients_do(crew: Crew) -> None:
    """They ask for as much, are sent as much by multicast again, and as much by TCP."""
    image = image_of(8_000_001)
    packets = -(-len(image) // 1460)
    words = ["--input", str(crew.file("image", image)), "--report", "server.json", "--rate", _PACE]
    clients = await _undisturbed(_of_clients, crew, words)
    crowd = await _undisturbed(_of_a_crowd, crew, words)
    for figures in (clients, crowd):
        lost = figures["lost"]
        assert abs(lost - _LOSS * _HOSTS * packets) < _by_chance(_HOSTS * packets, _LOSS), figures
        # What is asked for after the coded repairs is what a host has lost of these.
        by_tcp = figures["retransmitted"]
        assert abs(by_tcp - _LOSS * lost) < _by_chance(lost, _LOSS), figures
        assert by_tcp + figures["decoded"] == lost
    # There are about as many as the host needs that has lost most.
    chance = math.sqrt(2) * _by_chance(packets, _LOSS)
    assert abs(clients["coded"] - crowd["coded"]) < chance, (clients, crowd)
