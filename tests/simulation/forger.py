"""A stranger on the multicast group: it hears all, seals what it likes, and has no key.

The salt is in every greeting, so all that it sends has a CRC that is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import BufferCtl, Control, Notice, Repaired, Sent
from kollacast.wire.pieces import Pieces
from kollacast.wire.recipes import (
    COMBINATION_BASE,
    CONTROL_BASE,
    PARITY_BASE,
    PIECES_BASE,
    RECIPE_BASE,
    Recipe,
)
from kollacast.wire.structures import PACKET_HEADER_SIZE, SIGNATURE_SIZE

#: Datagrams that it has heard and may send again.
_REMEMBERED = 200


def _head(datagram: bytes) -> int:
    return int.from_bytes(datagram[:4], "big")


class Forger:
    """Makes datagrams of what passes by, for a session with this ``salt``."""

    def __init__(self, salt: int, random: Random) -> None:
        self._codec = KOLLACAST.codec(salt, best_crc32c()[0])
        self._random = random
        self._heard: deque[bytes] = deque(maxlen=_REMEMBERED)
        #: Each makes a forgery of a datagram.
        self.kinds: tuple[Callable[[bytes], bytes], ...] = (
            self.payload,
            self.size,
            self.replayed,
            self.control,
            self.pieces,
            self.recipe,
            self.coded,
            self.noise,
        )

    def hears(self, datagram: bytes) -> None:
        self._heard.append(datagram)

    def forge(self, datagram: bytes) -> bytes:
        """Of any kind."""
        return self._random.choice(self.kinds)(datagram)

    def sealed(self, seq: int, data: bytes) -> bytes:
        """A packet with this seq and data."""
        return self._codec.sealed(seq, [memoryview(data)]) + data

    def payload(self, datagram: bytes) -> bytes:
        """Other bytes in the place of a packet's."""
        return self.sealed(
            _head(datagram), self._random.randbytes(len(datagram) - PACKET_HEADER_SIZE)
        )

    def size(self, datagram: bytes) -> bytes:
        """Fewer or more of them than belong there."""
        most = len(datagram) - PACKET_HEADER_SIZE
        return self.sealed(_head(datagram), self._random.randbytes(self._random.randint(1, most)))

    def replayed(self, datagram: bytes) -> bytes:
        """What was said once."""
        return self._random.choice(self._heard) if self._heard else datagram

    def control(self, datagram: bytes) -> bytes:
        """What the server might say, and has not."""
        random = self._random
        number = random.randrange(1, 60)
        notices: list[Notice] = [
            random.choice(
                (
                    BufferCtl(random.randrange(1, 20), 100, random.randrange(60), 1),
                    BufferCtl(random.randrange(1, 20), 0, random.randrange(60), 0),
                    Sent(random.randrange(1, 20), random.randrange(5)),
                    Repaired(random.randrange(1, 20), PARITY_BASE, 3, 5),
                )
            )
        ]
        data = Control(random.randint(1, number), number, tuple(notices)).data(KOLLACAST)
        seq = CONTROL_BASE + random.randrange(1000)
        return self.sealed(seq, data + random.randbytes(SIGNATURE_SIZE))

    def pieces(self, datagram: bytes) -> bytes:
        random = self._random
        digests = tuple(random.randbytes(32) for _ in range(random.randint(1, 3)))
        data = Pieces(random.randrange(1, 20), random.randrange(3), digests).data(KOLLACAST)
        return self.sealed(PIECES_BASE + random.randrange(99), data + random.randbytes(64))

    def recipe(self, datagram: bytes) -> bytes:
        """Combinations of packets that are under way."""
        random = self._random
        seq = min(_head(datagram), COMBINATION_BASE - 1)
        terms = tuple(max(seq - random.randrange(20), 0) for _ in range(random.randint(1, 9)))
        size = len(datagram) - PACKET_HEADER_SIZE
        data = Recipe(COMBINATION_BASE + random.randrange(9), (terms,) * 2).encode(size)
        return self.sealed(RECIPE_BASE + random.randrange(99), data)

    def coded(self, datagram: bytes) -> bytes:
        base = self._random.choice((COMBINATION_BASE, PARITY_BASE))
        data = self._random.randbytes(len(datagram) - PACKET_HEADER_SIZE)
        return self.sealed(base + self._random.randrange(99), data)

    def noise(self, datagram: bytes) -> bytes:
        return self._random.randbytes(self._random.randrange(200))
