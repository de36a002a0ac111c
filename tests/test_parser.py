"""Bytes in, messages out: both directions, both dialects, any split, and hostile peers."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import (
    PROTOCOL_VERSION,
    Greeting,
    GroupInfo,
    Hello,
    Refusal,
    Response,
    encode_json,
)
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
    Packet,
    Ready,
    Repaired,
    Report,
    Request,
    Sent,
    encode_sealed,
)
from kollacast.wire.parser import ClientStream, ReceiveQueue, ServerStream
from kollacast.wire.structures import MAX_CONTROL_SIZE, MAX_HELLO_SIZE, MAX_JSON_SIZE, WireError
from tests.test_greeting import GREETING
from tests.vectors import GROUP_INFO, IMAGE, JASMINE_CLIENT, JASMINE_SERVER, PROPERTY

_CAPACITY = 1460
_MAX_REQUEST = 1000

_ENGINE, _ = best_crc32c()
_CODEC = KOLLACAST.codec(GREETING.salt, _ENGINE)


def _packet(seq: int, payload: bytes) -> tuple[bytes, Packet]:
    header = _CODEC.sealed(seq, [memoryview(payload)])
    data = encode_sealed(KOLLACAST, memoryview(header), [0], [memoryview(payload)])
    return data, Packet(seq, int.from_bytes(header[4:8], "big"), payload)


#: A kollacast session with two buffers in flight, side by side: bytes and meaning.
_SERVER: tuple[tuple[bytes, Message], ...] = (
    (GREETING.encode(), GREETING),
    (
        bytes.fromhex(
            "16 0000002a 00000001 00000001"
            "10 00000001 00000b6e 00000000 00000003 10 00000002 00000005 00000003 00000001"
        ),
        Control(1, 1, (BufferCtl(1, 2926, 0, 3), BufferCtl(2, 5, 3, 1))),
    ),
    _packet(0, IMAGE[:1460]),
    (
        bytes.fromhex("16 0000002b 00000001 00000003 08 00000001 00000003")
        + bytes.fromhex("11 00000001 a0000005 00000003 00000002 08 00000002 00000000"),
        Control(1, 3, (Sent(1, 3), Repaired(1, 0xA0000005, 3, 2), Sent(2, 0))),
    ),
    _packet(2, IMAGE[2920:]),
    _packet(3, b"hello"),
    (bytes.fromhex("20 00000009 00000000 00000000"), Packet(9, 0, b"")),
    (bytes.fromhex("16 00000008 00000006 00000006"), Control(6, 6, ())),
    (bytes.fromhex("10 00000003 00000000 00000004 00000000"), BufferCtl(3, 0, 4, 0)),
    (b"\x14", Detach()),
    (b"\x40" + bytes(range(32)), Digest(bytes(range(32)))),
    (b"\x80\x00\x00\x00\x0c" + b'{"ok": true}', Report({"ok": True})),
)
_CLIENT: tuple[tuple[bytes, Message], ...] = (
    (Hello("node-1", 8192).encode(), Hello("node-1", 8192)),
    (bytes.fromhex("03 00000000 00000002 00000000 00000000"), Credit(0, 2)),
    (bytes.fromhex("05 00000000"), Ask(0)),
    (bytes.fromhex("02 00000002 00000000 00000002"), Request((0, 2))),
    (bytes.fromhex("03 00000001 00000003 00000009 00000004"), Credit(1, 3, 9, 4)),
    (bytes.fromhex("02 00000000"), Request(())),
    (bytes.fromhex("02 00000001 00000003"), Request((3,))),
    (bytes.fromhex("03" + 16 * "ff"), Credit(*4 * (0xFFFFFFFF,))),
    (bytes.fromhex("05 ffffffff"), Ask(0xFFFFFFFF)),
    (b"\x14", Detach()),
    (bytes.fromhex("12 00000004 00000000"), Fetch(4, 0)),
    (bytes.fromhex("12 7fff0000 00010000"), Fetch(0x7FFF0000, 0x10000)),
    (
        b"\x80\x00\x00\x00\x2b" + b'{"ok": false, "reason": "the disk is full"}',
        Report({"ok": False, "reason": "the disk is full"}),
    ),
)


def _client_stream(dialect: Dialect = KOLLACAST) -> ClientStream:
    return ClientStream(dialect, _MAX_REQUEST)


def _read(
    stream: ClientStream | ServerStream,
    pieces: Iterable[bytes],
    heard: Callable[[Message], None] = lambda message: None,
) -> list[Message]:
    """All messages of ``pieces``; ``heard`` is told of each before the next is parsed."""
    messages = []
    for piece in pieces:
        for message in stream.feed(piece):
            messages.append(message)
            heard(message)
    return messages


def _asks_after_sent(stream: ServerStream, script: list[int]) -> Callable[[Message], None]:
    """A client's part: capacity by the greeting, then a request after each SENT."""
    left = iter(script)

    def heard(message: Message) -> None:
        if isinstance(message, (Greeting, GroupInfo)):
            stream.capacity = _CAPACITY
        elif isinstance(message, Sent):
            stream.expect_packets(next(left, 0))

    return heard


