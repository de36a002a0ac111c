"""The fixed structures of both dialects: their fields, sizes and limits.

Every field is an unsigned 32-bit integer and every structure is aligned to
four bytes.  ``docs/protocol.md`` describes each of them; the byte order is
the dialect's (see :mod:`kollacast.wire.dialect`).
"""

from __future__ import annotations

import enum

#: Bytes of ``packet_ctl`` before its data: seq, crc, data_size.
PACKET_HEADER_SIZE = 12
#: Bytes of the group info a jasmine server opens with: a ``sockaddr_in``.
GROUP_INFO_SIZE = 16

#: An IPv4 header without options and a UDP header.
IP_UDP_HEADER_SIZE = 28
#: The largest IPv4 datagram, and so the largest MTU that means anything.
MAX_MTU = 65535
#: Bytes of an Ed25519 signature (RFC 8032), with which control packets end, and of its public key.
SIGNATURE_SIZE = 64
KEY_SIZE = 32
#: Bytes of the digest of a piece of the image.
PIECE_DIGEST_SIZE = 32
#: The least MTU: it holds a packet with one digest or one message to all clients, and a signature.
MIN_MTU = IP_UDP_HEADER_SIZE + PACKET_HEADER_SIZE + 8 + PIECE_DIGEST_SIZE + SIGNATURE_SIZE

#: Sequence numbers from here up are not the image's: coded repairs and control packets have them.
SEQ_LIMIT = 0x8000_0000

#: Length bound of a greeting and a report, in bytes of JSON; and of a hello, which anybody sends.
MAX_JSON_SIZE = 64 * 1024
MAX_HELLO_SIZE = 4 * 1024

#: Length bound of what is told by TCP of the control stream, in bytes.
MAX_CONTROL_SIZE = 64 * 1024

#: The most packets that one FETCH may ask for.
MAX_FETCH = 65536


class WireError(ValueError):
    """The peer sent bytes that the protocol does not allow here.

    The text is one line, fit for a log and for the peer's operator.
    """


class Tag(enum.IntEnum):
    """The first byte of a message; the first four are whole messages."""

    CLIENT_READY = 0x01
    CLIENT_REQ = 0x02
    CREDIT = 0x03
    CLIENT_DONE = 0x04
    ASK = 0x05
    WANT = 0x06
    SERVER_SENT = 0x08
    BUFFER = 0x10
    REPAIRED = 0x11
    FETCH = 0x12
    DETACH = 0x14
    CONTROL = 0x16
    PIECES = 0x17
    PACKET = 0x20
    DIGEST = 0x40
    REPORT = 0x80


def payload_capacity(mtu: int) -> int:
    """Payload bytes of a full packet whose datagram fits ``mtu`` bytes.

    Rounded down to a multiple of four; may be zero or negative for an ``mtu``
    that holds no packet at all.
    """
    return (mtu - IP_UDP_HEADER_SIZE - PACKET_HEADER_SIZE) // 4 * 4
