"""What the program asks of a reactor, as one interface."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)


class IReactor(IReactorTime, IReactorTCP, IReactorPluggableNameResolver, IReactorFromThreads):
    """A clock, TCP in both directions, names of hosts, and a way back from threads."""
