"""What a server's first message settles for one connection."""

from __future__ import annotations

from dataclasses import dataclass

from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import Greeting, GroupInfo
from kollacast.wire.structures import payload_capacity

#: Payload bytes of the buffers that this client is willing to hold, where it has a say.
_MEMORY = 64 * 1024 * 1024
#: Packets that the kernel should be able to hold of a jasmine server's buffer, which may have 1024
#: or 65536: as many as a window of our own server has, for which a host may be set up.
_JASMINE_UNREAD = 4 * 4309


@dataclass(frozen=True)
class Terms:
    """How the image comes.

    ``packets`` is what this client can hold, ``group`` address and port of the
    multicast, ``mtu`` the bytes of its largest datagram, ``digest`` the name of
    what proves the image, and ``unread`` how many payload bytes the kernel should
    be able to hold.  ``image``, where it is not empty, is the same for the
    same image cut in the same way; ``fetch`` says that it can be fetched, ``pull``
    that it has to be, and ``late_join`` that only up to where multicast takes it up.
    """

    dialect: Dialect
    salt: int
    group: tuple[str, int]
    mtu: int
    capacity: int
    packets: int
    buffer_packets: int
    window: int
    unread: int
    digest: str
    coding: bool = False
    fetch: bool = False
    pull: bool = False
    late_join: bool = False
    image: str = ""
    name: str | None = None
    size: int | None = None
    failsafe: str | None = None
    session: str = ""
    auth: str | None = None
    nonce: str = ""


def of_greeting(greeting: Greeting) -> Terms:
    """The terms of a server that speaks the kollacast dialect."""
    capacity = payload_capacity(greeting.mtu)
    packets = max(_MEMORY // capacity, 1)
    buffer_packets = min(greeting.buffer_packets, packets)
    window = min(greeting.window, packets // buffer_packets)
    fetch = greeting.fetch and bool(greeting.image)
    return Terms(
        dialect=KOLLACAST,
        salt=greeting.salt,
        group=(greeting.group, greeting.port),
        mtu=greeting.mtu,
        capacity=capacity,
        packets=packets,
        buffer_packets=buffer_packets,
        window=window,
        unread=window * buffer_packets * capacity,
        digest=greeting.digest,
        coding=greeting.coding,
        fetch=fetch,
        pull=fetch and greeting.pull,
        late_join=fetch and greeting.late_join,
        image=greeting.image,
        name=greeting.name,
        size=greeting.size,
        failsafe=greeting.failsafe,
        session=greeting.session,
        auth=greeting.auth,
        nonce=greeting.nonce,
    )


def of_group_info(info: GroupInfo) -> Terms:
    """The terms of a jasmine server, which are all but the group known beforehand."""
    capacity = payload_capacity(JASMINE.max_mtu)
    return Terms(
        dialect=JASMINE,
        salt=0,
        group=(info.group, info.port),
        mtu=JASMINE.max_mtu,
        capacity=capacity,
        packets=JASMINE.max_buffer_packets,
        buffer_packets=JASMINE.max_buffer_packets,
        window=JASMINE.max_window,
        unread=_JASMINE_UNREAD * capacity,
        digest="sha256",
    )
