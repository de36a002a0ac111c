#!/usr/bin/env python3
"""An independent jasmine server for interop tests: strict and fragile like the C `jasmines`.

    jasmine_server.py <local_ip> <number_of_clients> [port] < image

Shares no line with the program under test, so that a misreading there is not repeated here.
One buffer at a time, its packets multicast from the last to the first; a client that says a
byte out of turn, or goes away, ends the whole session: one line on standard error and exit
status 1 (2 for usage). Who comes too late waits in the backlog, and is reset at the end. Port 0
takes a free one, which standard error then names. There are two generations of the C program:
1, up to May 2017, and 2, all since.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, TextIO

DEFAULT_PORT = 18383
DEFAULT_GROUP = "224.238.0.31"
DEFAULT_TTL = 8
#: Packets of a buffer, by generation.
MAX_BUFFER_PACKETS = {1: 1024, 2: 65536}
PACKET_BYTES = 1460  # payload of a packet at MTU 1500

_HEADER = struct.Struct("<III")  # seq, sum, data_size
_BUFFER_CTL = struct.Struct("<IIII")  # buffer_id, buffer_size, packet_id_base, pkt_count
_READY = 0x01
_REQ = 0x02
_DONE = 0x04
_SENT = 0x08
# What short reads of the pipe leave, in turn: odd sizes, one word, just below the capacity.
_SHORT_SIZES = (1, 700, 3, 1459, 4, 1457, 2)


class PeerError(Exception):
    """A client broke the dialect, or went away; the text is one line for the user."""


@dataclass
class ServerTally:
    """What one session sent; the empty buffer at the end counts as one."""

    bytes_read: int = 0
    buffers: int = 0
    packets: int = 0
    multicast_packets: int = 0
    corrupted_packets: int = 0
    requested_packets: int = 0


@dataclass(frozen=True)
class Mischief:
    """What the server does wrong, or as badly as the real one; 0 and False mean not at all."""

    short_reads: bool = False  # every third packet is short, also in mid-stream
    lose_every: int = 0  # every Nth packet is not multicast
    corrupt_every: int = 0  # every Nth datagram has one byte flipped


class Trace:
    """JSON lines in order: `direction` "S>C", "C>S" or "udp", and `bytes` in hex.

    One line a message, with the number of its `client` (from 0, as accepted) on TCP;
    datagrams as they went out. The server's close is an "S>C" line of no bytes.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def add(self, direction: str, data: bytes, client: int | None = None) -> None:
        if self._file is None:
            return
        line: dict[str, str | int] = {"direction": direction, "bytes": data.hex()}
        if client is not None:
            line["client"] = client
        self._file.write(json.dumps(line) + "\n")


def word_sum(data: bytes) -> int:
    """Sum modulo 2**32 of the little-endian 32-bit words, the last one padded with zeros."""
    total = 0
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        total += word
    total += int.from_bytes(data[whole:], "little")
    return total & 0xFFFFFFFF


def serve(
    local_ip: str,
    number_of_clients: int,
    port: int,
    source: BinaryIO,
    *,
    group: str = DEFAULT_GROUP,
    ttl: int = DEFAULT_TTL,
    buffer_packets: int = MAX_BUFFER_PACKETS[2],
    mischief: Mischief | None = None,
    patience_s: float = 120.0,
    watch_s: float = 0.0,
    trace: Trace | None = None,
    on_listening: Callable[[int], None] | None = None,
) -> ServerTally:
    """Send all of `source` to `number_of_clients` clients; return the tally.

    `port` 0 takes a free one; `on_listening` is called with the port once clients may come.
    `patience_s` is the longest silence of all clients that are to speak. Wherever clients
    have to be quiet, the server listens for `watch_s` seconds whether they are.

    Raises `PeerError` for a breach of the dialect, `OSError` where a socket or file fails.
    """
    listener = _listen(port)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    session: _Session | None = None
    try:
        port = listener.getsockname()[1]
        interface = socket.inet_aton(local_ip)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        udp.connect((group, port))
        session = _Session(udp, trace or Trace(None), mischief or Mischief(), patience_s, watch_s)
        if on_listening is not None:
            on_listening(port)
        info = struct.pack("<H", socket.AF_INET) + struct.pack(">H", port)
        session.accept(listener, number_of_clients, info + socket.inet_aton(group) + bytes(8))
        while session.one_buffer(source, buffer_packets):
            pass
        session.close_clients()
        return session.tally
    finally:
        listener.close()
        udp.close()
        if session is not None:
            session.abandon_clients()


