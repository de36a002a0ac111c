"""A process that carries multicast from the server's switch port to the clients', and harms it.

    python lab/relay.py FROM_PORT TO_PORT[,TO_PORT…] '{"shuffle": 32, "damage": 0.01}'

It runs in the switch's namespace and carries every UDP multicast frame that comes in by the first
port to each of the others, to each with a fate of its own, drawn from a seeded source. The switch
itself must drop these frames: the relay gets to see them before its rules do. It says "ready" once
it listens, and runs until it is killed.

A pause in what arrives ends the shuffling of what was before it. It is the kernel that saw the
pause: a relay that lags behind, on a busy machine, finds none where there was one, and must not let
what was sent last overtake what was sent long before.

What it cannot know of a frame on its way is whether the network card was to fill in the checksum;
so it computes each UDP checksum anew. A damaged datagram is then one that no kernel takes offence
at, as after a switch or a card with a broken memory.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import sys
from dataclasses import asdict, dataclass

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
#: Has the kernel note when a frame arrived, as a `struct timespec`: socket(7).
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_RECEIVE_BUFFER = 64 * 1024 * 1024
_LARGEST_FRAME = 65_550
_ETHERNET_HEADER = 14
_IPV4 = b"\x08\x00"
_UDP_HEADER = 8
#: After a pause of this length nothing changes places with what was before.
_HOLD_S = 0.005


@dataclass(frozen=True)
class Fate:
    """What becomes of frames; shares are from 0 to 1, drawn for each frame and each client."""

    shuffle: int = 0  #: frames among which the next to arrive is drawn
    duplicate: float = 0.0  #: the share that arrives twice
    damage: float = 0.0  #: the share that arrives with one bit of the UDP payload flipped
    seed: int = 1

    def arguments(self) -> str:
        """As the relay's command line takes it."""
        return json.dumps(asdict(self))


class _Way:
    """The way to one port."""

    def __init__(self, port: str, fate: Fate) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((port, 0))
        self._fate = fate
        self._random = random.Random(f"{fate.seed} {port}")
        self._waiting: list[bytearray] = []

    def take(self, frame: bytes, start: int) -> None:
        """A frame, whose UDP header begins at `start`."""
        draw = self._random.random
        for _ in range(1 + (draw() < self._fate.duplicate)):
            copy = bytearray(frame)
            if draw() < self._fate.damage:
                payload = start + _UDP_HEADER
                bit = self._random.randrange(8 * (len(copy) - payload))
                copy[payload + bit // 8] ^= 1 << bit % 8
            _seal(copy, start)
            self._waiting.append(copy)
        while len(self._waiting) > self._fate.shuffle:
            self._pass_one_on()

    def pass_all_on(self) -> None:
        while self._waiting:
            self._pass_one_on()

    def _pass_one_on(self) -> None:
        frame = self._waiting.pop(self._random.randrange(len(self._waiting)))
        with contextlib.suppress(OSError):  # a port that is down loses it
            self._socket.send(frame)


def _udp_start(frame: bytes) -> int | None:
    """Where the UDP header of a multicast frame begins; None for any other frame."""
    if frame[12:14] != _IPV4 or len(frame) < _ETHERNET_HEADER + 20 + _UDP_HEADER:
        return None
    ip = frame[_ETHERNET_HEADER:]
    if ip[9] != socket.IPPROTO_UDP or ip[16] >> 4 != 0xE:
        return None
    return _ETHERNET_HEADER + 4 * (ip[0] & 15)


def _seal(frame: bytearray, start: int) -> None:
    """Write the checksum of the UDP datagram at `start`: RFC 768."""
    (length,) = struct.unpack_from("!H", frame, start + 4)
    frame[start + 6 : start + 8] = b"\0\0"
    addresses = frame[_ETHERNET_HEADER + 12 : _ETHERNET_HEADER + 20]
    pseudo = bytes(addresses) + struct.pack("!HH", socket.IPPROTO_UDP, length)
    covered = pseudo + frame[start : start + length] + bytes(length % 2)
    # The one's complement sum of 16-bit words is the number that they make, modulo 2^16 - 1.
    checksum = 0xFFFF - int.from_bytes(covered, "big") % 0xFFFF
    struct.pack_into("!H", frame, start + 6, checksum)


def _main(from_port: str, to_ports: str, arguments: str) -> None:
    fate = Fate(**json.loads(arguments))
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    tap.bind((from_port, _ETH_P_ALL))
    ways = [_Way(port, fate) for port in to_ports.split(",")]
    print("ready", flush=True)
    wait_s: float | None = None
    last_s = 0.0  # when the last one arrived, by a clock that may be set: one pause more or less
    while True:
        if not select.select([tap], [], [], wait_s)[0]:
            for way in ways:
                way.pass_all_on()
            wait_s = None
            continue
        frame, notes, _, where = tap.recvmsg(_LARGEST_FRAME, socket.CMSG_SPACE(_TIMESPEC.size))
        start = _udp_start(frame)
        if start is None or where[2] == socket.PACKET_OUTGOING:
            continue
        seconds, nanoseconds = _TIMESPEC.unpack(notes[0][2])
        arrived_s = seconds + nanoseconds / 1e9
        for way in ways:
            if arrived_s - last_s > _HOLD_S:
                way.pass_all_on()
            way.take(frame, start)
        last_s = arrived_s
        wait_s = _HOLD_S if fate.shuffle else None


if __name__ == "__main__":
    _main(*sys.argv[1:])