def _split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def _bytes(session: Iterable[tuple[bytes, Message]]) -> bytes:
    return b"".join(data for data, _ in session)


def _meanings(session: Iterable[tuple[bytes, Message]]) -> list[Message]:
    return [message for _, message in session]


_CUTS = st.lists(st.integers(0, 1 << 16), max_size=40)


class Sessions(unittest.SynchronousTestCase):
    """The same messages, in whatever pieces the transport delivers them."""

    def read_server(
        self, session: tuple[tuple[bytes, Message], ...], pieces: list[bytes], script: list[int]
    ) -> ServerStream:
        stream = ServerStream()
        messages = _read(stream, pieces, _asks_after_sent(stream, script))
        self.assertEqual(messages, _meanings(session))
        self.assertEqual(stream.buffered, 0)
        return stream

    def read_client(
        self, dialect: Dialect, session: tuple[tuple[bytes, Message], ...], pieces: list[bytes]
    ) -> None:
        stream = _client_stream(dialect)
        self.assertEqual(_read(stream, pieces), _meanings(session))
        self.assertEqual(stream.buffered, 0)

    def test_message_by_message(self) -> None:
        stream = self.read_server(JASMINE_SERVER, [data for data, _ in JASMINE_SERVER], [1])
        self.assertIs(stream.dialect, JASMINE)
        stream = self.read_server(_SERVER, [data for data, _ in _SERVER], [])
        self.assertIs(stream.dialect, KOLLACAST)
        self.read_client(JASMINE, JASMINE_CLIENT, [data for data, _ in JASMINE_CLIENT])
        self.read_client(KOLLACAST, _CLIENT, [data for data, _ in _CLIENT])

    def test_byte_by_byte(self) -> None:
        for session, script in ((JASMINE_SERVER, [1]), (_SERVER, [])):
            data = _bytes(session)
            self.read_server(session, [data[i : i + 1] for i in range(len(data))], script)
        for dialect, client in ((JASMINE, JASMINE_CLIENT), (KOLLACAST, _CLIENT)):
            data = _bytes(client)
            self.read_client(dialect, client, [data[i : i + 1] for i in range(len(data))])

    @PROPERTY
    @given(_CUTS)
    def test_any_split_of_a_jasmine_server(self, cuts: list[int]) -> None:
        self.read_server(JASMINE_SERVER, _split(_bytes(JASMINE_SERVER), cuts), [1])

    @PROPERTY
    @given(_CUTS)
    def test_any_split_of_a_jasmine_client(self, cuts: list[int]) -> None:
        self.read_client(JASMINE, JASMINE_CLIENT, _split(_bytes(JASMINE_CLIENT), cuts))

    @PROPERTY
    @given(_CUTS)
    def test_any_split_of_a_kollacast_server(self, cuts: list[int]) -> None:
        self.read_server(_SERVER, _split(_bytes(_SERVER), cuts), [])

    @PROPERTY
    @given(_CUTS)
    def test_any_split_of_a_kollacast_client(self, cuts: list[int]) -> None:
        self.read_client(KOLLACAST, _CLIENT, _split(_bytes(_CLIENT), cuts))

    @PROPERTY
    @given(
        st.lists(
            st.lists(st.binary(min_size=1, max_size=_CAPACITY), max_size=5), min_size=1, max_size=5
        ),
        _CUTS,
    )
    def test_any_split_of_any_untagged_session(
        self, buffers: list[list[bytes]], cuts: list[int]
    ) -> None:
        """Whatever a jasmine client asks for, no packet is taken for a buffer or for SENT."""
        session: list[tuple[bytes, Message]] = [(GROUP_INFO, GroupInfo("224.238.0.31", 18383))]
        codec = JASMINE.codec(0, _ENGINE)
        for number, payloads in enumerate(buffers):
            ctl = BufferCtl(number + 1, sum(map(len, payloads)), 0, len(payloads))
            session += ((ctl.encode(JASMINE), ctl), (b"\x08", Sent()))
            for seq, payload in enumerate(payloads):
                header = codec.sealed(seq, [memoryview(payload)])
                crc = int.from_bytes(header[4:8], "little")
                session.append((header + payload, Packet(seq, crc, payload)))
        self.read_server(tuple(session), _split(_bytes(session), cuts), list(map(len, buffers)))

    def test_a_refusal_comes_in_place_of_a_greeting(self) -> None:
        stream = ServerStream()
        refusal = Refusal("the session has begun without this client")
        self.assertEqual(_read(stream, [refusal.encode()]), [refusal])

    def test_a_damaged_retransmission_may_be_asked_for_again(self) -> None:
        """In mid-answer, and after the last packet of it."""
        stream = ServerStream()
        _read(stream, [GROUP_INFO, _bytes(JASMINE_SERVER[1:3])], _asks_after_sent(stream, [2]))
        packet = JASMINE_SERVER[3][0]
        asked_again = iter((1, 1, 0, 0))
        messages = _read(
            stream,
            [packet * 4 + _bytes(JASMINE_SERVER[4:])],
            lambda message: stream.expect_packets(
                next(asked_again) if isinstance(message, Packet) else 0
            ),
        )
        self.assertEqual(messages, [JASMINE_SERVER[3][1]] * 4 + _meanings(JASMINE_SERVER[4:]))

    def test_a_consumer_may_stop_in_mid_piece_and_go_on_later(self) -> None:
        stream = _client_stream(JASMINE)
        feed = stream.feed(b"\x01\x04\x01")
        self.assertEqual(next(feed), Ready())
        self.assertEqual(stream.buffered, 2)
        self.assertEqual(list(stream.feed(b"\x04")), [Done(), Ready(), Done()])


