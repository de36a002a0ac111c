"""How a session and its clients show each other who they are: greeting, nonce, proof."""

from __future__ import annotations

import secrets
from dataclasses import replace

from kollacast.operator.config import ServerConfig
from kollacast.sending.plan import Plan
from kollacast.server.admission import Situation
from kollacast.wire import proof
from kollacast.wire.greeting import Greeting, GroupInfo, Hello
from kollacast.wire.messages import Proof

#: What stands for an address of this host that the kernel chooses.
_ANY = "0.0.0.0"


class Credentials:
    """The session's name, and its secret where it has one; ``name`` is the image's."""

    def __init__(self, config: ServerConfig, offer: Plan, name: str | None) -> None:
        self._dialect = offer.dialect
        self._secret = config.secret
        self.greeting: Greeting | GroupInfo
        if not self._dialect.introduces:
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

    def greet(self, nonce: str, now: Situation) -> bytes:
        """The first message to a client that comes ``now``."""
        greeting = self.greeting
        if isinstance(greeting, GroupInfo):
            return greeting.encode()
        if self._secret is not None:
            greeting = replace(greeting, auth=proof.METHOD, nonce=nonce)
        fetch = now.lack is None
        pull, late_join = fetch and now.all_fetch, fetch and now.is_joinable
        return replace(greeting, fetch=fetch, pull=pull, late_join=late_join).encode()

    def answer(self, nonce: str, hello: Hello) -> bytes | None:
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
        return Proof(challenge.proof(self._secret, "server")).encode(self._dialect)
