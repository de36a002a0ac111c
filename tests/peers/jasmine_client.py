#!/usr/bin/env python3
"""An independent jasmine client for interop tests: strict and fragile like the C `jasminec`.

    jasmine_client.py <local_ip> <server_ip> [port] > image

Shares no line with the program under test, so that a misreading there is not repeated here.
It never speaks first, holds one buffer of slots of 1472 bytes, asks once a buffer for the slots
that are empty, and gives up at the first byte that the dialect does not allow: one line on
standard error and exit status 1 (2 for usage). The image goes out buffer by buffer, so a
failed run leaves a part of it, as the C program does. There are two generations of that: 1, up
to May 2017, and 2, all since.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, TextIO

DEFAULT_PORT = 18383
SLOT_BYTES = 1472


@dataclass(frozen=True)
class Generation:
    """What the C programs of one time have in them; on the wire they are alike."""

    slots: int  # packets of a buffer, at the most
    silence_s: float  # between READY and SENT, while slots are empty and no datagram comes


GENERATIONS = {1: Generation(1024, 5.0), 2: Generation(65536, 20.0)}

_HEADER = struct.Struct("<III")  # seq, sum, data_size
_BUFFER_CTL = struct.Struct("<IIII")  # buffer_id, buffer_size, packet_id_base, pkt_count
_READY = b"\x01"
_REQ = b"\x02"
_DONE = b"\x04"
_SENT = b"\x08"
_MAX_DATA = SLOT_BYTES - _HEADER.size
_RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
_SO_RCVBUFFORCE = 33  # Linux, asm-generic/socket.h; needs CAP_NET_ADMIN


class PeerError(Exception):
    """The server broke the dialect, or went away; the text is one line for the user."""


@dataclass
class ClientTally:
    """What one session brought. Packets are counted once each, bytes are payload bytes."""

    bytes_written: int = 0
    buffers: int = 0
    multicast_packets: int = 0
    repaired_packets: int = 0
    refused_datagrams: int = 0  # damaged, foreign, or thrown away by `drop_every`


class Trace:
    """JSON lines in order: `direction` "S>C", "C>S" or "udp", and `bytes` in hex.

    One line a message; every datagram that arrived, also one that is then refused. The
    server's orderly close is an "S>C" line of no bytes.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def add(self, direction: str, data: bytes) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"direction": direction, "bytes": data.hex()}) + "\n")


def word_sum(data: bytes) -> int:
    """Sum modulo 2**32 of the little-endian 32-bit words, the last one padded with zeros."""
    padded = data + b"\0" * (-len(data) % 4)
    words: tuple[int, ...] = struct.unpack(f"<{len(padded) // 4}I", padded)
    return sum(words) & 0xFFFFFFFF


def receive(
    local_ip: str,
    server_ip: str,
    port: int,
    output: BinaryIO,
    *,
    drop_every: int = 0,
    ask_again: bool = False,
    generation: Generation = GENERATIONS[2],
    patience_s: float = 120.0,
    watch_s: float = 0.0,
    trace: Trace | None = None,
) -> ClientTally:
    """Run one session and write the image to `output`; return its tally.

    `drop_every` N throws away every Nth datagram (0: none). `ask_again` asks for the last
    packet of each buffer although it is there, which no C client does. `generation` bounds the
    wait for data, and `patience_s`, for the sake of the tests, all that a C client waits for
    without an end. Each time before the client speaks it listens for `watch_s` seconds that the
    server does not speak out of turn.

    Raises `PeerError` for a breach of the dialect, `OSError` where a socket or file fails.
    """
    with socket.create_connection((server_ip, port), timeout=patience_s) as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = _Session(tcp, output, trace or Trace(None), drop_every, ask_again)
        session.generation = generation
        session.patience_s = patience_s
        session.watch_s = watch_s
        group, group_port = session.read_group_info()
        with _join(local_ip, group, group_port) as udp:
            while session.one_buffer(udp):
                pass
        session.wait_for_close()
    return session.tally


def _join(local_ip: str, group: str, port: int) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        except OSError:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        udp.bind(("", port))
        membership = socket.inet_aton(group) + socket.inet_aton(local_ip)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        udp.setblocking(False)
    except BaseException:
        udp.close()
        raise
    return udp


