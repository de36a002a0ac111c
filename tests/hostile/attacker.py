"""One stranger in the server's network, who attacks a session in one way until he is ended.

    python -m tests.hostile.attacker KIND SERVER PORT [--seem ADDRESS] [--rate N]

What a kind does is said at the functions below. Datagrams leave as frames, ``--rate`` of them a
second, and seem to come from ``--seem``, which need not be the stranger's own address. The
session's salt and group are in the greeting, which the server sends to whoever connects; with
``--sniff`` they are found from the first packet that comes by. Says "attacking" once the first have
left, or once he lies in wait. Needs root, for frames with any address.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from kollacast.transport.vectors import MMsgHdr, function
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import MAGIC, Greeting
from kollacast.wire.messages import BufferCtl, Control, Notice, Sent
from kollacast.wire.recipes import Recipe, combination_seq, control_seq, parity_seq, recipe_seq
from kollacast.wire.structures import MAX_JSON_SIZE, SEQ_LIMIT, payload_capacity

#: Frames that are made beforehand, and sent again and again.
_POOL = 1024
_BATCH = 64
_DEVICE = "eth0"
#: Connections that are held open: more than the server holds of those that say nothing.
_HELD = 2000
_CONNECT_S = 5.0

_random = random.Random(7)


# Datagrams.


def junk(greeting: Greeting) -> Iterator[bytes]:
    """Bytes that mean nothing, of lengths that a packet may have."""
    while True:
        yield _random.randbytes(_random.randrange(1, 40))


def full_junk(greeting: Greeting) -> Iterator[bytes]:
    """The same as long as a packet is."""
    while True:
        yield _random.randbytes(12 + payload_capacity(greeting.mtu))


def data(greeting: Greeting) -> Iterator[bytes]:
    """Packets of the image, of its first 100,000, with the right checksum and wrong content."""
    yield from _sealed(greeting, lambda: _random.randrange(100_000))


def parity(greeting: Greeting) -> Iterator[bytes]:
    """Parity packets that nobody has made."""
    yield from _sealed(greeting, lambda: parity_seq(_random.randrange(10_000)))


def recipes(greeting: Greeting) -> Iterator[bytes]:
    """Recipes of combinations that never come, as many as fit, of packets that may be lacking."""
    capacity = payload_capacity(greeting.mtu)
    words = capacity // 4 - 1
    for number in range(1 << 29):
        first = combination_seq(number * words // 2)
        terms = tuple((_random.randrange(100_000),) for _ in range(words // 2))
        yield _packet(greeting, recipe_seq(number), Recipe(first, terms).encode(capacity))


def control(greeting: Greeting) -> Iterator[bytes]:
    """Notices that the server has not made: announced, sent, of any number."""
    while True:
        number = _random.randrange(1, 200)
        ctl = BufferCtl(number, 1460, _random.randrange(100_000), 1)
        notices: tuple[Notice, ...] = (ctl, Sent(number, 1))
        oldest = _random.randrange(1, 200)
        told = Control(oldest, oldest, notices).data(KOLLACAST)
        yield _packet(greeting, control_seq(_random.randrange(1 << 29)), told)


def _sealed(greeting: Greeting, seq: Callable[[], int]) -> Iterator[bytes]:
    while True:
        yield _packet(greeting, seq(), _random.randbytes(payload_capacity(greeting.mtu)))


def _packet(greeting: Greeting, seq: int, payload: bytes) -> bytes:
    """A packet of this session, as its server seals it."""
    codec = KOLLACAST.codec(greeting.salt, best_crc32c()[0])
    return codec.header(seq, memoryview(payload)) + payload


class _Frames:
    """Sends datagrams as frames that seem to come from the address ``source``."""

    def __init__(self, source: str, group: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((_DEVICE, 0))
        mac = self._socket.getsockname()[4]
        address = socket.inet_aton(group[0])
        # A group's MAC address has the lower 23 bits of the group: RFC 1112, 6.4.
        to = bytes((1, 0, 0x5E, address[1] & 0x7F, *address[2:]))
        self._ethernet = to + mac + struct.pack("!H", 0x0800)
        self._addresses = socket.inet_aton(source) + address
        self._ports = struct.pack("!HH", 12345, group[1])
        types = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        self._sendmmsg = function("sendmmsg", *types)

    def frame(self, datagram: bytes) -> bytes:
        """A datagram in UDP without a checksum, IP and Ethernet."""
        size = 28 + len(datagram)
        ip = struct.pack("!BBHIBBH", 0x45, 0, size, 0, 8, socket.IPPROTO_UDP, 0) + self._addresses
        total = sum(struct.unpack("!10H", ip))
        total = (total & 0xFFFF) + (total >> 16)
        ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
        return self._ethernet + ip + self._ports + struct.pack("!HH", size - 20, 0) + datagram

    def send(self, frames: Sequence[bytes], rate: int) -> None:
        """Send these, over and over, so many a second."""
        memory = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        words = (ctypes.c_size_t * (2 * len(memory)))()
        messages = (MMsgHdr * len(memory))()
        for index, (each, message) in enumerate(zip(memory, messages, strict=True)):
            words[2 * index], words[2 * index + 1] = ctypes.addressof(each), len(each)
            message.hdr.iov = ctypes.addressof(words) + 16 * index
            message.hdr.iovlen = 1
        first, size, fd = ctypes.addressof(messages), ctypes.sizeof(MMsgHdr), self._socket.fileno()
        began, sent, is_said = time.monotonic(), 0, False
        while True:
            due = int((time.monotonic() - began) * rate) - sent
            if due < min(_BATCH, max(rate // 200, 1)):
                time.sleep(0.001)
                continue
            at = sent % len(memory)
            count = min(_BATCH, len(memory) - at, due)
            taken = self._sendmmsg(fd, first + at * size, count, 0)
            # What the kernel does not take is lost.
            sent += max(taken, 1)
            if not is_said:
                is_said = _say()


def _multicast(kind: Callable[[Greeting], Iterator[bytes]], options: argparse.Namespace) -> None:
    greeting = _sniffed() if options.sniff else _greeting(options.server, options.port)
    frames = _Frames(options.seem or _own_address(options.server), (greeting.group, greeting.port))
    made = kind(greeting)
    pool = _POOL // 8 if options.sniff else _POOL
    frames.send([frames.frame(next(made)) for _ in range(pool)], options.rate or 80_000)


# Connections.


def resets(options: argparse.Namespace) -> None:
    """Connects and resets, in a loop."""
    is_said = False
    while True:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                sock.connect((options.server, options.port))
            except OSError:
                time.sleep(0.01)  # the backlog is full
                continue
        is_said = is_said or _say()


def hellos(options: argparse.Namespace) -> None:
    """Many hellos of 64 KiB that are not ended; new ones for those that are cut off."""
    _hold(options, struct.pack("!I", MAX_JSON_SIZE) + b"[" * (MAX_JSON_SIZE - 1))


def silence(options: argparse.Namespace) -> None:
    """Many connections that say nothing; new ones for those that are cut off."""
    _hold(options, b"")


def _hold(options: argparse.Namespace, opening: bytes) -> None:
    held: dict[int, socket.socket] = {}
    left: dict[int, memoryview] = {}
    poll = select.poll()
    is_said = False
    while True:
        while len(held) < _HELD:
            sock = socket.socket()
            sock.settimeout(_CONNECT_S)
            try:
                sock.connect((options.server, options.port))
            except OSError:
                sock.close()
                time.sleep(0.01)
                break
            sock.setblocking(False)
            fd = sock.fileno()
            held[fd], left[fd] = sock, memoryview(opening)
            poll.register(sock, select.POLLIN | (select.POLLOUT if opening else 0))
        is_said = is_said or _say()
        for fd, events in poll.poll(100):
            try:
                if events & select.POLLIN and not held[fd].recv(65536):
                    raise ConnectionResetError
                if events & select.POLLOUT:
                    left[fd] = left[fd][held[fd].send(left[fd]) :]
                    if not left[fd]:
                        poll.modify(fd, select.POLLIN)
                if events & (select.POLLHUP | select.POLLERR):
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                poll.unregister(fd)
                held.pop(fd).close()


# Both.

DATAGRAMS: dict[str, Callable[[Greeting], Iterator[bytes]]] = {
    "junk": junk,
    "full-junk": full_junk,
    "data": data,
    "parity": parity,
    "recipes": recipes,
    "control": control,
}
CONNECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "resets": resets,
    "hellos": hellos,
    "silence": silence,
}


def _greeting(server: str, port: int) -> Greeting:
    """What the server tells everybody."""
    deadline = time.monotonic() + 30
    while True:
        try:
            sock = socket.create_connection((server, port), timeout=_CONNECT_S)
            with sock, sock.makefile("rb") as stream:
                if stream.read(len(MAGIC)) == MAGIC:
                    (size,) = struct.unpack("!I", stream.read(4))
                    found = Greeting.decode(stream.read(size))
                    if isinstance(found, Greeting):
                        return found
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _sniffed() -> Greeting:
    """What the first packet of the image tells of its session, by its checksum alone."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as ear:
        ear.bind((_DEVICE, 0x0800))
        _say()
        while True:
            packet = ear.recv(65536)
            if packet[9] != socket.IPPROTO_UDP or packet[16] & 0xF0 != 0xE0:
                continue
            (port,) = struct.unpack_from("!H", packet, 22)
            seq, crc, size = struct.unpack_from("!3I", packet, 28)
            if seq < SEQ_LIMIT and size == len(packet) - 40:
                salt = seq ^ crc_before(crc, packet[40:])
                group = socket.inet_ntoa(packet[16:20])
                return Greeting("", salt, group, port, len(packet), 1, 1, "")


def crc_before(crc: int, data: bytes) -> int:
    """The CRC-32C that one of ``data`` with the result ``crc`` was continued from."""
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    by_top = {entry >> 24: index for index, entry in enumerate(table)}
    register = crc ^ 0xFFFFFFFF
    for byte in reversed(data):
        index = by_top[register >> 24]
        register = (register ^ table[index]) << 8 & 0xFFFFFFFF | index ^ byte
    return register ^ 0xFFFFFFFF


def _own_address(server: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server, 9))
        return str(probe.getsockname()[0])


def _say() -> bool:
    print("attacking", flush=True)
    return True


def main(words: Sequence[str]) -> None:
    """Attack until the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[*DATAGRAMS, *CONNECTIONS])
    parser.add_argument("server")
    parser.add_argument("port", type=int)
    parser.add_argument("--seem", help="the address that datagrams seem to come from")
    parser.add_argument("--sniff", action="store_true", help="read no greeting")
    parser.add_argument("--rate", type=int, help="datagrams a second")
    options = parser.parse_args(words)
    if options.kind in DATAGRAMS:
        _multicast(DATAGRAMS[options.kind], options)
    else:
        CONNECTIONS[options.kind](options)


if __name__ == "__main__":
    main(sys.argv[1:])
