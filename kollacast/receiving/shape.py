"""A stream's shape: how its bytes are cut and sent, and how they may come to this host."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kollacast.wire.dialect import Dialect
from kollacast.wire.sealing import Seal
from kollacast.wire.signature import Verifier


class Way(Enum):
    """How the image comes over one connection."""

    IN_STEP = "in step"  #: all by multicast, together with the others
    LATE = "late"  #: by multicast what is announced from now on, by TCP what was before
    FETCHING = "fetching"  #: all by TCP, at this host's own pace


@dataclass(frozen=True)
class Shape:
    """How a server sends a stream, as far as this client takes it."""

    dialect: Dialect
    salt: int  #: seeds the packets' checksum
    group: tuple[str, int]  #: address and port of the multicast group
    #: address of the only sender whose datagrams to the group are taken; None for everybody's
    source: str | None
    seal: Seal | None  #: opens what comes by multicast; None where it crosses as it is
    mtu: int  #: bytes of the largest datagram
    capacity: int  #: payload bytes of a packet
    buffer_packets: int  #: the most packets of a buffer
    window: int  #: the most buffers in flight
    unread_bytes: int  #: payload that the kernel should be able to hold
    can_fetch: bool  #: whether any packet of the image can be fetched by TCP
    pieces: bool  #: whether the server tells what the image's pieces must be
    verifier: Verifier | None  #: tells which packets beside the image's are the server's