class _Session:
    """One TCP connection to the server, and the single buffer under way."""

    generation = GENERATIONS[2]
    patience_s = 120.0
    watch_s = 0.0

    def __init__(
        self, tcp: socket.socket, output: BinaryIO, trace: Trace, drop_every: int, ask_again: bool
    ) -> None:
        self.tally = ClientTally()
        self._tcp = tcp
        self._output = output
        self._trace = trace
        self._drop_every = drop_every
        self._ask_again = ask_again
        self._datagrams = 0
        self._used_ids: set[int] = set()
        self._base = 0
        self._next_base = 0
        self._slots: list[bytes | None] = []
        self._empty = 0

    def read_group_info(self) -> tuple[str, int]:
        info = self._read("the group info", 16, self.patience_s)
        self._trace.add("S>C", info)
        (family,) = struct.unpack_from("<H", info, 0)
        (port,) = struct.unpack_from(">H", info, 2)
        if family != socket.AF_INET:
            raise PeerError(f"group info has address family {family}, not 2")
        if port == 0:
            raise PeerError("group info has port 0")
        if not 224 <= info[4] <= 239:
            raise PeerError(f"group {socket.inet_ntoa(info[4:8])} is not a multicast address")
        return socket.inet_ntoa(info[4:8]), port

    def one_buffer(self, udp: socket.socket) -> bool:
        """Go through one buffer from its announcement to DONE; False after the empty one."""
        buffer_size, pkt_count = self._read_buffer_ctl()
        self._slots = [None] * pkt_count
        self._empty = pkt_count
        self._speak(_READY)
        self._take_datagrams_until_sent(udp)
        wanted = [self._base + i for i, data in enumerate(self._slots) if data is None]
        last = self._base + pkt_count - 1
        if self._ask_again and pkt_count and last not in wanted:
            wanted.append(last)
        if wanted:
            self._speak(_REQ + struct.pack(f"<I{len(wanted)}I", len(wanted), *wanted))
            for seq in wanted:
                self._take_retransmission(seq)
        self._flush(buffer_size)
        self._speak(_DONE)
        return pkt_count > 0

    def wait_for_close(self) -> None:
        self._tcp.settimeout(self.patience_s)
        try:
            extra = self._tcp.recv(4096)
        except TimeoutError:
            raise PeerError("server does not close after the end of the stream") from None
        if extra:
            raise PeerError(f"server speaks after the end of the stream: {_head(extra)}")
        self._trace.add("S>C", b"")

    def _read_buffer_ctl(self) -> tuple[int, int]:
        raw = self._read("buffer_ctl", _BUFFER_CTL.size, self.patience_s)
        self._trace.add("S>C", raw)
        buffer_id, buffer_size, base, pkt_count = _BUFFER_CTL.unpack(raw)
        slots = self.generation.slots
        if pkt_count > slots:
            raise PeerError(f"buffer {buffer_id} has {pkt_count} packets, more than {slots}")
        if not self._used_ids and buffer_id != 1:
            raise PeerError(f"the first buffer_id is {buffer_id}, not 1")
        if buffer_id in self._used_ids:
            raise PeerError(f"buffer_id {buffer_id} comes twice")
        if not self._used_ids and base != 0:
            raise PeerError(f"the first seq is {base}, not 0")
        if base < self._next_base:
            raise PeerError(f"buffer {buffer_id} begins at seq {base}, which is used already")
        if not pkt_count <= buffer_size <= pkt_count * _MAX_DATA:
            raise PeerError(f"{buffer_size} bytes do not fit {pkt_count} packets")
        self._used_ids.add(buffer_id)
        self._base = base
        self._next_base = base + pkt_count
        return buffer_size, pkt_count

    def _take_datagrams_until_sent(self, udp: socket.socket) -> None:
        while True:
            # For SENT behind a complete buffer no timer runs.
            timeout_s = self.generation.silence_s if self._empty else self.patience_s
            readable, _, _ = select.select([udp, self._tcp], [], [], timeout_s)
            if not readable:
                raise PeerError(f"{timeout_s:g} seconds of silence while waiting for data")
            # Datagrams first: what was sent before SENT shall count before SENT.
            self._drain(udp)
            if self._tcp in readable:
                break
        signal = self._read("SENT", 1, self.patience_s)
        self._trace.add("S>C", signal)
        if signal != _SENT:
            raise PeerError(f"signal {_head(signal)} where SENT (08) belongs")
        self._drain(udp)

    def _drain(self, udp: socket.socket) -> None:
        while True:
            try:
                datagram = udp.recv(SLOT_BYTES + 1)
            except BlockingIOError:
                return
            self._trace.add("udp", datagram)
            self._datagrams += 1
            dropped = self._drop_every > 0 and self._datagrams % self._drop_every == 0
            if dropped or not self._accept(datagram):
                self.tally.refused_datagrams += 1

    def _accept(self, datagram: bytes) -> bool:
        if not _HEADER.size < len(datagram) <= SLOT_BYTES:
            return False
        seq, checksum, data_size = _HEADER.unpack_from(datagram)
        data = datagram[_HEADER.size :]
        if data_size == 0 or data_size != len(data) or word_sum(data) != checksum:
            return False
        if not self._base <= seq < self._next_base:
            return False
        if self._slots[seq - self._base] is None:
            self._slots[seq - self._base] = data
            self._empty -= 1
            self.tally.multicast_packets += 1
        return True

    def _take_retransmission(self, wanted: int) -> None:
        header = self._read(f"packet {wanted}", _HEADER.size, self.patience_s)
        seq, checksum, data_size = _HEADER.unpack(header)
        if seq != wanted:
            raise PeerError(f"retransmission of packet {seq} where {wanted} was asked for")
        if data_size == 0:
            raise PeerError(f"server does not hold packet {wanted}")
        if data_size > _MAX_DATA:
            raise PeerError(f"retransmission of packet {wanted} has {data_size} bytes")
        data = self._read(f"packet {wanted}", data_size, self.patience_s)
        self._trace.add("S>C", header + data)
        if word_sum(data) != checksum:
            raise PeerError(f"retransmission of packet {wanted} has a wrong sum")
        held = self._slots[seq - self._base]
        if held is None:
            self._slots[seq - self._base] = data
            self.tally.repaired_packets += 1
        elif held != data:
            raise PeerError(f"retransmission of packet {wanted} differs from its multicast")

    def _flush(self, buffer_size: int) -> None:
        # Short packets may stand anywhere: the place of a packet is the running total.
        data = b"".join(packet for packet in self._slots if packet is not None)
        if len(data) != buffer_size:
            raise PeerError(f"buffer has {len(data)} bytes where {buffer_size} were announced")
        self._output.write(data)
        self._output.flush()
        self.tally.bytes_written += len(data)
        self.tally.buffers += 1

    def _speak(self, message: bytes) -> None:
        """Send what the server now waits for; until it comes the server has to be quiet."""
        readable, _, _ = select.select([self._tcp], [], [], self.watch_s)
        if readable:
            early = self._tcp.recv(64, socket.MSG_PEEK)
            if not early:
                raise PeerError("server closed in the middle of the stream")
            raise PeerError(f"server speaks out of turn: {_head(early)}")
        self._trace.add("C>S", message)
        self._tcp.settimeout(self.patience_s)
        self._tcp.sendall(message)

    def _read(self, what: str, size: int, timeout_s: float) -> bytes:
        """Exactly `size` bytes; `timeout_s` is the longest pause between two arrivals."""
        self._tcp.settimeout(timeout_s)
        got = bytearray()
        while len(got) < size:
            try:
                more = self._tcp.recv(size - len(got))
            except TimeoutError:
                raise PeerError(f"{timeout_s:g} seconds of silence waiting for {what}") from None
            if not more:
                raise PeerError(f"server closed where {what} belongs")
            got += more
        return bytes(got)


