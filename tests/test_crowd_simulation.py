"""A simulated host says what a real client would, so the crowd measures the truth."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Collection
from random import Random
from typing import TypeVar

from twisted.trial.unittest import TestCase

from bench.crowd.combinations import Combinations
from bench.crowd.host import HostError, SimulatedHost
from bench.crowd.lines import Known, Line
from bench.crowd.losses import Losses
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.repair.parity import ParityEncoder
from kollacast.repair.scheme import Demand, Made, Slices
from kollacast.repair.xor import XorEncoder
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
from kollacast.wire.parity import ParityRun
from kollacast.wire.parser import ClientStream
from kollacast.wire.recipes import parity_seq
from kollacast.wire.structures import payload_capacity

_T = TypeVar("_T")
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


def _come_of(work: Slices[_T]) -> _T:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            found: _T = stop.value
            return found


def _datagrams(made: Made) -> list[bytes]:
    return [
        _datagram(first + number, payload)
        for first, payloads in made.runs
        for number, payload in enumerate(payloads)
    ]


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
        wanted = [sorted(lost) for lost in losses]
        demand = Demand(0, len(packets), lambda seq: memoryview(packets[seq]), wanted)
        offer = _come_of(XorEncoder(_CAPACITY).plan(demand))
        assert offer is not None
        self.assertEqual(list(map(len, offer.direct)), [0] * len(losses))
        return _datagrams(_come_of(offer.make()))

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


class ParityTests(TestCase):
    """Without payloads, a host asks for as many packets as a client's decoder, but for chance."""

    def test_a_host_solves_with_what_has_come(self) -> None:
        packets = [Random(seq).randbytes(_CAPACITY) for seq in range(300)]
        demand = Demand(0, 300, lambda seq: memoryview(packets[seq]), [range(20)] * 2)
        offer = _come_of(ParityEncoder(_CAPACITY).plan(demand))
        assert offer is not None
        made = _come_of(offer.make())
        coded = _datagrams(made)
        told = Repaired(1, *_fields(made))
        for kept, most in ((len(coded), 0), (12, 12), (0, 20)):
            server = _Server(_Fate(range(20), range(kept, len(coded))))
            server.say(_ctl(1, 0, 300), Sent())
            for datagram in coded:
                server.heard.take(datagram)
            answers = server.say(told)
            needed = server.host.tally.asked_after_repaired
            self.assertLessEqual(needed, 20 - kept + 6 if kept < 20 else most)
            self.assertGreaterEqual(needed, max(20 - kept, 0))
            if needed:
                (asked,) = answers
                seqs = [int(seq) for seq in asked.removeprefix("Request [").rstrip("]").split(",")]
                self.assertEqual(server.say(*(Packet(s, 0, b"x") for s in seqs[1:])), [])
                self.assertEqual(server.say(Packet(seqs[0], 0, b"x")), ["Done"])
            else:
                self.assertEqual(answers, ["Done"])
            self.assertEqual(server.host.tally.decoded, 20 - needed)

    def test_it_asks_for_as_much_as_a_client(self) -> None:
        """The mean of what is left over, and how often anything is, by rows beyond the unknowns."""
        trials = 250
        for unknowns, beyond, packets, degree in (
            (20, 0, 300, 300),
            (20, 3, 300, 300),
            (20, 2, 300, 105),
            (40, 4, 400, 60),
            (1, 2, 50, 50),
            (30, -10, 300, 200),
        ):
            here = [self._client(n, unknowns, beyond, packets, degree) for n in range(trials)]
            losses = Losses(0.0, f"{unknowns}/{beyond}")
            there = [
                losses.unsolved(unknowns, unknowns + beyond, packets, degree)
                for _ in range(8 * trials)
            ]
            spread = max(_deviation(here), 0.3) * math.sqrt(1 / trials + 1 / (8 * trials))
            means = sum(here) / len(here), sum(there) / len(there)
            self.assertLess(abs(means[0] - means[1]), _SIGMAS * spread, (unknowns, beyond, means))

    def _client(self, trial: int, unknowns: int, beyond: int, packets: int, degree: int) -> int:
        """How many packets a client's decoder asks for."""
        chance = Random(f"{trial}/{packets}/{degree}")
        intake, buffer = Intake(_codec(), _CAPACITY), PacketBuffer(_CAPACITY, packets)
        buffer.init(_ctl(1, 0, packets))
        intake.arm(buffer)
        for seq in set(range(packets)) - set(chance.sample(range(packets), unknowns)):
            buffer.put(seq, bytes(_CAPACITY))
        # The sum of zeros is zero, whatever the terms.
        run = ParityRun(parity_seq(1000 * trial), unknowns + beyond, degree)
        for seq in run.seqs:
            intake.datagram(_datagram(seq, bytes(_CAPACITY)))
        deque(intake.mend(buffer, run))
        return len(intake.needed(buffer))


def _fields(made: Made) -> tuple[int, int, int]:
    return made.parity.first, made.parity.count, made.parity.degree


def _deviation(values: list[int]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