class _Hostile(unittest.SynchronousTestCase):
    def refused(self, stream: ClientStream | ServerStream, data: bytes, pattern: str) -> None:
        """Refused in one short line, and as soon as the bytes that say it are there."""
        with self.assertRaisesRegex(WireError, pattern) as caught:
            _read(stream, [data[i : i + 4096] for i in range(0, len(data), 4096)])
        text = str(caught.exception)
        self.assertTrue(text.isprintable() and 0 < len(text) < 300, text)


class Broken(_Hostile):
    def test_after_an_error_nothing_is_parsed_any_more(self) -> None:
        """Where the next message would begin is not known any more."""
        stream = _client_stream(JASMINE)
        self.refused(stream, b"\xff\x01\x04", "0xff")
        self.refused(stream, b"\x01", "0xff")


class HostileClients(_Hostile):
    """What a server makes of a client that is none, or means ill."""

    def introduced(self) -> ClientStream:
        stream = _client_stream()
        self.assertEqual(_read(stream, [_CLIENT[0][0]]), [_CLIENT[0][1]])
        return stream

    def test_a_hello_of_four_gibibytes(self) -> None:
        self.refused(_client_stream(), b"\xff\xff\xff\xff", "4294967295 bytes of JSON")
        self.refused(_client_stream(), struct.pack("!I", MAX_HELLO_SIZE + 1), "limit")

    def test_a_web_browser(self) -> None:
        self.refused(_client_stream(), b"GET / HTTP/1.1\r\n\r\n", "bytes of JSON")

    def test_a_hello_of_brackets(self) -> None:
        data = struct.pack("!I", MAX_HELLO_SIZE) + b"[" * MAX_HELLO_SIZE
        self.refused(_client_stream(), data, "cannot be read")

    def test_a_hello_that_is_none(self) -> None:
        fields = {"version": PROTOCOL_VERSION, "packets": "many"}
        self.refused(_client_stream(), encode_json(fields), "packets")
        for version in (1, 7):
            hello = encode_json({"version": version, "packets": 1})
            self.refused(_client_stream(), hello, f"version {version}, this is version 2")
        self.refused(_client_stream(), bytes(4), "cannot be read")

    def test_a_request_for_a_billion_packets(self) -> None:
        count = 1_000_000_000
        self.refused(self.introduced(), b"\x02" + struct.pack("!I", count), "a request for 1000000")
        self.refused(_client_stream(JASMINE), b"\x02" + struct.pack("<I", count), "limit")
        self.refused(self.introduced(), b"\x02" + struct.pack("!I", _MAX_REQUEST + 1), "limit")

    def test_the_largest_request_is_taken(self) -> None:
        seqs = tuple(range(_MAX_REQUEST))
        self.assertEqual(
            _read(self.introduced(), [Request(seqs).encode(KOLLACAST)]), [Request(seqs)]
        )
        stream = _client_stream(JASMINE)
        self.assertEqual(_read(stream, [Request(seqs).encode(JASMINE)]), [Request(seqs)])

    def test_bytes_that_begin_no_message_of_a_client(self) -> None:
        for tag in set(range(256)) - {0x02, 0x03, 0x05, 0x06, 0x12, 0x14, 0x80}:
            self.refused(self.introduced(), bytes((tag,)), f"{tag:#04x}")
        for tag in set(range(256)) - {0x01, 0x02, 0x04, 0x16}:
            self.refused(_client_stream(JASMINE), bytes((tag,)), f"{tag:#04x}")

    def test_tls_where_there_is_none(self) -> None:
        for dialect in (JASMINE, KOLLACAST):
            tls = bytes.fromhex("1603010200010001fc0303")
            self.refused(_client_stream(dialect), tls, "it speaks TLS, and this end does not")

    def test_a_challenged_client_responds_first(self) -> None:
        response, hello = Response("00aa", "0b" * 32), Hello("a", 1)
        stream = ClientStream(KOLLACAST, 1, is_challenged=True)
        said = response.encode() + hello.encode()
        self.assertEqual(
            _read(stream, [said[i : i + 1] for i in range(len(said))]), [response, hello]
        )
        self.refused(ClientStream(KOLLACAST, 1, is_challenged=True), hello.encode(), "identity")

    def test_credit_that_cannot_be(self) -> None:
        for done, room in ((1, 0), (0xFFFFFFFF, 0xFFFFFFFE)):
            credit = b"\x03" + struct.pack("!4I", done, room, 0, 0)
            self.refused(self.introduced(), credit, f"buffer {room} behind buffer {done}")
        for lost, runs in ((0, 1), (1, 0), (1, 2), (0xFFFFFFFF, 0)):
            credit = b"\x03" + struct.pack("!4I", 1, 2, lost, runs)
            self.refused(self.introduced(), credit, f"{lost} lost packets in {runs} runs")

    def test_fetches(self) -> None:
        for first, count in ((0, 65537), (0x7FFFFFFF, 2), (0x80000001, 0), (0xFFFFFFFF, 1)):
            fetch = b"\x12" + struct.pack("!2I", first, count)
            self.refused(self.introduced(), fetch, f"a fetch of {count} packets from {first} on")

    def test_reports(self) -> None:
        report = b"\x80" + struct.pack("!I", 0xFFFFFFFF)
        self.refused(self.introduced(), report, "bytes of JSON")
        self.refused(self.introduced(), b"\x80\x00\x00\x00\x02[]", "no object")


