"""Where packets land, however they come: in batches, single, out of order, damaged, strange."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from fuzz import deliveries
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.messages import BufferCtl
from kollacast.wire.packets import PacketCodec
from kollacast.wire.recipes import CONTROL_BASE, control_seq
from tests.vectors import PROPERTY

_ENGINE, _ = best_crc32c()
_CAPACITY = 16
_STRIDE = 12 + _CAPACITY
_SALT = 0x5EED5EED

_CODEC = KOLLACAST.codec(_SALT, _ENGINE)


def _datagram(seq: int, payload: bytes, codec: PacketCodec = _CODEC) -> bytes:
    return codec.sealed(seq, [memoryview(payload)]) + payload


class _Sent:
    """Buffers of one sender, by the payloads of their packets."""

    def __init__(self, dialect: Dialect, buffers: list[list[bytes]]) -> None:
        self.dialect = dialect
        self.buffers = buffers
        self.codec = dialect.codec(_SALT, _ENGINE)
        self.payloads = [payload for payloads in buffers for payload in payloads]
        self.datagrams = [
            _datagram(seq, payload, self.codec) for seq, payload in enumerate(self.payloads)
        ]
        self.ctls: list[BufferCtl] = []
        base = 0
        for number, payloads in enumerate(buffers):
            size = sum(map(len, payloads))
            self.ctls.append(BufferCtl(number + 1, size, base, len(payloads)))
            base += len(payloads)

    @classmethod
    def full(cls, *sizes: int, dialect: Dialect = KOLLACAST) -> _Sent:
        """Buffers of so many bytes each, in full packets but for each one's last."""
        rng = random.Random(1)
        images = [rng.randbytes(size) for size in sizes]
        return cls(
            dialect,
            [[i[at : at + _CAPACITY] for at in range(0, len(i), _CAPACITY)] for i in images],
        )


class _Receiver:
    """An intake, and the ways in which a kernel delivers datagrams to it.

    After each delivery it is checked that no packet counts as received whose bytes are not the
    sender's: neither one that came damaged nor one that was overwritten later.
    """

    def __init__(self, sent: _Sent, max_packets: int = 200) -> None:
        self.sent = sent
        self.intake = Intake(sent.codec, _CAPACITY)
        self.buffers = []
        for ctl in sent.ctls:
            buffer = PacketBuffer(_CAPACITY, max_packets)
            # Whatever a former life has left there must not be taken for packets.
            buffer.payload[:] = b"\xee" * len(buffer.payload)
            buffer.init(ctl)
            self.buffers.append(buffer)
            self.intake.arm(buffer)

    def receive(self, datagrams: Sequence[bytes], deliver: deliveries.Delivery) -> None:
        deliver(self.intake, datagrams)
        self.check()

    def coalesced(self, datagrams: Sequence[bytes]) -> None:
        self.receive(datagrams, deliveries.coalesced)

    def coalesced_runs(self, datagrams: Sequence[bytes]) -> None:
        self.receive(datagrams, deliveries.coalesced_runs)

    def several_runs(self, datagrams: Sequence[bytes]) -> None:
        self.receive(datagrams, deliveries.several_runs)

    def frames(self, datagrams: Sequence[bytes]) -> None:
        self.receive(datagrams, deliveries.frames)

    def single(self, datagrams: Sequence[bytes]) -> None:
        self.receive(datagrams, deliveries.single)

    def check(self) -> None:
        for buffer in self.buffers:
            missing = set(buffer.missing())
            base = buffer.ctl.packet_id_base
            for slot in range(buffer.ctl.pkt_count):
                if base + slot not in missing:
                    payload = self.sent.payloads[base + slot]
                    there = bytes(buffer.payload[_CAPACITY * slot :][: len(payload)])
                    assert there == payload, f"packet {base + slot} is not what was sent"

    @property
    def missing(self) -> list[int]:
        return [seq for buffer in self.buffers for seq in buffer.missing()]

    @property
    def image(self) -> bytes:
        return b"".join(bytes(view) for buffer in self.buffers for view in buffer.views())

    @property
    def counts(self) -> tuple[int, int, int]:
        counts = self.intake.counts
        return counts.placed, counts.repeated, counts.damaged


