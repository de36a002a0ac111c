"""Reaching the server: tries to connect until a deadline."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.abstract import isIPAddress
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import deferLater

from kollacast.events.reactor import IReactor
from kollacast.operator.config import ClientConfig
from kollacast.receiving.connection import ServerConnection

#: Seconds between two tries: fewer at first, because both ends start at once.
_RETRY_S = (0.05, 0.1)
#: Seconds after which one try is given up.
_TRY_S = 10.0

_Make = Callable[[], ServerConnection | None]
#: Puts TLS around the connections of a factory, or leaves them as they are.
Secure = Callable[[IProtocolFactory], IProtocolFactory]


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, make: _Make) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection | None:
        return self._make()


def securing(reactor: IReactor, config: ClientConfig) -> Secure:
    """How connections to the server are made secure, as far as ``config`` asks for that."""
    if not config.is_secure:
        return lambda factory: factory
    # It takes its time to load.
    from kollacast.transport import tls

    return tls.client_side(config.certificates, config.server_ip, reactor)


async def connect(
    reactor: IReactor, host: str, port: int, deadline: float, make: _Make, secure: Secure
) -> str | None:
    """Return None once a connection of ``make()``, below ``secure``, is open, else why not.

    That is at ``deadline``, in the reactor's seconds; at once for a name that no host can have.
    """
    tries = 0
    while True:
        left = max(deadline - reactor.seconds(), 0.1)
        # An address needs no resolver, which would be a thread for each try.
        kind = TCP4ClientEndpoint if isIPAddress(host) else HostnameEndpoint
        endpoint = kind(reactor, host, port, timeout=min(left, _TRY_S))
        try:
            await endpoint.connect(secure(_Factory(make)))
            return None
        except (ConnectError, DNSLookupError, OSError) as error:
            reason = _why_not(error)
        except ValueError as error:
            return str(error)
        delay = _RETRY_S[min(tries, len(_RETRY_S) - 1)]
        tries += 1
        if reactor.seconds() + delay > deadline:
            return reason
        await deferLater(reactor, delay)


def _why_not(error: BaseException | None) -> str:
    """Why a try has failed, in a few words."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(number, int):
        return os.strerror(number)
    if isinstance(error, DNSLookupError):
        return "no host has this name"
    if isinstance(error, TimeoutError):
        return "it does not answer; check its address, and that its firewall lets in TCP"
    return str(error)