class HostileServers(_Hostile):
    """What a client makes of whatever answers at the server's address."""

    def greeted(self) -> ServerStream:
        stream = ServerStream()
        _read(stream, [GREETING.encode()], _asks_after_sent(stream, []))
        return stream

    def grouped(self, *packets_due: int) -> ServerStream:
        stream = ServerStream()
        data = GROUP_INFO + _bytes(JASMINE_SERVER[1:3]) if packets_due else GROUP_INFO
        _read(stream, [data], _asks_after_sent(stream, list(packets_due)))
        return stream

    def test_other_servers(self) -> None:
        for data in (
            b"HTTP/1.1 400 Bad Request\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"220 mail ESMTP\r\n",
            b"\0\0",
            b"KC\0\0",
            b"KCSU",
            b"\x00\x02",
            b"\x0a\x00",
        ):
            self.refused(ServerStream(), data, "no kollacast or jasmine server")

    def test_a_greeting_of_four_gibibytes(self) -> None:
        self.refused(ServerStream(), b"KCST\xff\xff\xff\xff", "4294967295 bytes of JSON")

    def test_a_greeting_of_brackets(self) -> None:
        data = b"KCST" + struct.pack("!I", MAX_JSON_SIZE) + b'{"a":' * (MAX_JSON_SIZE // 5) + b" "
        self.refused(ServerStream(), data, "cannot be read")

    def test_greetings_that_make_no_sense(self) -> None:
        for fields, pattern in (
            ({}, "version"),
            ({"version": 1}, "version 1, this is version 2"),
            ({"version": 2}, "mtu"),
            ({"refused": ["x"]}, "text"),
        ):
            self.refused(ServerStream(), b"KCST" + encode_json(fields), pattern)

    def test_a_group_that_is_no_group(self) -> None:
        self.refused(ServerStream(), bytes.fromhex("0200 47cf 0a000001") + bytes(8), "multicast")

    def test_a_packet_of_four_gibibytes(self) -> None:
        for size in (0xFFFFFFFF, _CAPACITY + 1):
            data = struct.pack("!B3I", 0x20, 0, 0, size)
            self.refused(self.greeted(), data, f"a packet of {size} bytes, 1460 is the limit")
            self.refused(self.grouped(1), struct.pack("<3I", 0, 0, size), "limit")

    def test_no_packet_is_taken_before_the_capacity_is_known(self) -> None:
        stream = ServerStream()
        data = GREETING.encode() + struct.pack("!B3I", 0x20, 0, 0, 1)
        self.refused(stream, data, "0 is the limit")

    def test_bytes_that_begin_no_message_of_a_server(self) -> None:
        for tag in set(range(256)) - {0x10, 0x14, 0x15, 0x16, 0x17, 0x20, 0x40, 0x80}:
            self.refused(self.greeted(), bytes((tag,)), f"{tag:#04x}")

    def test_a_part_of_the_control_stream_of_four_gibibytes(self) -> None:
        for size in (0xFFFFFFFF, MAX_CONTROL_SIZE + 1, 7, 0):
            part = b"\x16" + struct.pack("!I", size)
            self.refused(self.greeted(), part, f"{size} bytes of the control stream")

    def test_parts_of_the_control_stream_that_nobody_writes(self) -> None:
        for data, pattern in (
            (Control(1, 1, ()).data(KOLLACAST) + b"\x08", "nobody writes"),
            (Control(1, 1, ()).data(KOLLACAST) + b"\x14", "nobody writes"),
            (Control(2, 1, ()).data(KOLLACAST), "number 1"),
            (Control(0, 0, ()).data(KOLLACAST), "number 0"),
        ):
            part = b"\x16" + struct.pack("!I", len(data)) + data
            self.refused(self.greeted(), part, pattern)

    def test_anything_else_where_jasmine_s_sent_is_due(self) -> None:
        for tag in set(range(256)) - {0x08}:
            stream = self.grouped()
            self.refused(stream, JASMINE_SERVER[1][0] + bytes((tag,)), f"{tag:#04x} stands where")

    def test_reports(self) -> None:
        self.refused(self.greeted(), b"\x80\xff\xff\xff\xff", "bytes of JSON")
        self.refused(self.greeted(), b"\x80\x00\x00\x00\x04true", "no object")


def _fragments() -> st.SearchStrategy[bytes]:
    """Bytes that look more or less like parts of a session."""
    number = st.sampled_from((0, 1, 2, 12, 255, 1460, 1461, 65536, 65537, 0x7FFFFFFF, 0xFFFFFFFF))
    json_value: st.SearchStrategy[Any] = st.dictionaries(
        st.sampled_from(("version", "packets", "name", "refused", "mtu", "ok", "group")),
        st.none() | st.booleans() | st.integers(-1, 2000) | st.text(max_size=4),
    )
    return st.one_of(
        st.binary(max_size=20),
        st.sampled_from([data for data, _ in (*_SERVER, *_CLIENT)]),
        st.sampled_from([data for data, _ in (*JASMINE_SERVER, *JASMINE_CLIENT)]),
        st.integers(0, 255).map(lambda tag: bytes((tag,))),
        number.map(lambda value: struct.pack("!I", value)),
        number.map(lambda value: struct.pack("<I", value)),
        json_value.map(lambda fields: encode_json(fields)),
        json_value.map(lambda fields: b"KCST" + encode_json(fields)),
        st.text(max_size=30).map(lambda text: b"\x80" + encode_json({"reason": text})),
    )


class ArbitraryBytes(unittest.SynchronousTestCase):
    """Nothing but WireError, and never more than one message's bytes in memory."""

    limit = 5 + MAX_JSON_SIZE

    def survive(self, stream: ClientStream | ServerStream, pieces: list[bytes]) -> None:
        for piece in pieces:
            try:
                for message in stream.feed(piece):
                    self.assertIsNotNone(message)
            except WireError as error:
                text = str(error)
                self.assertTrue(text.isprintable() and 0 < len(text) < 300, text)
                return
            self.assertLess(stream.buffered, self.limit)

    @PROPERTY
    @given(st.lists(_fragments(), max_size=30), st.booleans())
    def test_from_a_client(self, pieces: list[bytes], introduced: bool) -> None:
        opening = [_CLIENT[0][0]] if introduced else []
        self.survive(_client_stream(), opening + pieces)
        self.survive(_client_stream(JASMINE), pieces)

    @PROPERTY
    @given(st.lists(_fragments(), max_size=30), st.integers(0, 3))
    def test_from_a_server(self, pieces: list[bytes], due: int) -> None:
        for opening in (b"", GREETING.encode(), GROUP_INFO):
            stream = ServerStream()
            stream.capacity = _CAPACITY
            stream.expect_packets(due)
            self.survive(stream, [opening, *pieces])

    def test_what_waits_is_bounded_by_one_message(self) -> None:
        """However much comes of a message that never ends, in pieces as a transport's."""
        piece = b" " * 65536
        for stream, opening, size in (
            (_client_stream(), b"", MAX_HELLO_SIZE),
            (ServerStream(), b"KCST", MAX_JSON_SIZE),
        ):
            self.survive(stream, [opening + struct.pack("!I", size), piece[: size - 1]])
            self.assertEqual(stream.buffered, size - 1)
            with self.assertRaises(WireError):
                _read(stream, [piece])


class Queue(unittest.SynchronousTestCase):
    """The receive queue under the streams."""

    def test_bytes_leave_in_the_order_in_which_they_came(self) -> None:
        queue = ReceiveQueue()
        queue.append(b"abc")
        queue.append(b"")
        queue.append(b"defg")
        self.assertEqual(len(queue), 7)
        self.assertEqual([queue.take(n) for n in (1, 0, 4, 2)], [b"a", b"", b"bcde", b"fg"])
        self.assertEqual(len(queue), 0)
        self.assertEqual(queue.take(0), b"")

    def test_what_has_been_taken_is_given_back(self) -> None:
        """A stream of any length costs no more memory than what waits of it."""
        queue = ReceiveQueue()
        queue.append(b"the rest of a message")
        piece = bytes(65536)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(200):
            queue.append(piece)
            queue.take(len(piece))
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak, 20 * len(piece))

    @PROPERTY
    @given(st.lists(st.binary(max_size=20) | st.integers(0, 20), max_size=60))
    def test_any_order_of_operations(self, operations: list[bytes | int]) -> None:
        queue, model = ReceiveQueue(), b""
        for operation in operations:
            if isinstance(operation, bytes):
                queue.append(operation)
                model += operation
            else:
                count = min(operation, len(model))
                self.assertEqual(queue.take(count), model[:count])
                model = model[count:]
            self.assertEqual(len(queue), len(model))
