"""What one stream sends, and in which shape: an offer first, then what all clients can hold.

Buffers are filled from their first packet to the last, and each packet of the image but its last is
full, so a plan says where every byte is.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kollacast.operator.config import ServerConfig
from kollacast.operator.expectation import Expectation
from kollacast.wire.checksum import Engine
from kollacast.wire.dialect import DIALECTS, Dialect
from kollacast.wire.packets import PacketCodec
from kollacast.wire.sealing import SEAL_SIZE, new_key
from kollacast.wire.signature import Signer
from kollacast.wire.structures import payload_capacity

#: Payload bytes of a buffer unless ``--buffer-packets`` says otherwise.  Each client's losses are
#: dealt with once a buffer: for many, that takes longer than a buffer of the first size.
_BUFFER_BYTES = 6 * 1024 * 1024
_MAX_BUFFER_BYTES = 12 * 1024 * 1024
#: So many clients share a buffer of the first size.
_CLIENTS_A_BUFFER = 64
#: Buffers in flight unless ``--window`` says otherwise.
_WINDOW = 4


@dataclass(frozen=True)
class Plan:
    """The whole input, in buffers."""

    dialect: Dialect
    salt: int  #: seeds the checksums of packets
    codec: PacketCodec
    seal_key: bytes | None  #: seals what is multicast; None where it crosses as it is
    capacity: int  #: payload bytes of a packet
    buffer_packets: int  #: the most packets of a buffer
    window: int  #: the most buffers in flight
    resizes: bool  #: whether buffers may have fewer packets
    coding: bool  #: whether one packet may mend losses of several clients
    #: signs what is multicast beside the image; None where nothing is
    signer: Signer | None
    group_size: int  #: clients of a group in the barrier
    size: int | None  #: bytes of the image, None where nobody knows
    image: str  #: the same for the same image cut in the same way
    digest: str  #: name of the digest that proves the image
    expectation: Expectation  #: what the image must be
    kept: int = 0  #: packets at the image's start that everybody has

    @property
    def digests(self) -> tuple[str, ...]:
        """The names of all digests that are computed: also of those that operators are told."""
        return tuple(dict.fromkeys((self.digest, "tree", *self.expectation.digest_names)))

    @property
    def max_request(self) -> int:
        """The most packets that a client lacks of what is in flight."""
        return self.window * self.buffer_packets

    @property
    def max_owed(self) -> int:
        """The most packets that a client may have asked for and not got yet.

        Where it has taken what is forged for what it lacked, its pieces tell, and it asks for all
        of a buffer anew, by TCP from then on, while the answers before that are under way.
        """
        return self.max_request * (2 if self.dialect.proves else 1)

    def agreed(self, packets: Iterable[int | None], kept: int) -> Plan:
        """As much of it as every client can hold; None where one does not say."""
        least = min((count for count in packets if count is not None), default=None)
        if least is None:
            return replace(self, kept=kept)
        buffer_packets = min(self.buffer_packets, least)
        window = min(self.window, least // buffer_packets)
        return replace(self, buffer_packets=buffer_packets, window=window, kept=kept)

    def suits(self, packets: int, agreed: Plan) -> bool:
        """Whether a late client that can hold so many packets keeps up with what is ``agreed``.

        It knows this offer alone, and reserves memory for buffers as large as that says.
        """
        own = self.agreed([packets], agreed.kept)
        return own.buffer_packets >= agreed.buffer_packets and own.window >= agreed.window


def offer(config: ServerConfig, engine: Engine, size: int | None, identity: str | None) -> Plan:
    """What a server offers before it knows anybody.

    ``identity`` tells apart all images that are read again; None where this one is not.
    """
    dialect = DIALECTS[config.dialect_name]
    capacity = payload_capacity(config.mtu - (SEAL_SIZE if config.encrypt else 0))
    wanted = _BUFFER_BYTES * max(config.clients, _CLIENTS_A_BUFFER) // _CLIENTS_A_BUFFER
    default = max(min(wanted, _MAX_BUFFER_BYTES) // capacity, 1)
    salt = secrets.randbits(32) if dialect.seeds_crc else 0
    return Plan(
        dialect=dialect,
        salt=salt,
        codec=dialect.codec(salt, engine),
        seal_key=new_key() if config.encrypt else None,
        capacity=capacity,
        buffer_packets=min(config.buffer_packets or default, dialect.max_announced),
        window=min(config.window or _WINDOW, dialect.max_window),
        resizes=config.buffer_packets is None and dialect.resizes,
        coding=dialect.codes,
        signer=Signer() if dialect.multicasts_control else None,
        group_size=config.group_size,
        size=size,
        image=_image(identity, capacity),
        digest=config.digest,
        expectation=config.expectation,
    )


def _image(identity: str | None, capacity: int) -> str:
    """What the image is called: an input that nobody opens again is like no other."""
    if identity is None:
        return secrets.token_hex(16)
    text = f"{identity}/{capacity}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]
