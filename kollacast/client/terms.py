"""What a server's first message settles for one connection."""

from __future__ import annotations

from dataclasses import dataclass

from kollacast.receiving.shape import Shape, Way
from kollacast.wire.dialect import JASMINE, KOLLACAST
from kollacast.wire.greeting import Greeting, GroupInfo
from kollacast.wire.proof import METHOD
from kollacast.wire.structures import payload_capacity

#: Payload bytes of the buffers that this client is willing to hold, where it has a say.
_MEMORY = 64 * 1024 * 1024
#: Packets that the kernel should be able to hold of a jasmine server's buffer, which may have 1024
#: or 65536: as many as a window of our own server has, for which a host may be set up.
_JASMINE_UNREAD = 4 * 4309


@dataclass(frozen=True)
class Terms:
    """Who the server is, which image it has, and how that may come.

    ``image``, where it is not empty, is the same for the same image cut in the same way.
    """

    shape: Shape
    packets: int  #: that this client can hold
    digest: str  #: name of what proves the image
    coding: bool = False  #: whether one coded packet may mend losses of several clients
    must_fetch: bool = False  #: whether this client comes too late to be in step
    may_join_late: bool = False  #: whether who fetches may be in step from the next buffer on
    image: str = ""
    name: str | None = None
    size: int | None = None
    failsafe: str | None = None
    session: str = ""
    auth: str | None = None
    nonce: str = ""

    def way(self, kept: int, can_receive_late: bool) -> Way:
        """How the image comes to a host that has ``kept`` bytes of it."""
        if not self.must_fetch and not kept:
            return Way.IN_STEP
        return Way.LATE if self.may_join_late and can_receive_late else Way.FETCHING

    def objection(self, has_secret: bool) -> str | None:
        """Why nothing can come of these terms here, as far as the shared secret goes."""
        if self.auth is None and has_secret:
            return "the server does not ask for the shared secret, and so does not prove it"
        if self.auth is not None and not has_secret:
            return "the server asks for a shared secret: give --token-file"
        if self.auth not in (None, METHOD):
            return f"the server asks for a proof by {self.auth}, which is not known here"
        return None

    def is_same_image(self, other: Terms) -> bool:
        """Whether what was kept on these terms can be gone on with on the ``other`` ones."""
        same = (self.image, self.digest) == (other.image, other.digest)
        return same and other.shape.can_fetch


def of_greeting(greeting: Greeting) -> Terms:
    """The terms of a server that speaks the kollacast dialect."""
    capacity = payload_capacity(greeting.mtu)
    packets = max(_MEMORY // capacity, 1)
    buffer_packets = min(greeting.buffer_packets, packets)
    window = min(greeting.window, packets // buffer_packets)
    can_fetch = greeting.fetch and bool(greeting.image)
    return Terms(
        shape=Shape(
            dialect=KOLLACAST,
            salt=greeting.salt,
            group=(greeting.group, greeting.port),
            mtu=greeting.mtu,
            capacity=capacity,
            buffer_packets=buffer_packets,
            window=window,
            unread_bytes=window * buffer_packets * capacity,
            can_fetch=can_fetch,
        ),
        packets=packets,
        digest=greeting.digest,
        coding=greeting.coding,
        must_fetch=can_fetch and greeting.pull,
        may_join_late=can_fetch and greeting.late_join,
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
    shape = Shape(
        dialect=JASMINE,
        salt=0,
        group=(info.group, info.port),
        mtu=JASMINE.max_mtu,
        capacity=capacity,
        buffer_packets=JASMINE.max_buffer_packets,
        window=JASMINE.max_window,
        unread_bytes=_JASMINE_UNREAD * capacity,
        can_fetch=False,
    )
    return Terms(shape, packets=JASMINE.max_buffer_packets, digest="sha256")
