"""What a server's first message settles for one connection."""

from __future__ import annotations

from dataclasses import dataclass

from kollacast.receiving.shape import Shape, Way
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import Greeting, GroupInfo
from kollacast.wire.sealing import SEAL_KEY_SIZE, SEAL_METHOD, SEAL_SIZE, Seal
from kollacast.wire.signature import Verifier
from kollacast.wire.structures import MIN_MTU, WireError, payload_capacity

#: Payload bytes of the buffers that this client is willing to hold, where it has a say.
_MEMORY = 64 * 1024 * 1024
#: Packets that the kernel should be able to hold of a jasmine server's buffer, which may have 1024
#: or 65536: as many as a window of our own server has, for which a host may be set up.
_JASMINE_UNREAD = 4 * 4309


@dataclass(frozen=True)
class Terms:
    """Who the server is, which image it has, and how that may come."""

    greeting: Greeting  #: with the same ``image``, where it is not empty, it is the same image
    shape: Shape
    packets: int  #: that this client can hold

    def way(self, kept: int, can_receive_late: bool) -> Way:
        """How the image comes to a host that has ``kept`` bytes of it."""
        can_fetch = self.shape.can_fetch
        if not kept and not (can_fetch and self.greeting.pull):
            return Way.IN_STEP
        may_be_late = can_fetch and self.greeting.late_join and can_receive_late
        return Way.LATE if may_be_late else Way.FETCHING

    def is_same_image(self, other: Terms) -> bool:
        """Whether what was kept on these terms can be gone on with on the ``other`` ones."""
        mine, its = self.greeting, other.greeting
        same = (mine.image, mine.digest, mine.size) == (its.image, its.digest, its.size)
        return same and other.shape.can_fetch


def of_greeting(greeting: Greeting) -> Terms:
    """The terms of a server that speaks the kollacast dialect.  Raises WireError for none."""
    capacity = _capacity(greeting)
    packets = max(_MEMORY // capacity, 1)
    buffer_packets = min(greeting.buffer_packets, packets)
    window = min(greeting.window, packets // buffer_packets)
    shape = _shape(greeting, KOLLACAST, buffer_packets, window, window * buffer_packets)
    return Terms(greeting, shape, packets)


def of_group_info(info: GroupInfo) -> Terms:
    """The terms of a jasmine server, which are all but the group known beforehand."""
    packets, window = JASMINE.max_buffer_packets, JASMINE.max_window
    greeting = Greeting("", 0, info.group, info.port, JASMINE.max_mtu, packets, window, "sha256")
    return Terms(greeting, _shape(greeting, JASMINE, packets, window, _JASMINE_UNREAD), packets)


def _seal(greeting: Greeting) -> Seal | None:
    """What opens the packets.  Raises WireError where this host cannot."""
    if greeting.seal is None:
        return None
    key = bytes.fromhex(greeting.seal_key)
    if greeting.seal != SEAL_METHOD or len(key) != SEAL_KEY_SIZE:
        raise WireError(f"packets are sealed by {greeting.seal}, in a way not known here")
    return Seal(key, greeting.salt)


def _capacity(greeting: Greeting) -> int:
    """Payload bytes of a packet.  Raises WireError where the MTU leaves none."""
    mtu = greeting.mtu - (0 if greeting.seal is None else SEAL_SIZE)
    if mtu < MIN_MTU:
        raise WireError(f"the peer's mtu {greeting.mtu} holds no sealed packet")
    return payload_capacity(mtu)


def _shape(
    greeting: Greeting, dialect: Dialect, buffer_packets: int, window: int, unread_packets: int
) -> Shape:
    capacity = _capacity(greeting)
    key = bytes.fromhex(greeting.control_key)
    return Shape(
        dialect=dialect,
        salt=greeting.salt,
        group=(greeting.group, greeting.port),
        source=greeting.source,
        seal=_seal(greeting),
        mtu=greeting.mtu,
        capacity=capacity,
        buffer_packets=buffer_packets,
        window=window,
        unread_bytes=unread_packets * capacity,
        can_fetch=greeting.fetch and bool(greeting.image),
        pieces=greeting.pieces,
        verifier=Verifier(key) if key else None,
    )