def _listen(port: int) -> socket.socket:
    """Listen on TCP `port`; a port that the system picks is free for UDP as well."""
    while True:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        if port != 0:
            return listener
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", listener.getsockname()[1]))
                return listener
            except OSError:
                listener.close()


class _Client:
    """One accepted connection and what it has said that is not yet understood."""

    def __init__(self, number: int, sock: socket.socket, address: str) -> None:
        self.number = number
        self.sock = sock
        self.name = f"client {number} ({address})"
        self.inbox = bytearray()
        self.gone = False  # closed its end after the last DONE

    def fileno(self) -> int:
        return self.sock.fileno()


class _Session:
    """The clients of one session, and the single buffer under way."""

    def __init__(
        self,
        udp: socket.socket,
        trace: Trace,
        mischief: Mischief,
        patience_s: float,
        watch_s: float,
    ) -> None:
        self.tally = ServerTally()
        self._udp = udp
        self._trace = trace
        self._mischief = mischief
        self._patience_s = patience_s
        self._watch_s = watch_s
        self._clients: list[_Client] = []
        self._base = 0
        self._packets: list[bytes] = []

    def accept(self, listener: socket.socket, number_of_clients: int, group_info: bytes) -> None:
        """Wait for all clients; each hears `group_info` at once and has nothing to say yet."""
        while len(self._clients) < number_of_clients:
            anyone: list[socket.socket | _Client] = [listener, *self._clients]
            readable, _, _ = select.select(anyone, [], [], self._patience_s)
            if not readable:
                raise PeerError(f"only {len(self._clients)} of {number_of_clients} clients came")
            for one in readable:
                if isinstance(one, _Client):
                    self._hear_nothing(one, "before a buffer was announced")
            if listener in readable:
                sock, (address, _) = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(self._patience_s)
                client = _Client(len(self._clients), sock, address)
                self._clients.append(client)
                self._tell(client, group_info)

    def one_buffer(self, source: BinaryIO, buffer_packets: int) -> bool:
        """Take one buffer from `source` through all phases; False after the empty one."""
        payloads = self._fill(source, buffer_packets)
        self._base += len(self._packets)
        self._packets = [
            _HEADER.pack(self._base + i, word_sum(data), len(data)) + data
            for i, data in enumerate(payloads)
        ]
        size = sum(map(len, payloads))
        self.tally.buffers += 1
        self.tally.packets += len(payloads)
        self.tally.bytes_read += size
        self._expect_quiet("before a buffer was announced")
        self._tell_all(_BUFFER_CTL.pack(self.tally.buffers, size, self._base, len(payloads)))
        self._collect_ready()
        self._multicast()
        self._expect_quiet("between READY and SENT")
        self._tell_all(bytes([_SENT]))
        self._collect_done(last=not payloads)
        return bool(payloads)

    def close_clients(self) -> None:
        """Close all connections; a client may close too, but it has nothing more to say."""
        self._expect_quiet("after the end of the stream", last=True)
        for client in self._clients:
            self._trace.add("S>C", b"", client.number)
            client.sock.close()

    def abandon_clients(self) -> None:
        for client in self._clients:
            client.sock.close()

    def _fill(self, source: BinaryIO, buffer_packets: int) -> list[bytes]:
        payloads: list[bytes] = []
        while len(payloads) < buffer_packets:
            size = PACKET_BYTES
            number = self.tally.packets + len(payloads)
            if self._mischief.short_reads and number % 3 == 1:
                size = _SHORT_SIZES[number // 3 % len(_SHORT_SIZES)]
            data = source.read(size)
            if not data:
                break
            payloads.append(data)
        return payloads

    def _multicast(self) -> None:
        lose, corrupt = self._mischief.lose_every, self._mischief.corrupt_every
        for index in range(len(self._packets) - 1, -1, -1):
            number = self.tally.packets - index  # counts on from the buffers before
            if lose and number % lose == 0:
                continue
            datagram = self._packets[index]
            self.tally.multicast_packets += 1
            if corrupt and self.tally.multicast_packets % corrupt == 0:
                datagram = _flip_a_byte(datagram, self.tally.corrupted_packets)
                self.tally.corrupted_packets += 1
            self._trace.add("udp", datagram)
            self._udp.send(datagram)

    def _collect_ready(self) -> None:
        pending = set(self._clients)
        while pending:
            for client in self._speaking("READY", len(pending)):
                if client not in pending:
                    self._hear_nothing(client, "between READY and SENT")
                self._hear(client)
                if client.inbox != bytes([_READY]):
                    raise PeerError(
                        f"{client.name}: {_head(client.inbox)} where READY (01) alone belongs"
                    )
                self._trace.add("C>S", bytes(client.inbox), client.number)
                client.inbox.clear()
                pending.discard(client)

    def _collect_done(self, last: bool) -> None:
        pending = set(self._clients)
        while pending:
            for client in self._speaking("DONE", len(pending)):
                if client not in pending:
                    if last:
                        self._hear_at_most_the_end(client)
                    else:
                        self._hear_nothing(client, "between DONE and the next buffer")
                    continue
                self._hear(client)
                if self._understand(client):
                    pending.discard(client)

    def _understand(self, client: _Client) -> bool:
        """Answer a whole request in the inbox; True for DONE."""
        inbox = client.inbox
        if inbox[0] == _DONE:
            size = 1
        elif inbox[0] == _REQ:
            if len(inbox) < 5:
                return False
            (count,) = struct.unpack_from("<I", inbox, 1)
            if count > MAX_BUFFER_PACKETS[2]:
                raise PeerError(f"{client.name}: asks for {count} packets at once")
            size = 5 + 4 * count
            if len(inbox) < size:
                return False
        else:
            raise PeerError(f"{client.name}: {_head(inbox)} where CLIENT_REQ or DONE belongs")
        if len(inbox) > size:
            raise PeerError(f"{client.name}: {_head(inbox[size:])} after {_head(inbox[:size])}")
        message = bytes(inbox)
        inbox.clear()
        self._trace.add("C>S", message, client.number)
        if message[0] == _DONE:
            return True
        answers = [self._answer(seq) for (seq,) in struct.iter_unpack("<I", message[5:])]
        self.tally.requested_packets += len(answers)
        for answer in answers:
            self._trace.add("S>C", answer, client.number)
        self._send(client, b"".join(answers))
        return False

    def _answer(self, seq: int) -> bytes:
        if self._base <= seq < self._base + len(self._packets):
            return self._packets[seq - self._base]
        return _HEADER.pack(seq, 0, 0)

    def _speaking(self, what: str, pending: int) -> list[_Client]:
        present = [client for client in self._clients if not client.gone]
        readable, _, _ = select.select(present, [], [], self._patience_s)
        if not readable:
            raise PeerError(f"{pending} clients do not say {what}")
        return readable

    def _expect_quiet(self, when: str, last: bool = False) -> None:
        """Listen for `watch_s` seconds, at least to what is there already."""
        deadline = time.monotonic() + self._watch_s
        while True:
            present = [client for client in self._clients if not client.gone]
            left_s = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select(present, [], [], left_s)
            if not readable:
                return
            for client in readable:
                if last:
                    self._hear_at_most_the_end(client)
                else:
                    self._hear_nothing(client, when)

    def _hear(self, client: _Client) -> None:
        try:
            more = client.sock.recv(65536)
        except OSError as error:
            raise PeerError(f"{client.name}: {error.strerror}") from None
        if not more:
            raise PeerError(f"{client.name}: closed in the middle of the stream")
        client.inbox += more

    def _hear_nothing(self, client: _Client, when: str) -> NoReturn:
        self._hear(client)
        raise PeerError(f"{client.name}: speaks {when}: {_head(client.inbox)}")

    def _hear_at_most_the_end(self, client: _Client) -> None:
        try:
            extra = client.sock.recv(65536)
        except OSError:
            extra = b""
        if extra:
            raise PeerError(f"{client.name}: speaks after the end of the stream: {_head(extra)}")
        client.gone = True

    def _tell_all(self, message: bytes) -> None:
        for client in self._clients:
            self._tell(client, message)

    def _tell(self, client: _Client, message: bytes) -> None:
        self._trace.add("S>C", message, client.number)
        self._send(client, message)

    def _send(self, client: _Client, data: bytes) -> None:
        try:
            client.sock.sendall(data)
        except TimeoutError:
            raise PeerError(f"{client.name}: does not read") from None
        except OSError as error:
            raise PeerError(f"{client.name}: {error.strerror}") from None


def _flip_a_byte(datagram: bytes, turn: int) -> bytes:
    """Flip bits of one byte, in another field each `turn`, so that any client can tell.

    The sum does not cover the header: of `seq` only the top byte is flipped, which lands
    outside every buffer, for a wrong seq inside the buffer nobody could find out.
    """
    places = (3, 4, 7, 8, 11, 12, (12 + len(datagram)) // 2, len(datagram) - 1)
    damaged = bytearray(datagram)
    damaged[places[turn % len(places)]] ^= 0xA5
    return bytes(damaged)


def _head(data: bytes | bytearray) -> str:
    return data[:16].hex() + ("..." if len(data) > 16 else "")


def _whole_number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _packets_a_buffer(text: str) -> int:
    value = _whole_number(text)
    most = MAX_BUFFER_PACKETS[2]
    if value > most:
        raise argparse.ArgumentTypeError(f"{value} is more than {most}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program: 0 when every client has all, 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="jasmine_server", description=__doc__.split("\n")[0])
    parser.add_argument("local_ip", help="address of the interface that multicast leaves by")
    parser.add_argument("number_of_clients", type=_whole_number)
    parser.add_argument("port", nargs="?", type=int, default=DEFAULT_PORT, help="0: a free one")
    parser.add_argument("--input", metavar="FILE", help="default: standard input")
    parser.add_argument("--group", default=DEFAULT_GROUP)
    parser.add_argument("--ttl", type=_whole_number, default=DEFAULT_TTL)
    parser.add_argument("--generation", type=int, choices=sorted(MAX_BUFFER_PACKETS), default=2)
    parser.add_argument("--buffer-packets", type=_packets_a_buffer, help="fewer than it would take")
    parser.add_argument("--short-reads", action="store_true", help="short packets in mid-stream")
    parser.add_argument("--lose", metavar="N", type=_whole_number, default=0)
    parser.add_argument("--corrupt", metavar="N", type=_whole_number, default=0)
    parser.add_argument("--patience", metavar="SECONDS", type=float, default=120.0)
    parser.add_argument("--watch", metavar="SECONDS", type=float, default=0.0)
    parser.add_argument("--record", metavar="FILE", help="write a trace in JSON lines")
    options = parser.parse_args(argv)
    most = MAX_BUFFER_PACKETS[options.generation]

    def announce(port: int) -> None:
        print(f"jasmine_server: listening on port {port}", file=sys.stderr, flush=True)

    try:
        with ExitStack() as files:
            source: BinaryIO = sys.stdin.buffer
            if options.input:
                source = files.enter_context(open(options.input, "rb"))
            record: TextIO | None = None
            if options.record:
                record = files.enter_context(open(options.record, "w", encoding="ascii"))
            tally = serve(
                options.local_ip,
                options.number_of_clients,
                options.port,
                source,
                group=options.group,
                ttl=options.ttl,
                buffer_packets=min(most, options.buffer_packets or most),
                mischief=Mischief(options.short_reads, options.lose, options.corrupt),
                patience_s=options.patience,
                watch_s=options.watch,
                trace=Trace(record),
                on_listening=announce,
            )
    except (PeerError, OSError, OverflowError) as error:
        print(f"jasmine_server: {error}", file=sys.stderr)
        return 1
    print(
        f"jasmine_server: {tally.bytes_read} bytes in {tally.buffers} buffers, "
        f"{tally.multicast_packets} packets multicast, {tally.requested_packets} asked for",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
