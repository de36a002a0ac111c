"""Every message is made and read by its class: what is encoded comes out again, whole, alone."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire import messages
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Detach,
    Digest,
    Done,
    Fetch,
    Message,
    Notice,
    Packet,
    Ready,
    Repaired,
    Report,
    Request,
    Sent,
    encode_sealed,
)
from kollacast.wire.parity import MAX_LAYERS, MAX_PARITY
from kollacast.wire.pieces import Pieces, Want
from kollacast.wire.structures import (
    MAX_CONTROL_SIZE,
    MAX_FETCH,
    MIN_MTU,
    SEQ_LIMIT,
    Tag,
    WireError,
    payload_capacity,
)
from kollacast.wire.tagged import Decoding, TaggedMessage
from tests.vectors import IMAGE, PROPERTY

_U32 = st.integers(0, 0xFFFFFFFF)
_VALUE = st.binary(min_size=32, max_size=32)
_LIMIT = 100
_NOTICES: dict[type[TaggedMessage], st.SearchStrategy[Notice]] = {
    BufferCtl: st.builds(BufferCtl, _U32, _U32, _U32, _U32),
    Sent: st.builds(Sent, _U32, _U32),
    Repaired: st.builds(Repaired, _U32, _U32, st.just(0), _U32)
    | st.builds(
        Repaired,
        _U32,
        st.integers(0xA000_0000, 0xBFFF_FFFF),
        st.integers(1, MAX_PARITY),
        st.integers(1, MAX_LAYERS),
    ),
}
_NUMBER = st.integers(1, 0xFFFFFFFF - 9)
_CONTROL = st.builds(
    lambda numbers, notices: Control(min(numbers), max(numbers), tuple(notices)),
    st.tuples(_NUMBER, _NUMBER),
    st.lists(st.one_of(*_NOTICES.values()), max_size=9),
)
#: Any message of each kind.
_ANY: dict[type[TaggedMessage], st.SearchStrategy[TaggedMessage]] = {
    Ready: st.builds(Ready),
    Request: st.builds(Request, st.lists(_U32, max_size=_LIMIT).map(tuple)),
    Done: st.builds(Done),
    Credit: st.builds(
        lambda ids, lost, runs: Credit(min(ids), max(ids), lost, min(max(runs, 1), lost)),
        st.tuples(_U32, _U32),
        _U32,
        _U32,
    ),
    Ask: st.builds(Ask, _U32),
    Want: st.builds(Want, _U32),
    Pieces: st.builds(Pieces, _U32, _U32, st.lists(_VALUE, min_size=1, max_size=9).map(tuple)),
    Fetch: st.builds(Fetch, st.integers(0, SEQ_LIMIT - MAX_FETCH), st.integers(0, MAX_FETCH)),
    **_NOTICES,
    Control: _CONTROL,
    Packet: st.builds(Packet, _U32, _U32, st.binary(max_size=_LIMIT)),
    Digest: st.builds(Digest, _VALUE),
    Detach: st.builds(Detach),
    Report: st.builds(Report, st.dictionaries(st.text(max_size=9), st.none() | st.booleans())),
}
#: The examples of docs/protocol.md: dialect, bytes, message.
_SHOWN: tuple[tuple[Dialect, str, TaggedMessage], ...] = (
    (KOLLACAST, "10 00000001 00000b6e 00000000 00000003", BufferCtl(1, 2926, 0, 3)),
    (KOLLACAST, "10 00000002 00000000 00000003 00000000", BufferCtl(2, 0, 3, 0)),
    (KOLLACAST, "08 00000001 00000003", Sent(1, 3)),
    (KOLLACAST, "08 00000000 00000000", Sent()),
    (KOLLACAST, "03 00000000 00000004 00000000 00000000", Credit(0, 4)),
    (KOLLACAST, "03 00000007 00000007 00000003 00000002", Credit(7, 7, 3, 2)),
    (KOLLACAST, "05 00000009", Ask(9)),
    (KOLLACAST, "06 00000001", Want(1)),
    (
        KOLLACAST,
        f"17 00000002 00000007 00000003 {'aa' * 32} {'bb' * 32}",
        Pieces(7, 3, (b"\xaa" * 32, b"\xbb" * 32)),
    ),
    (
        KOLLACAST,
        "16 00000033 00000003 00000005"
        "10 00000001 00000b6e 00000000 00000003 08 00000001 00000003"
        "11 00000001 a0000005 00000003 00000002",
        Control(3, 5, (BufferCtl(1, 2926, 0, 3), Sent(1, 3), Repaired(1, 0xA0000005, 3, 2))),
    ),
    (KOLLACAST, "16 00000008 00000001 00000001", Control(1, 1, ())),
    (
        KOLLACAST,
        "40 1a863f9306f158f4710e1df967e80ecda10bb397e0ba41d6b863605f57712e86",
        Digest(bytes.fromhex("1a863f9306f158f4710e1df967e80ecda10bb397e0ba41d6b863605f57712e86")),
    ),
    (KOLLACAST, "02 00000001 00000001", Request((1,))),
    (
        KOLLACAST,
        "20 00000001 25679843 000005b4" + IMAGE[1460:2920].hex(),
        Packet(1, 0x25679843, IMAGE[1460:2920]),
    ),
    (
        KOLLACAST,
        "80 00000021" + b'{"ok":true,"packets_multicast":2}'.hex(),
        Report({"ok": True, "packets_multicast": 2}),
    ),
    (KOLLACAST, "11 00000001 00000000 00000000 00000000", Repaired(1)),
    (KOLLACAST, "12 00000004 00010000", Fetch(4, 65536)),
    (KOLLACAST, "14", Detach()),
    (JASMINE, "01000000 6e0b0000 00000000 03000000", BufferCtl(1, 2926, 0, 3)),
    (JASMINE, "01", Ready()),
    (JASMINE, "08", Sent()),
    (JASMINE, "02 01000000 02000000", Request((2,))),
    (JASMINE, "02000000 d2e1eaf0 06000000 dbe2e9f0f7fe", Packet(2, 0xF0EAE1D2, IMAGE[2920:])),
    (JASMINE, "04", Done()),
)


def _run(decoding: Decoding[Message], data: bytes) -> tuple[Message, bytes]:
    """The message that ``data`` begins with, and what is left."""
    needed = next(decoding, None)
    while needed is not None:
        piece, data = data[:needed], data[needed:]
        try:
            needed = decoding.send(piece)
        except StopIteration as stop:
            return stop.value, data
    raise AssertionError("nothing to read")


def _decode(
    dialect: Dialect, kind: type[Any], data: bytes, limit: int = _LIMIT
) -> tuple[Message, bytes]:
    head = 1 if kind.tag in dialect.tags else 0
    if data[:head] != bytes((kind.tag,))[:head]:
        raise AssertionError("another tag")

    def whole() -> Decoding[Message]:
        yield 0
        return (yield from kind.decode(dialect, limit))

    return _run(whole(), data[head:])


class Messages(unittest.SynchronousTestCase):
    """All kinds, in all dialects that know them."""

    def test_no_kind_is_forgotten(self) -> None:
        kinds = {
            kind
            for kind in vars(messages).values()
            if isinstance(kind, type) and issubclass(kind, TaggedMessage)
        }
        self.assertEqual(set(_ANY), kinds - {TaggedMessage})
        self.assertEqual({kind.tag for kind in _ANY}, set(Tag))
        self.assertEqual({type(message) for _, _, message in _SHOWN}, set(_ANY))

    def test_the_bytes_of_the_protocol_both_ways(self) -> None:
        for dialect, shown, message in _SHOWN:
            data = bytes.fromhex(shown)
            self.assertEqual(message.encode(dialect), data)
            self.assertEqual(_decode(dialect, type(message), data, 1460), (message, b""))

    @PROPERTY
    @given(st.data(), st.binary(max_size=8))
    def test_what_is_encoded_is_decoded(self, data: st.DataObject, behind: bytes) -> None:
        """And nothing of what comes behind it."""
        for kind, any_message in _ANY.items():
            for dialect in (KOLLACAST, JASMINE):
                if kind.tag in dialect.tags or kind in (BufferCtl, Packet):
                    message = data.draw(any_message)
                    if kind is Sent and not dialect.multicasts_control:
                        message = Sent()
                    encoded = message.encode(dialect) + behind
                    self.assertEqual(_decode(dialect, kind, encoded), (message, behind))

    def test_sealed_packets_are_packets(self) -> None:
        for dialect in (KOLLACAST, JASMINE):
            payloads = [memoryview(IMAGE[:70]), memoryview(IMAGE[70:100])]
            headers = dialect.codec(5, lambda data, value: value).sealed(7, payloads)
            data = encode_sealed(dialect, headers, [1, 0], [payloads[1], payloads[0]])
            second, rest = _decode(dialect, Packet, data)
            first, rest = _decode(dialect, Packet, rest)
            assert isinstance(first, Packet)
            assert isinstance(second, Packet)
            self.assertEqual((first.seq, first.payload), (7, IMAGE[:70]))
            self.assertEqual((second.seq, second.payload), (8, IMAGE[70:100]))
            self.assertEqual(rest, b"")

    def test_more_than_the_limit_is_refused_at_once(self) -> None:
        for message, pattern in (
            (Request((1,) * 101), "a request for 101 packets, 100 is the limit"),
            (Packet(1, 2, bytes(101)), "a packet of 101 bytes, 100 is the limit"),
            (Fetch(0, MAX_FETCH + 1), "a fetch of 65537 packets from 0 on"),
            (Fetch(SEQ_LIMIT, 1), "a fetch of 1 packets"),
            (Control(1, 1, (Sent(),) * 7282), "65546 bytes of the control stream"),
        ):
            with self.assertRaisesRegex(WireError, pattern):
                _decode(KOLLACAST, type(message), message.encode(KOLLACAST)[:13])

    def test_credit_for_less_than_is_there_already(self) -> None:
        with self.assertRaisesRegex(WireError, "credit up to buffer 6 behind buffer 7"):
            _decode(KOLLACAST, Credit, Credit(7, 6).encode(KOLLACAST))
        for lost, runs in ((0, 1), (3, 0), (3, 4)):
            with self.assertRaisesRegex(WireError, f"{lost} lost packets in {runs} runs"):
                _decode(KOLLACAST, Credit, Credit(6, 7, lost, runs).encode(KOLLACAST))


class ControlStreams(unittest.SynchronousTestCase):
    """A part of the control stream, by TCP and as the data of a packet."""

    def refused(self, data: bytes, pattern: str) -> None:
        """By both ways, in one line."""
        for read in (self.by_multicast, self.by_tcp):
            with self.assertRaisesRegex(WireError, pattern) as caught:
                read(data)
            self.assertTrue(str(caught.exception).isprintable())

    def by_multicast(self, data: bytes) -> Control:
        return Control.of_data(KOLLACAST, data)

    def by_tcp(self, data: bytes) -> Message:
        message, rest = _decode(KOLLACAST, Control, b"\x16" + struct.pack("!I", len(data)) + data)
        self.assertEqual(rest, b"")
        return message

    @PROPERTY
    @given(_CONTROL)
    def test_both_ways_say_the_same(self, control: Control) -> None:
        data = control.data(KOLLACAST)
        self.assertEqual(self.by_multicast(data), control)
        self.assertEqual(self.by_tcp(data), control)

    def test_the_head(self) -> None:
        for size in range(Control.HEAD_SIZE):
            self.refused(bytes(size), f"{size} bytes of the control stream")

    def test_numbers_begin_with_1_and_never_before_the_oldest(self) -> None:
        for oldest, first in ((0, 0), (0, 1), (2, 1), (0xFFFFFFFF, 0xFFFFFFFE)):
            data = Control(oldest, first, ()).data(KOLLACAST)
            self.refused(data, f"number {first} of the control stream, of which {oldest} is the")

    def test_numbers_end_where_a_question_can_name_them(self) -> None:
        last = Control(1, 0xFFFFFFFF, (Sent(1, 2),))
        self.assertEqual(self.by_tcp(last.data(KOLLACAST)), last)
        beyond = Control(0xFFFFFFFF, 0xFFFFFFFF, (Sent(1, 2), Sent(2, 2)))
        self.refused(beyond.data(KOLLACAST), "numbers of the control stream from 4294967295 on")

    def test_a_notice_that_is_cut_off(self) -> None:
        notices: tuple[Notice, ...] = (BufferCtl(1, 2, 3, 4), Sent(1, 2), Repaired(3))
        for notice in notices:
            data = Control(1, 1, (*notices, notice)).data(KOLLACAST)
            for cut in range(1, len(notice.encode(KOLLACAST))):
                self.refused(data[:-cut], "that nobody writes")

    def test_what_is_no_notice(self) -> None:
        """A message of another kind, a tag that nobody has, and zeros as padding."""
        head = Control(1, 1, (Sent(1, 2),)).data(KOLLACAST)
        for tag in set(range(256)) - {Tag.BUFFER, Tag.SERVER_SENT, Tag.REPAIRED}:
            self.refused(head + bytes((tag,)) + bytes(40), "that nobody writes")

    def test_more_than_the_limit_by_tcp(self) -> None:
        for size in (0, Control.HEAD_SIZE - 1, MAX_CONTROL_SIZE + 1, 0xFFFFFFFF):
            with self.assertRaisesRegex(WireError, f"^{size} bytes of the control stream"):
                _decode(KOLLACAST, Control, b"\x16" + struct.pack("!I", size))
        # 9 bytes each, and two of 17.
        most = Control(1, 1, (Repaired(1),) * 2 + (Sent(1, 2),) * 7277)
        self.assertEqual(len(most.data(KOLLACAST)), MAX_CONTROL_SIZE - 1)
        self.assertEqual(self.by_tcp(most.data(KOLLACAST)), most)

    @PROPERTY
    @given(st.data())
    def test_the_smallest_packet_holds_any_notice(self, data: st.DataObject) -> None:
        for notice in _NOTICES.values():
            control = Control(1, 0xFFFFFFFF, (data.draw(notice),))
            self.assertLessEqual(len(control.data(KOLLACAST)), payload_capacity(MIN_MTU))

    @PROPERTY
    @given(st.binary(max_size=60))
    def test_any_bytes_are_a_part_or_a_wire_error(self, data: bytes) -> None:
        try:
            control = self.by_multicast(data)
        except WireError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(control.data(KOLLACAST), data)


class Reports(unittest.SynchronousTestCase):
    """What a report says, whoever wrote it."""

    def test_only_true_is_so(self) -> None:
        for value, is_so in ((True, True), (1, False), ("true", False), (None, False)):
            self.assertEqual(Report({"ok": value}).says("ok"), is_so)
        self.assertFalse(Report({}).says("ok"))

    def test_a_reason_is_one_line_or_none_was_given(self) -> None:
        self.assertEqual(Report({"reason": "two\nlines"}).reason, "two?lines")
        self.assertEqual(Report({"reason": 7}).reason, "it gave no reason")
        self.assertEqual(Report({}).reason, "it gave no reason")

    def test_a_count_is_a_number_that_packets_can_have(self) -> None:
        for value, count in ((5, 5), (0, 0), (SEQ_LIMIT, SEQ_LIMIT), (SEQ_LIMIT + 1, None)):
            self.assertEqual(Report({"packets": value}).count("packets"), count)
        for wrong in (-1, "5", 1.5, None, True):
            self.assertIsNone(Report({"packets": wrong}).count("packets"))