_WAYS: tuple[Callable[[_Receiver, Sequence[bytes]], None], ...] = (
    _Receiver.coalesced_runs,
    _Receiver.several_runs,
    _Receiver.frames,
    _Receiver.single,
)


class _IntakeTest(unittest.SynchronousTestCase):
    def whole(self, receiver: _Receiver) -> None:
        self.assertEqual(receiver.missing, [])
        self.assertEqual(receiver.image, b"".join(receiver.sent.payloads))


class Deliveries(_IntakeTest):
    """Each kind of batch, one by one."""

    def test_in_order_by_each_way(self) -> None:
        for way in _WAYS:
            for size in (1, _CAPACITY - 1, _CAPACITY, _CAPACITY + 1, 130 * _CAPACITY + 5):
                receiver = _Receiver(_Sent.full(size))
                way(receiver, receiver.sent.datagrams)
                self.whole(receiver)
                self.assertEqual(receiver.counts, (-(-size // _CAPACITY), 0, 0))

    def test_a_batch_longer_than_the_free_slots(self) -> None:
        """It goes on into the next buffer, and what lies in its way stays."""
        sent = _Sent.full(10 * _CAPACITY, 10 * _CAPACITY)
        receiver = _Receiver(sent)
        receiver.single([sent.datagrams[6]])
        receiver.single([sent.datagrams[3]])
        receiver.coalesced(sent.datagrams[4:16])
        self.assertEqual(receiver.missing, [0, 1, 2, 16, 17, 18, 19])
        self.assertEqual(receiver.counts, (13, 1, 0))

    def test_a_batch_across_three_buffers(self) -> None:
        sent = _Sent.full(3 * _CAPACITY, 2 * _CAPACITY, 3 * _CAPACITY)
        for way in _WAYS:
            receiver = _Receiver(sent)
            way(receiver, sent.datagrams)
            self.whole(receiver)

    def test_a_batch_from_a_buffer_that_is_through_into_the_next(self) -> None:
        """Late copies of the last buffer's packets hide none of this one's."""
        sent = _Sent.full(4 * _CAPACITY, 4 * _CAPACITY)
        for way in _WAYS:
            receiver = _Receiver(sent)
            way(receiver, sent.datagrams[:4])
            receiver.intake.disarm(receiver.buffers[0])
            way(receiver, sent.datagrams[2:])
            self.whole(receiver)
            self.assertEqual(receiver.counts, (8, 2, 0))

    def test_from_the_last_packet_to_the_first(self) -> None:
        """A jasmine server multicasts a buffer that way."""
        sent = _Sent.full(100 * _CAPACITY + 3, dialect=JASMINE)
        for way in _WAYS:
            receiver = _Receiver(sent)
            way(receiver, sent.datagrams[::-1])
            self.whole(receiver)
            self.assertEqual(receiver.counts, (101, 0, 0))

    def test_short_packets_in_mid_stream(self) -> None:
        """A jasmine server sends them when its input reads short."""
        rng = random.Random(2)
        payloads = [rng.randbytes(rng.randint(1, _CAPACITY)) for _ in range(100)]
        for way in _WAYS:
            for step in (1, -1):
                receiver = _Receiver(_Sent(JASMINE, [payloads]))
                way(receiver, receiver.sent.datagrams[::step])
                self.whole(receiver)

    def test_a_run_of_short_packets_kept_together(self) -> None:
        receiver = _Receiver(_Sent(JASMINE, [[bytes([n]) * 5 for n in range(40)] + [b"end"]]))
        receiver.coalesced(receiver.sent.datagrams)
        self.whole(receiver)
        self.assertEqual(receiver.counts, (41, 0, 0))

    def test_after_a_gap_batches_land_behind_it(self) -> None:
        sent = _Sent.full(60 * _CAPACITY)
        for way in _WAYS:
            receiver = _Receiver(sent)
            way(receiver, sent.datagrams[:10])
            way(receiver, sent.datagrams[12:30])
            way(receiver, sent.datagrams[30:])
            self.assertEqual(receiver.missing, [10, 11])
            way(receiver, sent.datagrams[10:12])
            self.whole(receiver)

    def test_copies_change_nothing(self) -> None:
        sent = _Sent.full(70 * _CAPACITY + 1)
        for way in _WAYS:
            receiver = _Receiver(sent)
            way(receiver, sent.datagrams)
            way(receiver, sent.datagrams)
            way(receiver, sent.datagrams[::-1])
            self.whole(receiver)
            self.assertEqual(receiver.counts, (71, 142, 0))

    def test_nothing_is_armed(self) -> None:
        sent = _Sent.full(5 * _CAPACITY)
        for way in _WAYS:
            receiver = _Receiver(sent)
            receiver.intake.disarm(receiver.buffers[0])
            way(receiver, sent.datagrams)
            self.assertEqual(receiver.missing, [0, 1, 2, 3, 4])
            self.assertEqual(receiver.counts, (0, 5, 0))

    def test_a_buffer_in_its_next_life(self) -> None:
        sent = _Sent.full(5 * _CAPACITY, 5 * _CAPACITY)
        receiver = _Receiver(_Sent(KOLLACAST, sent.buffers[:1]))
        receiver.coalesced(sent.datagrams[:5])
        (buffer,) = receiver.buffers
        receiver.intake.disarm(buffer)
        buffer.init(sent.ctls[1])
        receiver.intake.arm(buffer)
        receiver.sent = sent
        receiver.coalesced(sent.datagrams[5:])
        self.assertEqual(receiver.image, b"".join(sent.buffers[1]))


class Strangers(_IntakeTest):
    """What must not count as a packet of this session."""

    def rejected(self, datagrams: Sequence[bytes], sent: _Sent | None = None) -> None:
        """Rejected on its own, in the midst of a batch, and where a batch is out of place."""
        sent = sent or _Sent.full(20 * _CAPACITY)
        packets = sent.datagrams
        for way in _WAYS:
            for stranger in datagrams:
                receiver = _Receiver(sent)
                way(receiver, [stranger])
                self.assertEqual(len(receiver.missing), 20)
                way(receiver, [*packets[:5], stranger, *packets[5:]])
                self.whole(receiver)
                self.assertEqual(receiver.counts, (20, 0, 2))
                receiver = _Receiver(sent)
                way(receiver, [*packets[10:], stranger, *packets[:10]])
                self.whole(receiver)
                self.assertEqual(receiver.counts, (20, 0, 1))

    def test_damage_anywhere(self) -> None:
        packet = _Sent.full(20 * _CAPACITY).datagrams[0]
        for index in range(len(packet)):
            damaged = bytearray(packet)
            damaged[index] ^= 0x10
            self.rejected([bytes(damaged)])

    def test_damage_to_jasmine_s_crc_size_and_payload(self) -> None:
        sent = _Sent.full(20 * _CAPACITY, dialect=JASMINE)
        packet = sent.datagrams[0]
        for index in range(4, len(packet)):
            damaged = bytearray(packet)
            damaged[index] ^= 0x10
            self.rejected([bytes(damaged)], sent)

    def test_another_session_s_packets(self) -> None:
        other = KOLLACAST.codec(_SALT + 1, _ENGINE)
        self.rejected([_datagram(seq, bytes(_CAPACITY), other) for seq in (0, 5, 30)])

    def test_a_packet_in_another_s_slot(self) -> None:
        packets = _Sent.full(20 * _CAPACITY).datagrams
        self.rejected([packets[1][:4] + packets[0][4:], packets[0][:4] + packets[1][4:]])

    def test_noise_is_not_summed(self) -> None:
        """What does not say its own length costs a look, and no checksum."""
        summed = []

        def engine(data: memoryview, value: int) -> int:
            summed.append(len(data))
            return _ENGINE(data, value)

        sent = _Sent.full(20 * _CAPACITY)
        sent.codec = KOLLACAST.codec(_SALT, engine)
        rng = random.Random(4)
        noise = [rng.randbytes(rng.randrange(1, _STRIDE + 1)) for _ in range(40)]
        for way in _WAYS:
            receiver = _Receiver(sent)
            summed.clear()
            way(receiver, noise)
            self.assertEqual((summed, receiver.counts), ([], (0, 0, 40)))

    def test_packets_cut_short(self) -> None:
        packet = _Sent.full(20 * _CAPACITY).datagrams[0]
        self.rejected([packet[:length] for length in (1, 4, 11, 12, 13, len(packet) - 1)])

    def test_packets_of_no_data(self) -> None:
        """They are intact by their checksum: it is the protocol that has none of them."""
        self.rejected([_datagram(seq, b"") for seq in range(20)])
        sent = _Sent.full(20 * _CAPACITY, dialect=JASMINE)
        self.rejected([_datagram(seq, b"", sent.codec) for seq in range(20)], sent)

    def test_a_size_that_is_not_the_datagram_s(self) -> None:
        sent = _Sent.full(20 * _CAPACITY, dialect=JASMINE)
        packet = _datagram(0, bytes(8), sent.codec)
        strangers = [packet + bytes(4), packet[:-4], packet + bytes(8)]
        self.rejected(strangers, sent)

    def test_datagrams_longer_than_any_packet(self) -> None:
        sent = _Sent.full(20 * _CAPACITY)
        receiver = _Receiver(sent)
        for length in (_STRIDE + 1, 2 * _STRIDE, 40 * _STRIDE):
            stranger = bytes(length)
            receiver.coalesced([stranger])
            receiver.frames([stranger])
            receiver.single([stranger])
        self.assertEqual(len(receiver.missing), 20)
        receiver.coalesced(sent.datagrams)
        self.whole(receiver)

    def test_a_run_of_a_stranger_s_larger_datagrams(self) -> None:
        receiver = _Receiver(_Sent.full(20 * _CAPACITY))
        receiver.coalesced([bytes(3 * _STRIDE)] * 4)
        self.assertEqual(len(receiver.missing), 20)
        self.assertEqual(receiver.counts, (0, 0, 4))

    def test_packets_of_no_announced_buffer(self) -> None:
        receiver = _Receiver(_Sent.full(20 * _CAPACITY))
        for way in _WAYS:
            way(receiver, [_datagram(seq, bytes(_CAPACITY)) for seq in (20, 99, 0x7FFFFFFF)])
        self.assertEqual(len(receiver.missing), 20)
        self.assertEqual(receiver.counts, (0, 3 * len(_WAYS), 0))


def _on_word(*call: Any) -> None:
    """Call the first argument with all that follow but the seq and the word."""
    function, *arguments, _seq, _word = call
    function(*arguments)


class Controls(_IntakeTest):
    """Packets of the control stream, among those of buffers."""

    def receiver(self, sent: _Sent) -> tuple[_Receiver, list[bytes]]:
        receiver = _Receiver(sent)
        heard: list[bytes] = []
        receiver.intake.control = lambda seq, data: heard.append(data)
        return receiver, heard

    def test_each_is_told_once_for_each_time_it_comes(self) -> None:
        sent = _Sent.full(20 * _CAPACITY)
        said = [b"a", b"some", b"k" * _CAPACITY, b"k" * _CAPACITY]
        packets = [_datagram(control_seq(number), data) for number, data in enumerate(said)]
        for way in _WAYS:
            receiver, heard = self.receiver(sent)
            way(receiver, packets)
            self.assertEqual(heard, said)
            datagrams = sent.datagrams
            way(receiver, [*datagrams[:5], *packets[:2], *datagrams[5:], *packets[2:]])
            self.assertEqual(heard, said + said)
            self.whole(receiver)
            # They are no packets of the image, and no strangers.
            self.assertEqual(receiver.counts, (20, 0, 0))

    def test_the_first_and_the_last_seq(self) -> None:
        for way in _WAYS:
            receiver, heard = self.receiver(_Sent.full(5 * _CAPACITY))
            for seq in (CONTROL_BASE, 0xFFFFFFFF):
                way(receiver, [_datagram(seq, b"%x" % seq)])
            way(receiver, [_datagram(CONTROL_BASE - 1, bytes(_CAPACITY))])
            self.assertEqual(heard, [b"e0000000", b"ffffffff"])

    def test_damaged_ones_are_not_told(self) -> None:
        """Nor those of another session, nor one without data."""
        packet = _datagram(control_seq(7), b"some words")
        damaged = []
        for index in range(len(packet)):
            changed = bytearray(packet)
            changed[index] ^= 0x10
            damaged.append(bytes(changed))
        other = KOLLACAST.codec(_SALT + 1, _ENGINE)
        damaged += [
            *(packet[:length] for length in range(1, len(packet))),
            packet + b"\0",
            _datagram(control_seq(8), b"some words")[:4] + packet[4:],
            _datagram(control_seq(7), b"some words", other),
            _datagram(control_seq(7), b""),
        ]
        for way in _WAYS:
            receiver, heard = self.receiver(_Sent.full(5 * _CAPACITY))
            for stranger in damaged:
                way(receiver, [stranger])
            self.assertEqual(heard, [])
            self.assertEqual(receiver.counts, (0, 0, len(damaged)))

    def test_where_nothing_is_coded_there_are_none(self) -> None:
        codec = JASMINE.codec(_SALT, _ENGINE)
        for way in deliveries.WAYS:
            intake = Intake(codec, _CAPACITY, coded=False)
            heard: list[bytes] = []
            intake.control = lambda seq, data, heard=heard: heard.append(data)  # type: ignore[misc]
            way(intake, [_datagram(control_seq(0), b"some words", codec)])
            self.assertEqual(heard, [])
            self.assertEqual(intake.counts.repeated, 1)

    def test_what_comes_behind_an_announcement_lands_in_what_it_armed(self) -> None:
        """In one batch: what was before it has nowhere to land."""
        sent = _Sent.full(20 * _CAPACITY, 20 * _CAPACITY)
        word = _datagram(control_seq(0), b"here it comes")
        for way in _WAYS:
            receiver = _Receiver(sent)
            second = receiver.buffers[1]
            receiver.intake.disarm(second)
            receiver.intake.control = partial(_on_word, receiver.intake.arm, second)
            way(receiver, [*sent.datagrams[:21], word, *sent.datagrams[21:]])
            self.assertEqual(receiver.missing, [20])
            self.assertEqual(receiver.counts, (39, 1, 0))

    def test_what_comes_behind_a_word_of_the_end_lands_nowhere(self) -> None:
        sent = _Sent.full(20 * _CAPACITY)
        word = _datagram(control_seq(0), b"it is over")
        for way in _WAYS:
            receiver = _Receiver(sent)
            receiver.intake.control = partial(_on_word, receiver.intake.close)
            way(receiver, [*sent.datagrams[:7], word, *sent.datagrams[7:]])
            self.assertEqual(receiver.missing, list(range(7, 20)))
            self.assertEqual(receiver.counts, (7, 13, 0))


@st.composite
def _senders(draw: st.DrawFn) -> _Sent:
    """One to three buffers, of full packets or of short ones in mid-stream."""
    dialect = draw(st.sampled_from((KOLLACAST, JASMINE)))
    buffers = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 80))
        if draw(st.booleans()):
            sizes = [_CAPACITY] * (count - 1) + [draw(st.integers(1, _CAPACITY))]
        else:
            sizes = draw(
                st.lists(
                    st.sampled_from((1, 4, 5, 15, _CAPACITY, _CAPACITY)),
                    min_size=count,
                    max_size=count,
                )
            )
        buffers.append(sizes)
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    return _Sent(dialect, [[rng.randbytes(size) for size in sizes] for sizes in buffers])


@st.composite
def _traffic(draw: st.DrawFn, sent: _Sent) -> list[bytes]:
    """What a lossy network makes of the sender's datagrams, with strangers among them."""
    packets = sent.datagrams
    order = list(range(len(packets)))
    disorder = draw(st.sampled_from(("none", "descending", "blocks", "shuffled")))
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    if disorder == "descending":
        order.reverse()
    elif disorder == "shuffled":
        rng.shuffle(order)
    elif disorder == "blocks":
        blocks = [order[at : at + 7] for at in range(0, len(order), 7)]
        rng.shuffle(blocks)
        order = [seq for block in blocks for seq in block]
    loss = draw(st.sampled_from((0.0, 0.02, 0.3)))
    twice = draw(st.sampled_from((0.0, 0.1)))
    damage = draw(st.sampled_from((0.0, 0.05)))
    arriving: list[bytes] = []
    for seq in order:
        if rng.random() < loss:
            continue
        arriving.append(packets[seq])
        if rng.random() < twice:
            arriving.append(packets[rng.choice(order)])
        if rng.random() < damage:
            arriving.append(_damaged(packets[seq], sent.dialect, rng))
    return arriving


def _damaged(datagram: bytes, dialect: Dialect, rng: random.Random) -> bytes:
    """Damage that the dialect's checksum can see: jasmine's does not cover the seq."""
    kind = rng.randrange(3)
    if kind == 0:
        return datagram[: rng.randrange(1, len(datagram))]
    if kind == 1 and dialect is KOLLACAST:
        return _datagram(rng.randrange(100), datagram[12:], KOLLACAST.codec(_SALT ^ 1, _ENGINE))
    damaged = bytearray(datagram)
    first = 0 if dialect is KOLLACAST else 4
    damaged[rng.randrange(first, len(datagram))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


class AnyTraffic(_IntakeTest):
    """Any order, loss, repetition and damage, in any batches, gives the same image."""

    @PROPERTY
    @given(st.data())
    def test_what_is_intact_is_placed_and_nothing_else(self, data: st.DataObject) -> None:
        sent = data.draw(_senders())
        receiver = _Receiver(sent)
        arriving = data.draw(_traffic(sent))
        batches = data.draw(
            st.lists(
                st.tuples(st.sampled_from(range(3)), st.sampled_from((1, 2, 5, 30, 64, 100))),
                min_size=1,
                max_size=8,
            )
        )
        left = list(arriving)
        while left:
            for way, count in batches:
                _WAYS[way](receiver, left[:count])
                del left[:count]
        intact = set(sent.datagrams)
        came = {sent.datagrams.index(datagram) for datagram in arriving if datagram in intact}
        self.assertEqual(set(range(len(sent.datagrams))) - came, set(receiver.missing))
        self.assertEqual(sum(receiver.counts), len(arriving))
        self.assertEqual(receiver.counts[0], len(came))
        # Repairs come one by one, as by TCP.
        for buffer in receiver.buffers:
            for seq in buffer.missing():
                self.assertTrue(buffer.put(seq, sent.payloads[seq]))
        self.whole(receiver)

    @PROPERTY
    @given(st.data())
    def test_buffers_that_go_round(self, data: st.DataObject) -> None:
        """Buffers are disarmed when they are through, as a flush does, with late copies about."""
        sent = data.draw(_senders())
        receiver = _Receiver(sent)
        arriving = data.draw(_traffic(sent))
        armed = list(receiver.buffers)
        way = data.draw(st.sampled_from(_WAYS))
        count = data.draw(st.sampled_from((1, 3, 20, 64)))
        left = [*arriving, *sent.datagrams]
        while left:
            way(receiver, left[:count])
            del left[:count]
            while armed and armed[0].complete:
                receiver.intake.disarm(armed.pop(0))
        self.whole(receiver)

    @PROPERTY
    @given(st.lists(st.binary(min_size=1, max_size=2 * _STRIDE), max_size=40))
    def test_arbitrary_datagrams(self, datagrams: list[bytes]) -> None:
        receiver = _Receiver(_Sent.full(30 * _CAPACITY))
        for way in _WAYS:
            way(receiver, datagrams)
        self.assertEqual(len(receiver.missing), 30)
