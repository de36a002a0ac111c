"""A simulated host says what a real client would, so the crowd measures the truth."""

from __future__ import annotations

import functools
import math
import sys
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from bench.crowd.combinations import Combinations
from bench.crowd.control import Ears
from bench.crowd.host import HostError, SimulatedHost
from bench.crowd.lines import Known, Line
from bench.crowd.losses import Losses
from bench.crowd.passage import Passage
from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.packets.losses import lost_of
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.control import ControlReader
from kollacast.receiving.signatures import Signatures
from kollacast.receiving.tally import Tally
from kollacast.repair.parity import ParityEncoder
from kollacast.repair.scheme import Demand, Made, Slices
from kollacast.repair.xor import XorEncoder
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting, Refusal
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Detach,
    Digest,
    Message,
    Notice,
    Packet,
    Repaired,
    Report,
    Request,
    Sent,
)
from kollacast.wire.packets import PacketCodec
from kollacast.wire.parity import ParityRun
from kollacast.wire.parser import ClientStream
from kollacast.wire.recipes import CONTROL_BASE, parity_seq
from kollacast.wire.structures import WireError, payload_capacity

_T = TypeVar("_T")
_SALT = 7
_MTU = 240
_CAPACITY = payload_capacity(_MTU)
_GREETING = Greeting(
    "session", _SALT, "239.0.0.1", 1, _MTU, 4096, 4, "sha256", coding=True, fetch=True, image="ab"
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

    def how_many(self, first: int, count: int) -> int:
        return len(self.of(first, count))

    def in_runs(self, first: int, count: int, lost: int) -> int:
        return lost_of(sorted(self.of(first, count))).runs

    def which(self, first: int, count: int, lost: int) -> set[int]:
        return self.of(first, count)

    def has_lost(self, number: int) -> bool:
        return number in self.coded

    def left_of(self, numbers: Sequence[int]) -> int:
        return len(set(numbers) - self.coded)


class _Server:
    """What a simulated host says, as a server reads it."""

    def __init__(self, fate: Losses, greeting: Greeting = _GREETING) -> None:
        self.heard = Combinations(_codec())  #: by multicast, up to now
        self.passage = Passage(lambda ctl: None)
        self.host = SimulatedHost("host", "0", fate, lambda: self.heard, lambda: self.passage)
        self._stream = ClientStream(KOLLACAST, 1 << 20)
        self.said = self.say(greeting)

    def say(self, *messages: Message) -> list[str]:
        """Names of the answers, with what they say."""
        found = []
        for message in messages:
            found += self._answers(self.host.hear(message))
        return found

    def tell(self, *notices: Notice, at: float = 0.0) -> list[str]:
        """The same, by the control stream."""
        return self._answers(self.host.told(notices, at))

    def _answers(self, said: bytes) -> list[str]:
        found = []
        for answer in self._stream.feed(said):
            text = type(answer).__name__
            if isinstance(answer, Request):
                text += f" {list(answer.seqs)}"
            elif isinstance(answer, Credit):
                text += f" {answer.done} {answer.room}"
                text += f" {answer.lost}/{answer.runs}" if answer.lost else ""
            found.append(text)
        return found


def _ctl(number: int, base: int, count: int) -> BufferCtl:
    return BufferCtl(number, count * _CAPACITY, base, count)


def _sent(number: int) -> Sent:
    return Sent(number, 10)


class ConversationTests(TestCase):
    """Each message is answered as a client does."""

    def test_a_session_without_loss(self) -> None:
        server = _Server(_Fate())
        self.assertEqual(server.said, ["Hello"])
        self.assertEqual(server.tell(_ctl(1, 0, 10), _ctl(2, 10, 0)), [])
        self.assertEqual(server.tell(_sent(1)), ["Credit 1 5"])
        self.assertEqual(server.tell(_sent(2)), ["Credit 2 6"])
        self.assertEqual(server.say(Digest(bytes(32))), ["Report"])

    def test_the_digest_may_come_before_the_word_of_the_end(self) -> None:
        server = _Server(_Fate())
        server.tell(_ctl(1, 0, 10), _ctl(2, 10, 0), _sent(1))
        self.assertEqual(server.say(Digest(bytes(32))), [])
        self.assertEqual(server.tell(_sent(2)), ["Credit 2 6", "Report"])

    def test_credit_is_for_what_the_host_can_hold(self) -> None:
        # 64 MiB are 335,544 packets of 200 bytes: five buffers of 65536.
        large = replace(_GREETING, buffer_packets=65536, window=64)
        server = _Server(_Fate(), large)
        self.assertEqual(server.tell(_ctl(1, 0, 10), _sent(1)), ["Credit 1 6"])

    def test_a_buffer_that_has_not_left_is_lost(self) -> None:
        server = _Server(_Fate())
        server.tell(_ctl(1, 0, 3))
        self.assertEqual(server.tell(Sent(1, 0)), ["Request [0, 1, 2]"])

    def test_several_buffers_are_one_credit_in_their_order(self) -> None:
        server = _Server(_Fate({3, 5}))
        server.tell(_ctl(1, 0, 10), _ctl(2, 10, 10), _ctl(3, 20, 0))
        self.assertEqual(server.tell(_sent(1)), ["Request [3, 5]"])
        self.assertEqual(server.tell(_sent(2), _sent(3)), [])
        self.assertEqual(server.say(Digest(bytes(32)), Packet(5, 0, b"x")), [])
        self.assertEqual(server.say(Packet(3, 0, b"x")), ["Credit 3 7 2/2", "Report"])

    def test_what_repairs_have_not_mended_is_asked_for_again(self) -> None:
        server = _Server(_Fate({3, 5}))
        server.tell(_ctl(1, 0, 10), _sent(1))
        self.assertEqual(server.tell(Repaired(1)), ["Request [3, 5]"])
        self.assertEqual(server.tell(Repaired(9)), [])
        self.assertEqual(server.host.tally.asked_after_repaired, 2)

    def test_who_hears_of_the_end_and_of_repairs_at_once_asks_once(self) -> None:
        server = _Server(_Fate({3, 5}))
        said = server.tell(_ctl(1, 0, 10), _ctl(2, 10, 10), _sent(1), Repaired(1), _sent(2))
        self.assertEqual(said, ["Request [3, 5]"])

    def test_what_has_passed_before_a_host_is_told_of_it_is_lost(self) -> None:
        server = _Server(_Fate({15}))
        stream: list[Notice] = [_ctl(1, 0, 10), _ctl(2, 10, 8), _sent(1), _sent(2)]
        for at, number in ((1.0, 1), (1.0, 2), (2.0, 3), (4.0, 4)):
            server.passage.note(Control(1, number, (stream[number - 1],)), at)
        # A half of the second buffer, of which seq 15 is then lost by chance.
        server.tell(_ctl(1, 0, 10), at=1.0)
        self.assertEqual(server.tell(_ctl(2, 10, 8), _sent(1), at=3.0), ["Credit 1 5"])
        self.assertEqual(server.tell(_sent(2), at=4.0), ["Request [10, 11, 12, 13, 15]"])
        self.assertEqual((server.host.tally.untold, server.host.tally.lost), (4, 5))

    def test_nothing_passes_before_a_host_has_granted_room(self) -> None:
        server = _Server(_Fate())
        for at, notice in ((1.0, _ctl(1, 0, 10)), (3.0, _sent(1))):
            server.passage.note(Control(1, int(at) // 2 + 1, (notice,)), at)
        server.tell(_ctl(1, 0, 10), at=2.0)
        self.assertEqual(server.tell(_sent(1), at=3.0), ["Credit 1 5"])

    def test_a_detached_host_fetches_from_the_first_packet_that_it_lacks(self) -> None:
        server = _Server(_Fate({13}))
        server.tell(_ctl(1, 0, 10), _ctl(2, 10, 10), _sent(1), _sent(2))
        self.assertEqual(server.say(Detach()), 4 * ["Fetch"])
        for seq in range(13, 25):
            self.assertEqual(server.say(Packet(seq, 0, b"x")), [])
        self.assertEqual(server.say(_ctl(0, 25, 0)), [])
        self.assertEqual(server.say(Digest(bytes(32))), ["Report"])
        self.assertEqual(server.host.tally.fetched, 12)

    def test_a_host_that_has_all_as_it_is_detached(self) -> None:
        server = _Server(_Fate())
        server.tell(_ctl(1, 0, 10), _ctl(2, 10, 0), _sent(1), _sent(2))
        self.assertEqual(server.say(Detach()), 4 * ["Fetch"])
        self.assertEqual(server.say(_ctl(0, 10, 0)), [])
        self.assertEqual(server.say(Digest(bytes(32))), ["Report"])

    def test_a_server_that_gives_up(self) -> None:
        self.assertRaises(HostError, _Server(_Fate()).say, Report({"ok": False, "reason": "no"}))
        self.assertRaises(HostError, _Server(_Fate()).say, Refusal("full"))

    def test_a_server_that_announces_by_tcp(self) -> None:
        self.assertRaises(HostError, _Server(_Fate()).say, _ctl(1, 0, 10))


class PassageTests(TestCase):
    """Buffers pass one after another, each once, however often that is told."""

    def setUp(self) -> None:
        self.retired: list[int] = []
        self.passage = Passage(lambda ctl: self.retired.append(ctl.buffer_id))
        self.first, self.second = _ctl(1, 0, 100), _ctl(2, 100, 100)
        self.passage.note(Control(1, 1, (self.first,)), 1.0)
        self.passage.note(Control(1, 1, (self.first, self.second)), 2.0)
        self.passage.note(Control(1, 1, (self.first, self.second, Sent(1))), 5.0)

    def test_what_is_told_late(self) -> None:
        self.assertEqual([self.passage.missed(self.first, at) for at in (1, 3, 5)], [0, 50, 100])
        # The second one begins where the first ends, and is not through.
        self.assertEqual(self.passage.missed(self.second, 5.5), 0)
        self.passage.note(Control(2, 3, (Sent(1), Sent(2))), 7.0)
        self.assertEqual(
            [self.passage.missed(self.second, at) for at in (2, 5, 6.5, 9)], [0, 0, 75, 100]
        )

    def test_what_nobody_lacks_any_more(self) -> None:
        self.assertEqual((self.passage.buffers, self.passage.announced), (2, 200))
        self.passage.note(Control(2, 2, (self.second, Sent(1))), 6.0)
        self.assertEqual(self.retired, [1])
        self.passage.note(Control(6, 6, (_ctl(3, 200, 0),)), 7.0)
        self.assertEqual((self.retired, self.passage.buffers), ([1, 2], 2))
        self.assertEqual(self.passage.began_s, 1.0)


class _Chance(Losses):
    """The control packets that are lost, by how many come before each."""

    def __init__(self, *gaps: int) -> None:
        super().__init__(0.0, "")
        self._gaps = list(gaps)

    def until_lost(self) -> int:
        return self._gaps.pop(0) if self._gaps else sys.maxsize


class EarTests(TestCase):
    """Hosts hear the control stream as a client's reader does, beside which they are held here."""

    def setUp(self) -> None:
        self.fates: dict[int, Losses] = {}
        self.told: list[tuple[int, list[int], float]] = []
        self.asked: list[tuple[int, int]] = []
        self.passage = Passage(lambda ctl: None)
        self.ears = Ears(_codec(), self.passage, self._hear, lambda *ask: self.asked.append(ask))
        self._packets = 0

    def _hear(self, host: int, notices: Sequence[Notice], at: float) -> None:
        self.told.append((host, [n.buffer_id for n in notices], at))

    def _tcp(self, host: int, first: int, *ids: int, oldest: int = 1, at: float = 0.0) -> None:
        control = Control(oldest, first, tuple(map(Sent, ids)))
        self.ears.by_tcp(host, control, self.fates.get(host, _Chance()), at)

    def _multicast(self, first: int, *ids: int, oldest: int = 1, at: float = 0.0) -> None:
        data = Control(oldest, first, tuple(map(Sent, ids))).data(KOLLACAST)
        self.ears.by_multicast(_datagram(CONTROL_BASE + self._packets, data), at)
        self._packets += 1

    def _heard(self) -> list[tuple[int, list[int], float]]:
        told, self.told = self.told, []
        return told

    def test_nothing_is_heard_before_tcp_says_where_the_stream_begins(self) -> None:
        self._multicast(1, 1, 2)
        self.assertEqual(self._heard(), [])
        self._tcp(0, 3)
        self._tcp(1, 1, 1, 2, at=0.5)
        self._multicast(1, 1, 2, 3, at=1.0)
        self.assertEqual(self._heard(), [(1, [1, 2], 0.5), (0, [3], 1.0), (1, [3], 1.0)])

    def test_each_loss_is_one_hosts_own_and_repeats_mend_it(self) -> None:
        self.fates = {0: _Chance(1, 0), 1: _Chance(2)}
        for host in range(3):
            self._tcp(host, 1)
        self._multicast(1, 1, at=1.0)
        self._multicast(1, 1, 2, at=2.0)
        self.assertEqual(
            self._heard(),
            [(0, [1], 1.0), (1, [1], 1.0), (2, [1], 1.0), (1, [2], 2.0), (2, [2], 2.0)],
        )
        self._multicast(1, 1, 2, at=3.0)
        self.assertEqual(self._heard(), [])
        self._multicast(1, 1, 2, at=4.0)
        self.assertEqual(self._heard(), [(0, [2], 4.0)])
        self.assertEqual(self.asked, [])

    def test_a_gap_is_asked_for_once(self) -> None:
        self.fates = {0: _Chance(1)}
        self._tcp(0, 1)
        self._multicast(1, 1)
        self._multicast(2, 2)
        self._multicast(3, 3, at=1.0)
        self._multicast(3, 3, 4, at=1.0)
        self.assertEqual(self.asked, [(0, 1)])
        self._tcp(0, 2, 2, 3, 4, at=2.0)
        self._multicast(3, 3, 4, 5, at=3.0)
        self.assertEqual(self._heard(), [(0, [1], 0.0), (0, [2, 3, 4], 2.0), (0, [5], 3.0)])
        self.assertEqual(self.asked, [(0, 1)])

    def test_silence_is_asked_about_until_a_packet_comes(self) -> None:
        self.fates = {0: _Chance(1)}
        self._tcp(0, 1, at=0.0)
        self._tcp(1, 1, at=0.0)
        self._multicast(1, 1, at=0.1)
        self._multicast(1, 1, at=0.5)
        self.ears.look(0.5)
        self.assertEqual(self.asked, [])
        self.ears.look(0.8)
        self.ears.look(0.9)
        self.assertEqual(self.asked, [(0, 1)])
        self.ears.look(1.2)
        self.assertEqual(self.asked, [(0, 1), (1, 1)])
        self._tcp(1, 2, 2, at=1.3)
        self.assertEqual(self.asked[2:], [(1, 2)])
        self._multicast(1, 1, 2, at=1.4)
        self._tcp(1, 3, 3, at=1.5)
        self.assertEqual(self.asked[3:], [])
        self.assertEqual(
            [told for told in self._heard() if told[0]],
            [(1, [1], 0.1), (1, [2], 1.3), (1, [3], 1.5)],
        )

    def test_what_was_told_before_concerns_nobody(self) -> None:
        self._tcp(0, 1)
        self._tcp(0, 4, 4, 5, oldest=4)
        self.assertEqual(self._heard(), [(0, [4, 5], 0.0)])
        self.assertRaises(WireError, self._tcp, 0, 9, 9)

    def test_a_host_that_stalls_hears_later_what_waits_for_it(self) -> None:
        self.fates = {0: _Chance(2)}
        self._tcp(0, 1)
        self._multicast(1, 1)
        self.ears.pause(0)
        for number, at in ((2, 1.0), (3, 2.0), (4, 3.0)):
            self._multicast(1, *range(1, number + 1), at=at)
        self.ears.look(9.0)
        self.assertEqual((self._heard(), self.asked), ([(0, [1], 0.0)], []))
        self.ears.resume(0)
        self._multicast(1, 1, 2, 3, 4, at=10.0)
        # The third packet was lost.
        self.assertEqual(self._heard(), [(0, [2], 1.0), (0, [3, 4], 3.0)])

    def test_who_has_left_hears_nothing(self) -> None:
        self._tcp(0, 1)
        self._tcp(1, 1)
        self.ears.leave(0)
        self._multicast(1, 1)
        self.ears.look(9.0)
        self.assertEqual((self._heard(), self.asked), ([(1, [1], 0.0)], [(1, 1)]))

    def test_damage_and_nonsense(self) -> None:
        self._tcp(0, 1)
        good = _datagram(CONTROL_BASE, Control(1, 1, (Sent(1),)).data(KOLLACAST))
        self.ears.by_multicast(good[:-1] + b"x", 0.0)
        self.assertEqual((self._heard(), self.ears.packets), ([], 0))
        self.assertRaises(WireError, self.ears.by_multicast, _datagram(CONTROL_BASE, b"no"), 0.0)
        self.assertTrue(Ears.is_control(good))
        self.assertFalse(Ears.is_control(_datagram(CONTROL_BASE - 1, b"1234")))

    def test_as_a_client_reads_it(self) -> None:
        """The same packets lost, the same parts by TCP: the same is heard, and asked for."""
        heard = asks = 0
        for seed in range(40):
            pair = _Pair(Random(seed))
            for _ in range(60):
                pair.step()
            self.assertEqual(pair.simulated, pair.real, seed)
            heard += sum(what == "hear" for what, _ in pair.real)
            asks += sum(what == "ask" for what, _ in pair.real)
        self.assertGreater(heard, 1000)
        self.assertGreater(asks, 100)


class _Pair:
    """A simulated host and a client's own reader, to which the same happens."""

    _TICK_S = 0.125

    def __init__(self, chance: Random) -> None:
        self.simulated: list[tuple[str, int]] = []
        self.real: list[tuple[str, int]] = []
        self._chance = chance
        self._clock = Clock()
        self._lost = [chance.random() < 0.3 for _ in range(60)]
        self._losses = _Chance(*_gaps(self._lost))
        self._packets = 0
        self._oldest, self._last = 1, 0
        self._asking: int | None = 0  # up to which number it knows, where an answer is due
        self._ears = Ears(_codec(), Passage(lambda ctl: None), self._hear, self._ask)
        guard = Guard(lambda failure: failure.raiseException())
        self._reader = ControlReader(
            self._clock,
            cast(ServerConnection, self),
            KOLLACAST,
            Signatures(self._clock, None, Tally()),
            lambda notice: self.real.append(("hear", notice.buffer_id)),
            guard,
        )
        self._answer()

    def send(self, message: bytes) -> None:
        """The reader asks."""
        known = int.from_bytes(message[1:], "big")
        assert message == Ask(known).encode(KOLLACAST)
        self.real.append(("ask", known))

    def _hear(self, host: int, notices: Sequence[Notice], at: float) -> None:
        self.simulated += [("hear", notice.buffer_id) for notice in notices]

    def _ask(self, host: int, known: int) -> None:
        self.simulated.append(("ask", known))
        self._asking = known

    def step(self) -> None:
        """Some time passes, and a packet comes or is lost."""
        chance = self._chance
        for _ in range(chance.choice((1, 1, 3, 8))):
            self._clock.advance(self._TICK_S)
            self._ears.look(self._clock.seconds())
            if self._asking is not None and self._asking < self._last and chance.random() < 0.4:
                self._answer()
        self._last += chance.randrange(3)
        self._oldest = max(self._oldest, self._last - chance.randrange(8))
        first = min(self._oldest + chance.randrange(2), self._last + 1)
        data = self._part(first).data(KOLLACAST)
        datagram = _datagram(CONTROL_BASE + self._packets, data)
        self._ears.by_multicast(datagram, self._clock.seconds())
        if not self._lost[self._packets]:
            self._reader.by_multicast(CONTROL_BASE + self._packets, data)
        self._packets += 1

    def _answer(self) -> None:
        assert self._asking is not None
        first, self._asking = max(self._asking + 1, self._oldest), None
        control = self._part(first)
        self._ears.by_tcp(0, control, self._losses, self._clock.seconds())
        self._reader.by_tcp(control)

    def _part(self, first: int) -> Control:
        return Control(self._oldest, first, tuple(map(Sent, range(first, self._last + 1))))


def _gaps(lost: Sequence[bool]) -> Iterator[int]:
    """How many come before each one that is lost."""
    gap = 0
    for is_lost in lost:
        if is_lost:
            yield gap
        gap = 0 if is_lost else gap + 1


class LineTests(TestCase):
    """Pieces that were heard before are the same messages, wherever a stream is cut."""

    def test_however_the_stream_is_cut(self) -> None:
        control = Control(1, 1, (_ctl(1, 0, 9), Sent(1)))
        said: list[Message] = [control, Digest(bytes(32)), Packet(3, 5, b"0123")]
        said += [Packet(4, 5, b"0"), control, Packet(5, 5, b"0"), Detach(), Packet(6, 5, b"0")]
        stream = b"".join(m.encode(KOLLACAST) for m in said)  # type: ignore[call-arg]
        known: Known = {}
        for piece in (1, 2, 3, 17, 17, 18, 40, len(stream), len(stream)):
            line = Line(known)
            heard = list(line.feed(_GREETING.encode()))
            for start in range(0, len(stream), piece):
                heard += line.feed(stream[start : start + piece])
            self.assertEqual(heard, [_GREETING, *said], piece)
        line = Line(known)
        list(line.feed(_GREETING.encode()))
        self.assertEqual(list(line.feed(control.encode(KOLLACAST))), [control])
        self.assertIn(control.encode(KOLLACAST), known)


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
        left = sum(losses.left_of(range(100)) for _ in range(100))
        waits = [losses.until_lost() for _ in range(500)]
        for hits in (lost_coded, 10_000 - left, 10_000 * 500 / (500 + sum(waits))):
            self.assertLess(abs(hits - 500), _SIGMAS * math.sqrt(10_000 * 0.05 * 0.95))

    def test_how_many_and_in_how_many_runs(self) -> None:
        """As where each packet is drawn for: with a mean and a spread that are the same."""
        losses = Losses(0.1, "seed")
        drawn: list[tuple[float, ...]] = []
        counted: list[tuple[float, ...]] = []
        chosen: list[tuple[float, ...]] = []
        for _ in range(2000):
            drawn.append(lost_of(sorted(losses.of(7, 60))))
            lost = losses.how_many(7, 60)
            counted.append((lost, losses.in_runs(7, 60, lost)))
            which = losses.which(7, 60, lost)
            self.assertTrue(which <= set(range(7, 67)))
            chosen.append(lost_of(sorted(which)))
        for place in (0, 1):
            values = [[pair[place] for pair in pairs] for pairs in (drawn, counted, chosen)]
            means = [sum(each) / 2000 for each in values]
            spread = _deviation([int(value) for value in values[0]])
            for each, mean in zip(values[1:], means[1:], strict=True):
                limit = _SIGMAS * spread * math.sqrt(2 / 2000)
                self.assertLess(abs(mean - means[0]), limit)
                other = _deviation([int(value) for value in each])
                self.assertLess(abs(other - spread), 0.15 * spread)
        self.assertEqual((losses.in_runs(0, 9, 9), losses.in_runs(0, 9, 1)), (1, 1))

    def test_none(self) -> None:
        self.assertEqual(Losses(0.0, "").of(0, 1000), set())
        self.assertEqual(Losses(0.0, "").how_many(0, 1000), 0)
        self.assertEqual(Losses(0.0, "").in_runs(0, 1000, 0), 0)
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
                server.tell(_ctl(1, 0, 300))
                self.assertEqual(server.tell(_sent(1)), [f"Request {sorted(lost)}"])
                server.heard = heard
                missing = self._missing(packets, lost, coded, numbers)
                self.assertEqual(
                    server.tell(Repaired(1)),
                    [f"Request {missing}"] if missing else ["Credit 1 5"],
                )
                self.assertEqual(server.host.tally.decoded, len(lost) - len(missing))
                mended, left = mended + len(lost) - len(missing), left + len(missing)
        self.assertGreater(mended, 100)
        self.assertGreater(left, 100)

    def _coded(self, packets: list[bytes], losses: list[set[int]]) -> list[bytes]:
        wanted = [sorted(lost) for lost in losses]
        demand = Demand(0, memoryview(b"".join(packets)), _CAPACITY, wanted)
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
        demand = Demand(0, memoryview(b"".join(packets)), _CAPACITY, [range(20)] * 2)
        offer = _come_of(ParityEncoder(_CAPACITY).plan(demand))
        assert offer is not None
        made = _come_of(offer.make())
        coded = _datagrams(made)
        told = Repaired(1, *_fields(made))
        for kept, most in ((len(coded), 0), (12, 12), (0, 20)):
            server = _Server(_Fate(range(20), range(kept, len(coded))))
            self.assertEqual(
                server.tell(_ctl(1, 0, 300), _sent(1)),
                [f"Request {list(range(20))}"],
            )
            for datagram in coded:
                server.heard.take(datagram)
            answers = server.tell(told)
            needed = server.host.tally.asked_after_repaired
            self.assertLessEqual(needed, 20 - kept + 6 if kept < 20 else most)
            self.assertGreaterEqual(needed, max(20 - kept, 0))
            if needed:
                (asked,) = answers
                seqs = [int(seq) for seq in asked.removeprefix("Request [").rstrip("]").split(",")]
                self.assertEqual(server.say(*(Packet(s, 0, b"x") for s in seqs[1:])), [])
                self.assertEqual(server.say(Packet(seqs[0], 0, b"x")), ["Credit 1 5 20/1"])
            else:
                self.assertEqual(answers, ["Credit 1 5 20/1"])
            self.assertEqual(server.host.tally.decoded, 20 - needed)

    def test_parity_that_is_there_when_the_buffer_ends(self) -> None:
        """Nothing is asked for where it mends all, and else only what it leaves."""
        packets = [Random(seq).randbytes(_CAPACITY) for seq in range(300)]
        payload = memoryview(b"".join(packets))
        made = _come_of(ParityEncoder(_CAPACITY).make(payload, 40, 0.1))
        told = Repaired(1, *_fields(made))
        for lost, kept in ((range(20), 40), (range(20), 12), (range(0), 40)):
            server = _Server(_Fate(lost, range(kept, 40)))
            for datagram in _datagrams(made):
                server.heard.take(datagram)
            self.assertEqual(server.tell(_ctl(1, 0, 300)), [])
            answers = server.tell(_sent(1), told)
            tally = server.host.tally
            self.assertEqual((tally.lost, tally.asked_after_sent), (len(lost), 0))
            needed = tally.asked_after_repaired
            if kept == 40:
                self.assertEqual(needed, 0)
                self.assertEqual(answers, ["Credit 1 5 20/1" if lost else "Credit 1 5"])
                continue
            self.assertTrue(8 <= needed <= 14, needed)
            [asked] = answers
            seqs = [int(seq) for seq in asked.removeprefix("Request [").rstrip("]").split(",")]
            self.assertEqual(len(seqs), needed)
            # It does not solve with the same packets again, though it is told once more.
            self.assertEqual(server.tell(told), [])
            said = server.say(*(Packet(seq, 0, b"x") for seq in seqs))
            self.assertEqual(said, ["Credit 1 5 20/1"])

    def test_it_asks_for_as_much_as_a_client(self) -> None:
        """The mean of what is left over, and how often anything is, by rows beyond the unknowns."""
        trials = 250
        for unknowns, beyond, packets, count, layers in (
            (20, 0, 300, 28, 5),
            (20, 3, 300, 28, 5),
            (20, 2, 300, 25, 7),
            (40, 4, 400, 50, 5),
            (86, 2, 4309, 95, 5),
            (20, 8, 40, 56, 9),
            (1, 1, 50, 9, 5),
            (30, -10, 300, 40, 5),
            (10, 20, 300, 95, 5),
            (2, 7, 300, 10, 5),
        ):
            here = [
                self._client(n, unknowns, beyond, packets, count, layers) for n in range(trials)
            ]
            losses = Losses(0.0, f"{unknowns}/{beyond}")
            there = [
                losses.unsolved(unknowns, unknowns + beyond, count, layers)
                for _ in range(8 * trials)
            ]
            spread = max(_deviation(here), 0.3) * math.sqrt(1 / trials + 1 / (8 * trials))
            means = sum(here) / len(here), sum(there) / len(there)
            self.assertLess(abs(means[0] - means[1]), _SIGMAS * spread, (unknowns, beyond, means))

    def _client(
        self, trial: int, unknowns: int, beyond: int, packets: int, count: int, layers: int
    ) -> int:
        """How many packets a client's decoder asks for."""
        chance = Random(f"{trial}/{packets}/{count}")
        intake, buffer = Intake(_codec(), _CAPACITY), PacketBuffer(_CAPACITY, packets)
        buffer.init(_ctl(1, 0, packets))
        intake.arm(buffer)
        for seq in set(range(packets)) - set(chance.sample(range(packets), unknowns)):
            buffer.put(seq, bytes(_CAPACITY))
        # The sum of zeros is zero, whatever the terms.
        run = ParityRun(parity_seq(1000 * trial), count, layers)
        for seq in chance.sample(run.seqs, unknowns + beyond):
            intake.datagram(_datagram(seq, bytes(_CAPACITY)))
        deque(intake.mend(buffer, run))
        return len(intake.needed(buffer))


def _fields(made: Made) -> tuple[int, int, int]:
    return made.parity.first, made.parity.count, made.parity.layers


def _deviation(values: list[int]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
