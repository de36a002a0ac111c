"""Every message is made and read by its class: what is encoded comes out again, whole, alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire import messages
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.messages import (
    BufferCtl,
    Decoding,
    Detach,
    Digest,
    Done,
    Fetch,
    Message,
    Packet,
    Proof,
    Ready,
    Repaired,
    Report,
    Request,
    Sent,
    TaggedMessage,
    encode_sealed,
)
from kollacast.wire.parity import MAX_DEGREE, MAX_PARITY
from kollacast.wire.structures import MAX_FETCH, SEQ_LIMIT, Tag, WireError
from tests.vectors import IMAGE, PROPERTY

_U32 = st.integers(0, 0xFFFFFFFF)
_VALUE = st.binary(min_size=32, max_size=32)
_LIMIT = 100
#: Any message of each kind.
_ANY: dict[type[TaggedMessage], st.SearchStrategy[TaggedMessage]] = {
    Ready: st.builds(Ready),
    Request: st.builds(Request, st.lists(_U32, max_size=_LIMIT).map(tuple)),
    Done: st.builds(Done),
    Fetch: st.builds(Fetch, st.integers(0, SEQ_LIMIT - MAX_FETCH), st.integers(0, MAX_FETCH)),
    BufferCtl: st.builds(BufferCtl, _U32, _U32, _U32, _U32),
    Sent: st.builds(Sent),
    Repaired: st.builds(Repaired, _U32, _U32, st.just(0), _U32)
    | st.builds(
        Repaired,
        _U32,
        st.integers(0xA000_0000, 0xBFFF_FFFF),
        st.integers(1, MAX_PARITY),
        st.integers(1, MAX_DEGREE),
    ),
    Packet: st.builds(Packet, _U32, _U32, st.binary(max_size=_LIMIT)),
    Digest: st.builds(Digest, _VALUE),
    Proof: st.builds(Proof, _VALUE),
    Detach: st.builds(Detach),
    Report: st.builds(Report, st.dictionaries(st.text(max_size=9), st.none() | st.booleans())),
}
#: The examples of docs/protocol.md: dialect, bytes, message.
_SHOWN: tuple[tuple[Dialect, str, TaggedMessage], ...] = (
    (KOLLACAST, "10 00000001 00000b6e 00000000 00000003", BufferCtl(1, 2926, 0, 3)),
    (KOLLACAST, "10 00000002 00000000 00000003 00000000", BufferCtl(2, 0, 3, 0)),
    (KOLLACAST, "01", Ready()),
    (KOLLACAST, "08", Sent()),
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
    (KOLLACAST, "04", Done()),
    (
        KOLLACAST,
        "80 00000021" + b'{"ok":true,"packets_multicast":2}'.hex(),
        Report({"ok": True, "packets_multicast": 2}),
    ),
    (KOLLACAST, "11 00000001 00000000 00000000 00000000", Repaired(1)),
    (KOLLACAST, "12 00000004 00010000", Fetch(4, 65536)),
    (KOLLACAST, "14", Detach()),
    (KOLLACAST, "15" + "5a" * 32, Proof(b"Z" * 32)),
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
    dialect: Dialect, kind: type[TaggedMessage], data: bytes, limit: int = _LIMIT
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
        ):
            with self.assertRaisesRegex(WireError, pattern):
                _decode(KOLLACAST, type(message), message.encode(KOLLACAST)[:13])


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
        for wrong in (-1, "5", 1.5, None):
            self.assertIsNone(Report({"packets": wrong}).count("packets"))
