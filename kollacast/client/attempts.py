"""Tries to reach the server until a deadline."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import isIPAddress
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError
from twisted.internet.task import deferLater

from kollacast.client.connection import ServerConnection, ServerConnectionFactory

#: Seconds between attempts to connect: short at first, both start at once.
RETRY_S = (0.05, 0.1)
#: Seconds after which one attempt is given up.
_ATTEMPT_S = 10.0


class NotConnected(Exception):
    """No attempt has led to a connection; the text says why the last one did not."""


async def connect(
    reactor: Any, host: str, port: int, deadline: float, make: Callable[[], ServerConnection]
) -> None:
    """Return once a connection of ``make()`` is open.

    Raises :class:`NotConnected` at ``deadline``, in the reactor's seconds; at once for a name that
    no host can have.
    """
    attempt = 0
    while True:
        left = max(deadline - reactor.seconds(), 0.1)
        # An address needs no resolver, which would be a thread for each attempt.
        kind = TCP4ClientEndpoint if isIPAddress(host) else HostnameEndpoint
        endpoint = kind(reactor, host, port, timeout=min(left, _ATTEMPT_S))
        try:
            await endpoint.connect(ServerConnectionFactory(make))
            return
        except (ConnectError, DNSLookupError, OSError) as error:
            reason = _why_not(error)
        except ValueError as error:
            raise NotConnected(str(error)) from None
        delay = RETRY_S[min(attempt, len(RETRY_S) - 1)]
        attempt += 1
        if reactor.seconds() + delay > deadline:
            raise NotConnected(reason)
        await deferLater(reactor, delay)


def _why_not(error: BaseException | None) -> str:
    """Why an attempt to connect has failed, in a few words."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(number, int):
        return os.strerror(number)
    if isinstance(error, DNSLookupError):
        return "no host has this name"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return str(error)
