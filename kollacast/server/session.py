"""What all clients of one run share: the dialect, the greeting, the buffers held."""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from dataclasses import dataclass, replace

from kollacast.congestion.control import FIRST_EPOCH, Epoch
from kollacast.operator.config import ServerConfig
from kollacast.packets.buffer import PacketBuffer
from kollacast.repair import SCHEME
from kollacast.wire import proof
from kollacast.wire.checksum import Engine
from kollacast.wire.dialect import DIALECTS
from kollacast.wire.greeting import Greeting, GroupInfo, Hello
from kollacast.wire.messages import Proof
from kollacast.wire.structures import payload_capacity

#: Payload bytes of a buffer unless ``--buffer-packets`` says otherwise.  A client
#: costs about 500 bytes of control messages a buffer, headers included: for 256
#: clients 2 % of the first figure, for a thousand 4 % of the second.
_BUFFER_BYTES = 6 * 1024 * 1024
_MAX_BUFFER_BYTES = 12 * 1024 * 1024
#: So many clients share a buffer of the first size.
_CLIENTS_A_BUFFER = 256
#: Buffers in flight unless ``--window`` says otherwise.
_WINDOW = 4


@dataclass(slots=True)
class Flight:
    """A buffer under way; requests for its packets are good once it is ``sent``.

    ``epoch`` is the congestion control's when it began to leave, and ``sent_bps``
    how fast it did, 0 while that is not known.  ``has_left`` says that it was
    multicast, and that the kernel took it.
    """

    buffer: PacketBuffer
    sent: bool = False
    epoch: Epoch = FIRST_EPOCH
    sent_bps: float = 0.0
    has_left: bool = True


class Session:
    """One image's way to all its clients."""

    def __init__(
        self,
        config: ServerConfig,
        engine: Engine,
        name: str | None,
        size: int | None,
        identity: str | None = None,
    ) -> None:
        #: Bytes of the image, None where nobody knows.
        self.size = size
        self.dialect = DIALECTS[config.dialect_name]
        self._secret = config.secret
        self.capacity = payload_capacity(config.mtu)
        wanted = _BUFFER_BYTES * max(config.clients, _CLIENTS_A_BUFFER) // _CLIENTS_A_BUFFER
        default = max(min(wanted, _MAX_BUFFER_BYTES) // self.capacity, 1)
        buffer_packets = config.buffer_packets or default
        self.buffer_packets = min(buffer_packets, self.dialect.max_announced)
        self.window = min(config.window or _WINDOW, self.dialect.max_window)
        self.coding = self.dialect.codes and SCHEME.works_with(self.capacity)
        salt = secrets.randbits(32) if self.dialect.seeds_crc else 0
        self.codec = self.dialect.codec(salt, engine)
        self.greeting: Greeting | GroupInfo
        if self.dialect.introduces:
            self.greeting = Greeting(
                session=secrets.token_hex(8),
                salt=salt,
                group=config.group,
                port=config.port,
                mtu=config.mtu,
                buffer_packets=self.buffer_packets,
                window=self.window,
                digest=config.digest,
                coding=self.coding,
                name=name,
                size=size,
                image=self._image(identity),
                failsafe=config.failsafe,
            )
        else:
            self.greeting = GroupInfo(config.group, config.port)
        self.flights: deque[Flight] = deque()

    def greet(self, nonce: str, *, fetch: bool, pull: bool, late_join: bool) -> bytes:
        """The first message to a client that may ``fetch``, and even has to (``pull``).

        With ``late_join`` it fetches only what is announced before it is in.
        """
        greeting = self.greeting
        if isinstance(greeting, GroupInfo):
            return greeting.encode()
        if self._secret is not None:
            greeting = replace(greeting, auth=proof.METHOD, nonce=nonce)
        return replace(greeting, fetch=fetch, pull=pull, late_join=late_join).encode()

    def authenticate(self, nonce: str, hello: Hello) -> bytes | None:
        """The answer to a client that shares the secret; None to one that does not."""
        if self._secret is None or isinstance(self.greeting, GroupInfo):
            return b""
        challenge = proof.Challenge(self.greeting.session, nonce, hello.nonce)
        try:
            is_known = challenge.holds(self._secret, "client", bytes.fromhex(hello.proof))
        except ValueError:
            return None
        if not is_known:
            return None
        return Proof(challenge.proof(self._secret, "server")).encode(self.dialect)

    def _image(self, identity: str | None) -> str:
        """What the greeting calls the image: an input that nobody opens again is like no other."""
        if identity is None:
            return secrets.token_hex(16)
        text = f"{identity}/{self.capacity}"
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def limit(self, packets: list[int | None]) -> None:
        """Keep within what every client can hold; None where it does not say."""
        least = min((count for count in packets if count is not None), default=None)
        if least is not None:
            self.buffer_packets = min(self.buffer_packets, least)
            self.window = min(self.window, least // self.buffer_packets)

    def fits(self, packets: int) -> bool:
        """Whether a late client that can hold so many packets keeps up with this session.

        It knows the greeting alone, and reserves memory for buffers as large as that says.
        """
        greeting = self.greeting
        if isinstance(greeting, GroupInfo):
            return False
        buffer_packets = min(greeting.buffer_packets, packets)
        window = min(greeting.window, packets // buffer_packets)
        return buffer_packets >= self.buffer_packets and window >= self.window

    @property
    def max_request(self) -> int:
        """The most packets that a client may have asked for and not got yet."""
        return self.window * self.buffer_packets

    def held(self, seq: int) -> PacketBuffer | None:
        """The multicast buffer that holds the packet ``seq``, if any does."""
        for flight in self.flights:
            if flight.sent and flight.buffer.slot_of(seq) is not None:
                return flight.buffer
        return None

    def holds_all(self, seqs: tuple[int, ...]) -> bool:
        """Whether every one of ``seqs`` is held; what is held is one run of seqs."""
        return not seqs or (self.held(min(seqs)) is not None and self.held(max(seqs)) is not None)