def _head(data: bytes) -> str:
    return data[:16].hex() + ("..." if len(data) > 16 else "")


def _whole_number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program: 0 when the whole stream came, 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="jasmine_client", description=__doc__.split("\n")[0])
    parser.add_argument("local_ip", help="address of the interface that multicast enters by")
    parser.add_argument("server_ip")
    parser.add_argument("port", nargs="?", type=_whole_number, default=DEFAULT_PORT)
    parser.add_argument("--output", metavar="FILE", help="default: standard output")
    parser.add_argument("--drop", metavar="N", type=_whole_number, default=0)
    parser.add_argument("--ask-again", action="store_true", help="ask for last packets twice")
    parser.add_argument("--generation", type=int, choices=sorted(GENERATIONS), default=2)
    parser.add_argument("--patience", metavar="SECONDS", type=float, default=120.0)
    parser.add_argument("--watch", metavar="SECONDS", type=float, default=0.0)
    parser.add_argument("--record", metavar="FILE", help="write a trace in JSON lines")
    options = parser.parse_args(argv)
    try:
        with ExitStack() as files:
            output: BinaryIO = sys.stdout.buffer
            if options.output:
                output = files.enter_context(open(options.output, "wb"))
            record: TextIO | None = None
            if options.record:
                record = files.enter_context(open(options.record, "w", encoding="ascii"))
            tally = receive(
                options.local_ip,
                options.server_ip,
                options.port,
                output,
                drop_every=options.drop,
                ask_again=options.ask_again,
                generation=GENERATIONS[options.generation],
                patience_s=options.patience,
                watch_s=options.watch,
                trace=Trace(record),
            )
    except (PeerError, OSError, OverflowError) as error:
        print(f"jasmine_client: {error}", file=sys.stderr)
        return 1
    print(
        f"jasmine_client: {tally.bytes_written} bytes in {tally.buffers} buffers, "
        f"{tally.multicast_packets} packets by multicast, {tally.repaired_packets} repaired, "
        f"{tally.refused_datagrams} datagrams refused",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
