"""Where the search begins: for each target the recorded sessions in the form that it takes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fuzz import recorded
from kollacast.repair.xor import combine
from kollacast.wire import parity, recipes
from kollacast.wire.recipes import parity_seq


def of(target: str) -> list[bytes]:
    """The first inputs of a target."""
    return list(_SEEDS[target])


def _streams(who: str, *names: str) -> list[bytes]:
    """One side of the examples, whole, and cut off after each message."""
    seeds = []
    for name in names:
        said = recorded.messages(name, who)
        seeds += [b"".join(said[:count]) for count in range(1, len(said) + 1)]
    return seeds


def _json() -> Iterator[bytes]:
    """The texts of the example, without their lengths."""
    for who in ("S>C", "C>S"):
        for message in recorded.messages("kollacast", who):
            start = message.find(b"{")
            if start >= 0:
                yield message[start:]
    yield b'{"refused":"the session has ended"}'


def _datagrams() -> Iterator[bytes]:
    """A whole delivery, and some in which coded packets mend a loss."""
    lost = (3, 12)
    packets = [_sealed(seq, bytes((seq,)) * 40) for seq in range(34)] + [_sealed(34, bytes(33))]
    yield b"".join(packets)
    [recipe] = recipes.pack([lost], 0, 40)
    mix = combine([memoryview(bytes((seq,)) * 40) for seq in lost], 40)
    mend = [_sealed(0xC0, recipe), _sealed(0x80, mix)]
    yield b"".join([p for seq, p in enumerate(packets) if seq != 3] + mend)
    yield b"".join([p for seq, p in enumerate(packets) if seq not in lost] + list(_parity()))
    yield b"".join([*packets[:20], b"\x03\x00", *packets[10:30]])
    shown = [data[:52] for who, data, _ in recorded.example("jasmine") if who == "udp"]
    yield b"".join(b"\x00" + bytes((len(data),)) + data for data in shown)


def _parity() -> Iterator[bytes]:
    """Parity of the first buffer, which mends what is lost of it: six packets of 14 terms."""
    for number in range(6):
        mix = [memoryview(bytes((t,)) * 40) for t in parity.terms(parity_seq(number), 20, 14)]
        yield _sealed(0xA0 + number, combine(mix, 40))
    yield bytes((2, 3, 0, 6, 13))


def _sealed(seq: int, payload: bytes) -> bytes:
    return bytes((1, 1 + len(payload), seq)) + payload


_SEEDS = {
    "client_of_kollacast": [
        *_streams("C>S", "kollacast"),
        recorded.messages("kollacast", "C>S")[0] + struct.pack("!B2IB", 0x12, 0, 65536, 0x14),
    ],
    "client_of_jasmine": _streams("C>S", "jasmine"),
    "server": _streams("S>C", "kollacast", "jasmine"),
    "introductions": list(_json()),
    "datagrams_of_kollacast": list(_datagrams()),
    "datagrams_of_jasmine": list(_datagrams()),
    "recipes": recipes.pack([[1, 2], [3, 4, 5]], 0, 40) + recipes.pack([[7, 8]], -1, 24),
}
