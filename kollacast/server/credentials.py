"""How a session and its clients show each other who they are: challenge, proof, greeting."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from kollacast.operator.config import ServerConfig
from kollacast.sending.plan import Plan
from kollacast.server.admission import Situation
from kollacast.wire import proof
from kollacast.wire.greeting import Challenge, Greeting, GroupInfo, Response
from kollacast.wire.sealing import SEAL_METHOD


@dataclass(frozen=True)
class Peer:
    """What is known of the other end of a connection before anything is said on it."""

    binding: bytes = b""  #: what only the two ends have in common; empty without TLS
    name: str | None = None  #: what its certificate calls it, where it has one


#: What stands for an address of this host that the kernel chooses.
_ANY = "0.0.0.0"


class Credentials:
    """The session's name, and its secret where it has one; ``name`` is the image's."""

    def __init__(self, config: ServerConfig, offer: Plan, name: str | None) -> None:
        self._secret = config.secret
        #: Whether clients are talked to on TLS.
        self.are_on_tls = config.is_secure
        #: Whether each has a certificate, which is to name it.
        self.are_named = config.certificates is not None
        self.greeting: Greeting | GroupInfo
        if not offer.dialect.introduces:
            self.greeting = GroupInfo(config.group, config.port)
            return
        self.greeting = Greeting(
            session=secrets.token_hex(8),
            salt=offer.salt,
            group=config.group,
            port=config.port,
            mtu=config.mtu,
            buffer_packets=offer.buffer_packets,
            window=offer.window,
            digest=offer.digest,
            source=config.local_ip if config.local_ip != _ANY else None,
            pieces=offer.signer is not None,
            control_key="" if offer.signer is None else offer.signer.public.hex(),
            seal=None if offer.seal_key is None else SEAL_METHOD,
            seal_key="" if offer.seal_key is None else offer.seal_key.hex(),
            coding=offer.coding,
            name=name,
            size=offer.size,
            image=offer.image,
            failsafe=config.failsafe,
        )

    @property
    def session(self) -> str | None:
        """What tells this session from all others; None in a dialect that has no word for it."""
        return self.greeting.session if isinstance(self.greeting, Greeting) else None

    @property
    def challenges(self) -> bool:
        """Whether clients have to prove that they know the secret, before they are greeted."""
        return self._secret is not None

    def challenge(self, nonce: str) -> bytes:
        """The first message then."""
        return Challenge(proof.METHOD, nonce).encode()

    def prove(self, nonce: str, response: Response, peer: Peer) -> str | None:
        """The server's own proof, for who has proved to know the secret; None for who has not."""
        assert self._secret is not None
        agreement = proof.Agreement(nonce, response.nonce, peer.binding)
        if not agreement.holds(self._secret, "client", response.proof):
            return None
        return agreement.proof(self._secret, "server").hex()

    def greet(self, now: Situation, proof: str = "") -> bytes:
        """The first message to a client that comes ``now``, or the first behind its proof."""
        greeting = self.greeting
        if isinstance(greeting, GroupInfo):
            return greeting.encode()
        fetch = now.lack is None
        pull, late_join = fetch and now.all_fetch, fetch and now.is_joinable
        return replace(greeting, fetch=fetch, pull=pull, late_join=late_join, proof=proof).encode()
