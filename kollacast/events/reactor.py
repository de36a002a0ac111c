"""What the program asks of a reactor, as interfaces."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)


class IReactor(IReactorTime, IReactorTCP, IReactorPluggableNameResolver, IReactorFromThreads):
    """A clock, TCP in both directions, names of hosts, and a way back from threads."""


class IMainReactor(IReactor, IReactorCore):
    """The same of the one that runs, which begins and ends as well."""

    def sigTerm(number: int, frame: object) -> None:
        """A signal's handler: end, and have twistd end the process by the signal ``number``."""
